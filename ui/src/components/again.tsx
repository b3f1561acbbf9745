import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api } from "../api/client";
import type { Summary, TaskDetail } from "../api/queries";
import { count, duration, mebibytes, plural } from "../format";
import { later, Question, retryCall, settle } from "./actions";

/** What a task that ran out of memory or time should ask for next; null where more of either would not help. */
export function suggested(task: Pick<TaskDetail, "end" | "raw" | "max_rss_kib">, asked: Readonly<Record<string, unknown>>): { memory_mib: number } | { walltime_s: number } | null {
  const raw = task.raw ?? "";
  const memory = asked["memory_mib"];
  const walltime = asked["walltime_s"];
  // The same factor as that of retries.
  if ((task.end === "memory" || /OUT_OF_ME|OOM|MEMLIMIT/i.test(raw)) && typeof memory === "number") {
    // What it had when it was ended, and a quarter more: it may have wanted more than that.
    const wanted = Math.max(2 * memory, 1.25 * (task.max_rss_kib ?? 0) / 1024);
    const step = wanted > 4096 ? 1024 : 64;
    return { memory_mib: Math.ceil(wanted / step) * step };
  }
  if ((task.end === "timeout" || /TIMEOUT|RUNLIMIT|walltime/i.test(raw)) && typeof walltime === "number") return { walltime_s: 2 * walltime };
  return null;
}

/** Tries one task again, as it was or with what it lacked; what was skipped because of it runs as well. */
export function RetryTask({ id, task, asked, disabled }: { id: string; task: TaskDetail; asked: Readonly<Record<string, unknown>>; disabled: boolean }) {
  if (task.state !== "failed" && task.state !== "cancelled") return null;
  const more = suggested(task, asked);
  const what = `${task.name} ${task.index}`;
  const retry = (words: string, extra: object) => later(`Trying ${what} again${words} in 5 s.`, (keepalive) => retryCall(id, { tasks: [task.index], ...extra }, keepalive));
  const words = !more ? "" : "memory_mib" in more ? ` with ${mebibytes(more.memory_mib)}` : ` with ${duration(more.walltime_s)}`;
  return (
    <>
      {more && <button type="button" className="button primary" disabled={disabled} onClick={() => retry(words, more)}>Retry{words}</button>}
      <button type="button" className={more ? "button" : "button primary"} disabled={disabled} onClick={() => retry("", {})}>{more ? "Retry as it was" : "Retry"}</button>
    </>
  );
}

/** Tries some tasks again that have failed. */
export function RetryTasks({ id, tasks, what, disabled }: { id: string; tasks: number[]; what: string; disabled: boolean }) {
  if (tasks.length === 0) return null;
  return (
    <button type="button" className="button" disabled={disabled} onClick={() => later(`Trying ${plural(tasks.length, "failed task")} of ${what} again in 5 s.`, (keepalive) => retryCall(id, { failed_only: true, tasks }, keepalive))}>
      Retry {tasks.length} failed
    </button>
  );
}

/** Runs all of a dispatch that has ended once more, as a new one. */
export function Redispatch({ summary, disabled }: { summary: Summary; disabled: boolean }) {
  const [asking, setAsking] = useState(false);
  const navigate = useNavigate();
  if (summary.status === "RUNNING" || summary.parent !== null) return null;
  const inner = summary.tasks - summary.own_tasks;
  const completed = summary.counts.completed ?? 0;
  const act = async (form: FormData) => {
    setAsking(false);
    const body = { reuse: form.get("reuse") === "on" };
    const said = await settle(api.POST("/api/v1/dispatches/{dispatch_id}/redispatch", { params: { path: { dispatch_id: summary.id } }, body }), (answer) => `Dispatched again as ${answer.id}.`);
    if (said) await navigate({ to: "/d/$id", params: { id: said.id } });
  };
  return (
    <>
      <button type="button" className="button" disabled={disabled} onClick={() => setAsking(true)}>Redispatch</button>
      {asking && (
        <Question title={`Run “${summary.name}” once more?`} yes="Redispatch" no="Not now" onYes={(form) => void act(form)} onClose={() => setAsking(false)}>
          <p>
            {plural(summary.tasks, "task")} with the same functions and arguments, as a new dispatch
            {inner > 0 && `: ${count(summary.own_tasks)} of the lattice itself, and ${count(inner)} in its sublattices, which are built anew`}. This one stays as it is.
          </p>
          {completed > 0 && <label><input type="checkbox" name="reuse" /> take over {plural(completed, "result")} that it has{inner > 0 ? ", those in its sublattices among them," : ""} and run the rest</label>}
        </Question>
      )}
    </>
  );
}
