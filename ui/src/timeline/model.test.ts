import { describe, expect, it } from "vitest";
import type { Timeline } from "../api/insight";
import { model, moved, offset, ticks, zoomed } from "./model";

const lane = (index: number, changes: object = {}) => ({ array: 0, index, slot: 0, began: 10, up: 12, left: 40, ended: 41, cause: "done", host: "n1", ...changes });

function timeline(changes: object = {}): Timeline {
  return {
    base: "2026-01-01T00:00:00.000Z",
    now: 50,
    live: true,
    arrays: [{ job_id: "8", cluster: "slurm", width: 4, state: "submitted", reason: "Priority", submitted: 1, ended: null, waiting: 2 }],
    lanes: [lane(1), lane(0)],
    names: ["relax"],
    bars: { lane: [1, 0, 1], task: [0, 1, 2], name: [0, 0, 0], attempt: [1, 1, 1], from: [20, 14, 13], to: [30, null, 20], end: ["c", "r", "f"] },
    unplaced: 0,
    ...changes,
  } as Timeline;
}

describe("the lanes of a timeline", () => {
  it("are in the order of arrays and indices, those that wait last, with bars in the order of time", () => {
    const { rows } = model(timeline());
    expect(rows.map((row) => row.name)).toEqual(["8_0", "8_1", "8: 2 to begin"]);
    expect(rows[0]!.bars).toEqual([2, 0]);
  });

  it("tell apart what was waited, started, worked and idled, which adds up to the time of a worker", () => {
    const row = model(timeline()).rows[0]!;
    expect([row.waited, row.start, row.tasks, row.idle, row.lost]).toEqual([9, 3, 17, 11, 1]);
    expect(row.start! + row.tasks + row.idle).toBe(row.over - row.up!);
  });

  it("count what runs up to now, and what waits since it was submitted", () => {
    const { rows, from, to } = model(timeline({ lanes: [lane(1, { ended: null, left: null }), lane(0)] }));
    expect([rows[1]!.live, rows[1]!.tasks, rows[1]!.over]).toEqual([true, 36, 50]);
    expect([rows[2]!.width, rows[2]!.waited]).toEqual([2, 49]);
    expect([from, to]).toEqual([1, 50]);
  });

  it("begin with the first task where clocks differ and accounting says it began later", () => {
    const row = model(timeline({ lanes: [lane(1), lane(0, { began: 15 })] })).rows[0]!;
    expect([row.up, row.start]).toEqual([13, 0]);
  });

  it("say how many tasks run at each moment", () => {
    expect(model(timeline()).running).toEqual([[13, 1], [14, 2], [20, 2], [30, 1], [50, 0]]);
  });

  it("are none where nothing was submitted", () => {
    const empty = model(timeline({ arrays: [], lanes: [], bars: { lane: [], task: [], name: [], attempt: [], from: [], to: [], end: [] } }));
    expect(empty.rows).toEqual([]);
    expect(empty.to).toBeGreaterThan(empty.from);
  });
});

describe("what is seen of it", () => {
  const whole = { from: 0, to: 100 };

  it("keeps the moment below the hand while it is made larger, and never leaves the whole", () => {
    expect(zoomed({ from: 20, to: 60 }, 0.5, 0.5, whole)).toEqual({ from: 30, to: 50 });
    expect(zoomed({ from: 20, to: 60 }, 10, 0.5, whole)).toEqual(whole);
    expect(moved({ from: 20, to: 60 }, 70, whole)).toEqual({ from: 60, to: 100 });
    expect(moved({ from: 20, to: 60 }, -70, whole)).toEqual({ from: 0, to: 40 });
  });

  it("has round ticks, as fine as there is room for", () => {
    expect(ticks({ from: 3, to: 61 }, 6)).toEqual({ step: 10, at: [10, 20, 30, 40, 50, 60] });
    expect(ticks({ from: 0, to: 5e6 }, 5).at.length).toBeLessThanOrEqual(6);
  });

  it("names moments by their distance from the beginning", () => {
    expect([offset(0, 1), offset(0.25, 0.05), offset(30, 10), offset(90, 30), offset(120, 60), offset(5400, 600)]).toEqual(["0", "+0.25 s", "+30 s", "+1:30 min", "+2 min", "+1:30 h"]);
  });
});
