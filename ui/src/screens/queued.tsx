import { queryOptions, useQueries } from "@tanstack/react-query";
import { Fragment } from "react";
import { answer, api } from "../api/client";
import { useNow } from "../components/basics";
import { absolute, moment, plural, roughly } from "../format";
import { spelled, type Look, type Looks, type Reason, type Start } from "./waiting";

/** Looks at queues that screens share, and what they say of waiting jobs. */

const ROWS = 5_000;

export function queueQuery(name: string, mine: boolean) {
  return queryOptions({
    queryKey: ["queue", name, mine],
    // As declared: the answer is checked by its own tests, and described by this schema.
    queryFn: () => answer(api.GET("/api/v1/clusters/{name}/queue", { params: { path: { name }, query: { mine, nodes: false, limit: ROWS } } })),
    // However many browsers ask, the server looks once in `poll_s`.
    refetchInterval: (query) => Math.max(5_000, Math.min(60_000, (query.state.data?.poll_s ?? 10) * 1_000)),
  });
}

function byName(results: readonly { data?: Look | undefined }[]): Looks {
  return new Map(results.flatMap(({ data }) => (data ? [[data.cluster, data] as const] : [])));
}

/** The last looks at these queues: one's own jobs. None is made of a queue that is not named. */
export function useLooks(names: readonly string[]): Looks {
  return useQueries({ queries: names.map((name) => queueQuery(name, true)), combine: byName });
}

const SOURCE = { scheduler: "the scheduler’s plan", "begin time": "its begin time" } as const;

/** When something is to start, in local time with its zone, how long that is from now, and who says so. */
export function Starts({ start }: { start: Start | null }) {
  const now = useNow();
  if (start?.stuck === "never") return <strong className="ink-failed">never, as it is</strong>;
  if (start?.stuck === "held") return <>after a release</>;
  if (!start?.at) return <span className="soft">not known: the scheduler tells no plan</span>;
  const seconds = (Date.parse(start.at) - now) / 1_000;
  return (
    <time dateTime={start.at} title={absolute(start.at)}>
      {seconds > 0 ? `~${moment(start.at, now)}, in ${roughly(seconds)}` : "any moment"} {start.from && <span className="soft">({SOURCE[start.from]})</span>}
    </time>
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
