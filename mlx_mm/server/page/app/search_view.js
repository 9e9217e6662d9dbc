// Searching: how many fit, the grid, and what is said where nothing fits.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { DateScale } from "./date_scale.js";
import { Grid } from "./grid.js";
import { number, t } from "./language.js";
import { go, hasFilters, hasWords, nothing } from "./query.js";

const EXAMPLES = ["exampleA", "exampleB", "exampleC"];

/** Three searches that find something among the files that come with the package. */
const Teaching = ({ why }) => html`<div class="empty">
  <p>${why}</p>
  <p class="faint">${t("tryOne")}</p>
  <p class="tries">
    ${EXAMPLES.map(
      (name) => html`<button class="pill" onClick=${() => go({ ...nothing, q: t(name) })}>${t(name)}</button>`,
    )}
  </p>
  <p class="faint">${t("dropHint")}</p>
</div>`;

const Sort = ({ query }) => html`<div class="sort" role="group" aria-label=${t("order")}>
  ${["", "date"].map(
    (sort) => html`<button aria-pressed=${query.sort === sort} onClick=${() => go({ sort })}>${t(sort ? "byDate" : "byMatch")}</button>`,
  )}
</div>`;

const Status = ({ query, found, asked }) => {
  const words = hasWords(query);
  const count = number(asked && query.all ? found.items.length : found.strong);
  return html`<div class="status">
    <p role="status" aria-live="polite">
      ${found.state === "asking" && !found.items.length
        ? t("searching")
        : t(words ? (query.all ? "shown" : "matches") : "files", { n: count })}
      ${found.cut && html` <span class="faint">${t("firstOnes", { n: number(found.items.length) })}</span>`}
    </p>
    ${words &&
    found.weaker > 0 &&
    html`<button class="link" aria-pressed=${query.all} onClick=${() => go({ all: !query.all }, { replace: true })}>
      ${t(query.all ? "hideWeaker" : "showWeaker", { n: number(found.weaker) })}
    </button>`}
    <span class="grow"></span>
    ${words && html`<${Sort} query=${query} />`}
  </div>`;
};

export const SearchView = ({ query, found, active, selected, on, total }) => {
  const [laid, setLaid] = useState(null);
  const asked = hasWords(query);
  const byDate = !asked || query.sort === "date";
  const empty = found.state === "there" && !found.items.length;
  const first = useRef(true);

  // Another answer is read from its start.
  useEffect(() => {
    if (!first.current && found.state === "there") {
      active[1](0);
      scrollTo(0, 0);
    }
    if (found.state === "there") first.current = false;
  }, [found.for]);

  if (found.state === "failed" && found.error.status !== 401) {
    return html`<div class="empty" role="alert"><p>${found.error.message}</p></div>`;
  }
  if (empty && total === 0) return html`<div class="empty"><h2>${t("emptyIndex")}</h2><p>${t("emptyIndexHow")}</p>
    <button class="main" onClick=${() => go({ ...nothing, view: "index" })}>${t("addFolder")}</button></div>`;
  const why = hasFilters(query) ? t("nothingFiltered") : found.weaker > 0 ? t("nothingStrong") : t("nothing");
  return html`
    <${Status} query=${query} found=${found} asked=${asked} />
    ${empty ? html`<${Teaching} why=${why} />` : ""}
    <div class="with-scale ${found.state === "asking" ? "stale" : ""}">
      <${Grid} items=${found.items} active=${active} selected=${selected} on=${on} onPlan=${setLaid} />
      ${byDate && laid && found.items.length > 60 && html`<${DateScale} items=${found.items} laid=${laid} />`}
    </div>
  `;
};
