import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { answer, api, Refused, type Schemas } from "../api/client";
import { cancelPlanQuery, retryPlanQuery, type RetryPlan, type Summary, type TaskDetail } from "../api/queries";
import { count, limit, mebibytes, parseMemory, parseNumbers, parseWalltime, plural } from "../format";
import { later, Question, retryCall, settle, type Again } from "./actions";

type Shortfall = Schemas["Shortfall"];

export function amountOf(lack: Shortfall["lack"], amount: number | null): string {
  return lack === "memory" ? mebibytes(amount) : limit(amount);
}

/** What those that ran out of something get with the first choice, in a word or two; null: none of them did. */
export function moreWords(plan: Pick<RetryPlan, "more" | "failed" | "cancelled"> | undefined): string | null {
  const more = plan?.more ?? [];
  if (!plan || more.length === 0) return null;
  const amounts = new Set(more.map((each) => amountOf(each.lack, each.advised)));
  const many = more.reduce((sum, each) => sum + each.tasks, 0);
  const what = amounts.size === 1 ? [...amounts][0]! : "more";
  return many === plan.failed + plan.cancelled ? `with ${what}` : `${count(many)} with ${what}`;
}

/** It is of as many tasks as are shown: a plan may be older, or newer. */
function fits(plan: RetryPlan | undefined, shown: Pick<RetryPlan, "failed" | "cancelled">): boolean {
  return plan !== undefined && plan.failed === shown.failed && plan.cancelled === shown.cancelled;
}

/** What else a retry reaches, and what it does not. */
export function reach(plan: RetryPlan): string {
  const them = plan.failed + plan.cancelled === 1 ? "it" : "them";
  const said: string[] = [];
  if (plan.skipped > 0) said.push(`${plural(plan.skipped, "task that was", "tasks that were")} skipped because of ${them} ${plan.skipped === 1 ? "runs" : "run"} as well.`);
  const first = plan.held_by[0];
  if (plan.held > 0 && first) {
    const others = plan.held_by.length - 1;
    said.push(`${plural(plan.held, "task stays", "tasks stay")} skipped, because ${first.name} ${first.index} ${first.state === "cancelled" ? "was cancelled" : "failed"}${others ? ` and ${plural(others, "other was", "others were")} lost` : ""} too.`);
  }
  return said.join(" ");
}

/** Tries one task again, with what it lacked, as it was or with other amounts; what was skipped because of it runs as well. */
export function RetryTask({ id, task, accepted, disabled }: { id: string; task: TaskDetail; accepted: boolean; disabled: boolean }) {
  const [asking, setAsking] = useState(false);
  const lost = task.state === "failed" || task.state === "cancelled";
  const { data: plan } = useQuery({ ...retryPlanQuery(id, { failed_only: false, tasks: [task.index] }), enabled: lost });
  if (!lost) return null;
  const more = moreWords(plan);
  const behind = plan?.skipped ? `, and ${plural(plan.skipped, "task")} that ${plan.skipped === 1 ? "was" : "were"} skipped because of it` : "";
  const retry = (words: string, extra: Again) => later(`Trying ${task.name} ${task.index} again${words}${behind} in 5 s.`, (keepalive) => retryCall(id, { tasks: [task.index], ...extra }, keepalive));
  return (
    <>
      {more && <button type="button" className="button primary" disabled={disabled} onClick={() => retry(` ${more}`, { more: true })}>Retry {more}</button>}
      <button type="button" className={more || task.state !== "failed" ? "button" : "button primary"} disabled={disabled} onClick={() => retry("", {})}>{more ? "Retry as it was" : "Retry"}</button>
      <button type="button" className="button" disabled={disabled} onClick={() => setAsking(true)}>Retry with…</button>
      {asking && <RetryQuestion id={id} what={`${task.name} ${task.index}`} single tasks={[task.index]} failed={task.state === "failed" ? 1 : 0} cancelled={task.state === "cancelled" ? 1 : 0} accepted={accepted} onClose={() => setAsking(false)} />}
    </>
  );
}

/** The way on from a skipped task: what holds it is tried again. */
export function RetryHolders({ id, holders, disabled }: { id: string; holders: Schemas["Neighbour"][]; disabled: boolean }) {
  const tasks = holders.map((each) => each.index);
  const { data: plan } = useQuery({ ...retryPlanQuery(id, { failed_only: false, tasks }), enabled: tasks.length > 0 });
  const first = holders[0];
  if (!first) return null;
  const what = holders.length === 1 ? `${first.name} ${first.index}` : `the ${count(holders.length)} tasks that hold it`;
  const more = moreWords(plan);
  const retry = (words: string, extra: Again) => later(`Trying ${what} again${words} in 5 s.`, (keepalive) => retryCall(id, { tasks, ...extra }, keepalive));
  return (
    <>
      <p>
        It runs when {holders.length === 1 ? "this has" : "these have"} completed:{" "}
        {holders.slice(0, 8).map((each, k) => <span key={each.index}>{k ? ", " : ""}<Link to="/d/$id/e/$index" params={{ id, index: String(each.index) }}>{each.name} {each.index}</Link> <span className="soft">({each.state})</span></span>)}
        {holders.length > 8 && ` and ${count(holders.length - 8)} more`}.
      </p>
      <p className="actions">
        {more && <button type="button" className="button primary small" disabled={disabled} onClick={() => retry(` ${more}`, { more: true })}>Retry {what}, {more}</button>}
        <button type="button" className={`button small ${more || !holders.some((each) => each.state === "failed") ? "" : "primary"}`} disabled={disabled} onClick={() => retry("", {})}>Retry {what}{more ? (holders.length === 1 ? " as it was" : " as they were") : ""}</button>
      </p>
    </>
  );
}

type How = "more" | "same" | "amounts";
type Field = "only" | "memory" | "walltime";

/** What is asked before tasks are tried again: which, and with what. */
function RetryQuestion({ id, what, single = false, tasks, failed, cancelled, accepted, onClose }: {
  id: string;
  what: string;
  /** It is a task's name. */
  single?: boolean;
  /** null: of all of the dispatch. */
  tasks: number[] | null;
  failed: number;
  cancelled: number;
  accepted: boolean;
  onClose: () => void;
}) {
  const [all, setAll] = useState(failed === 0);
  const [chosen, setHow] = useState<How | null>(single ? "amounts" : null);
  const [wrong, setWrong] = useState<{ field: Field; text: string } | null>(null);
  const [checking, setChecking] = useState(false);
  const query = useQuery(retryPlanQuery(id, { failed_only: !all, tasks }, { failed, cancelled: all ? cancelled : 0 }));
  // What was said before this was asked may be of what has run again since.
  const plan = !query.isPlaceholderData && (query.isFetchedAfterMount || fits(query.data, { failed, cancelled: all ? cancelled : 0 })) ? query.data : undefined;
  const short = plan?.more ?? [];
  const many = short.reduce((sum, each) => sum + each.tasks, 0);
  const how = chosen ?? (short.length > 0 ? "more" : "same");
  const rest = plan ? plan.failed + plan.cancelled - many : 0;
  const refuse = (field: Field, text: string) => {
    setWrong({ field, text });
    document.querySelector<HTMLInputElement>(`dialog[open] input[name="${field}"]`)?.focus();
    return false;
  };
  const act = (form: FormData) => {
    const typed = (field: Field) => String(form.get(field) ?? "").trim();
    const [memory, walltime] = how === "amounts" ? [typed("memory"), typed("walltime")] : ["", ""];
    const memory_mib = memory ? parseMemory(memory) : null;
    const walltime_s = walltime ? parseWalltime(walltime) : null;
    const only = typed("only") ? parseNumbers(typed("only")) : tasks;
    if (typed("only") && !only) return refuse("only", `“${typed("only")}” are no tasks: write their numbers, as 3, 7, 10-12.`);
    const stranger = tasks && typed("only") ? only!.find((each) => !tasks.includes(each)) : undefined;
    if (stranger !== undefined) return refuse("only", `Task ${stranger} is none of those of ${what} that did not complete.`);
    if (memory && !memory_mib) return refuse("memory", `“${memory}” is no amount of memory: write 24 GB, or 24 GiB.`);
    if (walltime && !walltime_s) return refuse("walltime", `“${walltime}” is no time: write 2 h, or 90 min.`);
    const asked = { failed_only: !all, tasks: only, memory_mib, walltime_s, more: how === "more" };
    const send = (known: RetryPlan | undefined) => {
      onClose();
      const words = how === "more" ? moreWords(known) : how === "amounts" && (memory || walltime) ? `with ${[memory, walltime].filter(Boolean).join(" and ")}` : null;
      const own = known ? known.failed + known.cancelled : failed || cancelled;
      later(`Trying ${single ? what : `${plural(own, "task")} of ${what}`} again${words ? `, ${words},` : ""} in 5 s.`, (keepalive) => retryCall(id, asked, keepalive));
    };
    if (!memory && !walltime && !typed("only")) {
      send(plan);
      return true;
    }
    // What no node has, and tasks that there are not, are told while all can still be seen that was typed.
    const field = memory ? "memory" : walltime ? "walltime" : "only";
    setChecking(true);
    answer(api.POST("/api/v1/dispatches/{dispatch_id}/retry/plan", { params: { path: { dispatch_id: id } }, body: asked }))
      .then((known) => (known.tasks > 0 ? send(known) : void refuse("only", `None of them ${all ? "failed or was cancelled" : "failed"}.`)))
      .catch((error: unknown) => void refuse(error instanceof Refused && error.status === 404 ? "only" : field, error instanceof Error ? error.message : String(error)))
      .finally(() => setChecking(false));
    return false;
  };
  const fault = (field: Field) => (wrong?.field === field ? { "aria-invalid": true, "aria-describedby": `wrong-${field}` } : {});
  const said = (field: Field) => wrong?.field === field && <span id={`wrong-${field}`} role="alert" className="ink-failed">{wrong.text}</span>;
  return (
    <Question title={single ? `Try “${what}” again?` : `Try ${plural(failed || cancelled, failed ? "failed task" : "cancelled task")} of “${what}” again?`} yes="Retry" busy={checking || (!plan && !query.error)} onYes={act} onClose={onClose}>
      <p>{plan ? `${reach(plan)} ` : query.error ? "" : "Looking up what that would do… "}Results that exist are kept.</p>
      {accepted && <p>The dispatch has completed without {failed + cancelled === 1 ? "it" : "them"}: what accepted {failed + cancelled === 1 ? "this failure" : "these failures"} has its result, and does not run again to take the new {failed + cancelled === 1 ? "one" : "ones"}.</p>}
      {failed + cancelled > 1 && (
        <fieldset>
          <legend>Which</legend>
          {cancelled > 0 && failed > 0 && (
            <>
              <label><input type="radio" name="which" value="failed" checked={!all} onChange={() => setAll(false)} /> {plural(failed, "failed task")}</label>
              <label><input type="radio" name="which" value="all" checked={all} onChange={() => setAll(true)} /> these, and {plural(cancelled, "cancelled task")}</label>
            </>
          )}
          <label className="field">Only some of them<input name="only" placeholder="all, or 3, 7, 10-12" autoComplete="off" onInput={() => setWrong(null)} {...fault("only")} />{said("only")}</label>
        </fieldset>
      )}
      {short.length > 0 && (
        <fieldset>
          <legend>With what</legend>
          <label><input type="radio" name="how" value="more" checked={how === "more"} onChange={() => setHow("more")} /> more of what {plural(many, "task")} ran out of:</label>
          <ul className="plain choice-more">
            {short.map((each) => <li key={`${each.name}${each.where} ${each.lack}`}><strong>{amountOf(each.lack, each.advised)}</strong> of {each.lack}{each.instead === null ? "" : ` instead of ${each.instead}`} for {count(each.tasks)} of {each.name}{each.where}</li>)}
            {rest > 0 && <li>{plural(rest, "other keeps", "others keep")} what {rest === 1 ? "it" : "they"} asked for</li>}
          </ul>
          <label><input type="radio" name="how" value="same" checked={how === "same"} onChange={() => setHow("same")} /> as {failed + cancelled === 1 ? "it was" : "they were"}</label>
          <label><input type="radio" name="how" value="amounts" checked={how === "amounts"} onChange={() => setHow("amounts")} /> {failed + cancelled === 1 ? "another amount" : "other amounts, for each of them"}</label>
        </fieldset>
      )}
      {(how === "amounts" || (plan !== undefined && short.length === 0)) && (
        <div className="row" onInput={() => { setHow("amounts"); setWrong(null); }}>
          <label className="field">Memory{single ? "" : " of each"}<input name="memory" placeholder="as last time, or 24 GB" autoComplete="off" {...fault("memory")} />{said("memory")}</label>
          <label className="field">Walltime{single ? "" : " of each"}<input name="walltime" placeholder="as last time, or 2 h" autoComplete="off" {...fault("walltime")} />{said("walltime")}</label>
        </div>
      )}
      <p className="soft">You have five seconds to take it back.</p>
    </Question>
  );
}

/** Tries the tasks again that failed, or were cancelled: of a group, or of a dispatch. */
export function RetrySome({ id, what, tasks = null, failed, cancelled = 0, accepted = false, disabled }: {
  id: string;
  what: string;
  /** null: of all of the dispatch. */
  tasks?: number[] | null;
  failed: number;
  cancelled?: number;
  /** The dispatch completed without them. */
  accepted?: boolean;
  disabled: boolean;
}) {
  const [asking, setAsking] = useState(false);
  const some = failed + cancelled > 0;
  const asked = { failed, cancelled: failed > 0 ? 0 : cancelled };
  const query = useQuery({ ...retryPlanQuery(id, { failed_only: failed > 0, tasks }, asked), enabled: some });
  if (!some) return null;
  const more = failed > 0 && !query.isPlaceholderData && fits(query.data, asked) ? moreWords(query.data) : null;
  return (
    <>
      <button type="button" className={!accepted && failed > 0 && (tasks === null || more) ? "button primary" : "button"} disabled={disabled} onClick={() => setAsking(true)}>
        {failed ? `Retry ${failed} failed${more ? `, ${more}` : ""}` : `Retry ${cancelled} cancelled`}
      </button>
      {asking && <RetryQuestion id={id} what={what} tasks={tasks} failed={failed} cancelled={cancelled} accepted={accepted} onClose={() => setAsking(false)} />}
    </>
  );
}

/** What a cancel of some tasks touches besides them: what is skipped, and the jobs, no others. */
export function TouchedJobs({ id, tasks }: { id: string; tasks: number[] }) {
  const { data: plan } = useQuery(cancelPlanQuery(id, tasks));
  if (!plan) return null;
  const named = (jobs: Schemas["TouchedJob"][]) => `${jobs.length === 1 ? "Job" : jobs.length <= 5 ? "Jobs" : `${count(jobs.length)} jobs:`} ${jobs.slice(0, 5).map((job) => job.job_id ?? "(not submitted yet)").join(", ")}${jobs.length > 5 ? "…" : ""}`;
  const [own, shared] = [plan.jobs.filter((job) => job.ends), plan.jobs.filter((job) => !job.ends)];
  return (
    <p>
      {plan.skipped > 0 && `${plural(plan.skipped, "task that needs", "tasks that need")} ${plan.running + plan.waiting === 1 ? "it" : "them"} will not run. `}
      {own.length > 0 && `${named(own)} ${own.length === 1 ? "serves" : "serve"} no others, and ${own.length === 1 ? "ends" : "end"} as well. `}
      {shared.length > 0 && `${named(shared)} ${shared.length === 1 ? "serves" : "serve"} other tasks too, and ${shared.length === 1 ? "goes" : "go"} on for these.`}
    </p>
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
