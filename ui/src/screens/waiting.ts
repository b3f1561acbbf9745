import type { Schemas } from "../api/client";
import type { Summary } from "../api/queries";
import { absolute, count, moment, plural, roughly } from "../format";

/** Why jobs wait and when they are to start, told by the last look at the queue, or by what the server last heard. Pure. */

export type Look = Schemas["Queue"];
/** The looks at queues by their clusters; one that is missing was not made. */
export type Looks = ReadonlyMap<string, Look>;
type QueuedJob = Schemas["QueuedJobAnswer"];

export interface AnArray {
  readonly cluster: string;
  readonly job_id: string | null;
  readonly width: number;
  readonly state: string;
  readonly submitted_at: string | null;
  readonly reason: string | null;
  readonly why: string | null;
  /** Array tasks whose workers have come up and not left. */
  readonly up: number;
  /** Those of them that are not free. */
  readonly busy: number;
  /** Those that the scheduler let stand still. */
  readonly suspended?: number;
}

export interface Reason {
  /** In plain words where hpcflow knows them. */
  readonly text: string;
  /** The scheduler's own, where it is another. */
  readonly code: string | null;
  jobs: number;
  /** Array tasks. */
  tasks: number;
}

export interface Start {
  readonly at: string | null;
  readonly from: "scheduler" | "begin time" | null;
  /** It only starts after something is done about it. */
  readonly stuck: "held" | "never" | null;
}

export interface Seen {
  readonly pending: number;
  readonly running: number;
  /** When the queue was looked at. */
  readonly at: string;
  readonly rows: readonly QueuedJob[];
}

/** What a queue knows of one job; null when it was not looked at, or does not have it. */
export function seen(array: Pick<AnArray, "cluster" | "job_id">, looks: Looks): Seen | null {
  const look = looks.get(array.cluster);
  if (!look?.asked_at || !look.jobs || array.job_id === null) return null;
  const rows = look.jobs.filter((job) => job.job_id === array.job_id && job.mine);
  if (!rows.length) return null;
  const sum = (state: string) => rows.reduce((all, row) => all + (row.state === state ? row.tasks : 0), 0);
  return { pending: sum("pending"), running: sum("running"), at: look.asked_at, rows };
}

/** Whether a queue that was looked at later than an array was submitted has it no more, though its end was not told yet. */
export function gone(array: Pick<AnArray, "cluster" | "job_id" | "submitted_at">, looks: Looks): boolean {
  const look = looks.get(array.cluster);
  if (!look?.asked_at || !look.jobs || look.problems.length || array.job_id === null || array.submitted_at === null) return false;
  return look.jobs.length >= (look.jobs_total ?? Infinity) && Date.parse(look.asked_at) > Date.parse(array.submitted_at) && !look.jobs.some((job) => job.job_id === array.job_id);
}

/** The newest of the arrays that came after the last look at their queue and of which nothing is known; null when there is none. */
export function unasked(arrays: readonly AnArray[], looks: Looks): AnArray | null {
  const found = arrays.filter((array) => {
    const asked = looks.get(array.cluster)?.asked_at;
    return array.state === "submitted" && array.submitted_at !== null && !array.reason && !array.up && !seen(array, looks) && !(asked && Date.parse(asked) > Date.parse(array.submitted_at));
  });
  return found.sort((one, other) => Date.parse(other.submitted_at!) - Date.parse(one.submitted_at!))[0] ?? null;
}

/** Slurm's, PBS's and LSF's word for a job's state comes before why it is in it, and LSF's semicolon after. */
export function codeOf(reason: string): string {
  return reason.replace(/^(PENDING|PEND|PSUSP|[QHWT]) +/, "").replace(/;$/, "");
}

/** Why jobs wait, what most array tasks wait for first. */
export function reasons(arrays: readonly AnArray[], looks: Looks): Reason[] {
  const found = new Map<string, Reason>();
  const add = (why: string | null, reason: string, jobs: number, tasks: number) => {
    const code = codeOf(reason);
    const text = why ?? code;
    const key = `${text}\n${code}`;
    const known = found.get(key) ?? { text, code: text.toLowerCase() === code.toLowerCase() ? null : code, jobs: 0, tasks: 0 };
    known.jobs += jobs;
    known.tasks += tasks;
    found.set(key, known);
  };
  for (const array of arrays) {
    if (array.state !== "submitted") continue;
    const known = seen(array, looks);
    if (known) {
      const own = new Set<string>();
      for (const row of known.rows) {
        if (row.state === "running") continue;
        // A scheduler has no word for a job that it has not looked at yet.
        const reason = row.state === "suspended" ? row.raw : row.reason ?? row.why ?? "";
        if (reason) add(row.why, reason, own.has(reason) ? 0 : 1, row.tasks);
        own.add(reason);
      }
    } else if (array.reason && (!array.up || array.suspended) && !gone(array, looks)) {
      add(array.why, array.reason, 1, array.width);
    }
  }
  return [...found.values()].sort((one, other) => other.tasks - one.tasks || other.jobs - one.jobs);
}

export interface Worked {
  readonly cluster: string;
  readonly job_id: string;
  /** Array tasks that run, and those of them whose workers are busy; null: they have just begun, and said nothing yet. */
  readonly running: number;
  readonly busy: number | null;
}

/** The job arrays of which something runs: their workers take what is queued one after another. */
export function worked(arrays: readonly AnArray[], looks: Looks): Worked[] {
  return arrays.flatMap((array) => {
    if (array.state !== "submitted" || array.job_id === null) return [];
    const running = array.up || (gone(array, looks) ? 0 : (seen(array, looks)?.running ?? 0));
    return running ? [{ cluster: array.cluster, job_id: array.job_id, running, busy: array.up ? array.busy : null }] : [];
  });
}

/** "whose 4 array tasks are busy", of one job array. */
export function busyWords({ running, busy }: Worked): string {
  const one = running === 1;
  if (busy === null) return `whose ${plural(running, "array task")} ${one ? "has" : "have"} just begun`;
  if (busy === running) return `whose ${plural(running, "array task")} ${one ? "is" : "are"} busy`;
  return `of whose ${plural(running, "array task")} ${count(busy)} ${busy === 1 ? "is" : "are"} busy`;
}

/** When the first of these jobs is to start, and who says so; null when nobody tells. */
export function firstStart(arrays: readonly AnArray[], looks: Looks): Start | null {
  const rows = arrays.filter((array) => array.state === "submitted").flatMap((array) => seen(array, looks)?.rows ?? []).filter((row) => row.state === "pending");
  if (!rows.length) return null;
  const planned = rows.filter((row) => row.starts_at !== null && row.stuck === null).sort((one, other) => Date.parse(one.starts_at!) - Date.parse(other.starts_at!))[0];
  if (planned) return { at: planned.starts_at, from: planned.starts_from, stuck: null };
  const { stuck } = rows[0]!;
  return { at: null, from: null, stuck: rows.every((row) => row.stuck === stuck) ? stuck : null };
}

/** What is said of a time that a start is told for. */
export interface StartWords {
  /** For a column. */
  readonly brief: string;
  /** After "Starts". */
  readonly full: string;
  /** What the time means, and when it is in full. */
  readonly means: string;
}

/** A scheduler counts the full walltime of all that runs, so that what it plans is the latest that it knows of; a begin time is the earliest. */
export function startWords(at: string, from: Start["from"], now: number): StartWords {
  const seconds = (Date.parse(at) - now) / 1_000;
  const away = seconds > 0 ? `in ${roughly(seconds)}` : "any moment";
  if (from === "begin time") {
    const brief = `not before ${moment(at, now)}, ${away}`;
    return { brief, full: `${brief} (its begin time).`, means: `Its begin time: ${absolute(at)}.` };
  }
  const by = `by ~${moment(at, now)}`;
  const means = "by the scheduler’s plan, which counts full walltimes; sooner if jobs end early";
  if (seconds <= 0) return { brief: away, full: `${away}.`, means: `By ${absolute(at)}, ${means}.` };
  return { brief: `${by}, ${away}`, full: `${by} (${away}) ${means}.`, means: `By ${absolute(at)}, ${means}.` };
}

/** "Waits for … (Resources)", with a full stop. */
export function spelled({ text, code }: Pick<Reason, "text" | "code">): string {
  return code ? `${text.replace(/[.!?]$/, "")} (${code}).` : /[.!?]$/.test(text) ? text : `${text}.`;
}

const NAMED = 3;

/** Why jobs of a dispatch wait, as sentences; null when none waits. */
export function whyWaiting(summary: Pick<Summary, "arrays" | "status" | "counts" | "messages">, looks: Looks = new Map()): string | null {
  if (summary.status !== "RUNNING") return null;
  const all = reasons(summary.arrays, looks);
  // Nothing was submitted of what could run: what was said last says why.
  const behind = worked(summary.arrays, looks);
  if (!all.length && behind.length && summary.counts.queued) {
    const named = behind.slice(0, NAMED).map((each) => `job array ${each.job_id}, ${busyWords(each)}`);
    const more = behind.length - named.length;
    return `${plural(summary.counts.queued, "task waits", "tasks wait")} for a worker of ${named.join(", or of ")}${more > 0 ? `, or of ${plural(more, "more job array")}` : ""}.`;
  }
  if (!all.length) return !summary.arrays.some((array) => array.state === "submitted") && summary.counts.ready && !summary.counts.running ? (summary.messages.findLast((message) => !message.text.startsWith("Tried again "))?.text ?? null) : null;
  const told = all.slice(0, NAMED).map((each) => (all.length === 1 && each.jobs === 1 ? spelled(each) : `${plural(each.jobs, "job")}: ${spelled(each)}`));
  const left = all.length - NAMED;
  if (left > 0) told.push(`${count(left)} more ${left === 1 ? "reason is" : "reasons are"} among the jobs.`);
  return told.join(" ");
}

/** Arrays of dispatches of which something waits: only their clusters' queues are worth a look. */
export function waitingArrays<Each extends AnArray>(summaries: readonly { readonly status: string; readonly counts: Summary["counts"]; readonly arrays: readonly Each[] }[]): Each[] {
  return summaries.filter((each) => each.status === "RUNNING" && each.counts.queued).flatMap((each) => each.arrays.filter((array) => array.state === "submitted"));
}
