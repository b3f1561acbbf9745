import { describe, expect, it } from "vitest";
import { codeOf, firstStart, gone, reasons, seen, spelled, startWords, unasked, waitingArrays, whyWaiting, worked, busyWords, type AnArray, type Look, type Looks } from "./waiting";

type Job = NonNullable<Look["jobs"]>[number];

function row(job_id: string, more: Partial<Job> = {}): Job {
  return {
    job_id, indices: null, tasks: 1, name: "x", user: "ada", mine: true, dispatch: null, account: null, partition: "cpu", state: "pending", raw: "PENDING",
    reason: "Resources", why: "Waits for room", stuck: null, nodes: null, cores: null, gpus: null, walltime_s: null, submitted_at: null, started_at: null, hosts: null,
    starts_at: null, starts_from: null, priority: null, ahead: null, ...more,
  };
}

function looks(...jobs: Job[]): Looks {
  const look: Look = { cluster: "far", scheduler: "slurm", user: "ada", asked_at: "2026-11-27T05:00:00Z", age_s: 1, problem: null, failed_at: null, poll_s: 30, due_s: 30, asking_s: null, problems: [], partitions: [], nodes: null, jobs, jobs_total: jobs.length };
  return new Map([["far", look]]);
}

function array(job_id: string | null, more: Partial<AnArray> = {}): AnArray {
  return { cluster: "far", job_id, width: 4, state: "submitted", submitted_at: "2026-11-27T05:00:30Z", reason: "PENDING Priority", why: "Waits its turn", up: 0, busy: 0, ...more };
}

const summary = (arrays: AnArray[], more = {}) => ({ status: "RUNNING" as const, counts: { queued: 3 }, messages: [], arrays: arrays.map((each) => ({ ...each, token: `t${each.job_id}`, suspended: 0 })), ...more });

describe("what a queue knows of a job", () => {
  it("counts its array tasks by state", () => {
    const known = looks(row("7", { tasks: 3 }), row("7", { state: "running", tasks: 2 }), row("8"), row("7", { mine: false, tasks: 99 }));
    expect(seen(array("7"), known)).toMatchObject({ pending: 3, running: 2, at: "2026-11-27T05:00:00Z" });
    expect(seen(array("9"), known)).toBeNull();
    expect(seen(array("7"), new Map())).toBeNull();
    expect(seen(array(null), known)).toBeNull();
  });
});

describe("reasons", () => {
  it("are the queue's where it has the job, else the last that the server heard, those of most array tasks first", () => {
    const known = looks(row("7", { tasks: 3 }), row("7", { tasks: 2, reason: "JobArrayTaskLimit", why: "Waits for others of its array" }), row("8", { state: "running" }));
    expect(reasons([array("7"), array("8"), array("9"), array("10", { state: "ended" })], known)).toEqual([
      { text: "Waits its turn", code: "Priority", jobs: 1, tasks: 4 },
      { text: "Waits for room", code: "Resources", jobs: 1, tasks: 3 },
      { text: "Waits for others of its array", code: "JobArrayTaskLimit", jobs: 1, tasks: 2 },
    ]);
  });
  it("tell what is suspended, which does not run", () => {
    const known = looks(row("7", { state: "suspended", raw: "SUSPENDED", reason: null, why: "Is suspended: a job that goes first has its cores", tasks: 2 }));
    expect(reasons([array("7")], known)).toEqual([{ text: "Is suspended: a job that goes first has its cores", code: "SUSPENDED", jobs: 1, tasks: 2 }]);
    expect(worked([array("7")], known)).toEqual([]);
    expect(reasons([array("8", { up: 2, suspended: 2, reason: "SUSPENDED", why: "Is suspended" })], new Map())).toEqual([{ text: "Is suspended", code: "SUSPENDED", jobs: 1, tasks: 4 }]);
  });
  it("are none of a job that has left the queue since it was looked at, though its end is not told", () => {
    const left = array("9", { submitted_at: "2026-11-27T04:59:00Z" });
    expect(gone(left, looks(row("7")))).toBe(true);
    expect(reasons([left], looks(row("7")))).toEqual([]);
    // It came after the look; or it may be in what is not read or not shown of it.
    expect(gone(array("9"), looks(row("7")))).toBe(false);
    for (const part of [{ jobs_total: 2 }, { problems: ["squeue printed 1 row that can't be read."] }, { jobs: null }]) {
      expect(gone(left, new Map([["far", { ...looks(row("7")).get("far")!, ...part }]]))).toBe(false);
    }
  });
  it("have the scheduler's own word beside, once", () => {
    expect(codeOf("PENDING ReqNodeNotAvail, May be reserved for other job")).toBe("ReqNodeNotAvail, May be reserved for other job");
    expect(codeOf("PEND New job is waiting for scheduling;")).toBe("New job is waiting for scheduling");
    expect(codeOf("Q Not Running: Queue not started.")).toBe("Not Running: Queue not started.");
    expect(reasons([array("7", { reason: "PENDING Moonphase", why: null })], new Map())).toMatchObject([{ text: "Moonphase", code: null }]);
    expect(spelled({ text: "Waits its turn", code: "Priority" })).toBe("Waits its turn (Priority).");
    expect(spelled({ text: "Waits for cores.", code: null })).toBe("Waits for cores.");
  });
  it("are all named, the first three in words", () => {
    const told = (codes: string[]) => whyWaiting(summary(codes.map((code, k) => array(String(k), { width: 9 - k, reason: `PENDING ${code}`, why: null }))));
    expect(told(["Priority"])).toBe("Priority.");
    expect(told(["Priority", "BeginTime"])).toBe("1 job: Priority. 1 job: BeginTime.");
    expect(told(["A", "B", "C", "D", "E"])).toBe("1 job: A. 1 job: B. 1 job: C. 2 more reasons are among the jobs.");
    expect(whyWaiting({ ...summary([array("7")]), status: "COMPLETED" })).toBeNull();
  });
});

describe("the first start", () => {
  it("is the earliest that a scheduler plans, with its source", () => {
    const known = looks(row("7", { starts_at: "2026-11-27T06:00:00Z", starts_from: "scheduler" }), row("8", { starts_at: "2026-11-27T05:30:00Z", starts_from: "begin time" }), row("8"));
    expect(firstStart([array("7"), array("8")], known)).toEqual({ at: "2026-11-27T05:30:00Z", from: "begin time", stuck: null });
    expect(firstStart([array("9")], known)).toBeNull();
  });
  it("is the latest where a scheduler plans it, and the earliest where it is a begin time", () => {
    const now = Date.parse("2026-11-27T05:35:00Z");
    const at = "2026-11-27T05:39:00Z";
    const planned = startWords(at, "scheduler", now);
    expect(planned.brief).toMatch(/^by ~\d\d:39 .+, in 4 min$/);
    expect(planned.full).toMatch(/^by ~\d\d:39 .+ \(in 4 min\) by the scheduler’s plan, which counts full walltimes; sooner if jobs end early\.$/);
    expect(planned.means).toMatch(/^By 27 Nov 2026.*sooner if jobs end early\.$/);
    expect(startWords(at, "begin time", now).full).toMatch(/^not before \d\d:39 .+, in 4 min \(its begin time\)\.$/);
    expect(startWords(at, "scheduler", Date.parse(at) + 1)).toMatchObject({ brief: "any moment", full: "any moment." });
  });
  it("is never, or after a release, only where that holds of all", () => {
    expect(firstStart([array("7"), array("8")], looks(row("7", { stuck: "never" }), row("8", { stuck: "never" })))).toMatchObject({ at: null, stuck: "never" });
    expect(firstStart([array("7"), array("8")], looks(row("7", { stuck: "never" }), row("8")))).toMatchObject({ at: null, stuck: null });
  });
});

it("only queues are looked at in which jobs wait", () => {
  expect(waitingArrays([summary([array("7"), array("8", { cluster: "near", state: "ended" })]), summary([array("9", { cluster: "other" })], { counts: { running: 1 } })])).toMatchObject([{ cluster: "far", job_id: "7" }]);
});

describe("what waits for workers that run other tasks first", () => {
  const none = looks();
  it("is told by their journals, or else by the queue", () => {
    const manned = array("34", { reason: null, why: null, up: 4, busy: 4 });
    expect(worked([manned, array("35", { state: "ended", up: 1 })], new Map())).toEqual([{ cluster: "far", job_id: "34", running: 4, busy: 4 }]);
    expect(whyWaiting(summary([manned], { counts: { queued: 4, running: 8 } }), new Map())).toBe("4 tasks wait for a worker of job array 34, whose 4 array tasks are busy.");
    expect(worked([array("7")], looks(row("7", { state: "running", tasks: 2 }))).map(busyWords)).toEqual(["whose 2 array tasks have just begun"]);
    expect(busyWords({ cluster: "far", job_id: "7", running: 4, busy: 1 })).toBe("of whose 4 array tasks 1 is busy");
    expect(busyWords({ cluster: "far", job_id: "7", running: 1, busy: 1 })).toBe("whose 1 array task is busy");
    expect(worked([array("7", { reason: null })], none)).toEqual([]);
  });
  it("is not told of yet where an array came after the last look", () => {
    const fresh = array("7", { reason: null, why: null });
    expect(unasked([fresh, array("6", { reason: null, submitted_at: "2026-11-27T05:00:10Z" })], none)).toBe(fresh);
    for (const known of [array("7"), { ...fresh, up: 1 }, { ...fresh, state: "ended" }, { ...fresh, submitted_at: "2026-11-27T04:59:00Z" }]) expect(unasked([known], none)).toBeNull();
    expect(unasked([fresh], looks(row("7")))).toBeNull();
  });
});
