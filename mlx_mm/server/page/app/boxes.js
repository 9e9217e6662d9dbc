// A picture with the boxes that an answer names, in thousandths of its width and height.
import { html } from "../vendor/preact-htm.js";
import { original } from "./api.js";
import { number, t } from "./language.js";

export const Boxed = ({ id, boxes }) => html`<figure class="boxed">
  <img src=${original(id)} alt="" />
  <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label=${t("boxes", { n: number(boxes.length) })}>
    ${boxes.map(([left, top, right, bottom]) => html`<rect x=${left} y=${top} width=${Math.max(0, right - left)} height=${Math.max(0, bottom - top)} />`)}
  </svg>
</figure>`;
