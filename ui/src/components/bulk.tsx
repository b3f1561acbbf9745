import { useState } from "react";
import { answer, api } from "../api/client";
import { client, type Summary } from "../api/queries";
import { plural } from "../format";
import { ended } from "../states";
import { cancelCall, jobsOf, later, Question, say, withUndo } from "./actions";

const NAMED = 8;

function Names({ of }: { of: readonly Summary[] }) {
  return (
    <ul>
      {of.slice(0, NAMED).map((each) => {
        const jobs = jobsOf(each).map((job) => job.job_id).filter(Boolean);
        return <li key={each.id} className="breakable"><strong>{each.name || "(no name)"}</strong> <span className="soft">{plural(each.tasks - ended(each.counts), "task")} left of {each.tasks}{jobs.length ? ` · ${plural(jobs.length, "job")} ${jobs.slice(0, 3).join(", ")}${jobs.length > 3 ? "…" : ""}` : ""}</span></li>;
      })}
      {of.length > NAMED && <li className="soft">and {of.length - NAMED} more</li>}
    </ul>
  );
}

/** What can be done about several dispatches at once. */
export function Bulk({ chosen, disabled, onDone }: { chosen: readonly Summary[]; disabled: boolean; onDone: () => void }) {
  const [asking, setAsking] = useState<"cancel" | "delete" | null>(null);
  if (chosen.length === 0) return null;
  const live = chosen.filter((each) => each.status === "RUNNING");
  const over = chosen.filter((each) => each.status !== "RUNNING");
  const cancel = () => {
    setAsking(null);
    onDone();
    withUndo(`Cancelling ${plural(live.length, "dispatch", "dispatches")} in 5 s.`, () => void cancelAll(live));
  };
  const remove = (form: FormData) => {
    setAsking(null);
    onDone();
    const body = { dispatches: over.map((each) => each.id), files: form.get("files") === "on" };
    later(`Deleting ${plural(over.length, "dispatch", "dispatches")} in 5 s.`, (keepalive) => api.POST("/api/v1/delete", { body, keepalive }));
  };
  return (
    <div className="toolbar bulk" role="group" aria-label="Chosen dispatches">
      <strong>{plural(chosen.length, "dispatch", "dispatches")} chosen</strong>
      {live.length > 0 && <button type="button" className="button" disabled={disabled} onClick={() => setAsking("cancel")}>Cancel {live.length} live</button>}
      {over.length > 0 && <button type="button" className="button" disabled={disabled} onClick={() => setAsking("delete")}>Delete {over.length} ended</button>}
      <button type="button" className="button" onClick={onDone}>Choose none</button>
      {asking === "cancel" && (
        <Question title={`Cancel ${plural(live.length, "dispatch", "dispatches")}?`} yes={`Cancel ${plural(live.length, "dispatch", "dispatches")}`} danger onYes={cancel} onClose={() => setAsking(null)}>
          <Names of={live} />
          <p className="soft">What has ended keeps its result. You have five seconds to take it back.</p>
        </Question>
      )}
      {asking === "delete" && (
        <Question title={`Delete ${plural(over.length, "dispatch", "dispatches")} for ever?`} yes={`Delete ${plural(over.length, "dispatch", "dispatches")}`} danger onYes={remove} onClose={() => setAsking(null)}>
          <Names of={over} />
          <p>Their results, logs and history go, here and on their clusters.</p>
          <label><input type="checkbox" name="files" /> also files that tasks left in directories of their own</label>
          <p className="soft">You have five seconds to take it back.</p>
        </Question>
      )}
    </div>
  );
}

async function cancelAll(dispatches: readonly Summary[]): Promise<void> {
  const hidden = document.visibilityState === "hidden";
  let tasks = 0;
  const wrong: string[] = [];
  // All are asked for at once: a tab that goes away has no time for one after the other.
  await Promise.all(dispatches.map(async (each) => {
    try {
      tasks += (await answer(cancelCall(each.id, null, hidden))).cancelled;
    } catch (error) {
      wrong.push(`${each.name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }));
  say(`Cancelled ${plural(tasks, "task")} of ${plural(dispatches.length - wrong.length, "dispatch", "dispatches")}.`);
  for (const sentence of wrong) say(sentence, "bad");
  await client.invalidateQueries({ predicate: (query) => query.queryKey[0] !== "graph" });
}
