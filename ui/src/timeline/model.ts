/** What a timeline shows, from the API's columns. Pure: no clock, no drawing. */

import type { Timeline } from "../api/insight";

export type Piece = "wait" | "start" | "idle";

export interface Row {
  /** Of the lane in the API's answer; null: array tasks of an array that nobody saw begin. */
  readonly lane: number | null;
  readonly array: number;
  readonly name: string;
  readonly host: string | null;
  readonly cause: string | null;
  /** When its array was submitted, when it came up, and when it was over or now: seconds; null: not known. */
  readonly submitted: number | null;
  readonly up: number | null;
  readonly over: number;
  readonly live: boolean;
  /** Of the array tasks that wait; 1 otherwise. */
  readonly width: number;
  /** Positions in the columns of bars, in the order of their beginning. */
  readonly bars: readonly number[];
  /** Seconds: in the queue, from its start to its first task, in tasks, and between and after them. */
  readonly waited: number | null;
  readonly start: number | null;
  readonly tasks: number;
  readonly idle: number;
  readonly lost: number;
}

export interface Model {
  readonly rows: readonly Row[];
  /** From the first submission or task to the last end, or now. */
  readonly from: number;
  readonly to: number;
  readonly sums: { readonly tasks: number; readonly idle: number; readonly start: number; readonly waitedMost: number };
  /** How many tasks run from each moment on, in order of time. */
  readonly running: readonly (readonly [number, number])[];
}

export function model(timeline: Timeline): Model {
  const { bars, lanes, arrays, now } = timeline;
  const of: number[][] = lanes.map(() => []);
  bars.lane.forEach((lane, bar) => of[lane]!.push(bar));
  const rows: Row[] = lanes.map((lane, index): Row => {
    const array = arrays[lane.array]!;
    const own = of[index]!.sort((one, other) => bars.from[one]! - bars.from[other]!);
    const first = own[0] === undefined ? null : bars.from[own[0]]!;
    // Clocks of nodes and schedulers differ a little, and a scheduler's has whole seconds.
    const begun = least(lane.began ?? lane.up, first);
    const ends = own.map((bar) => bars.to[bar] ?? now);
    const last = ends.reduce((most, end) => Math.max(most, end), -Infinity);
    const live = lane.ended === null && lane.left === null && array.state !== "ended";
    const over = live ? now : Math.max(last, lane.ended ?? -Infinity, lane.left ?? -Infinity, begun ?? -Infinity);
    const busy = own.reduce((sum, bar, k) => sum + Math.max(0, ends[k]! - bars.from[bar]!), 0);
    const start = begun !== null && first !== null ? Math.max(0, first - begun) : null;
    const whole = begun === null ? busy : Math.max(busy, over - begun);
    return {
      lane: index,
      array: lane.array,
      name: `${array.job_id}_${lane.index}${lane.slot ? ` slot ${lane.slot}` : ""}`,
      host: lane.host,
      cause: lane.cause,
      submitted: array.submitted,
      up: begun,
      over,
      live,
      width: 1,
      bars: own,
      waited: array.submitted !== null && begun !== null ? Math.max(0, begun - array.submitted) : null,
      start,
      tasks: busy,
      idle: Math.max(0, whole - busy - (start ?? 0)),
      lost: own.filter((bar) => bars.end[bar] === "f").length,
    };
  });
  arrays.forEach((array, index) => {
    if (!array.waiting) return;
    const over = array.ended ?? now;
    rows.push({
      lane: null, array: index, name: `${array.job_id}: ${array.waiting} to begin`, host: null, cause: array.reason, submitted: array.submitted, up: null, over, live: true,
      width: array.waiting, bars: [], waited: array.submitted === null ? null : Math.max(0, over - array.submitted), start: null, tasks: 0, idle: 0, lost: 0,
    });
  });
  const key = (row: Row) => (row.lane === null ? [row.array, Infinity, 0] : [row.array, lanes[row.lane]!.index, lanes[row.lane]!.slot]);
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    return a[0]! - b[0]! || (a[1] === b[1] ? 0 : a[1]! - b[1]!) || a[2]! - b[2]!;
  });
  const begins = rows.flatMap((row) => [row.submitted, row.up, row.bars[0] === undefined ? null : bars.from[row.bars[0]]!]).filter((at) => at !== null);
  const from = begins.length ? Math.min(...begins) : 0;
  const to = rows.length ? rows.reduce((most, row) => Math.max(most, row.over), from) : now;
  const real = rows.filter((row) => row.lane !== null);
  return {
    rows,
    from,
    to: Math.max(to, from + 0.001),
    sums: {
      tasks: real.reduce((sum, row) => sum + row.tasks, 0),
      idle: real.reduce((sum, row) => sum + row.idle, 0),
      start: real.reduce((sum, row) => sum + (row.start ?? 0), 0),
      waitedMost: rows.reduce((most, row) => Math.max(most, row.waited ?? 0), 0),
    },
    running: running(timeline),
  };
}

function least(one: number | null, other: number | null): number | null {
  if (one === null || other === null) return one ?? other;
  return Math.min(one, other);
}

function running({ bars, now }: Timeline): (readonly [number, number])[] {
  const moves = [...bars.from.map((at) => [at, 1] as const), ...bars.to.map((at) => [at ?? now, -1] as const)].sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  const steps: (readonly [number, number])[] = [];
  let many = 0;
  for (const [at, step] of moves) {
    many += step;
    if (steps.at(-1)?.[0] === at) steps[steps.length - 1] = [at, many];
    else steps.push([at, many]);
  }
  return steps;
}

/** The part of time that is seen: seconds. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** Returns a span that is `factor` times as long, with the same moment at `share` of it, inside of the whole. */
export function zoomed(span: Span, factor: number, share: number, whole: Span): Span {
  const length = Math.min(whole.to - whole.from, Math.max((whole.to - whole.from) / 1e6, 0.001, (span.to - span.from) * factor));
  const at = span.from + share * (span.to - span.from);
  return within({ from: at - share * length, to: at - share * length + length }, whole);
}

export function moved(span: Span, seconds: number, whole: Span): Span {
  return within({ from: span.from + seconds, to: span.to + seconds }, whole);
}

function within(span: Span, whole: Span): Span {
  const length = Math.min(span.to - span.from, whole.to - whole.from);
  const from = Math.min(Math.max(span.from, whole.from), whole.to - length);
  return { from, to: from + length };
}

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Returns round moments, at most `most` of them, and how far they are apart. */
export function ticks(span: Span, most: number): { readonly step: number; readonly at: readonly number[] } {
  const wanted = (span.to - span.from) / Math.max(1, most);
  const step = STEPS.find((each) => each >= wanted) ?? 86_400 * Math.ceil(wanted / 86_400);
  const first = Math.ceil(span.from / step);
  const last = Math.floor(span.to / step);
  return { step, at: Array.from({ length: Math.max(0, last - first + 1) }, (_, k) => (first + k) * step) };
}

/** "0", "+30 s", "+2 min", "+1:30 h" after the beginning, as fine as the ticks are. */
export function offset(seconds: number, step: number): string {
  if (Math.abs(seconds) < 1e-9) return "0";
  const sign = seconds < 0 ? "−" : "+";
  const size = Math.abs(seconds);
  if (step < 1) return `${sign}${size.toFixed(Math.min(3, Math.ceil(-Math.log10(step))))} s`;
  if (size < 60) return `${sign}${Math.round(size)} s`;
  if (size < 3600) return step < 60 ? `${sign}${Math.floor(size / 60)}:${String(Math.round(size % 60)).padStart(2, "0")} min` : `${sign}${Math.round(size / 60)} min`;
  return `${sign}${Math.floor(size / 3600)}:${String(Math.floor((size % 3600) / 60)).padStart(2, "0")} h`;
}
