import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { clustersQuery, dispatchesQuery, statusQuery, type DispatchFilter, type Summary } from "../api/queries";
import { Fault, Loading, Notice, StatusBadge, Strip, Title, useNow, When, Words } from "../components/basics";
import { between, count, duration, plural } from "../format";
import { CLUSTER_WORDS, ended, type StateName } from "../states";
import { FirstDispatch } from "./FirstDispatch";
import { StartSentence, Unasked, useLooks } from "./queued";
import { firstStart, waitingArrays, whyWaiting, type Looks } from "./waiting";

const LIVE: DispatchFilter = { status: ["RUNNING"], q: "", sort: "created_at", ascending: false };
const LATEST: DispatchFilter = { status: [], q: "", sort: "created_at", ascending: false };
const SHOWN = 20;
const DAY_MS = 86_400_000;
/** What waits, and for what: together that is all that waits. */
const WAITS = [["queued", "at a scheduler"], ["waiting", "for other tasks"], ["ready", "to be submitted"], ["paused", "paused"]] as const;

export function Now() {
  const live = useInfiniteQuery(dispatchesQuery(LIVE));
  const latest = useInfiniteQuery(dispatchesQuery(LATEST));
  const { data: status } = useQuery(statusQuery);
  const { data: clusters } = useQuery(clustersQuery);
  const now = useNow();
  const looks = useLooks(waitingArrays((live.data?.pages.flatMap((page) => page.dispatches) ?? []).slice(0, SHOWN)));
  if (live.error && !live.data) return <Fault error={live.error} retry={() => void live.refetch()} />;
  if (!live.data || !latest.data) return <section className="screen"><Title text="Now" /><Loading what="what is going on" /></section>;
  const running = live.data.pages.flatMap((page) => page.dispatches);
  const found = live.data.pages[0]?.found ?? 0;
  const others = latest.data.pages[0]?.dispatches.filter((each) => each.status !== "RUNNING") ?? [];
  const recent = others.filter((each) => each.ended_at && now - Date.parse(each.ended_at) < DAY_MS);
  if (latest.data.pages[0]?.total === 0) return <section className="screen"><Title text="Now" /><FirstDispatch /></section>;
  // A template runs nothing and waits for nothing: its triggers run copies of it.
  const lively = running.filter((each) => !each.template);
  const templates = running.length - lively.length;
  const sum = (states: readonly StateName[]) => lively.reduce((all, each) => all + states.reduce((own, state) => own + (each.counts[state] ?? 0), 0), 0);
  const failed = [...running, ...recent].filter((each) => each.status !== "COMPLETED").reduce((all, each) => all + (each.counts.failed ?? 0), 0);
  const waiting = sum(["queued", "ready", "waiting", "paused"]);
  // Of a dispatch that completed all the same, its author has accepted the failures.
  const needs = [...running, ...recent].filter((each) => (each.counts.failed && each.status !== "COMPLETED") || (each.paused && !each.template && each.status === "RUNNING"));
  // What is not set up was named by nobody, and has no tasks of anybody.
  const away = clusters?.clusters.filter((cluster) => !["ok", "unknown", "not set up"].includes(cluster.state)) ?? [];
  return (
    <section className="screen">
      <Title text="Now" />
      {status?.problem && <Notice tone="bad" title="Nothing new can be stored">{status.problem} The server goes on trying; what runs goes on.</Notice>}
      <div className="tiles">
        <Tile tone="running" label="Running" value={sum(["running"])} note={found > templates ? `${plural(found - templates, "dispatch is", "dispatches are")} live` : "nothing is live"} />
        <Tile tone="queued" label="Waiting" value={waiting} note={WAITS.flatMap(([state, words]) => (state === "queued" || sum([state]) ? [`${count(sum([state]))} ${words}`] : [])).join(", ")} />
        <Tile tone="failed" label="Failed" value={failed} note="live, and in the last 24 h" />
        <Tile tone="completed" label="Completed" value={[...running, ...recent].reduce((all, each) => all + (each.counts.completed ?? 0), 0)} note="live, and in the last 24 h" />
      </div>
      {(needs.length > 0 || away.length > 0) && (
        <>
          <h2>Needs you</h2>
          <ul className="plain stack">
            {away.map((cluster) => (
              <li key={cluster.name} className="card line">
                <strong>{cluster.name} {CLUSTER_WORDS[cluster.state]}.</strong> <Words text={cluster.problem ?? ""} /> Its tasks are as they were last seen. <Link to="/clusters">{cluster.state === "needs login" ? "Log in" : "Test it"}</Link>
              </li>
            ))}
            {needs.slice(0, 8).map((each) => (
              <li key={each.id} className="card line">
                <Link to="/d/$id" params={{ id: each.id }} search={each.counts.failed ? { view: "table", state: "failed" } : {}} className="strong">{each.name}</Link> <span className="id soft" title={each.id}>…{each.id.slice(-6)}</span>{" "}
                {each.counts.failed ? `has ${plural(each.counts.failed, "failed task")}` : `is paused: ${each.paused?.replace(/\.$/, "")}`}
                {each.counts.failed && each.counts.skipped ? `, and ${count(each.counts.skipped)} skipped because of them` : ""}. <span className="soft">{each.ended_at ? "ended" : "created"} <When time={each.ended_at ?? each.created_at} /></span>
              </li>
            ))}
          </ul>
        </>
      )}
      <h2>Live</h2>
      {running.length === 0 ? <p className="empty">Nothing is live. <Link to="/dispatches">All dispatches</Link></p> : <ul className="plain stack">{running.slice(0, SHOWN).map((each) => <Card key={each.id} summary={each} looks={looks} />)}</ul>}
      {found > SHOWN && <p><Link to="/dispatches" search={{ status: "RUNNING" }}>All {count(found)} that are live</Link></p>}
      {others.length > 0 && (
        <>
          <h2>Ended last</h2>
          <ul className="plain stack">{others.slice(0, 5).map((each) => <Card key={each.id} summary={each} looks={looks} />)}</ul>
        </>
      )}
    </section>
  );
}

function Tile({ tone, label, value, note }: { tone: string; label: string; value: number; note: string }) {
  return (
    <div className={`tile tile-${tone}`}>
      <span className="tile-label">{label}</span>
      <span className="tile-value">{count(value)}</span>
      <span className="soft">{note}</span>
    </div>
  );
}

function Card({ summary, looks }: { summary: Summary; looks: Looks }) {
  const now = useNow();
  const why = whyWaiting(summary, looks);
  const start = why === null ? null : firstStart(summary.arrays, looks);
  return (
    <li className="card live">
      <div className="live-head">
        <Link to="/d/$id" params={{ id: summary.id }} className="strong clip">{summary.name}</Link>
        <StatusBadge status={summary.status} paused={summary.paused} template={summary.template} counts={summary.counts} />
        <span className="soft push">{count(ended(summary.counts))} of {plural(summary.tasks, "task")} · {duration(between(summary.started_at, summary.ended_at, now)) || "not begun"}</span>
      </div>
      <Strip counts={summary.counts} total={summary.tasks} label={summary.name} />
      {why && <p className="soft"><Words text={why} /> <StartSentence start={start} /></p>}
      {!why && waitingArrays([summary]).length > 0 && <p className="soft"><Unasked arrays={waitingArrays([summary])} looks={looks} /></p>}
      {summary.template && <p className="soft">{summary.paused}</p>}
    </li>
  );
}
