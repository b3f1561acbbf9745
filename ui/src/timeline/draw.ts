import type { Palette } from "../graph/draw";
import type { Timeline } from "../api/insight";
import { offset, ticks, type Model, type Row, type Span } from "./model";

export const ROW = 18;
/** Above the lanes: the axis, and how many tasks run. */
export const HEAD = 66;
const AXIS = 20;
/** Bars that are nearer to each other than this are one. */
const FINEST = 0.75;

export interface Frame {
  readonly width: number;
  readonly height: number;
  /** Of the column with the lanes' names. */
  readonly names: number;
  readonly scroll: number;
  readonly span: Span;
}

export function xOf(frame: Frame, at: number): number {
  return frame.names + ((at - frame.span.from) / (frame.span.to - frame.span.from)) * (frame.width - frame.names);
}

export function timeOf(frame: Frame, x: number): number {
  return frame.span.from + ((x - frame.names) / (frame.width - frame.names)) * (frame.span.to - frame.span.from);
}

/** The colours of attempts by how they ended. */
const ENDS = { c: "completed", r: "running", x: "cancelled", f: "failed" } as const;

/** Draws what is seen of a timeline: hollow while it waits, hatched while it starts, thin while idle, solid in a task, framed where somebody cancelled it. */
export function draw(context: CanvasRenderingContext2D, ratio: number, frame: Frame, model: Model, bars: Timeline["bars"], now: number, colours: Palette, chosen: { row: number; bar: number } | null): void {
  const { width, height, names, span } = frame;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, width, height);
  const first = Math.max(0, Math.floor(frame.scroll / ROW));
  const last = Math.min(model.rows.length - 1, Math.floor((frame.scroll + height - HEAD) / ROW));
  const axis = ticks(span, Math.max(2, (width - names) / 60));
  context.save();
  context.beginPath();
  context.rect(names, 0, width - names, height);
  context.clip();
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.beginPath();
  for (const at of axis.at) {
    const x = Math.round(xOf(frame, at)) + 0.5;
    context.moveTo(x, AXIS);
    context.lineTo(x, height);
  }
  context.stroke();
  running(context, frame, model, colours);
  context.save();
  context.beginPath();
  context.rect(names, HEAD, width - names, height - HEAD);
  context.clip();
  for (let index = first; index <= last; index++) lane(context, frame, model.rows[index]!, HEAD + index * ROW - frame.scroll, bars, now, colours);
  if (chosen) {
    const x = xOf(frame, bars.from[chosen.bar]!);
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.strokeRect(x - 1, HEAD + chosen.row * ROW - frame.scroll + 2, Math.max(3, xOf(frame, bars.to[chosen.bar] ?? now) - x + 2), ROW - 4);
  }
  context.restore();
  context.restore();
  words(context, frame, model, axis, first, last, colours);
}

function running(context: CanvasRenderingContext2D, frame: Frame, model: Model, colours: Palette): void {
  const most = model.running.reduce((most, [, many]) => Math.max(most, many), 0);
  if (!most) return;
  const floor = HEAD - 6;
  const scale = (floor - AXIS - 4) / most;
  context.beginPath();
  context.moveTo(frame.names, floor);
  let y = floor;
  let x = frame.names;
  let high = floor;
  // Of the steps within one pixel the highest is drawn: a crowd of short tasks is seen.
  for (const [at, many] of model.running) {
    const next = Math.min(frame.width, Math.max(frame.names, xOf(frame, at)));
    if (next - x >= 1) {
      context.lineTo(x, high);
      context.lineTo(x, y);
      context.lineTo(next, y);
      x = next;
      high = y;
    }
    y = floor - many * scale;
    high = Math.min(high, y);
  }
  context.lineTo(x, high);
  context.lineTo(x, floor);
  context.closePath();
  context.globalAlpha = 0.35;
  context.fillStyle = colours.tones.running;
  context.fill();
  context.globalAlpha = 1;
}

function lane(context: CanvasRenderingContext2D, frame: Frame, row: Row, top: number, bars: Timeline["bars"], now: number, colours: Palette): void {
  const y = top + 4;
  const high = ROW - 8;
  const clip = (x: number) => Math.min(frame.width + 2, Math.max(frame.names - 2, x));
  if (row.submitted !== null) {
    const [a, b] = [clip(xOf(frame, row.submitted)), clip(xOf(frame, row.up ?? row.over))];
    if (b - a >= 1) {
      context.strokeStyle = colours.tones.queued;
      context.lineWidth = 1;
      context.strokeRect(Math.round(a) + 0.5, y + 2.5, Math.max(1, Math.round(b - a) - 1), high - 5);
    }
  }
  if (row.up !== null) {
    const [a, b] = [clip(xOf(frame, row.up)), clip(xOf(frame, row.over))];
    context.fillStyle = colours.strong;
    context.fillRect(a, y + high / 2 - 1, Math.max(1, b - a), 2);
    if (row.bars[0] !== undefined) {
      const until = clip(xOf(frame, bars.from[row.bars[0]]!));
      if (until - a >= 2) {
        context.strokeStyle = colours.ink2;
        context.lineWidth = 1;
        context.beginPath();
        for (let x = a; x < until - 3; x += 5) {
          context.moveTo(x, y + high - 1);
          context.lineTo(x + 4, y + 1);
        }
        context.stroke();
      }
    }
  }
  for (const tone of ["c", "r", "x", "f"] as const) {
    context.fillStyle = context.strokeStyle = colours.tones[ENDS[tone]];
    let open: [number, number] | null = null;
    const flush = () => {
      if (open && tone === "x") {
        context.lineWidth = 2;
        context.strokeRect(open[0] + 1, y + 1, Math.max(1, open[1] - open[0] - 2), high - 2);
      } else if (open) context.fillRect(open[0], tone === "f" ? y - 2 : y, Math.max(1, open[1] - open[0]), tone === "f" ? high + 4 : high);
    };
    for (const bar of row.bars) {
      if (bars.end[bar] !== tone) continue;
      const to = xOf(frame, bars.to[bar] ?? now);
      const from = xOf(frame, bars.from[bar]!);
      if (to < frame.names || from > frame.width) continue;
      if (open && from - open[1] < FINEST) open[1] = Math.max(open[1], to);
      else {
        flush();
        // A gap between neighbours: they are told apart where there is room.
        open = [from, to - from > 4 ? to - 1 : to];
      }
    }
    flush();
  }
}

function words(context: CanvasRenderingContext2D, frame: Frame, model: Model, axis: { readonly step: number; readonly at: readonly number[] }, first: number, last: number, colours: Palette): void {
  const { names, width } = frame;
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, names, frame.height);
  context.fillStyle = colours.ink2;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  for (const at of axis.at) {
    const x = xOf(frame, at);
    const text = offset(at, axis.step);
    const half = context.measureText(text).width / 2 + 2;
    if (x > names + half && x < width - half) context.fillText(text, x, 13);
  }
  context.textAlign = "left";
  const most = model.running.reduce((most, [, many]) => Math.max(most, many), 0);
  if (names > 60) context.fillText(`running, ≤ ${most}`, 8, AXIS + 22);
  context.save();
  context.beginPath();
  context.rect(0, HEAD, names - 6, frame.height - HEAD);
  context.clip();
  for (let index = first; index <= last; index++) {
    const row = model.rows[index]!;
    const y = HEAD + index * ROW - frame.scroll;
    context.fillStyle = row.lost ? colours.bad : colours.ink;
    context.fillText(`${row.lost ? "✕ " : ""}${row.name}`, 8, y + 13);
  }
  context.restore();
  context.strokeStyle = colours.line;
  context.beginPath();
  context.moveTo(names - 0.5, 0);
  context.lineTo(names - 0.5, frame.height);
  context.moveTo(0, HEAD - 0.5);
  context.lineTo(width, HEAD - 0.5);
  context.stroke();
}

/** Returns the row at a place of the drawing, and the bar nearest to it within three px. */
export function at(frame: Frame, model: Model, bars: Timeline["bars"], now: number, x: number, y: number): { row: number; bar: number | null } | null {
  const row = Math.floor((y - HEAD + frame.scroll) / ROW);
  if (y < HEAD || row < 0 || row >= model.rows.length) return null;
  if (x < frame.names) return { row, bar: null };
  let best: number | null = null;
  let near = 3;
  for (const bar of model.rows[row]!.bars) {
    const [from, to] = [xOf(frame, bars.from[bar]!), xOf(frame, bars.to[bar] ?? now)];
    const away = x < from ? from - x : x > to ? x - to : 0;
    if (away <= near) {
      near = away;
      best = bar;
    }
  }
  return { row, bar: best };
}
