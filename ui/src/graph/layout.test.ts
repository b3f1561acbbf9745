import { expect, test } from "vitest";
import { INDEX_OF_CODE, STATES } from "../states";
import { opening } from "./draw";
import { BOX, cells, depths, HEAD, layOut, PAD, sliceOf, STEP, tally, taskOf, type GraphColumns, type Layout } from "./layout";
import { BRIGHT, FAINT, failedLens, ofGroups, PALE } from "./lens";
import { labelsOf, trace } from "./lines";

/** Chains of some steps, and one task that needs all of their ends. */
function fan(width: number, steps: number): GraphColumns {
  const sets: number[][] = [[]];
  const name: number[] = [];
  const needs: number[] = [];
  for (let k = 0; k < width; k++) {
    for (let step = 0; step < steps; step++) {
      name.push(step);
      if (step === 0) needs.push(0);
      else needs.push(sets.push([name.length - 2]) - 1);
    }
  }
  needs.push(sets.push(Array.from({ length: width }, (_, k) => k * steps + steps - 1)) - 1);
  name.push(steps);
  return { tasks: name.length, name, needs, names: [...Array(steps).keys()].map((k) => `step${k}`).concat("collect"), sets, levels: [] };
}

/** Numbers that look random and are always the same. */
function* numbers(seed: number): Generator<number> {
  for (let state = seed; ; ) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    yield state;
  }
}

function random(seed: number, tasks: number): GraphColumns {
  const next = numbers(seed);
  // Of such numbers the lower bits come again and again.
  const draw = (below: number) => (next.next().value! >> 12) % below;
  const sets: number[][] = [];
  const name: number[] = [];
  const needs: number[] = [];
  for (let task = 0; task < tasks; task++) {
    name.push(draw(7));
    needs.push(sets.push([...new Set(Array.from({ length: draw(4) }, () => draw(Math.max(task, 1))))].filter((each) => each < task)) - 1);
  }
  return { tasks, name, needs, names: [..."abcdefg"], sets, levels: [] };
}

test("a task is one deeper than the deepest that it needs, in whatever order they come", () => {
  expect([...depths(fan(2, 3))]).toEqual([0, 1, 2, 0, 1, 2, 3]);
  const backwards: GraphColumns = { tasks: 3, name: [0, 0, 0], needs: [0, 1, 2], names: ["a"], sets: [[1], [2], []], levels: [] };
  expect([...depths(backwards)]).toEqual([2, 1, 0]);
});

test("tasks of one electron at one depth are a group, and every task is in one", () => {
  const layout = layOut(fan(5, 2));
  expect(layout.groups.map((group) => [group.name, group.depth, group.tasks.length])).toEqual([["step0", 0, 5], ["step1", 1, 5], ["collect", 2, 1]]);
  expect(layout.edges).toEqual([{ from: 0, to: 1, count: 5, via: [] }, { from: 1, to: 2, count: 5, via: [] }]);
});

test("groups never overlap, lie inside, and every edge goes to the right", () => {
  for (let seed = 1; seed <= 8; seed++) {
    const layout = layOut(random(seed, 120));
    const { groups } = layout;
    expect(groups.reduce((sum, group) => sum + group.tasks.length, 0)).toBe(120);
    groups.forEach((one, k) => {
      expect(one.x).toBeGreaterThanOrEqual(0);
      expect(one.y).toBeGreaterThanOrEqual(0);
      expect(one.x + one.width).toBeLessThanOrEqual(layout.width);
      expect(one.y + one.height).toBeLessThanOrEqual(layout.height);
      for (const other of groups.slice(k + 1)) {
        const apart = one.x + one.width <= other.x || other.x + other.width <= one.x || one.y + one.height <= other.y || other.y + other.height <= one.y;
        expect(apart).toBe(true);
      }
    });
    for (const edge of layout.edges) expect(groups[edge.from]!.x).toBeLessThan(groups[edge.to]!.x);
    expect(layOut(random(seed, 120))).toEqual(layout);
  }
});

test("a strip has a cell for every task, however many, and stays as wide as its box", () => {
  for (const tasks of [1, 20, 21, 999, 2500, 10_000, 100_000]) {
    const { columns, cell } = cells(tasks);
    expect(columns * Math.ceil(tasks / columns)).toBeGreaterThanOrEqual(tasks);
    expect(columns * cell).toBeLessThanOrEqual(201);
    expect(Math.ceil(tasks / columns) * cell).toBeLessThanOrEqual(125);
  }
  const { groups } = layOut(fan(2500, 1));
  expect(groups[0]!.height).toBeLessThan(HEAD + PAD + 125);
});

test("a barrier of a thousand by a thousand counts a million pairs as one edge", () => {
  const thousand = [...Array(1000).keys()];
  const layout = layOut({ tasks: 2000, name: [...thousand.map(() => 0), ...thousand.map(() => 1)], needs: [...thousand.map(() => 0), ...thousand.map(() => 1)], names: ["a", "b"], sets: [[], thousand], levels: [] });
  expect(layout.edges).toEqual([{ from: 0, to: 1, count: 1_000_000, via: [] }]);
});

test("ten thousand tasks take little time", () => {
  const graph = fan(2500, 4);
  layOut(graph);
  const before = process.cpuUsage();
  layOut(graph);
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000).toBeLessThan(150);
});

/** Where an edge is drawn: a point every few px. */
function pointsOf(layout: Layout, index: number): (readonly [number, number])[] {
  const points: (readonly [number, number])[] = [];
  let [x, y] = [0, 0];
  trace({
    moveTo: (x2, y2) => { [x, y] = [x2, y2]; },
    lineTo: (x2, y2) => {
      for (let k = 0; k <= 20; k++) points.push([x + ((x2 - x) * k) / 20, y + ((y2 - y) * k) / 20]);
      [x, y] = [x2, y2];
    },
    bezierCurveTo: (xa, ya, xb, yb, x2, y2) => {
      for (let k = 0; k <= 20; k++) {
        const t = k / 20;
        const of = (p: number, a: number, b: number, q: number) => p * (1 - t) ** 3 + 3 * a * t * (1 - t) ** 2 + 3 * b * t ** 2 * (1 - t) + q * t ** 3;
        points.push([of(x, xa, xb, x2), of(y, ya, yb, y2)]);
      }
      [x, y] = [x2, y2];
    },
  }, layout.groups, layout.edges[index]!, false, false);
  return points;
}

test("no edge passes behind a box, and those of one group that pass a column together are one line", () => {
  for (let seed = 1; seed <= 10; seed++) {
    const layout = layOut(random(seed, 60));
    const { groups, edges } = layout;
    const long = edges.filter((edge) => edge.via.length);
    expect(long.length).toBeGreaterThan(5);
    edges.forEach((edge, index) => {
      expect(edge.via.length).toBe(groups[edge.to]!.depth - groups[edge.from]!.depth - 1);
      const points = pointsOf(layout, index);
      expect(points.filter(([, y]) => y < 0 || y > layout.height)).toEqual([]);
      const others = groups.filter((box) => box !== groups[edge.from] && box !== groups[edge.to]);
      const behind = others.filter((box) => points.some(([x, y]) => x > box.x + 1 && x < box.x + box.width - 1 && y > box.y && y < box.y + box.height));
      expect(behind).toEqual([]);
    });
    // Two groups never share a line, and lines that are not shared can be told apart.
    const at = new Map<string, number>();
    for (const edge of long) {
      edge.via.forEach((y, k) => {
        const place = `${groups[edge.from]!.depth + 1 + k} ${y.toFixed(3)}`;
        expect(at.get(place) ?? edge.from).toBe(edge.from);
        at.set(place, edge.from);
      });
    }
  }
});

test("a gap grows with the lines that pass through it, and a number stands before the box that its edge leads to", () => {
  // Nine groups that all feed the last one, past a column of two large groups.
  const many = 9;
  const name = [...Array(many).keys(), ...Array<number>(800).fill(many), ...Array<number>(800).fill(many + 1), many + 2];
  const needs = name.map((each) => (each < many ? 0 : each < many + 2 ? 1 : 2));
  const sets = [[], [0], [...Array(many + 1600).keys()]];
  const layout = layOut({ tasks: name.length, name, needs, names: name.map(String), sets, levels: [] });
  const column = layout.groups.filter((group) => group.depth === 1).sort((one, other) => one.y - other.y);
  const past = layout.edges.filter((edge) => edge.via.length).map((edge) => edge.via[0]!);
  expect(past.length).toBe(many);
  const inside = past.filter((y) => y > column[0]!.y && y < column[1]!.y);
  expect(column[1]!.y - column[0]!.y - column[0]!.height).toBeGreaterThanOrEqual(Math.max(28, 6 * (inside.length - 1) + 18) - 1e-6);
  for (const label of labelsOf(layout)) {
    const to = layout.groups[label.edge.to]!;
    expect(label.x + label.half).toBeLessThan(to.x);
    expect(label.x - label.half).toBeGreaterThanOrEqual(to.x - (STEP - BOX));
  }
  expect(labelsOf(layout).map((label) => label.text)).toContain("800");
});

test("the failed lens leaves bright what failed, and paler what hangs on it", () => {
  // a → b → c → d, e → f, and g on b in the past of it only
  const graph: GraphColumns = { tasks: 7, name: [0, 1, 2, 3, 4, 5, 6], needs: [0, 1, 2, 3, 0, 4, 1], names: [..."abcdefg"], sets: [[], [0], [1], [2], [4]], levels: [] };
  const seen = failedLens(graph, new TextEncoder().encode("cfsscsc"));
  expect([...seen]).toEqual([FAINT, BRIGHT, PALE, PALE, FAINT, FAINT, FAINT]);
  expect([...ofGroups(Int32Array.from([0, 0, 1, 1, 2, 2, 2]), 3, seen)]).toEqual([BRIGHT, PALE, FAINT]);
  expect([...failedLens(graph, new TextEncoder().encode("ccccccc"))]).toEqual(Array(7).fill(FAINT));
  // Told backwards, what hangs on something comes before it.
  const backwards: GraphColumns = { tasks: 3, name: [0, 0, 0], needs: [0, 1, 2], names: ["a"], sets: [[1], [2], []], levels: [] };
  expect([...failedLens(backwards, new TextEncoder().encode("ssf"))]).toEqual([PALE, PALE, BRIGHT]);
});

test("a graph that is too large to be read opens where it can be, at what matters in it", () => {
  const layout = layOut(fan(3, 12));
  const last = layout.groups.length - 2;
  for (const matters of [0, last]) {
    const view = opening(layout, 520, 500, matters);
    expect(view.zoom).toBeGreaterThanOrEqual(0.75);
    const { x, width } = layout.groups[matters]!;
    expect(x * view.zoom + view.x).toBeGreaterThanOrEqual(0);
    expect((x + width) * view.zoom + view.x).toBeLessThanOrEqual(520);
    // No empty room beside an end of it.
    expect(view.x).toBeLessThanOrEqual(12);
    expect(layout.width * view.zoom + view.x).toBeGreaterThanOrEqual(520 - 12);
  }
  // Three boxes beside the tree of a window of 768 px.
  const small = layOut(fan(3, 2));
  const whole = opening(small, 515, 500, 0);
  expect([whole.x >= 0, small.width * whole.zoom + whole.x <= 515]).toEqual([true, true]);
});

test("states are counted by group, and every task in one of them", () => {
  const layout = layOut(fan(3, 1));
  const sums = tally(layout, new TextEncoder().encode("cfcw"), INDEX_OF_CODE, STATES.length);
  const of = (group: number, state: string) => sums[group * STATES.length + STATES.findIndex((each) => each.name === state)];
  expect([of(0, "completed"), of(0, "failed"), of(1, "waiting")]).toEqual([2, 1, 1]);
  expect(sums.reduce((sum, each) => sum + each, 0)).toBe(4);
});

test("one lattice of a dispatch is its own tasks, from 0, and what is needed within it", () => {
  const outer = { id: "A", name: "outer", task: 1, first: 3, tasks: 3 };
  const inner = { id: "B", name: "inner", task: 4, first: 6, tasks: 2 };
  const graph: GraphColumns = { tasks: 8, name: [0, 1, 0, 0, 1, 0, 0, 0], needs: [0, 1, 2, 2, 3, 4, 5, 6], names: ["a", "sub"], sets: [[], [0], [1], [3], [3, 4], [4], [6]], levels: [outer, inner] };
  const whole = sliceOf(graph, undefined);
  expect([whole.level, whole.columns.tasks, [...whole.inner]]).toEqual([null, 3, [[1, outer]]]);
  expect(whole.columns.needs.map((set) => whole.columns.sets[set])).toEqual([[], [0], [1]]);
  const first = sliceOf(graph, "A");
  expect([first.first, first.around, [...first.inner]]).toEqual([3, [], [[1, inner]]]);
  // What it waits for outside of it is its sublattice's own matter.
  expect(first.columns.needs.map((set) => first.columns.sets[set])).toEqual([[], [0], [0, 1]]);
  const second = sliceOf(graph, "B");
  expect([second.around, second.columns.needs.map((set) => second.columns.sets[set])]).toEqual([[outer], [[], [0]]]);
  expect(layOut(second.columns).groups.map((group) => [group.name, group.tasks.length])).toEqual([["a", 1], ["a", 1]]);
});

test("a graph without sublattices is one lattice, as it is", () => {
  const graph = random(5, 40);
  expect(sliceOf(graph, undefined).columns).toBe(graph);
  expect(sliceOf(graph, "gone").level).toBe(null);
});

test("a search finds a task by its number, with or without the name of its electron", () => {
  const layout = layOut(fan(3, 2));
  expect(["3", " #3 ", "task 3", "step1 3", "STEP 3", "step1 task 3"].map((text) => taskOf(text, layout, 0))).toEqual([3, 3, 3, 3, 3, 3]);
  expect(["", "step1", "step0 3", "7", "3x", "step1 3 4"].map((text) => taskOf(text, layout, 0))).toEqual([null, null, null, null, null, null]);
  // In a sublattice the numbers are those of the whole dispatch.
  expect([taskOf("13", layout, 10), taskOf("3", layout, 10)]).toEqual([3, null]);
});
