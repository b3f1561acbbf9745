/** Groups of tasks and their places, in time linear in tasks and edges. Pure: runs in a worker, and in tests. */

import { routes } from "./routes";

/** As the API's graph has it: task i is an electron names[name[i]] and needs the tasks sets[needs[i]]. */
export interface GraphColumns {
  readonly tasks: number;
  readonly name: readonly number[];
  readonly needs: readonly number[];
  readonly names: readonly string[];
  readonly sets: readonly (readonly number[])[];
  readonly levels: readonly Level[];
}

/** A sublattice: the task that it is, and the tasks that it built, all by their numbers in the whole dispatch. */
export interface Level {
  readonly id: string;
  readonly name: string;
  readonly task: number;
  readonly first: number;
  readonly tasks: number;
}

/** One lattice of a dispatch: itself, or a sublattice. */
export interface Slice {
  /** null: the dispatch itself. */
  readonly level: Level | null;
  /** The sublattices that it lies in, the outermost first. */
  readonly around: readonly Level[];
  /** Those that are a task of it, by that task's number in it. */
  readonly inner: ReadonlyMap<number, Level>;
  readonly first: number;
  readonly columns: GraphColumns;
}

/** Returns the part of a graph that one lattice called itself, its tasks numbered from 0. */
export function sliceOf(graph: GraphColumns, id: string | undefined): Slice {
  const level = graph.levels.find((each) => each.id === id) ?? null;
  const own = graph.levels.reduce((least, each) => Math.min(least, each.first), graph.tasks);
  const [first, tasks] = level ? [level.first, level.tasks] : [0, own];
  const holds = (each: Level, task: number) => task >= each.first && task < each.first + each.tasks;
  const around: Level[] = [];
  for (let at = level; at !== null; ) {
    const outer: Level | null = graph.levels.find((each) => holds(each, at!.task)) ?? null;
    if (outer) around.unshift(outer);
    at = outer;
  }
  const inner = new Map(graph.levels.filter((each) => each.task >= first && each.task < first + tasks).map((each) => [each.task - first, each]));
  if (!graph.levels.length) return { level, around, inner, first, columns: graph };
  const sets = graph.sets.map((set) => set.filter((need) => need >= first && need < first + tasks).map((need) => need - first));
  const columns = { tasks, name: graph.name.slice(first, first + tasks), needs: graph.needs.slice(first, first + tasks), names: graph.names, sets, levels: [] };
  return { level, around, inner, first, columns };
}

/** The tasks of one electron that are equally deep in the graph. */
export interface Group {
  readonly name: string;
  readonly depth: number;
  /** Ascending. */
  readonly tasks: Int32Array;
  /** Cells of its strip in a row, and the side of one, in px at zoom 1. */
  readonly columns: number;
  readonly cell: number;
  x: number;
  y: number;
  readonly width: number;
  readonly height: number;
}

export interface Edge {
  readonly from: number;
  readonly to: number;
  /** Pairs of tasks behind it. */
  readonly count: number;
  /** Where it passes each column between its ends: y, from the left to the right. */
  readonly via: readonly number[];
}

export interface Layout {
  readonly groups: Group[];
  readonly edges: Edge[];
  readonly groupOf: Int32Array;
  readonly width: number;
  readonly height: number;
}

export const BOX = 220;
/** From column to column. */
export const STEP = BOX + 64;
/** Where the strip begins below the top of a box, and the space around it. */
export const HEAD = 44;
export const PAD = 10;
const GAP_Y = 28;
const SWEEPS = 6;

/** Returns each task's distance from the beginning: one more than the deepest task that it needs. */
export function depths(graph: GraphColumns): Int32Array {
  const depth = new Int32Array(graph.tasks);
  const ofSet = new Int32Array(graph.sets.length).fill(-1);
  // Traced in order, a task needs earlier ones only, and one pass is enough; a second proves it.
  for (let pass = 0, moved = true; moved && pass <= graph.tasks; pass++) {
    moved = false;
    ofSet.fill(-1);
    for (let task = 0; task < graph.tasks; task++) {
      const set = graph.needs[task]!;
      if (ofSet[set]! < 0) ofSet[set] = graph.sets[set]!.reduce((deepest, each) => Math.max(deepest, depth[each]! + 1), 0);
      if (depth[task] !== ofSet[set]) {
        depth[task] = ofSet[set]!;
        moved = true;
      }
    }
  }
  return depth;
}

/** How many cells are in a row of a strip, and how large one is: all of them are drawn, however many there are. */
export function cells(tasks: number): { columns: number; cell: number } {
  const width = BOX - 2 * PAD;
  for (const cell of [10, 8, 5, 4, 2.5, 2]) {
    const columns = Math.floor(width / cell);
    if (Math.ceil(tasks / columns) * cell <= 100) return { columns, cell };
  }
  const columns = Math.ceil(Math.sqrt((tasks * width) / 120));
  return { columns, cell: width / columns };
}

export function layOut(graph: GraphColumns): Layout {
  const depth = depths(graph);
  const keys = new Map<number, number>();
  const members: number[][] = [];
  const groupOf = new Int32Array(graph.tasks);
  const stride = graph.names.length;
  for (let task = 0; task < graph.tasks; task++) {
    const key = depth[task]! * stride + graph.name[task]!;
    let group = keys.get(key);
    if (group === undefined) {
      group = members.length;
      keys.set(key, group);
      members.push([]);
    }
    members[group]!.push(task);
    groupOf[task] = group;
  }
  const groups = members.map((tasks): Group => {
    const { columns, cell } = cells(tasks.length);
    const rows = Math.ceil(tasks.length / columns);
    const first = tasks[0]!;
    return { name: graph.names[graph.name[first]!]!, depth: depth[first]!, tasks: Int32Array.from(tasks), columns, cell, x: 0, y: 0, width: BOX, height: HEAD + rows * cell + PAD };
  });
  const ends = edgesOf(graph, groupOf, groups.length);
  const { via, ...size } = place(groups, ends);
  return { groups, edges: ends.map((edge, index) => ({ ...edge, via: via[index]! })), groupOf, ...size };
}

function edgesOf(graph: GraphColumns, groupOf: Int32Array, groups: number): Omit<Edge, "via">[] {
  // How many tasks of each group share a set: a barrier of 1000 × 1000 is walked through once.
  const sharing = new Map<number, number>();
  for (let task = 0; task < graph.tasks; task++) {
    const key = graph.needs[task]! * groups + groupOf[task]!;
    sharing.set(key, (sharing.get(key) ?? 0) + 1);
  }
  const counts = new Map<number, number>();
  for (const [key, tasks] of sharing) {
    const to = key % groups;
    for (const need of graph.sets[(key - to) / groups]!) {
      const pair = groupOf[need]! * groups + to;
      counts.set(pair, (counts.get(pair) ?? 0) + tasks);
    }
  }
  return [...counts].map(([pair, count]) => ({ from: Math.floor(pair / groups), to: pair % groups, count }));
}

/** Puts groups into columns by depth, each column in the order that its neighbours suggest, with room for edges that pass it. */
function place(groups: Group[], edges: readonly Omit<Edge, "via">[]): { width: number; height: number; via: number[][] } {
  const layers: number[][] = [];
  groups.forEach((group, index) => (layers[group.depth] ??= []).push(index));
  const before: number[][] = groups.map(() => []);
  const after: number[][] = groups.map(() => []);
  for (const edge of edges) {
    before[edge.to]!.push(edge.from);
    after[edge.from]!.push(edge.to);
  }
  let extra: readonly (readonly number[])[] = [];
  const tall = (layer: number[], depth: number) => layer.reduce((sum, index, k) => sum + groups[index]!.height + GAP_Y + (extra[depth]?.[k] ?? 0), -GAP_Y);
  let heights = layers.map(tall);
  let height = heights.reduce((most, each) => Math.max(most, each), 0);
  const pack = (layer: number[], depth: number) => {
    let y = (height - heights[depth]!) / 2;
    layer.forEach((index, k) => {
      y += extra[depth]?.[k] ?? 0;
      groups[index]!.y = y;
      y += groups[index]!.height + GAP_Y;
    });
  };
  layers.forEach(pack);
  const centre = (index: number) => groups[index]!.y + groups[index]!.height / 2;
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const forward = sweep % 2 === 0;
    const near = forward ? before : after;
    for (let k = 0; k < layers.length; k++) {
      const depth = forward ? k : layers.length - 1 - k;
      const layer = layers[depth]!;
      const wish = new Map(layer.map((index) => [index, near[index]!.length ? near[index]!.reduce((sum, each) => sum + centre(each), 0) / near[index]!.length : centre(index)]));
      // Equal wishes keep their order, so that the same graph always looks the same.
      layer.sort((one, other) => wish.get(one)! - wish.get(other)! || one - other);
      pack(layer, depth);
    }
  }
  const ways = routes(groups, layers, edges, GAP_Y);
  extra = ways.extra;
  heights = layers.map(tall);
  height = heights.reduce((most, each) => Math.max(most, each), 0);
  layers.forEach(pack);
  const via = ways.settle();
  // Some pass above the highest box, or below the lowest one.
  const all = via.flat();
  const top = all.reduce((least, y) => Math.min(least, y), 0);
  const bottom = all.reduce((most, y) => Math.max(most, y), height);
  for (const group of groups) [group.x, group.y] = [group.depth * STEP, group.y - top];
  return { width: layers.length * STEP - (STEP - BOX), height: bottom - top, via: via.map((each) => each.map((y) => y - top)) };
}

/** How many tasks of each group are in each state; rows as long as `states`, in the order of `DRAWN`. */
export function tally(layout: Layout, codes: Uint8Array, indexOfCode: Uint8Array, states: number): Uint32Array {
  const sums = new Uint32Array(layout.groups.length * states);
  for (let task = 0; task < layout.groupOf.length; task++) {
    const state = indexOfCode[codes[task] ?? 0]!;
    if (state < states) sums[layout.groupOf[task]! * states + state]! += 1;
  }
  return sums;
}

/** The task that a search names, as "1577" or "relax 1577"; its number in what is drawn, whose first task has the number `first`. */
export function taskOf(text: string, layout: Pick<Layout, "groups" | "groupOf">, first: number): number | null {
  const found = /^(?:(.*?)\s+)??(?:task\s+)?#?(\d+)$/i.exec(text.trim());
  if (!found) return null;
  const task = Number(found[2]) - first;
  const group = layout.groups[layout.groupOf[task] ?? -1];
  return group?.name.toLowerCase().includes((found[1] ?? "").toLowerCase()) ? task : null;
}
