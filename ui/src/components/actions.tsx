import { useRouterState } from "@tanstack/react-router";
import { useCallback, useEffect, useRef, useState, useSyncExternalStore, type ReactNode, type SyntheticEvent } from "react";
import { answer, api, Refused } from "../api/client";
import { client, type Summary } from "../api/queries";
import { Redispatch, RetrySome, TouchedJobs } from "./again";
import { plural } from "../format";
import { ended } from "../states";

/** How long a cancel may be taken back before anything of it leaves this page, in ms. */
const UNDO_MS = 5_000;

interface Toast {
  readonly id: number;
  readonly text: string;
  readonly tone: "info" | "bad";
  /** While it can still be taken back. */
  readonly undo?: { readonly ends: number; readonly now: () => void; readonly stop: () => void };
}

let toasts: readonly Toast[] = [];
let serial = 0;
const listeners = new Set<() => void>();

function change(next: readonly Toast[]): void {
  toasts = next;
  listeners.forEach((listener) => listener());
}

export function say(text: string, tone: Toast["tone"] = "info"): void {
  const id = ++serial;
  change([...toasts.slice(-3), { id, text, tone }]);
  setTimeout(() => change(toasts.filter((toast) => toast.id !== id)), 12_000);
}

/** Does something after a moment in which it can be taken back; a tab that is closed in it does it at once. */
export function withUndo(text: string, act: () => void): void {
  const id = ++serial;
  const drop = () => {
    clearTimeout(timer);
    removeEventListener("pagehide", now);
    change(toasts.filter((toast) => toast.id !== id));
  };
  const now = () => {
    drop();
    act();
  };
  const stop = () => {
    drop();
    say("Taken back: nothing was sent.");
  };
  const timer = setTimeout(now, UNDO_MS);
  addEventListener("pagehide", now);
  change([...toasts, { id, text, tone: "info", undo: { ends: Date.now() + UNDO_MS, now, stop } }]);
}

export function Toasts() {
  const shown = useSyncExternalStore((listener) => (listeners.add(listener), () => listeners.delete(listener)), () => toasts);
  return (
    <div className="toasts" role="status" aria-live="polite">
      {shown.map((toast) => (
        <div key={toast.id} className={`toast toast-${toast.tone}`}>
          <span>{toast.text}</span>
          {toast.undo ? (
            <>
              <button type="button" className="button small primary" onClick={toast.undo.stop}>Undo</button>
              <button type="button" className="button small" onClick={toast.undo.now}>Now</button>
            </>
          ) : (
            <button type="button" className="button small" aria-label="Dismiss" onClick={() => change(toasts.filter((each) => each.id !== toast.id))}>✕</button>
          )}
        </div>
      ))}
    </div>
  );
}

interface Answered<T> {
  readonly data?: T;
  readonly error?: unknown;
  readonly response: Response;
}

/** Sends something, says what came of it, and has everything read again. */
export async function settle<T>(call: Promise<Answered<T>>, words: (said: T) => string): Promise<T | null> {
  let said: T | null = null;
  try {
    said = await answer(call);
    say(words(said));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), "bad");
    if (!(error instanceof Refused)) return null;
  }
  await client.invalidateQueries({ predicate: (query) => query.queryKey[0] !== "graph" });
  return said;
}

const message = (said: { message: string }) => said.message;

/** Does what has a message for an answer, after a moment in which it can be taken back. */
export function later(text: string, call: (keepalive: boolean) => Promise<Answered<{ message: string }>>): void {
  // A tab that goes away may send little more, and does not wait for the answer.
  withUndo(text, () => void settle(call(document.visibilityState === "hidden"), message));
}

export function cancelCall(id: string, tasks: number[] | null, keepalive: boolean) {
  return api.POST("/api/v1/dispatches/{dispatch_id}/cancel", { params: { path: { dispatch_id: id } }, body: { tasks, begun: true }, keepalive });
}

export interface Again {
  readonly failed_only?: boolean;
  readonly memory_mib?: number | null;
  readonly walltime_s?: number | null;
  readonly more?: boolean;
  readonly tasks?: number[] | null;
}

export function retryCall(id: string, asked: Again, keepalive = false) {
  return api.POST("/api/v1/dispatches/{dispatch_id}/retry", { params: { path: { dispatch_id: id } }, body: { failed_only: false, more: false, ...asked }, keepalive });
}

/** A modal question: the browser's own dialog keeps the focus inside, and closes at Escape. */
export function Question({ title, children, yes, no = "Keep as it is", danger = false, busy = false, onYes, onClose }: {
  title: string;
  children: ReactNode;
  yes: string;
  no?: string;
  danger?: boolean;
  /** What it would do is not known yet. */
  busy?: boolean;
  /** false: the question stays, with what was typed. */
  onYes: (form: FormData) => unknown;
  onClose: () => void;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    if (dialog && !dialog.open) dialog.showModal();
  }, []);
  // What is asked of one place is not asked in another one.
  const here = useRouterState({ select: (router) => router.location.href });
  const asked = useRef(here);
  useEffect(() => {
    if (here !== asked.current) ref.current?.close();
  }, [here]);
  const submit = (event: SyntheticEvent<HTMLFormElement>) => {
    // What it does may take the question away, and a form that is gone can't be submitted: the dialog is closed here.
    event.preventDefault();
    if (onYes(new FormData(event.currentTarget)) !== false) ref.current?.close();
  };
  return (
    <dialog ref={ref} className="dialog" aria-labelledby="question" onClose={onClose}>
      <form method="dialog" onSubmit={submit}>
        <h2 id="question">{title}</h2>
        {children}
        <div className="dialog-buttons">
          <button type="button" className="button" onClick={() => ref.current?.close()}>{no}</button>
          <button type="submit" value="yes" disabled={busy} className={`button ${danger ? "danger" : "primary"}`}>{yes}</button>
        </div>
      </form>
    </dialog>
  );
}

const NOT_THERE = new Set(["ended", "refused"]);

export function jobsOf(summary: Summary): Summary["arrays"] {
  return summary.arrays.filter((array) => !NOT_THERE.has(array.state));
}

/** Asks, waits for second thoughts, and then cancels all of a dispatch, or some tasks of it. */
export function CancelButton({ summary, tasks, running, waiting, what, single = false, disabled }: {
  summary: Summary;
  /** null: all that has not ended. */
  tasks: (() => number[]) | null;
  running: number;
  waiting: number;
  what: string;
  /** It is a task's name. */
  single?: boolean;
  disabled: boolean;
}) {
  const [asking, setAsking] = useState(false);
  const left = running + waiting;
  const jobs = jobsOf(summary);
  if (left === 0) return null;
  const act = () => {
    setAsking(false);
    const chosen = tasks === null ? null : tasks();
    later(`Cancelling ${single ? "" : `${plural(left, "task")} of `}${what} in 5 s.`, (keepalive) => cancelCall(summary.id, chosen, keepalive));
  };
  return (
    <>
      <button type="button" className="button" disabled={disabled} onClick={() => setAsking(true)}>
        {tasks === null ? "Cancel" : `Cancel ${plural(left, "task")}`}
      </button>
      {asking && (
        <Question title={single ? `Cancel task “${what}”?` : `Cancel ${plural(left, "task")} of “${what}”?`} yes={`Cancel ${plural(left, "task")}`} danger onYes={act} onClose={() => setAsking(false)}>
          <p>
            {single ? (running ? "It is running." : "It has not begun.") : `${running} running, ${waiting} waiting. What has ended keeps its result.`}
            {tasks === null && jobs.length > 0 && ` ${plural(jobs.length, "job")}: ${jobs.slice(0, 5).map((job) => job.job_id ?? "not submitted yet").join(", ")}${jobs.length > 5 ? "…" : ""}.`}
          </p>
          {tasks !== null && <TouchedJobs id={summary.id} tasks={tasks()} />}
          <p className="soft">You have five seconds to take it back.</p>
        </Question>
      )}
    </>
  );
}

export function DispatchActions({ summary, disabled }: { summary: Summary; disabled: boolean }) {
  const [busy, setBusy] = useState(false);
  const act = useCallback(
    async (verb: "pause" | "resume") => {
      setBusy(true);
      await settle(api.POST(`/api/v1/dispatches/{dispatch_id}/${verb}`, { params: { path: { dispatch_id: summary.id } } }), message);
      setBusy(false);
    },
    [summary.id],
  );
  const live = summary.status === "RUNNING";
  const running = summary.counts.running ?? 0;
  return (
    <div className="actions">
      <RetrySome id={summary.id} what={summary.name} failed={summary.counts.failed ?? 0} cancelled={summary.counts.cancelled ?? 0} accepted={summary.status === "COMPLETED"} disabled={disabled} />
      <Redispatch summary={summary} disabled={disabled} />
      {live && (summary.paused ? (
        <button type="button" className="button primary" disabled={disabled || busy} onClick={() => void act("resume")}>Resume</button>
      ) : (
        <button type="button" className="button" disabled={disabled || busy} onClick={() => void act("pause")}>Pause</button>
      ))}
      {live && (
        <CancelButton summary={summary} tasks={null} running={running} waiting={summary.tasks - ended(summary.counts) - running} what={summary.name} disabled={disabled} />
      )}
    </div>
  );
}
