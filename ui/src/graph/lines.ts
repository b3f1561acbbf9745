/** What is drawn of edges: their lines, and the numbers on them. */

import { count } from "../format";
import { STEP, type Edge, type Group, type Layout } from "./layout";

/** A line is drawn on it. */
type Pen = Pick<CanvasRenderingContext2D, "moveTo" | "lineTo" | "bezierCurveTo">;

/** Draws an edge: from box to box, past the columns between them through its gaps. */
export function trace(pen: Pen, groups: readonly Group[], edge: Edge, straight: boolean, short: boolean): void {
  const from = groups[edge.from]!;
  const to = groups[edge.to]!;
  let x = from.x + from.width;
  let y = from.y + from.height / 2;
  pen.moveTo(x, y);
  const on = (x2: number, y2: number) => {
    const bend = Math.min(80, (x2 - x) / 2);
    if (straight) pen.lineTo(x2, y2);
    else pen.bezierCurveTo(x + bend, y, x2 - bend, y2, x2, y2);
    [x, y] = [x2, y2];
  };
  if (!short) {
    edge.via.forEach((lane, k) => {
      on(from.x + (k + 1) * STEP, lane);
      x += from.width;
      pen.lineTo(x, y);
    });
  }
  on(to.x, to.y + to.height / 2);
}

/** Returns the highest and the lowest place of each edge, one after the other. */
export function spansOf({ groups, edges }: Layout): Float64Array {
  const spans = new Float64Array(2 * edges.length);
  edges.forEach(({ from, to, via }, index) => {
    const [one, other] = [groups[from]!, groups[to]!];
    const ys = [one.y + one.height / 2, other.y + other.height / 2];
    spans[2 * index] = via.reduce((least, y) => Math.min(least, y), Math.min(ys[0]!, ys[1]!));
    spans[2 * index + 1] = via.reduce((most, y) => Math.max(most, y), Math.max(ys[0]!, ys[1]!));
  });
  return spans;
}

export interface Label {
  readonly edge: Edge;
  readonly text: string;
  readonly x: number;
  readonly y: number;
  readonly half: number;
}

/** Returns places for the numbers on edges, before the boxes that they lead to; where there is no room there is none. */
export function labelsOf({ groups, edges }: Layout): Label[] {
  const labels: Label[] = [];
  if (edges.length > 500) return labels;
  for (const edge of edges) {
    if (edge.count < 2) continue;
    const to = groups[edge.to]!;
    const from = groups[edge.from]!;
    const [y1, y2] = [edge.via.at(-1) ?? from.y + from.height / 2, to.y + to.height / 2];
    const x1 = to.x - (STEP - to.width);
    const text = count(edge.count);
    const half = 3.2 * text.length + 4;
    for (const at of [0.45, 0.33, 0.57, 0.22]) {
      const [x, y] = [Math.max(x1 + half, Math.min(to.x - 9 - half, x1 + at * (to.x - x1))), y1 + (y2 - y1) * at * at * (3 - 2 * at)];
      if (labels.some((each) => Math.abs(each.x - x) < each.half + half && Math.abs(each.y - y) < 15)) continue;
      labels.push({ edge, text, x, y, half });
      break;
    }
  }
  return labels;
}
