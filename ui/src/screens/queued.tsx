import { queryOptions, useQueries, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Fragment } from "react";
import { answer, api } from "../api/client";
import { useNow } from "../components/basics";
import { plural } from "../format";
import { busyWords, spelled, startWords, unasked, type AnArray, type Look, type Looks, type Reason, type Start, type Worked } from "./waiting";

/** Looks at queues that screens share, and what they say of waiting jobs. */

const ROWS = 5_000;

/** Seconds after a submission at which the server looks for it, and those that it leaves between two looks. */
const SETTLED_S = 3;
const SOONEST_S = 5;

/** When the queue is to be asked again, in milliseconds since 1970; `since` is when an array went there last. */
function dueAt(data: Look | undefined, readAt: number, since: number): number {
  if (!data) return readAt;
  const usual = readAt + 1_000 * data.due_s;
  const asked = data.asked_at ? Date.parse(data.asked_at) : 0;
  // What was read before the submission does not know of it.
  return readAt >= since || asked >= since ? usual : Math.min(usual, Math.max(since + 1_000 * SETTLED_S, asked + 1_000 * SOONEST_S));
}

/** How a queue is asked for; with `since`, soon after that time as well. */
export function queueQuery(name: string, mine: boolean, since = 0) {
  return queryOptions({
    queryKey: ["queue", name, mine],
    // As declared: the answer is checked by its own tests, and described by this schema.
    queryFn: () => answer(api.GET("/api/v1/clusters/{name}/queue", { params: { path: { name }, query: { mine, nodes: false, limit: ROWS } } })),
    // However many browsers ask, the server looks when it is due.
    refetchInterval: (query) => Math.max(1_000, Math.min(60_000, dueAt(query.state.data, query.state.dataUpdatedAt, since) + 200 - Date.now())),
  });
}

function byName(results: readonly { data?: Look | undefined }[]): Looks {
  return new Map(results.flatMap(({ data }) => (data ? [[data.cluster, data] as const] : [])));
}

/** The last looks at the queues in which these arrays are: one's own jobs. None is made of another queue. */
export function useLooks(arrays: readonly AnArray[]): Looks {
  const since = new Map<string, number>();
  for (const each of arrays) since.set(each.cluster, Math.max(since.get(each.cluster) ?? 0, each.submitted_at ? Date.parse(each.submitted_at) : 0));
  return useQueries({ queries: [...since].map(([name, time]) => queueQuery(name, true, time)), combine: byName });
}

/** Of arrays that came after the last look at their queue: when that was, and when it is looked at again. */
export function Unasked({ arrays, looks }: { arrays: readonly AnArray[]; looks: Looks }) {
  const now = useNow();
  const state = useQueryClient();
  const newest = unasked(arrays, looks);
  if (!newest) return null;
  const query = state.getQueryState<Look>(["queue", newest.cluster, true]);
  const since = Date.parse(newest.submitted_at!);
  const left = Math.ceil((dueAt(query?.data, query?.dataUpdatedAt ?? now, since) - now) / 1_000);
  return <>Submitted {Math.max(0, Math.round((now - since) / 1_000))} s ago; {newest.cluster} is asked {left > 0 ? `again in ${left} s` : "now"}.</>;
}

/** When something is to start, in local time with its zone, and how long that is from now; what the time means is in words, or in a column's tooltip. */
export function Starts({ start, brief = false }: { start: Start | null; brief?: boolean }) {
  const now = useNow();
  if (start?.stuck === "never") return <strong className="ink-failed">never, as it is</strong>;
  if (start?.stuck === "held") return <>after a release</>;
  if (!start?.at) return <span className="soft">not known: the scheduler tells no plan</span>;
  const said = startWords(start.at, start.from, now);
  return <time dateTime={start.at} title={said.means}>{brief ? said.brief : said.full}</time>;
}

/** When what waits is to start, as a sentence. */
export function StartSentence({ start }: { start: Start | null }) {
  if (!start) return null;
  if (!start.at && !start.stuck) return <>When it starts is <Starts start={start} />. </>;
  return start.at ? <>Starts <Starts start={start} /> </> : <>Starts <Starts start={start} />. </>;
}

/** For which workers something waits that run other tasks first: "a worker of job array 34, whose 4 array tasks are busy". */
export function Workers({ workers }: { workers: readonly Worked[] }) {
  return (
    <>
      a worker of{" "}
      {workers.slice(0, 3).map((each, k) => (
        <Fragment key={`${each.cluster} ${each.job_id}`}>{k ? ", or of " : ""}job array <Link to="/queue/$cluster" params={{ cluster: each.cluster }} search={{ q: each.job_id }} className="id">{each.job_id}</Link>, {busyWords(each)}</Fragment>
      ))}
      {workers.length > 3 && `, or of ${plural(workers.length - 3, "more job array")}`}
    </>
  );
}

/** Reasons with how many jobs and array tasks wait for each. */
export function Reasons({ reasons }: { reasons: readonly Reason[] }) {
  return (
    <ul className="plain reasons">
      {reasons.map((each) => (
        <li key={`${each.text} ${each.code}`}>
          <span>{spelled(each)} <span className="soft">{[plural(each.jobs, "job array"), plural(each.tasks, "array task")].map((part, k) => <Fragment key={part}>{k ? ", " : ""}{part}</Fragment>)}</span></span>
        </li>
      ))}
    </ul>
  );
}
