import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { arraysQuery, type DispatchArray, type Summary } from "../api/queries";
import { Fault, Loading, Mark, When } from "../components/basics";
import { count, limit, plural } from "../format";
import { stateOf, STATES, type Tone } from "../states";
import { Starts, Unasked, useLooks } from "./queued";
import { firstStart, gone, reasons, seen, spelled, unasked, waitingArrays, type Looks } from "./waiting";

/** The job arrays of a dispatch: for what they work, where they are, why they wait and how their tasks ended. */
export function Jobs({ summary }: { summary: Summary }) {
  const { data, error, refetch } = useQuery(arraysQuery(summary.id));
  const looks = useLooks(waitingArrays([summary]));
  if (summary.arrays.length === 0) return <p className="empty">Nothing was submitted yet: ready tasks are gathered for a moment, so that few jobs serve many of them.</p>;
  if (!data) return error ? <Fault error={error} retry={() => void refetch()} /> : <Loading what="its jobs" />;
  const over = summary.status !== "RUNNING";
  const asked = new Map<string, string[]>();
  for (const array of data.arrays) if (array.why_walltime) asked.set(array.why_walltime, [...(asked.get(array.why_walltime) ?? []), array.job_id ?? "–"]);
  return (
    <>
      <p className="soft">
        A job array is a supply of workers for tasks that ask for the same. {plural(data.arrays.length, "array was", "arrays were")} submitted for {plural(summary.tasks, "task")}.{" "}
        {summary.asked.map((each) => (each.at ? <span key={each.cluster}>The accounting of {each.cluster}, which tells how jobs end, was asked <When time={each.at} />. </span> : null))}
      </p>
      <div className="table" tabIndex={0} role="region" aria-label="Job arrays">
        <table>
          <thead><tr><th scope="col">Job</th><th scope="col" className="rank-1">Works for</th><th scope="col" className="rank-3">Cluster</th><th scope="col" className="numeric rank-2">Array tasks</th><th scope="col">State</th><th scope="col" className="rank-2">Starts</th><th scope="col" className="rank-1">Why it waits</th><th scope="col" className="numeric rank-2">Walltime</th></tr></thead>
          <tbody>{data.arrays.map((array) => <Row key={array.token} id={summary.id} array={array} over={over} looks={looks} />)}</tbody>
        </table>
      </div>
      {asked.size > 0 && (
        <>
          <h3 className="below">Why another walltime than the tasks’</h3>
          <ul className="plain soft">
            {[...asked].map(([why, ids]) => <li key={why}><span className="id">{ids.slice(0, SHOWN).join(", ")}</span>{ids.length > SHOWN ? ` and ${count(ids.length - SHOWN)} more` : ""}: {why}</li>)}
          </ul>
        </>
      )}
    </>
  );
}

function Row({ id, array, over, looks }: { id: string; array: DispatchArray; over: boolean; looks: Looks }) {
  const waits = !over && array.state === "submitted";
  const why = waits ? reasons([array], looks) : [];
  const pending = waits && !gone(array, looks) && (seen(array, looks)?.pending ?? array.width - array.up) > 0;
  const told = seen(array, looks)?.rows[0]?.walltime_s ?? null;
  const whole = told === array.walltime_s ? null : told;
  const start = pending && !unasked([array], looks) ? <Starts brief start={firstStart([array], looks)} /> : null;
  const said = pending && unasked([array], looks) ? [<Unasked key="" arrays={[array]} looks={looks} />] : why.map((each) => <span key={each.text} className="block">{why.length > 1 ? `${count(each.tasks)}: ` : ""}{spelled(each)}</span>);
  return (
    <tr>
      <td>
        <span className="id">{array.job_id ?? "–"}</span>
        <span className="note-1"><Electrons id={id} array={array} /></span>
        <span className="note-3">on {array.cluster}</span>
        <span className="note-2">{plural(array.width, "array task")}{array.walltime_s ? ` of ${limit(array.walltime_s)}` : ""}</span>
      </td>
      <td className="for-cell rank-1"><Electrons id={id} array={array} /></td>
      <td className="rank-3"><Link to="/queue/$cluster" params={{ cluster: array.cluster }}>{array.cluster}</Link></td>
      <td className="numeric rank-2">{count(array.width)}</td>
      <td className="why-cell"><State array={array} over={over} looks={looks} />{pending && <><span className="note-1">{said}</span>{start && <span className="note-2">Starts {start}</span>}</>}</td>
      <td className="start-cell rank-2">{start}</td>
      <td className="why-cell rank-1">{said.length ? said : over && array.state === "submitted" ? "Its tasks have ended; accounting has not told its end yet." : waits && gone(array, looks) ? "It waits no more; accounting has not told its end yet." : array.state === "refused" ? array.reason : ""}</td>
      <td className="numeric rank-2" title={array.why_walltime ?? ""}>{limit(array.walltime_s)}{whole !== null && <span className="soft block" title="The scheduler counts in whole minutes">{limit(whole)}, says the queue</span>}</td>
    </tr>
  );
}

const ELECTRONS = 3;
const SHOWN = 5;

function Electrons({ id, array }: { id: string; array: DispatchArray }) {
  const more = array.electrons_total - ELECTRONS;
  return (
    <>
      {array.electrons.slice(0, ELECTRONS).map((each, k) => (
        <span key={each.name}>{k ? ", " : ""}<Link to="/d/$id" params={{ id }} search={{ view: "table", name: each.name }} title={each.name} className="clip">{each.name}</Link> <span className="soft">{count(each.tasks)}</span></span>
      ))}
      {more > 0 && <span className="soft"> and {plural(more, "more electron")}</span>}
    </>
  );
}

/** What the queue knows of an array, with when it was asked; of one that has ended, how its tasks did. */
function State({ array, over, looks }: { array: DispatchArray; over: boolean; looks: Looks }) {
  const left = array.state === "submitted" && !over && gone(array, looks);
  if (array.state === "ended" || left || (over && array.state === "submitted")) {
    const word = array.state === "ended" ? "ended" : left ? "left the queue" : "ending";
    const parts = [...STATES].filter((state) => array.ends[state.name]).sort((one, other) => Number(other.name === "failed") - Number(one.name === "failed")).map((state) => `${count(array.ends[state.name]!)} ${state.word}`);
    if (array.tried_again) parts.push(`${count(array.tried_again)} tried again`);
    const tone: Tone = array.ends.failed ? "failed" : array.ends.completed ? "completed" : "cancelled";
    return <span className="badge badge-wrap"><Mark tone={tone} still /><span>{word}: {parts.join(", ") || "no task ran in it"}</span></span>;
  }
  if (array.state !== "submitted") {
    const word = { intent: "being submitted", ambiguous: "answer lost: looked for", refused: "refused" }[array.state] ?? array.state;
    return <span className="badge"><Mark tone={array.state === "refused" ? "failed" : "queued"} still />{word}</span>;
  }
  const known = seen(array, looks);
  if (array.suspended > 0 && array.suspended >= array.up && !known?.running) return <span className="badge"><Mark tone="queued" still />{count(array.suspended)} suspended</span>;
  if (array.up > 0 && !known?.running) return <><span className="badge"><Mark tone="running" still />{count(array.up)} running</span> <span className="soft block">as {array.up === 1 ? "its worker tells" : "its workers tell"}</span></>;
  if (!known) return <span className="badge" title={stateOf("queued").means}><Mark tone="queued" still />submitted</span>;
  return (
    <>
      {known.running > 0 && <span className="badge"><Mark tone="running" still />{count(known.running)} running</span>}{" "}
      {known.pending > 0 && <span className="badge"><Mark tone="queued" still />{count(known.pending)} pending</span>}{" "}
      <span className="soft block">seen <When time={known.at} /></span>
    </>
  );
}
