import { Link } from "@tanstack/react-router";
import type { Summary } from "../api/queries";
import { Mark, When } from "../components/basics";
import { plural } from "../format";

/** Of a dispatch with nothing left, such an array is over but for the scheduler's word. */
const NOT_OVER = new Set<string>(["submitted"]);

/** The job arrays of a dispatch: where they are, and why they wait, in plain words with the scheduler's own beside. */
export function Jobs({ summary }: { summary: Summary }) {
  if (summary.arrays.length === 0) return <p className="empty">Nothing was submitted yet: ready tasks are gathered for a moment, so that few jobs serve many of them.</p>;
  const over = summary.status !== "RUNNING";
  return (
    <>
      <p className="soft">
        A job array is a supply of workers for tasks that ask for the same. {plural(summary.arrays.length, "array was", "arrays were")} submitted for {plural(summary.tasks, "task")}.{" "}
        {summary.asked.map((each) => (each.at ? <span key={each.cluster}>{each.cluster} was asked <When time={each.at} />. </span> : null))}
      </p>
      <div className="table" tabIndex={0} role="region" aria-label="Job arrays">
        <table>
          <thead><tr><th scope="col">Job</th><th scope="col" className="rank-1">Cluster</th><th scope="col" className="numeric">Array tasks</th><th scope="col">State</th><th scope="col" className="rank-1">Why</th></tr></thead>
          <tbody>
            {summary.arrays.map((array) => (
              <tr key={array.token}>
                <td><span className="id">{array.job_id ?? "–"}</span>{array.state !== "ended" && !over && array.reason && <span className="narrow-note">{array.why ?? array.reason}</span>}</td>
                <td className="rank-1"><Link to="/queue/$cluster" params={{ cluster: array.cluster }}>{array.cluster}</Link></td>
                <td className="numeric">{array.width}</td>
                <td><span className="badge"><Mark tone={array.state === "ended" ? "completed" : array.state === "refused" ? "failed" : "queued"} still />{over && NOT_OVER.has(array.state) ? "ending" : array.state}</span></td>
                <td className="why-cell rank-1">{array.state === "ended" ? "" : over && NOT_OVER.has(array.state) ? "Its tasks have ended; accounting has not told its end yet." : array.why ? <>{array.why} <span className="soft id">({array.reason})</span></> : (array.reason ?? "")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
