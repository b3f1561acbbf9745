/** Ways for edges that pass columns: through the gaps between boxes, never behind one. Pure. */

interface Box {
  readonly depth: number;
  readonly y: number;
  readonly height: number;
}

interface Ends {
  readonly from: number;
  readonly to: number;
}

/** A line across one column. Edges of one group that pass it through the same gap share it. */
interface Lane {
  readonly gap: number;
  wishes: number;
  edges: number;
  y: number;
}

/** Between a lane and a box, and between two lanes. */
const MARGIN = 9;
const APART = 6;
/** So much further than the nearest gap a line may pass that other edges of its group take. */
const TOGETHER = 90;
/** A gap does not grow for more lanes than these; they draw nearer to each other. */
const MOST_LANES = 20;
/** Edges that pass more columns than these in all are hairs that nobody follows: they stay straight. */
const MOST_PASSED = 50_000;

export interface Routes {
  /** How much wider than usual the gap before each box of each column has to be. */
  readonly extra: readonly (readonly number[])[];
  /** Returns for each edge its y in each column that it passes, once the boxes are where they stay. */
  readonly settle: () => number[][];
}

/** Chooses a gap for each edge in each column that it passes.
 *
 *  columns: the boxes of each depth, from the top to the bottom; `boxes` may move up and down before `settle`, in this order.
 *  usual: how wide a gap is without lanes. */
export function routes(boxes: readonly Box[], columns: readonly (readonly number[])[], edges: readonly Ends[], usual: number): Routes {
  const centre = (index: number) => boxes[index]!.y + boxes[index]!.height / 2;
  const span = (edge: Ends) => boxes[edge.to]!.depth - boxes[edge.from]!.depth;
  const passing = edges.map((_, index) => index).filter((index) => span(edges[index]!) > 1);
  if (passing.reduce((sum, index) => sum + span(edges[index]!) - 1, 0) > MOST_PASSED) return { extra: [], settle: () => edges.map(() => []) };
  // The longest first: those that end on its way go along.
  passing.sort((one, other) => span(edges[other]!) - span(edges[one]!) || one - other);
  const lanes: Map<number, Lane[]>[] = columns.map(() => new Map());
  const taken: Lane[][] = edges.map(() => []);

  // A gap lies between two boxes of a column, or beyond its first or last one.
  const low = (depth: number, gap: number): number => {
    if (gap === 0) return -Infinity;
    const above = boxes[columns[depth]![gap - 1]!]!;
    return above.y + above.height + MARGIN;
  };
  const high = (depth: number, gap: number): number => (gap < columns[depth]!.length ? boxes[columns[depth]![gap]!]!.y - MARGIN : Infinity);
  const within = (depth: number, gap: number, y: number) => Math.max(low(depth, gap), Math.min(high(depth, gap), y));
  const nearest = (depth: number, y: number): number => {
    const column = columns[depth]!;
    let [first, last] = [0, column.length];
    while (first < last) {
      const middle = (first + last) >> 1;
      const box = boxes[column[middle]!]!;
      if (box.y + box.height + MARGIN > y) last = middle;
      else first = middle + 1;
    }
    const away = (gap: number) => Math.abs(within(depth, gap, y) - y);
    return first < column.length && away(first + 1) < away(first) ? first + 1 : first;
  };

  for (const index of passing) {
    const edge = edges[index]!;
    const { depth: end } = boxes[edge.to]!;
    let y = centre(edge.from);
    for (let depth = boxes[edge.from]!.depth + 1; depth < end; depth++) {
      const wish = y + (centre(edge.to) - y) / (end - depth + 1);
      let gap = nearest(depth, wish);
      const own = lanes[depth]!.get(edge.from);
      let near = Math.abs(within(depth, gap, wish) - wish) + TOGETHER;
      let lane: Lane | null = null;
      for (const each of own ?? []) {
        const away = Math.abs(within(depth, each.gap, wish) - wish);
        if (away <= near) [near, lane] = [away, each];
      }
      if (lane) gap = lane.gap;
      else {
        lane = { gap, wishes: 0, edges: 0, y: 0 };
        if (own) own.push(lane);
        else lanes[depth]!.set(edge.from, [lane]);
      }
      taken[index]!.push(lane);
      y = within(depth, gap, wish);
    }
  }
  const inGap = lanes.map((column, depth) => {
    const gaps: Lane[][] = Array.from({ length: columns[depth]!.length + 1 }, () => []);
    for (const own of column.values()) for (const lane of own) gaps[lane.gap]!.push(lane);
    return gaps;
  });
  const room = (many: number) => Math.max(0, 2 * MARGIN + APART * (Math.min(many, MOST_LANES) - 1) - usual);
  return {
    extra: inGap.map((gaps) => gaps.map((each, gap) => (gap > 0 && gap < gaps.length - 1 ? room(each.length) : 0))),
    settle: () => {
      for (const index of passing) {
        const edge = edges[index]!;
        let y = centre(edge.from);
        taken[index]!.forEach((lane, k) => {
          const depth = boxes[edge.from]!.depth + 1 + k;
          y = within(depth, lane.gap, y + (centre(edge.to) - y) / (boxes[edge.to]!.depth - depth + 1));
          lane.wishes += y;
          lane.edges += 1;
        });
      }
      inGap.forEach((gaps, depth) => gaps.forEach((each, gap) => spread(each, low(depth, gap), high(depth, gap))));
      return taken.map((own) => own.map((lane) => lane.y));
    },
  };
}

/** Puts lanes where they wish to be, apart from each other, within a gap. */
function spread(lanes: Lane[], low: number, high: number): void {
  if (!lanes.length) return;
  const wish = (lane: Lane) => lane.wishes / lane.edges;
  lanes.sort((one, other) => wish(one) - wish(other));
  const apart = lanes.length > 1 ? Math.min(APART, (high - low) / (lanes.length - 1)) : 0;
  let least = low;
  for (const lane of lanes) {
    lane.y = Math.max(least, wish(lane));
    least = lane.y + apart;
  }
  let most = high;
  for (const lane of lanes.toReversed()) {
    lane.y = Math.min(most, lane.y);
    most = lane.y - apart;
  }
}
