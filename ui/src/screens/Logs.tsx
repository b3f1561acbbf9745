import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { downloadLogs } from "../api/output";
import { taskQuery, tasksQuery, type Summary, type TaskFilter, type TaskRow } from "../api/queries";
import { say } from "../components/actions";
import { StateBadge, useLink, When, Words } from "../components/basics";
import { Output } from "../components/Output";
import { count, plural } from "../format";
import { dispatch as route } from "../router";

const FAILED: TaskFilter = { state: ["failed"], q: "", name: null, sort: "index", descending: false };

/** What was said about a dispatch, and its failures, alike ones together. */
export function Logs({ summary }: { summary: Summary }) {
  return (
    <>
      <Download summary={summary} />
      {(summary.counts.failed ?? 0) > 0 && <Failures id={summary.id} failed={summary.counts.failed ?? 0} />}
      <OutputOf summary={summary} />
      <h2>What hpcflow did</h2>
      {summary.messages.length === 0 ? <p className="empty">Nothing worth a word happened.</p> : (
        <ol className="plain messages">
          {[...summary.messages].reverse().map((message, index) => (
            <li key={index}><span className="soft nowrap"><When time={message.at} /></span> <span><Words text={message.text} /></span></li>
          ))}
        </ol>
      )}
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
      {chosen === undefined ? <p className="empty">No task runs just now. Say which one’s output you want to read.</p> : task && (
        <section aria-label={`Output of ${task.name} ${chosen}`}>
          <p><StateBadge state={task.state} unknownSince={task.unknown_since ?? null} /> <Link to="/d/$id/e/$index" params={{ id, index: String(chosen) }}>{task.name} {chosen}</Link></p>
          <Output id={id} index={chosen} attempt={task.attempt} running={task.state === "running"} onSpot={(spot) => void navigate({ to: "/d/$id/e/$index", params: { id, index: String(chosen) }, search: spot ?? {} })} />
        </section>
      )}
    </>
  );
}

function Failures({ id, failed }: { id: string; failed: number }) {
  const { data } = useInfiniteQuery(tasksQuery(id, FAILED));
  const rows = useMemo(() => data?.pages.flatMap((page) => page.rows) ?? [], [data]);
  const alike = useMemo(() => groupErrors(rows), [rows]);
  return (
    <>
      <h2>{plural(failed, "failed task")}</h2>
      {rows.length < failed && rows.length > 0 && <p className="soft">Of the first {count(rows.length)} of {count(failed)}:</p>}
      <ul className="plain stack">
        {alike.map((group) => (
          <li key={group.error} className="card line">
            <p className="error-text">{group.error}</p>
            <p className="soft">
              {plural(group.tasks.length, "task")}:{" "}
              {group.tasks.slice(0, 8).map((task, k) => (
                <span key={task.index}>{k ? ", " : ""}<Link to="/d/$id/e/$index" params={{ id, index: String(task.index) }}>{task.name} {task.index}</Link></span>
              ))}
              {group.tasks.length > 8 && <> and <Link to="/d/$id" params={{ id }} search={{ view: "table", state: "failed" }}>{count(group.tasks.length - 8)} more</Link></>}
            </p>
          </li>
        ))}
      </ul>
    </>
  );
}

/** Errors that differ in numbers alone are one, the most frequent first. */
export function groupErrors(rows: readonly TaskRow[]): { error: string; tasks: TaskRow[] }[] {
  const groups = new Map<string, { error: string; tasks: TaskRow[] }>();
  for (const row of rows) {
    const error = row.error ?? "No reason is known.";
    const key = error.replace(/0x[0-9a-f]+|\d+(\.\d+)?/gi, "#");
    const group = groups.get(key);
    if (group) group.tasks.push(row);
    else groups.set(key, { error, tasks: [row] });
  }
  return [...groups.values()].sort((one, other) => other.tasks.length - one.tasks.length);
}
