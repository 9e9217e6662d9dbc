// Where each picture of a grid is: rows that are filled from edge to edge, by the shapes alone, so that nothing jumps.
const LEAST = 0.45;
const MOST = 3.2;
const SOUND = 2.2; // a strip

export const shapeOf = (kind, ratio) => (kind === "a" ? SOUND : Math.min(MOST, Math.max(LEAST, ratio || 1)));

/**
 * shapes: width by height of each. width, gap: pixels. wanted: height of a row, about.
 * Gives of each row its first item (and one more at the end), its top and its height; and the height of all.
 */
export const layOut = (shapes, width, wanted, gap) => {
  const firsts = [0];
  const tops = [];
  const heights = [];
  let sum = 0;
  let top = 0;
  let first = 0;
  const close = (end, height) => {
    tops.push(top);
    heights.push(height);
    firsts.push(end);
    top += height + gap;
    first = end;
    sum = 0;
  };
  for (let index = 0; index < shapes.length; index++) {
    const shape = shapes[index];
    const room = width - gap * (index - first);
    // The row is closed where it is nearer to the wanted height: before this one, or after it.
    const height = room / (sum + shape);
    if (height <= wanted) {
      const before = index > first ? (room + gap) / sum : Infinity;
      if (before - wanted < wanted - height) {
        close(index, before);
        sum = shape;
      } else {
        sum += shape;
        close(index + 1, height);
      }
    } else {
      sum += shape;
    }
  }
  if (first < shapes.length) {
    const room = width - gap * (shapes.length - 1 - first);
    close(shapes.length, Math.min(wanted, room / sum));
  }
  return { firsts, tops, heights, height: Math.max(0, top - gap), rows: tops.length };
};

/** The row that has a place or an item: the last whose start is not beyond it. */
export const rowAt = (starts, value, rows) => {
  let low = 0;
  let high = rows - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
};
