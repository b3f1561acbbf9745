import { count } from "../format";
import { DRAWN, INDEX_OF_CODE, SIGNS, TONES, type Tone } from "../states";
import { HEAD, PAD, tally, type Group, type Layout } from "./layout";
import { BRIGHT, FAINT, PALE } from "./lens";
import { labelsOf, spansOf, trace, type Label } from "./lines";

export interface View {
  /** Px of the screen for one of the layout's, and where the layout's origin lies on the screen. */
  zoom: number;
  x: number;
  y: number;
}

export interface Shown {
  readonly selected: number | null;
  readonly task: number | null;
  /** How strongly each group is seen, in the words of lens.ts; null: all alike. */
  readonly seen: Uint8Array | null;
}

/** Below this zoom a box is a bar, and has no text. */
const BARS = 0.22;
/** Below the first of these letters do not shrink with their box; below the second a box has its name alone, and below the third
 *  not even that. */
const LETTERS = 0.75;
const WORDS = 0.55;
const NAMES = 0.34;
/** At this zoom all text is read with ease. */
const READABLE = 0.85;
/** Letters and lines grow with their box up to this zoom, the largest at which all of a graph is shown. */
const CLOSEST = 1.3;
/** More edges than these are hairs. */
const HAIRS = 4_000;
/** Opacity of what a lens makes faint and pale, and of all else. */
const ALPHA = { [FAINT]: 0.2, [PALE]: 0.65, [BRIGHT]: 1 } as const;

/** How much larger than their box letters are drawn: those of a small one are still read, and those of a near one do not fill the window. */
function letters(zoom: number): number {
  return zoom < LETTERS ? LETTERS / zoom : Math.min(1, CLOSEST / zoom);
}

/** The colours of the page, read once for each theme. */
export interface Palette {
  readonly tones: Readonly<Record<Tone, string>>;
  readonly ground: string;
  readonly line: string;
  readonly strong: string;
  readonly ink: string;
  readonly ink2: string;
  readonly accent: string;
  /** Of words that tell of what failed. */
  readonly bad: string;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(name).trim();
  const tones = Object.fromEntries(TONES.map((tone) => [tone, read(`--s-${tone}`)])) as Record<Tone, string>;
  return { tones, ground: read("--ground"), line: read("--line"), strong: read("--line-strong"), ink: read("--ink"), ink2: read("--ink-2"), accent: read("--accent"), bad: read("--bad-ink") };
}

const rgb = (hex: string): number => {
  // The build shortens #ffffff.
  const value = parseInt(hex.length === 4 ? [...hex.slice(1)].map((digit) => digit + digit).join("") : hex.slice(1), 16);
  return 0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16);
};

/** Returns a colour of `rgb` as it is seen through another one. */
function mixed(colour: number, ground: number, share: number): number {
  const part = (shift: number) => Math.round(((colour >> shift) & 0xff) * share + ((ground >> shift) & 0xff) * (1 - share)) << shift;
  return 0xff000000 | part(16) | part(8) | part(0);
}

/** Draws groups with a cell for each of their tasks. A strip is kept as a picture, one pixel per task, until a task moves. */
export class Renderer {
  private strips = new Map<number, OffscreenCanvas | HTMLCanvasElement>();
  private sums: Uint32Array;
  /** How strongly each task is seen; null: all alike. */
  private seen: Uint8Array | null = null;
  /** Of each edge: its highest and its lowest place. */
  private readonly spans: Float64Array;
  private readonly labels: readonly Label[];

  /** Groups with a sublattice among their tasks have another frame behind their own. */
  constructor(readonly layout: Layout, private codes: Uint8Array, private colours: Palette, private readonly deep: ReadonlySet<number> = new Set()) {
    this.sums = tally(layout, codes, INDEX_OF_CODE, DRAWN.length);
    this.spans = spansOf(layout);
    this.labels = labelsOf(layout);
  }

  update(codes: Uint8Array): void {
    const groupOf = this.layout.groupOf;
    for (let task = 0; task < groupOf.length; task++) if (codes[task] !== this.codes[task]) this.strips.delete(groupOf[task]!);
    this.codes = codes;
    this.sums = tally(this.layout, codes, INDEX_OF_CODE, DRAWN.length);
  }

  recolour(colours: Palette): void {
    this.colours = colours;
    this.strips.clear();
  }

  /** Draws tasks as strongly as a lens sees them; null: all alike. */
  look(seen: Uint8Array | null): void {
    if (seen === null && this.seen === null) return;
    this.seen = seen;
    this.strips.clear();
  }

  counts(group: number): { state: (typeof DRAWN)[number]; count: number }[] {
    return DRAWN.map((state, k) => ({ state, count: this.sums[group * DRAWN.length + k]! })).filter((each) => each.count > 0);
  }

  /** How many tasks of a group have each sign: several states share one. */
  signs(group: number): { tone: Tone; words: string; count: number }[] {
    const found = this.counts(group);
    return [...new Set(found.map(({ state }) => state.tone))].map((tone) => {
      const same = found.filter(({ state }) => state.tone === tone);
      return { tone, words: same.map(({ state }) => state.word).join(" or "), count: same.reduce((sum, each) => sum + each.count, 0) };
    });
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
    const ground = rgb(this.colours.ground);
    const plain = DRAWN.map((state) => (state.tone === "waiting" ? rgb(this.colours.line) : rgb(this.colours.tones[state.tone])));
    const tones = [FAINT, PALE, BRIGHT].map((seen) => plain.map((tone) => mixed(tone, ground, ALPHA[seen as keyof typeof ALPHA])));
    group.tasks.forEach((task, k) => (pixels[k] = tones[this.seen?.[task] ?? BRIGHT]![INDEX_OF_CODE[this.codes[task]!]!] ?? 0));
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
      context.globalAlpha = this.alpha(shown, index);
      this.box(context, group, index, view.zoom, shown);
    });
    context.globalAlpha = 1;
  }

  private alpha(shown: Shown, group: number): number {
    return shown.seen ? ALPHA[shown.seen[group] as keyof typeof ALPHA] : 1;
  }

  private edges(context: CanvasRenderingContext2D, zoom: number, left: number, top: number, right: number, bottom: number, shown: Shown): void {
    const { groups, edges } = this.layout;
    const hairs = edges.length > HAIRS;
    const straight = zoom < BARS || hairs;
    const plain: number[] = [];
    const faint: number[] = [];
    const bright: number[] = [];
    const ends = new Set<number>();
    edges.forEach((edge, index) => {
      const from = groups[edge.from]!;
      const to = groups[edge.to]!;
      if (from.x + from.width > right || to.x < left || this.spans[2 * index + 1]! < top || this.spans[2 * index]! > bottom) return;
      ends.add(edge.to);
      if (shown.selected === edge.from || shown.selected === edge.to) bright.push(index);
      else if (shown.seen && (shown.seen[edge.from] === FAINT || shown.seen[edge.to] === FAINT)) faint.push(index);
      else plain.push(index);
    });
    const stroke = (which: readonly number[], colour: string, width: number, alpha: number) => {
      context.strokeStyle = colour;
      context.lineWidth = width / Math.max(zoom, 0.35);
      context.globalAlpha = alpha;
      context.beginPath();
      // Of hairs that are seen from afar nobody follows one.
      for (const index of which) trace(context, groups, edges[index]!, straight, hairs && zoom < BARS);
      context.stroke();
    };
    stroke(faint, this.colours.strong, 1.2, hairs ? 0.1 : 0.25);
    stroke(plain, this.colours.strong, 1.2, hairs ? 0.25 : 0.75);
    stroke(bright, this.colours.accent, 2.2, 1);
    context.globalAlpha = 1;
    if (zoom < NAMES || edges.length > 500) return;
    this.heads(context, ends, bright, shown);
    if (zoom >= WORDS) this.numbers(context, letters(zoom), left, top, right, bottom, shown);
  }

  /** A head where edges end: one that passes has none. */
  private heads(context: CanvasRenderingContext2D, ends: ReadonlySet<number>, bright: readonly number[], shown: Shown): void {
    const chosen = new Set(bright.map((index) => this.layout.edges[index]!.to));
    for (const index of ends) {
      const group = this.layout.groups[index]!;
      const y = group.y + group.height / 2;
      context.globalAlpha = this.alpha(shown, index);
      context.fillStyle = chosen.has(index) ? this.colours.accent : this.colours.strong;
      context.beginPath();
      context.moveTo(group.x, y);
      context.lineTo(group.x - 8, y - 4.5);
      context.lineTo(group.x - 8, y + 4.5);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  private numbers(context: CanvasRenderingContext2D, larger: number, left: number, top: number, right: number, bottom: number, shown: Shown): void {
    context.font = `${11 * larger}px system-ui, sans-serif`;
    context.textAlign = "center";
    for (const { edge, text, x, y, half } of this.labels) {
      if (x < left || x > right || y < top || y > bottom) continue;
      context.fillStyle = this.colours.ground;
      // No line is seen through a faint number.
      context.globalAlpha = 1;
      context.fillRect(x - half * larger, y - 8 * larger, 2 * half * larger, 16 * larger);
      context.globalAlpha = Math.min(this.alpha(shown, edge.from), this.alpha(shown, edge.to));
      context.fillStyle = this.colours.ink2;
      context.fillText(text, x, y + 4 * larger);
    }
    context.globalAlpha = 1;
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
    context.lineWidth = (selected ? 2.5 : failed ? 1.8 : 1) * Math.min(1, CLOSEST / zoom);
    context.stroke();
    const larger = letters(zoom);
    if (zoom >= WORDS) this.words(context, group, index, larger);
    else if (zoom >= NAMES) this.title(context, group, index, larger, 22 + 5 * larger);
    const rows = Math.ceil(group.tasks.length / group.columns);
    const x = group.x + PAD;
    const y = group.y + HEAD;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.strip(index), x, y, group.columns * group.cell, rows * group.cell);
    this.lattice(context, group, rows, x, y, zoom, shown);
  }

  /** The name of a group, and how many tasks it has, on a line so far below its top. */
  private title(context: CanvasRenderingContext2D, group: Group, index: number, larger: number, line: number): void {
    const y = group.y + line;
    context.fillStyle = this.colours.ink;
    context.font = `600 ${13 * larger}px system-ui, sans-serif`;
    const number = group.tasks.length > 1 ? count(group.tasks.length) : "";
    context.textAlign = "right";
    context.fillText(number, group.x + group.width - PAD, y);
    const room = group.width - 2 * PAD - context.measureText(number).width - 8;
    context.textAlign = "left";
    context.fillText(fitted(context, this.deep.has(index) ? `⤵ ${group.name}` : group.name, room), group.x + PAD, y);
  }

  private words(context: CanvasRenderingContext2D, group: Group, index: number, larger: number): void {
    const { colours } = this;
    const total = group.tasks.length;
    this.title(context, group, index, larger, 18);
    const line = 35 + 6 * (larger - 1);
    let x = group.x + PAD;
    context.font = `${11.5 * larger}px system-ui, sans-serif`;
    for (const { tone, words, count: many } of this.signs(index)) {
      const text = `${SIGNS[tone]} ${total === 1 ? words : count(many)}`;
      const width = context.measureText(text).width;
      if (x + width > group.x + group.width - PAD) break;
      context.fillStyle = colours.tones[tone];
      context.fillText(SIGNS[tone], x, group.y + line);
      context.fillStyle = colours.ink2;
      context.fillText(text.slice(1), x + context.measureText(SIGNS[tone]).width, group.y + line);
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
      if (cell * zoom >= 8) this.shapes(context, group, x, y);
    }
    if (shown.task !== null && this.layout.groups[this.layout.groupOf[shown.task] ?? -1] === group) {
      const k = group.tasks.indexOf(shown.task);
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2 / zoom;
      context.strokeRect(x + (k % columns) * cell, y + Math.floor(k / columns) * cell, cell, cell);
    }
  }

  /** In each cell of a task that gave no result a shape of its own: a cross, a slash, an arrow past it. */
  private shapes(context: CanvasRenderingContext2D, group: Group, x: number, y: number): void {
    const { cell, columns } = group;
    context.strokeStyle = this.colours.ground;
    context.lineWidth = cell / 7;
    context.beginPath();
    group.tasks.forEach((task, k) => {
      const lines = SHAPES[this.codes[task]!];
      if (!lines) return;
      const left = x + (k % columns) * cell;
      const top = y + Math.floor(k / columns) * cell;
      lines.forEach(([across, down, begins]) => context[begins ? "moveTo" : "lineTo"](left + across * cell, top + down * cell));
    });
    context.stroke();
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
    // Within the map, also where the window shows more than there is.
    const edge = (at: number, size: number, from: number) => Math.min((size - from) / scale - 1 / scale, Math.max(-from / scale + 1 / scale, at));
    const [left, right] = [edge(-view.x / view.zoom, width, x0), edge((viewWidth - view.x) / view.zoom, width, x0)];
    const [top, bottom] = [edge(-view.y / view.zoom, height, y0), edge((viewHeight - view.y) / view.zoom, height, y0)];
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

/** In parts of a cell's side, by a state's letter; the last of three: a line begins here. */
const SHAPES: Readonly<Record<number, readonly (readonly [number, number, boolean])[]>> = {
  [code("f")]: [[0.28, 0.28, true], [0.72, 0.72, false], [0.72, 0.28, true], [0.28, 0.72, false]],
  [code("x")]: [[0.28, 0.72, true], [0.72, 0.28, false]],
  [code("s")]: [[0.36, 0.26, true], [0.64, 0.5, false], [0.36, 0.74, false]],
};

function code(letter: string): number {
  return letter.charCodeAt(0);
}

/** Returns the view to begin with: all of a layout where it can be read, and else what matters in it, as large as it takes.
 *
 *  matters: the group to have in the middle. */
export function opening(layout: Layout, width: number, height: number, matters: number): View {
  const all = fit(layout, width, height);
  const group = layout.groups[matters];
  if (all.zoom >= WORDS || !group) return all;
  const zoom = READABLE;
  // Beyond the ends of the layout there is nothing to see.
  const at = (middle: number, whole: number, room: number) => (whole * zoom + 24 <= room ? (room - whole * zoom) / 2 : Math.min(12, Math.max(room - whole * zoom - 12, room / 2 - middle * zoom)));
  return { zoom, x: at(group.x + group.width / 2, layout.width, width), y: at(group.y + group.height / 2, layout.height, height) };
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
  const zoom = Math.min(CLOSEST, (width - 48) / Math.max(layout.width, 1), (height - 48) / Math.max(layout.height, 1));
  const used = Math.max(zoom, 0.002);
  return { zoom: used, x: (width - layout.width * used) / 2, y: (height - layout.height * used) / 2 };
}
