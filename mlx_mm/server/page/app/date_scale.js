// The months at the side of a grid that goes by date: where they are, and the way there.
import { html, useMemo } from "../vendor/preact-htm.js";
import { month, t } from "./language.js";
import { rowAt } from "./layout.js";

const MOST = 12; // marks: more than fit between top and bottom of a small window help nobody

/** Some months, evenly over the height: [label, item, part of the height]. */
const marksOf = (items, plan) => {
  const marks = [];
  let last = "";
  for (let step = 0; step < MOST; step++) {
    const row = rowAt(plan.tops, (plan.height * step) / (MOST - 1), plan.rows);
    const index = plan.firsts[row];
    const moment = items.momentOf(index);
    const label = moment === null || moment === undefined ? "" : month(moment);
    if (label && label !== last) marks.push([label, row]);
    last = label;
  }
  return marks;
};

export const DateScale = ({ items, laid: { plan, box } }) => {
  const marks = useMemo(() => (plan.firsts[plan.rows] === items.length ? marksOf(items, plan) : []), [items, plan]);
  if (marks.length < 2) return null;
  const go = (row) => {
    const top = box.getBoundingClientRect().top + scrollY + plan.tops[row];
    scrollTo(0, top - (document.querySelector(".top")?.offsetHeight ?? 0) - 8);
  };
  return html`<nav class="scale" aria-label=${t("byDate")}>
    ${marks.map(([label, row]) => html`<button key=${label} onClick=${() => go(row)}>${label}</button>`)}
  </nav>`;
};
