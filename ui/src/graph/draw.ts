import { count } from "../format";
import { DRAWN, INDEX_OF_CODE, TONES, type Tone } from "../states";
import { HEAD, PAD, tally, type Group, type Layout } from "./layout";

export interface View {
  /** Px of the screen for one of the layout's, and where the layout's origin lies on the screen. */
  zoom: number;
  x: number;
  y: number;
}

export interface Shown {
  readonly selected: number | null;
  readonly task: number | null;
  /** Groups that are not faint; null: all. */
  readonly lit: ReadonlySet<number> | null;
}

/** Below these zooms a box is a bar, and has no text. */
const BARS = 0.22;
const TEXT = 0.45;

/** The colours of the page, read once for each theme. */
export interface Palette {
  readonly tones: Readonly<Record<Tone, string>>;
  readonly ground: string;
  readonly line: string;
  readonly strong: string;
  readonly ink: string;
  readonly ink2: string;
  readonly accent: string;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(name).trim();
  const tones = Object.fromEntries(TONES.map((tone) => [tone, read(`--s-${tone}`)])) as Record<Tone, string>;
  return { tones, ground: read("--ground"), line: read("--line"), strong: read("--line-strong"), ink: read("--ink"), ink2: read("--ink-2"), accent: read("--accent") };
}

const rgb = (hex: string): number => {
  const value = parseInt(hex.slice(1), 16);
  return 0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16);
};

/** Draws groups with a cell for each of their tasks. A strip is kept as a picture, one pixel per task, until a task moves. */
export class Renderer {
  private strips = new Map<number, OffscreenCanvas | HTMLCanvasElement>();
  private sums: Uint32Array;
  private faint: string;

  /** Groups with a sublattice among their tasks have another frame behind their own. */
  constructor(readonly layout: Layout, private codes: Uint8Array, private colours: Palette, private readonly deep: ReadonlySet<number> = new Set()) {
    this.sums = tally(layout, codes, INDEX_OF_CODE, DRAWN.length);
    this.faint = colours.line;
  }

  update(codes: Uint8Array): void {
    const groupOf = this.layout.groupOf;
    for (let task = 0; task < groupOf.length; task++) if (codes[task] !== this.codes[task]) this.strips.delete(groupOf[task]!);
    this.codes = codes;
    this.sums = tally(this.layout, codes, INDEX_OF_CODE, DRAWN.length);
  }

  recolour(colours: Palette): void {
    this.colours = colours;
    this.faint = colours.line;
    this.strips.clear();
  }

  counts(group: number): { state: (typeof DRAWN)[number]; count: number }[] {
    return DRAWN.map((state, k) => ({ state, count: this.sums[group * DRAWN.length + k]! })).filter((each) => each.count > 0);
  }

  has(group: number, tone: Tone): boolean {
    return DRAWN.some((state, k) => state.tone === tone && this.sums[group * DRAWN.length + k]! > 0);
  }

  private strip(index: number): OffscreenCanvas | HTMLCanvasElement {
    const known = this.strips.get(index);
    if (known) return known;
    const group = this.layout.groups[index]!;
    const rows = Math.ceil(group.tasks.length / group.columns);
    const canvas = document.createElement("canvas");
    canvas.width = group.columns;
    canvas.height = rows;
    const context = canvas.getContext("2d")!;
    const image = context.createImageData(group.columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const tones = DRAWN.map((state) => (state.tone === "waiting" ? rgb(this.faint) : rgb(this.colours.tones[state.tone])));
    group.tasks.forEach((task, k) => (pixels[k] = tones[INDEX_OF_CODE[this.codes[task]!]!] ?? 0));
    context.putImageData(image, 0, 0);
    this.strips.set(index, canvas);
    return canvas;
  }

  draw(context: CanvasRenderingContext2D, width: number, height: number, ratio: number, view: View, shown: Shown): void {
    const { layout, colours } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, width, height);
    context.setTransform(ratio * view.zoom, 0, 0, ratio * view.zoom, ratio * view.x, ratio * view.y);
    const left = -view.x / view.zoom;
    const top = -view.y / view.zoom;
    const right = left + width / view.zoom;
    const bottom = top + height / view.zoom;
    this.edges(context, view.zoom, left, top, right, bottom, shown);
    layout.groups.forEach((group, index) => {
      if (group.x > right || group.y > bottom || group.x + group.width < left || group.y + group.height < top) return;
      context.globalAlpha = shown.lit && !shown.lit.has(index) ? 0.22 : 1;
      this.box(context, group, index, view.zoom, shown);
    });
    context.globalAlpha = 1;
  }

  private edges(context: CanvasRenderingContext2D, zoom: number, left: number, top: number, right: number, bottom: number, shown: Shown): void {
    const { groups, edges } = this.layout;
    const straight = zoom < BARS || edges.length > 4_000;
    const bright: number[] = [];
    context.strokeStyle = this.colours.strong;
    context.lineWidth = 1.2 / Math.max(zoom, 0.35);
    context.globalAlpha = edges.length > 4_000 ? 0.25 : shown.lit ? 0.3 : 0.6;
    context.beginPath();
    edges.forEach((edge, index) => {
      const from = groups[edge.from]!;
      const to = groups[edge.to]!;
      const x1 = from.x + from.width;
      const y1 = from.y + from.height / 2;
      const y2 = to.y + to.height / 2;
      if (x1 > right || to.x < left || Math.max(y1, y2) < top || Math.min(y1, y2) > bottom) return;
      if (shown.selected === edge.from || shown.selected === edge.to) bright.push(index);
      else curve(context, x1, y1, to.x, y2, straight);
    });
    context.stroke();
    context.globalAlpha = 1;
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 2.2 / Math.max(zoom, 0.35);
    context.beginPath();
    for (const index of bright) {
      const { from, to } = edges[index]!;
      curve(context, groups[from]!.x + groups[from]!.width, groups[from]!.y + groups[from]!.height / 2, groups[to]!.x, groups[to]!.y + groups[to]!.height / 2, straight);
    }
    context.stroke();
    if (zoom < TEXT || edges.length > 500) return;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    for (const edge of edges) {
      if (edge.count < 2) continue;
      const from = groups[edge.from]!;
      const to = groups[edge.to]!;
      const x = (from.x + from.width + to.x) / 2;
      const y = (from.y + from.height / 2 + to.y + to.height / 2) / 2;
      if (x < left || x > right || y < top || y > bottom) continue;
      const text = count(edge.count);
      const half = context.measureText(text).width / 2 + 4;
      context.fillStyle = this.colours.ground;
      context.fillRect(x - half, y - 8, 2 * half, 16);
      context.fillStyle = this.colours.ink2;
      context.fillText(text, x, y + 4);
    }
    context.textAlign = "left";
  }

  private box(context: CanvasRenderingContext2D, group: Group, index: number, zoom: number, shown: Shown): void {
    const { colours } = this;
    const selected = shown.selected === index;
    const failed = this.has(index, "failed");
    if (zoom < BARS) {
      context.imageSmoothingEnabled = true;
      context.drawImage(this.strip(index), group.x, group.y, group.width, group.height);
      context.strokeStyle = selected ? colours.accent : failed ? colours.tones.failed : colours.strong;
      context.lineWidth = (selected ? 3 : 1) / zoom;
      context.strokeRect(group.x, group.y, group.width, group.height);
      return;
    }
    if (this.deep.has(index)) {
      context.beginPath();
      context.roundRect(group.x + 5, group.y + 5, group.width, group.height, 8);
      context.fillStyle = colours.ground;
      context.fill();
      context.strokeStyle = colours.strong;
      context.lineWidth = 1;
      context.stroke();
    }
    context.beginPath();
    context.roundRect(group.x, group.y, group.width, group.height, 8);
    context.fillStyle = colours.ground;
    context.fill();
    context.strokeStyle = selected ? colours.accent : failed ? colours.tones.failed : colours.strong;
    context.lineWidth = selected ? 2.5 : failed ? 1.8 : 1;
    context.stroke();
    if (zoom >= TEXT) this.words(context, group, index);
    const rows = Math.ceil(group.tasks.length / group.columns);
    const x = group.x + PAD;
    const y = group.y + HEAD;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.strip(index), x, y, group.columns * group.cell, rows * group.cell);
    this.lattice(context, group, rows, x, y, zoom, shown);
  }

  private words(context: CanvasRenderingContext2D, group: Group, index: number): void {
    const { colours } = this;
    const total = group.tasks.length;
    context.fillStyle = colours.ink;
    context.font = "600 13px system-ui, sans-serif";
    const number = total > 1 ? count(total) : "";
    context.textAlign = "right";
    context.fillText(number, group.x + group.width - PAD, group.y + 18);
    const room = group.width - 2 * PAD - context.measureText(number).width - 8;
    context.textAlign = "left";
    context.fillText(fitted(context, this.deep.has(index) ? `⤵ ${group.name}` : group.name, room), group.x + PAD, group.y + 18);
    let x = group.x + PAD;
    context.font = "11.5px system-ui, sans-serif";
    for (const { state, count: many } of this.counts(index)) {
      const text = `${SIGNS[state.tone]} ${total === 1 ? state.word : count(many)}`;
      const width = context.measureText(text).width;
      if (x + width > group.x + group.width - PAD) break;
      context.fillStyle = colours.tones[state.tone];
      context.fillText(SIGNS[state.tone], x, group.y + 35);
      context.fillStyle = colours.ink2;
      context.fillText(text.slice(1), x + context.measureText(SIGNS[state.tone]).width, group.y + 35);
      x += width + 10;
    }
  }

  /** Lines between cells, a cross in those that failed, a frame around the task that is selected: where there is room. */
  private lattice(context: CanvasRenderingContext2D, group: Group, rows: number, x: number, y: number, zoom: number, shown: Shown): void {
    const { cell, columns } = group;
    if (cell * zoom >= 5) {
      context.strokeStyle = this.colours.ground;
      context.lineWidth = 1 / zoom;
      context.beginPath();
      for (let k = 0; k <= columns; k++) {
        context.moveTo(x + k * cell, y);
        context.lineTo(x + k * cell, y + rows * cell);
      }
      for (let k = 0; k <= rows; k++) {
        context.moveTo(x, y + k * cell);
        context.lineTo(x + columns * cell, y + k * cell);
      }
      context.stroke();
      if (this.has(shown.selected ?? -1, "failed") || cell * zoom >= 8) {
        context.strokeStyle = "#ffffff";
        context.lineWidth = cell / 7;
        context.beginPath();
        group.tasks.forEach((task, k) => {
          if (this.codes[task] !== 102) return;
          const left = x + (k % columns) * cell;
          const top = y + Math.floor(k / columns) * cell;
          context.moveTo(left + cell * 0.28, top + cell * 0.28);
          context.lineTo(left + cell * 0.72, top + cell * 0.72);
          context.moveTo(left + cell * 0.72, top + cell * 0.28);
          context.lineTo(left + cell * 0.28, top + cell * 0.72);
        });
        context.stroke();
      }
    }
    if (shown.task !== null && this.layout.groups[this.layout.groupOf[shown.task] ?? -1] === group) {
      const k = group.tasks.indexOf(shown.task);
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2 / zoom;
      context.strokeRect(x + (k % columns) * cell, y + Math.floor(k / columns) * cell, cell, cell);
    }
  }

  /** Returns the group at a place of the screen, and the task where cells are large enough to be meant. */
  at(view: View, screenX: number, screenY: number): { group: number; task: number | null } | null {
    const x = (screenX - view.x) / view.zoom;
    const y = (screenY - view.y) / view.zoom;
    for (let index = 0; index < this.layout.groups.length; index++) {
      const group = this.layout.groups[index]!;
      if (x < group.x || y < group.y || x > group.x + group.width || y > group.y + group.height) continue;
      const column = Math.floor((x - group.x - PAD) / group.cell);
      const row = Math.floor((y - group.y - HEAD) / group.cell);
      const inside = column >= 0 && column < group.columns && row >= 0 && group.cell * view.zoom >= 7;
      return { group: index, task: inside ? (group.tasks[row * group.columns + column] ?? null) : null };
    }
    return null;
  }

  minimap(context: CanvasRenderingContext2D, width: number, height: number, ratio: number, view: View, viewWidth: number, viewHeight: number): void {
    const { layout, colours } = this;
    const scale = Math.min(width / Math.max(layout.width, 1), height / Math.max(layout.height, 1)) * 0.92;
    const x0 = (width - layout.width * scale) / 2;
    const y0 = (height - layout.height * scale) / 2;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, width, height);
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x0, ratio * y0);
    layout.groups.forEach((group, index) => {
      context.fillStyle = this.has(index, "failed") ? colours.tones.failed : this.has(index, "running") ? colours.tones.running : colours.strong;
      context.fillRect(group.x, group.y, group.width, Math.max(group.height, 1 / scale));
    });
    context.strokeStyle = colours.accent;
    context.lineWidth = 1.5 / scale;
    context.strokeRect(-view.x / view.zoom, -view.y / view.zoom, viewWidth / view.zoom, viewHeight / view.zoom);
  }
}

const SIGNS: Readonly<Record<Tone, string>> = { waiting: "○", queued: "◷", running: "▶", completed: "✓", failed: "✕", cancelled: "⊘" };

function curve(context: CanvasRenderingContext2D, x1: number, y1: number, x2: number, y2: number, straight: boolean): void {
  context.moveTo(x1, y1);
  const bend = Math.min(80, (x2 - x1) / 2);
  if (straight) context.lineTo(x2, y2);
  else context.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
}

/** Returns the view to begin with: all of a layout, or on a small screen its beginning where all of it could not be read. */
export function opening(layout: Layout, width: number, height: number): View {
  const all = fit(layout, width, height);
  if (all.zoom >= TEXT || width > 480) return all;
  const zoom = Math.max(all.zoom, 0.75);
  const first = layout.groups.reduce((best, group) => (group.x < best.x || (group.x === best.x && group.y < best.y) ? group : best), layout.groups[0]!);
  return { zoom, x: 12 - first.x * zoom, y: Math.max(12 - first.y * zoom, (height - layout.height * zoom) / 2) };
}

/** Returns whether a view shows all of a layout. */
export function showsAll(layout: Layout, view: View, width: number, height: number): boolean {
  return view.x >= 0 && view.y >= 0 && view.x + layout.width * view.zoom <= width && view.y + layout.height * view.zoom <= height;
}

function fitted(context: CanvasRenderingContext2D, text: string, room: number): string {
  const one = text.replace(/\s+/g, " ").slice(0, 60);
  if (context.measureText(one).width <= room) return one;
  let length = one.length;
  while (length > 1 && context.measureText(`${one.slice(0, length)}…`).width > room) length -= 1;
  return `${one.slice(0, length)}…`;
}

/** Returns the view that shows all of a layout: a little larger than as drawn where there is room, and never much. */
export function fit(layout: Layout, width: number, height: number): View {
  const zoom = Math.min(1.3, (width - 48) / Math.max(layout.width, 1), (height - 48) / Math.max(layout.height, 1));
  const used = Math.max(zoom, 0.002);
  return { zoom: used, x: (width - layout.width * used) / 2, y: (height - layout.height * used) / 2 };
}
