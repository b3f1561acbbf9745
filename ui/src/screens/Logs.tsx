import { useInfiniteQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo } from "react";
import { tasksQuery, type Summary, type TaskFilter, type TaskRow } from "../api/queries";
import { When } from "../components/basics";
import { count, plural } from "../format";

const FAILED: TaskFilter = { state: ["failed"], q: "", name: null, sort: "index", descending: false };

/** What was said about a dispatch, and its failures, alike ones together. */
export function Logs({ summary }: { summary: Summary }) {
  return (
    <>
      {(summary.counts.failed ?? 0) > 0 && <Failures id={summary.id} failed={summary.counts.failed ?? 0} />}
      <h2>What hpcflow did</h2>
      {summary.messages.length === 0 ? <p className="empty">Nothing worth a word happened.</p> : (
        <ol className="plain messages">
          {[...summary.messages].reverse().map((message, index) => (
            <li key={index}><span className="soft nowrap"><When time={message.at} /></span> <span>{message.text}</span></li>
          ))}
        </ol>
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
