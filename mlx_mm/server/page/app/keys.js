// Moving through the grid by keys and by hand: one cell has the focus, arrows go from it, Shift takes all between.
import { useCallback, useRef } from "../vendor/preact-htm.js";
import { isRightToLeft } from "./language.js";
import { rowAt } from "./layout.js";
import { play } from "./player.js";
import { startOf } from "./sound.js";

/** Where the middle of an item is, in heights of its row. */
const middleOf = (plan, row, index) => {
  let left = 0;
  for (let n = plan.firsts[row]; n < index; n++) left += plan.shapes[n];
  return (left + plan.shapes[index] / 2) * plan.heights[row];
};

/** The item of another row that is nearest below or above. */
const beside = (plan, index, rows) => {
  const row = rowAt(plan.firsts, index, plan.rows);
  const next = Math.min(plan.rows - 1, Math.max(0, row + rows));
  if (next === row) return rows < 0 ? 0 : plan.firsts[plan.rows] - 1;
  const wanted = middleOf(plan, row, index);
  let best = plan.firsts[next];
  for (let n = best; n < plan.firsts[next + 1]; n++) {
    if (Math.abs(middleOf(plan, next, n) - wanted) < Math.abs(middleOf(plan, next, best) - wanted)) best = n;
  }
  return best;
};

const target = (event, plan, index, length) => {
  const row = rowAt(plan.firsts, index, plan.rows);
  const onward = isRightToLeft() ? "ArrowLeft" : "ArrowRight";
  const page = Math.max(1, Math.floor(innerHeight / (plan.heights[row] || 1)) - 1);
  switch (event.key) {
    case "ArrowLeft":
    case "ArrowRight":
      return index + (event.key === onward ? 1 : -1);
    case "ArrowDown":
      return beside(plan, index, 1);
    case "ArrowUp":
      return beside(plan, index, -1);
    case "PageDown":
      return beside(plan, index, page);
    case "PageUp":
      return beside(plan, index, -page);
    case "Home":
      return event.ctrlKey || event.metaKey ? 0 : plan.firsts[row];
    case "End":
      return event.ctrlKey || event.metaKey ? length - 1 : plan.firsts[row + 1] - 1;
    default:
      return null;
  }
};

export const useMoves = ({ box, items, plan, active, setActive, on }) => {
  const anchor = useRef(active);

  const show = (index) => {
    const row = rowAt(plan.firsts, index, plan.rows);
    const top = box.current.getBoundingClientRect().top + plan.tops[row];
    const bar = document.querySelector(".top")?.offsetHeight ?? 0; // it covers what scrolls below it
    if (top < bar + 8) scrollBy(0, top - bar - 8);
    else if (top + plan.heights[row] > innerHeight - 8) scrollBy(0, top + plan.heights[row] - innerHeight + 8);
  };

  const focus = () => box.current?.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });

  const go = (index) => {
    const there = Math.min(items.length - 1, Math.max(0, index));
    setActive(there);
    show(there);
    requestAnimationFrame(focus); // once it is there
    return there;
  };

  const choose = (from, to) => {
    const [low, high] = [Math.min(from, to), Math.max(from, to)];
    on.select(Array.from({ length: high - low + 1 }, (_, n) => items.idOf(low + n)), true);
  };

  const key = (event) => {
    if (!items.length || event.altKey) return;
    const next = target(event, plan, active, items.length);
    const plain = !event.ctrlKey && !event.metaKey;
    if (next !== null) {
      const there = go(next);
      if (event.shiftKey) choose(anchor.current, there);
      else anchor.current = there;
    } else if (event.key === "Enter") on.open(active);
    else if (event.key === " ") on.select([items.idOf(active)]);
    else if (event.key === "s" && plain) on.like(active);
    else if (event.key === "c" && plain) on.ask(active);
    else if (event.key === "p" && plain && items.kindOf(active) === "a") play(items.idOf(active), startOf(items.at(active)));
    else if (event.key === "Escape") on.leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const of = useCallback(
    (index) => ({
      focus: () => setActive(index),
      check: (event) => {
        event.stopPropagation();
        anchor.current = index;
        on.select([items.idOf(index)]);
      },
      click: (event) => {
        setActive(index);
        if (event.shiftKey) choose(anchor.current, index);
        else {
          anchor.current = index;
          if (event.ctrlKey || event.metaKey) on.select([items.idOf(index)]);
          else on.open(index);
        }
      },
    }),
    [items, on],
  );
  return { key, of, go };
};
