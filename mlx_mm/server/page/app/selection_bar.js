// What can be done with the items that are selected.
import { html } from "../vendor/preact-htm.js";
import { number, t } from "./language.js";
import { go, nothing } from "./query.js";

const MOST_EXAMPLES = 8;

export const SelectionBar = ({ selected, clear, ask }) => html`<div class="selection" role="toolbar" aria-label=${t("selection")}>
  <span role="status">${t("selected", { n: number(selected.size) })}</span>
  <button onClick=${() => go({ ...nothing, like: [...selected].slice(0, MOST_EXAMPLES).map(String) })}>${t("moreLikeThis")}</button>
  <button onClick=${ask}>${t("askAbout")}</button>
  <button onClick=${clear}>${t("clear")}</button>
</div>`;
