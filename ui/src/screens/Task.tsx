import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { aboutQuery, summaryQuery, taskQuery, type TaskDetail } from "../api/queries";
import type { Schemas } from "../api/client";
import { CancelButton } from "../components/actions";
import { RetryHolders, RetryTask } from "../components/again";
import { Code, CopyButton, Fault, Loading, Notice, StateBadge, Title, useLink, useNow, When, Words } from "../components/basics";
import { Output } from "../components/Output";
import { absolute, between, bytes, count, duration, limit, mebibytes, percent, plural, visible } from "../format";
import { task as route } from "../router";
import { FINAL, stateOf } from "../states";
import { Starts, StartSentence, Unasked, useLooks, Workers } from "./queued";
import { busyWords, firstStart, reasons, worked, spelled as spelledReason, type Looks } from "./waiting";

export function Task() {
  const { id, index: raw } = route.useParams();
  const index = Number(raw);
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const { data: task, error, refetch } = useQuery(taskQuery(id, index));
  const { data: about } = useQuery(aboutQuery(id, index));
  const { data: summary } = useQuery(summaryQuery(id));
  const serving = task?.state === "queued" ? (about?.arrays ?? []).filter((array) => array.state === "submitted" && array.job_id !== null) : [];
  const looks = useLooks(serving);
  const offline = useLink() !== "ok";
  const crumb = <p className="crumb"><Link to="/d/$id" params={{ id }}>← {summary?.name ?? "Dispatch"}</Link></p>;
  if (!task) return error ? <section className="screen">{crumb}<Title text="Task" /><Fault error={error} retry={() => void refetch()} /></section> : <Loading what="the task" />;
  const tab = search.tab ?? "output";
  return (
    <section className="screen">
      {crumb}
      <div className="title-line">
        <Title text={`${task.name} ${task.index}`}><span className="clip" title={task.name}>{task.name}</span> <span className="soft">task {task.index}</span></Title>
        <StateBadge state={task.state} unknownSince={task.unknown_since ?? null} />
        <div className="actions">
          <CopyButton text={`import hpcflow as hf\n\ntask = hf.get_result("${id}").get_node_result(${index})\n${READ[task.state] ?? "print(task.inputs)"}\n`} label="Copy as Python">Copy as Python</CopyButton>
          <RetryTask id={id} task={task} accepted={summary?.status === "COMPLETED"} disabled={offline} />
          {summary && !FINAL.has(task.state) && (
            <CancelButton summary={summary} tasks={() => [index]} running={task.state === "running" ? 1 : 0} waiting={task.state === "running" ? 0 : 1} what={`${task.name} ${index}`} single disabled={offline} />
          )}
        </div>
      </div>
      <Why id={id} task={task} about={about} serving={serving} looks={looks} disabled={offline} />
      <div className="columns">
        <div className="column-main">
          <nav className="tabs" aria-label="Views of the task">
            {TABS.map((each) => (
              <Link key={each} to="/d/$id/e/$index" params={{ id, index: raw }} search={each === "output" ? {} : { tab: each }} className="tab" activeOptions={{ exact: true, includeSearch: true }} aria-current={tab === each ? "page" : undefined}>{TAB_WORDS[each]}</Link>
            ))}
          </nav>
          {tab === "values" ? (about && <Values task={task} about={about} />) : tab === "code" ? (
            about?.source ? <Code text={about.source} label={`the source of ${task.name}`} /> : <p className="empty">{about ? "Python kept no source of this function." : "…"}</p>
          ) : (
            <>
              {about?.result && task.state === "completed" && <section aria-label="Result"><h2 className="first">Result</h2><Value preview={about.result} bytes={about.result_bytes} /></section>}
              {task.traceback && <details className="fold" open><summary>Traceback</summary><Code text={task.traceback} label="the traceback" /></details>}
              <Output id={id} index={index} attempt={task.attempt} running={task.state === "running"} spot={search.at === undefined ? null : { stream: search.stream ?? "stderr", at: search.at }} onSpot={(spot) => void navigate({ search: spot ?? {} })} />
            </>
          )}
        </div>
        <aside className="column-side" aria-label="Facts">
          <Used task={task} asked={about?.asked} />
          <Facts task={task} about={about} serving={serving} looks={looks} />
          {about && about.attempts.length > 0 && <Attempts about={about} current={task.attempt} />}
          {about && <Neighbours id={id} title="Needs" total={about.upstream_total} tasks={about.upstream} />}
          {about && <Neighbours id={id} title="Needed by" total={about.downstream_total} tasks={about.downstream} />}
        </aside>
      </div>
    </section>
  );
}

/** What of a task is worth to be printed; of all others it is what they take. */
const READ: Readonly<Record<string, string>> = {
  completed: "print(task.result)  # task.inputs is what it took",
  failed: "print(task.error)\nprint(task.inputs)  # what it took",
};

const TABS = ["output", "values", "code"] as const;
const TAB_WORDS = { output: "Output", values: "Inputs and result", code: "Code" } as const;

/** A value as its own process spelled it. */
function Value({ preview, bytes: size = null }: { preview: Schemas["Preview"]; bytes?: number | null }) {
  const facts = [preview.shape, size === null ? null : `${bytes(size)} pickled`].filter(Boolean).join(" · ");
  return (
    <>
      <p className="value-head"><code>{preview.type}</code> {facts && <span className="soft">{facts}</span>}</p>
      {preview.text !== null && <pre className="value log log-wrap" role="region" tabIndex={0} aria-label={`Text of ${preview.name ?? "the result"}`}>{visible(preview.text)}{preview.cut ? " …" : ""}</pre>}
      {preview.why !== null && <p className="soft">It cannot be previewed: {visible(preview.why)}.</p>}
      {preview.text === null && preview.why === null && <p className="soft">Only its type is known: what spells itself is not asked here.</p>}
    </>
  );
}

/** What the task took and returned; the values themselves only Python opens. */
function Values({ task, about }: { task: TaskDetail; about: Schemas["AboutTask"] }) {
  const ran = about.attempts.length > 0;
  return (
    <>
      <h2 className="first">Result</h2>
      {about.result ? <Value preview={about.result} bytes={about.result_bytes} /> : <p className="empty">{task.state === "completed" ? "No preview of it was made." : FINAL.has(task.state) ? "It has left no result." : "There is none yet."}</p>}
      <h2>Inputs</h2>
      {about.inputs.length === 0 && <p className="empty">{ran && task.state === "failed" ? "There is no preview: a task that is killed makes none. Copy as Python has the values." : ran ? "It took none, or no preview of them was made." : "They are spelled where the task runs, when it has ended."}</p>}
      <ol className="plain inputs" aria-label="Inputs">
        {about.inputs.map((input, k) => {
          const short = input.text !== null && input.text.length <= 80 && !input.text.includes("\n");
          return (
            <li key={k}>
              <strong className="id">{visible(input.name ?? String(k))}</strong>{" "}
              {short ? <><code>{visible(input.text ?? "")}</code> <span className="soft">{[input.type, input.shape].filter(Boolean).join(" · ")}</span></> : <Value preview={input} />}
            </li>
          );
        })}
      </ol>
      <p className="soft">These are texts that the task’s own process made, cut where they are long. Copy as Python fetches the values.</p>
    </>
  );
}

type Serving = Schemas["ServingArray"];

/** Those that a task is usually ended by; Linux numbers them alike on all that clusters are made of. */
const SIGNALS: Readonly<Record<number, string>> = { 1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ" };

function signalName(number: number): string {
  return SIGNALS[number] ?? `signal ${number}`;
}

/** Why it ended, or why it has not begun: first of all. */
function Why({ id, task, about, serving, looks, disabled }: { id: string; task: TaskDetail; about: Schemas["AboutTask"] | undefined; serving: readonly Serving[]; looks: Looks; disabled: boolean }) {
  if (task.error) {
    const tone = task.state === "failed" ? "bad" : task.state === "cancelled" ? "info" : "warn";
    const more = [task.exit_code !== null && task.exit_code !== 0 ? `exit code ${task.exit_code}` : "", task.signal ? `ended by ${signalName(task.signal)}` : "", task.raw ? `the scheduler says ${task.raw}` : ""].filter(Boolean).join(", ");
    const facts = more && `${more[0]!.toUpperCase()}${more.slice(1)}.`;
    return <Notice tone={tone}><span className="error-text">{task.error}</span>{facts && <p className="soft">{facts}</p>}{task.undelivered && <p>{task.undelivered}</p>}{task.hint && <p className="soft"><Words text={task.hint} /></p>}{task.state === "skipped" && about && <RetryHolders id={id} holders={about.held_by} disabled={disabled} />}</Notice>;
  }
  const why = reasons(serving, looks);
  const workers = worked(serving, looks);
  if (task.state === "queued" && workers.length) {
    return <Notice title="Why it waits.">It waits for <Workers workers={workers} />.{why.length > 0 && <> Others that could run it wait too: {why.map(spelledReason).join(" ")}</>}</Notice>;
  }
  if (task.state === "queued" && why.length) {
    const start = firstStart(serving, looks);
    return <Notice tone="warn" title="Why it waits.">{why.map(spelledReason).join(" ")} <StartSentence start={start} /></Notice>;
  }
  const job = task.state === "queued" ? about?.arrays.find((array) => array.state === "submitted" && array.job_id !== null) : undefined;
  if (job) return <Notice>It waits for job <Link to="/queue/$cluster" params={{ cluster: job.cluster }} search={{ q: job.job_id ?? "" }} className="id">{job.job_id}</Link>, of which nothing is known to run on {job.cluster} yet. <Unasked arrays={serving} looks={looks} /></Notice>;
  if (task.state === "waiting" && about) {
    const open = about.upstream.filter((other) => !FINAL.has(other.state)).length;
    return <Notice>{about.upstream_total === 1 ? "It waits for the task that it needs." : `It waits for ${open || "some"} of the ${count(about.upstream_total)} tasks that it needs.`}</Notice>;
  }
  return FINAL.has(task.state) || task.state === "running" ? null : <Notice>{stateOf(task.state).means}</Notice>;
}

function Bar({ label, used, asked, text }: { label: string; used: number; asked: number; text: string }) {
  const part = Math.min(1, used / asked);
  return (
    <div className="used">
      <div className="used-line"><span>{label}</span><span>{text}</span></div>
      <svg viewBox="0 0 100 6" preserveAspectRatio="none" className="used-bar" aria-hidden="true">
        <rect width="100" height="6" className="strip-ground" />
        <rect width={Math.max(1, 100 * part)} height="6" className={part > 0.95 ? "strip-failed" : "strip-running"} />
      </svg>
    </div>
  );
}

/** What it used of what it asked for. */
function Used({ task, asked }: { task: TaskDetail; asked: Schemas["AboutTask"]["asked"] | undefined }) {
  const memory = typeof asked?.["memory_mib"] === "number" ? asked["memory_mib"] : null;
  const walltime = typeof asked?.["walltime_s"] === "number" ? asked["walltime_s"] : null;
  const rss = task.max_rss_kib === null ? null : task.max_rss_kib / 1024;
  if (task.wall_s === null && rss === null) return null;
  return (
    <section>
      <h2>Used</h2>
      {task.cpu_s !== null && task.wall_s !== null && task.wall_s > 0 && (
        <Bar label={`CPU of ${task.cores === 1 ? "1 core" : `${task.cores} cores`}`} used={task.cpu_s} asked={task.wall_s * task.cores} text={percent(task.cpu_s, task.wall_s * task.cores)} />
      )}
      {rss !== null && (memory ? <Bar label="Memory" used={rss} asked={memory} text={`${mebibytes(rss)} of ${mebibytes(memory)}`} /> : <div className="used-line"><span>Memory</span><span>{mebibytes(rss)}</span></div>)}
      {task.wall_s !== null && (walltime ? <Bar label="Time" used={task.wall_s} asked={walltime} text={`${duration(task.wall_s)} of ${limit(walltime)}`} /> : <div className="used-line"><span>Time</span><span>{duration(task.wall_s)}</span></div>)}
    </section>
  );
}

const ASKED: Readonly<Record<string, string>> = { memory_mib: "memory", walltime_s: "walltime" };

function spelled(key: string, value: unknown): string {
  if (key === "memory_mib") return mebibytes(value as number);
  if (key === "walltime_s") return limit(value as number);
  return Array.isArray(value) ? value.join(" ") : String(value);
}

/** Which arrays it is submitted with: the first worker with room for it takes it. */
function jobsOf(serving: readonly Serving[], looks: Looks): ReactNode {
  if (!serving.length) return null;
  const total = serving.reduce((sum, array) => sum + array.width, 0);
  const workers = worked(serving, looks);
  return (
    <>
      {serving.slice(0, 3).map((array, k) => (
        <span key={array.job_id}>{k ? ", " : ""}job <Link to="/queue/$cluster" params={{ cluster: array.cluster }} search={{ q: array.job_id ?? "" }} className="id">{array.job_id}</Link></span>
      ))}
      {serving.length > 3 && ` and ${count(serving.length - 3)} more`}
      <span className="soft"> ({workers.length === 1 && serving.length === 1 ? busyWords(workers[0]!) : plural(total, "array task")}{total > 1 ? "; the first that is free runs it" : ""})</span>
    </>
  );
}

function Facts({ task, about, serving, looks }: { task: TaskDetail; about: Schemas["AboutTask"] | undefined; serving: readonly Serving[]; looks: Looks }) {
  const now = useNow();
  const own = serving[0] ?? about?.arrays.find((array) => array.job_id !== null && array.job_id === task.job_id);
  const waits = jobsOf(serving, looks);
  const job = task.job_id === null ? null : task.array_index === null ? task.job_id : `${task.job_id}_${task.array_index}`;
  const rows: (readonly [string, ReactNode])[] = [
    ["Cluster", task.cluster],
    ["Job", job && <><span className="id">{job}</span> <CopyButton text={job} label="Copy id of the job">Copy</CopyButton></>],
    ["Waits for", waits],
    ["Starts", serving.length > 0 && firstStart(serving, looks) && <Starts brief start={firstStart(serving, looks)} />],
    ["Array index", task.array_index],
    ["Host", task.host],
    ["Began", task.started_at && <span title={absolute(task.started_at)}><When time={task.started_at} /></span>],
    ["Running for", task.state === "running" && task.started_at ? duration(between(task.started_at, null, now)) : null],
    ["Ended", task.ended_at && <When time={task.ended_at} />],
    ["Attempt", about && about.retries > 0 ? `${task.attempt} of at most ${about.retries + 1}` : task.attempt > 1 ? task.attempt : null],
    ["Work directory", task.workdir && <span className="id breakable">{task.workdir}</span>],
  ];
  const asked = Object.entries(about?.asked ?? {}).filter(([key, value]) => !(value === 1 && (key === "nodes" || key === "ntasks")) && value !== 0);
  return (
    <>
      {asked.length > 0 && (
        <section>
          <h2>Asked for</h2>
          <dl className="facts">{asked.map(([key, value]) => <div key={key}><dt>{ASKED[key] ?? key}</dt><dd>{spelled(key, value)}</dd></div>)}</dl>
          {own?.why_walltime && <p className="soft">Its job array asks for {own.why_walltime}</p>}
        </section>
      )}
      <section>
        <h2>Where and when</h2>
        <dl className="facts">{rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false).map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
      </section>
    </>
  );
}

function Attempts({ about, current }: { about: Schemas["AboutTask"]; current: number }) {
  if (about.attempts.length === 1 && current === 1) return null;
  return (
    <section>
      <h2>Attempts</h2>
      <ol className="plain stack">
        {about.attempts.map((attempt) => (
          <li key={attempt.attempt} className="attempt">
            <strong>{attempt.attempt}.</strong> {attempt.end === "ok" ? "completed" : (attempt.error ?? attempt.end)}{" "}
            <span className="soft">{[duration(attempt.wall_s), attempt.host, attempt.job].filter(Boolean).join(" · ")}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function Neighbours({ id, title, total, tasks }: { id: string; title: string; total: number; tasks: Schemas["Neighbour"][] }) {
  if (total === 0) return null;
  return (
    <details className="fold" open={total <= 5}>
      <summary>{title} {count(total)} {total === 1 ? "task" : "tasks"}</summary>
      <ul className="plain">
        {tasks.map((other) => (
          <li key={other.index} className="neighbour">
            <StateBadge state={other.state} /> <Link to="/d/$id/e/$index" params={{ id, index: String(other.index) }} className="clip">{other.name} {other.index}</Link>
          </li>
        ))}
      </ul>
      {total > tasks.length && <p className="soft">{count(tasks.length)} of {count(total)} shown.</p>}
    </details>
  );
}
