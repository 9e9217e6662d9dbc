// The grid: rows of which only those near the view exist, and the one that has the focus.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { Cell } from "./cell.js";
import { useMoves } from "./keys.js";
import { t } from "./language.js";
import { layOut, rowAt, shapeOf } from "./layout.js";

const GAP = 6;
const BEYOND = 0.6; // screens above and below that are there before they are seen

const useWidth = (box) => {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return width;
};

const rowHeight = (width) => (width < 480 ? 128 : width < 1000 ? 168 : 190);

const boxesOf = (shapes, first, end, height, width) => {
  let left = 0;
  return Array.from({ length: end - first }, (_, n) => {
    const wide = Math.min(shapes[first + n] * height, width);
    const box = { left, width: wide, height };
    left += wide + GAP;
    return box;
  });
};

/** The rows of a window on the page, which scrolls as a whole. */
const useView = (box, plan) => {
  const [view, setView] = useState([0, 8]);
  useLayoutEffect(() => {
    let asked = 0;
    const look = () => {
      asked = 0;
      if (!box.current) return;
      const above = -box.current.getBoundingClientRect().top;
      const first = rowAt(plan.tops, above - BEYOND * innerHeight, plan.rows);
      const last = rowAt(plan.tops, above + (1 + BEYOND) * innerHeight, plan.rows);
      setView((before) => (before[0] === first && before[1] === last ? before : [first, last]));
    };
    const later = () => (asked ||= requestAnimationFrame(look));
    look();
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
    return () => {
      cancelAnimationFrame(asked);
      removeEventListener("scroll", later);
      removeEventListener("resize", later);
    };
  }, [plan]);
  return view;
};

export const usePlan = (items, width) =>
  useMemo(() => {
    const shapes = new Float32Array(items.length);
    for (let n = 0; n < items.length; n++) shapes[n] = shapeOf(items.kindOf(n), items.ratioOf(n));
    return { shapes, ...layOut(shapes, Math.max(width, 1), rowHeight(width), GAP) };
  }, [items, width]);

/**
 * Keeps the focus where it was while rows come and go: a cell that is taken out of the page, or moved in it, loses it
 * to nobody.
 */
const useHeldFocus = (box) => {
  const had = useRef(false);
  useLayoutEffect(() => {
    const taken = () => (had.current = true);
    const lost = (event) =>
      setTimeout(() => {
        if (event.relatedTarget || event.target.isConnected) had.current = box.current?.contains(document.activeElement);
      });
    box.current.addEventListener("focusin", taken);
    box.current.addEventListener("focusout", lost);
  }, []);
  useLayoutEffect(() => {
    if (had.current && document.activeElement === document.body)
      box.current.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  });
};

/** selected: a set of ids. on: {open(n), select(id, on), like(n), ask(n), leave()}. active: a place, [n, set]. */
export const Grid = ({ items, active: [active, setActive], selected, on, onPlan }) => {
  const box = useRef(null);
  const width = useWidth(box);
  const plan = usePlan(items, width);
  const [first, last] = useView(box, plan);
  const moves = useMoves({ box, items, plan, active, setActive, on });
  useHeldFocus(box);
  useEffect(() => onPlan({ plan, box: box.current }), [plan]);

  const rows = [];
  for (let row = first; row <= Math.min(last, plan.rows - 1); row++) rows.push(row);
  const held = plan.rows ? rowAt(plan.firsts, active, plan.rows) : -1;
  if (held >= 0 && (held < first || held > last)) rows[held < first ? "unshift" : "push"](held);
  const most = Math.max(1, ...rows.map((row) => plan.firsts[row + 1] - plan.firsts[row]));

  return html`<div
    class="grid"
    role="grid"
    aria-label=${t("results")}
    aria-multiselectable="true"
    aria-rowcount=${plan.rows}
    aria-colcount=${most}
    ref=${box}
    style=${{ height: `${width ? plan.height : 0}px` }}
    onKeyDown=${moves.key}
  >
    ${width > 0 &&
    rows.map((row) => {
      const start = plan.firsts[row];
      const boxes = boxesOf(plan.shapes, start, plan.firsts[row + 1], plan.heights[row], width);
      return html`<div class="row" role="row" aria-rowindex=${row + 1} key=${row} style=${{ top: `${plan.tops[row]}px` }}>
        ${boxes.map((place, n) => {
          const index = start + n;
          const item = items.at(index);
          return html`<${Cell}
            key=${item.id}
            item=${item}
            box=${place}
            column=${n + 1}
            active=${index === active}
            selected=${selected.has(item.id)}
            on=${moves.of(index)}
          />`;
        })}
      </div>`;
    })}
  </div>`;
};
