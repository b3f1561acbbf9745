import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { downloadLogs } from "../api/output";
import { failuresQuery, taskQuery, tasksQuery, type Summary, type TaskFilter } from "../api/queries";
import { say } from "../components/actions";
import { Loading, StateBadge, useLink, When, Words } from "../components/basics";
import { Output } from "../components/Output";
import { count, plural } from "../format";
import { dispatch as route } from "../router";
import { STATES } from "../states";

/** What was said about a dispatch, and its failures, alike ones together. */
export function Logs({ summary }: { summary: Summary }) {
  return (
    <>
      <Download summary={summary} />
      {(summary.counts.failed ?? 0) > 0 && <Failures id={summary.id} failed={summary.counts.failed ?? 0} />}
      <OutputOf summary={summary} />
      <h2>What hpcflow did</h2>
      <ol className="plain messages">
        {summary.ended_at && <li><span className="soft nowrap"><When time={summary.ended_at} /></span> <span>It ended with {STATES.filter((state) => summary.counts[state.name]).map((state) => `${count(summary.counts[state.name]!)} ${state.word}`).join(", ") || "no task"}.</span></li>}
        {[...summary.messages].reverse().map((message, index) => (
          <li key={index}><span className="soft nowrap"><When time={message.at} /></span> <span><Words text={message.text} /></span></li>
        ))}
        <li><span className="soft nowrap"><When time={summary.created_at} /></span> <span>It was dispatched, with {plural(summary.tasks, "task")}.</span></li>
      </ol>
    </>
  );
}

/** What all tasks wrote, as one archive that the server makes while it reads. */
function Download({ summary }: { summary: Summary }) {
  const [busy, setBusy] = useState(false);
  const offline = useLink() !== "ok";
  const failed = summary.counts.failed ?? 0;
  const bring = async (some: boolean) => {
    setBusy(true);
    try {
      await downloadLogs(summary.id, some);
      say("The logs are downloaded. What could not be read, if anything, is named in MISSING.txt there.");
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), "bad");
    }
    setBusy(false);
  };
  return (
    <div className="toolbar" role="group" aria-label="Download">
      <button type="button" className="button" disabled={busy || offline} onClick={() => void bring(false)}>{busy ? "Downloading…" : "Download all logs"}</button>
      {failed > 0 && <button type="button" className="button" disabled={busy || offline} onClick={() => void bring(true)}>Download logs of {failed} failed</button>}
      <span className="soft">One .tar.gz with a text file for each task and stream; <code>hpcflow logs {summary.id}</code> does the same.</span>
    </div>
  );
}

const SHOWN = 12;
const RUNNING: TaskFilter = { state: ["running"], q: "", name: null, sort: "started_at", descending: true };

/** What one task writes: of those that run, or of any that is named. */
function OutputOf({ summary }: { summary: Summary }) {
  const { id } = summary;
  const { sel } = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const { data } = useInfiniteQuery(tasksQuery(id, RUNNING));
  const running = data?.pages.flatMap((page) => page.rows) ?? [];
  const chosen = sel ?? running[0]?.index;
  const { data: task } = useQuery({ ...taskQuery(id, chosen ?? 0), enabled: chosen !== undefined });
  const found = data?.pages.at(-1)?.found ?? 0;
  const choose = (index: number) => void navigate({ search: (old) => ({ ...old, sel: index }), replace: true });
  return (
    <>
      <h2>{found > 0 ? `Written by ${plural(found, "task that runs", "tasks that run")}` : "Output"}</h2>
      <div className="toolbar">
        {running.length > 0 && (
          <div className="chips" role="group" aria-label="Tasks that run">
            {running.slice(0, SHOWN).map((each) => (
              <button key={each.index} type="button" className="chip" aria-pressed={each.index === chosen} onClick={() => choose(each.index)}>{each.name} {each.index}</button>
            ))}
          </div>
        )}
        {found > SHOWN && <span className="soft">{SHOWN} of {count(found)} shown</span>}
        <form className="log-tools" onSubmit={(event) => {
          event.preventDefault();
          const index = Number(new FormData(event.currentTarget).get("task"));
          if (Number.isSafeInteger(index) && index >= 0 && index < summary.tasks) choose(index);
        }}>
          <label className="field-inline">Task <input name="task" inputMode="numeric" pattern="[0-9]+" required defaultValue={sel} key={sel} size={6} autoComplete="off" /></label>
          <button type="submit" className="button small">Show</button>
        </form>
      </div>
      {chosen === undefined ? (data ? <p className="empty">No task runs just now. Say which one’s output you want to read.</p> : <Loading what="what runs" />) : task && (
        <section aria-label={`Output of ${task.name} ${chosen}`}>
          <p><StateBadge state={task.state} unknownSince={task.unknown_since ?? null} /> <Link to="/d/$id/e/$index" params={{ id, index: String(chosen) }}>{task.name} {chosen}</Link></p>
          <Output id={id} index={chosen} attempt={task.attempt} running={task.state === "running"} onSpot={(spot) => void navigate({ to: "/d/$id/e/$index", params: { id, index: String(chosen) }, search: spot ?? {} })} />
        </section>
      )}
    </>
  );
}

/** Failures of one cause are one, whoever noticed. */
function Failures({ id, failed }: { id: string; failed: number }) {
  const { data } = useQuery(failuresQuery(id));
  return (
    <>
      <h2>{plural(failed, "failed task")}</h2>
      {!data && <Loading what="what failed" />}
      <ul className="plain stack" aria-label="Failures">
        {data?.groups.map((group) => (
          <li key={group.text} className="card line">
            <p className="error-text">{group.text}</p>
            {group.more.map((each) => <p key={`${each.name}${each.where} ${each.lack}`}>{each.name}{each.where}: <Words text={each.what} /></p>)}
            <p className="soft">
              {plural(group.tasks, "task")}:{" "}
              {group.first.map((task, k) => (
                <span key={task.index}>{k ? ", " : ""}<Link to="/d/$id/e/$index" params={{ id, index: String(task.index) }}>{task.name} {task.index}</Link></span>
              ))}
              {group.tasks > group.first.length && <> and <Link to="/d/$id" params={{ id }} search={{ view: "table", state: "failed" }}>{count(group.tasks - group.first.length)} more</Link></>}
            </p>
          </li>
        ))}
      </ul>
    </>
  );
}
