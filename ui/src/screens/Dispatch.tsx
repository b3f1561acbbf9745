import { useQuery } from "@tanstack/react-query";
import { Link, Navigate } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { clustersQuery, lettersQuery, summaryQuery, usageQuery, type Summary } from "../api/queries";
import { DispatchActions } from "../components/actions";
import { CopyButton, CountsLine, Fault, Loading, Notice, StatusBadge, Strip, Title, useLink, useNow, When, Words } from "../components/basics";
import { between, count, duration, plural } from "../format";
import { dispatch as route, VIEWS, type View } from "../router";
import { CLUSTER_WORDS, ended } from "../states";
import { Jobs } from "./Jobs";
import { TaskTable } from "./TaskTable";
import { StartSentence, Unasked, useLooks } from "./queued";
import { firstStart, unasked, waitingArrays, whyWaiting } from "./waiting";

const Logs = lazy(() => import("./Logs").then((made) => ({ default: made.Logs })));
const GraphView = lazy(() => import("../graph/GraphView"));
const TimelineView = lazy(() => import("../timeline/TimelineView"));
const DispatchEfficiency = lazy(() => import("../insight/DispatchEfficiency"));
const WORDS: Record<View, string> = { graph: "Graph", table: "Table", timeline: "Timeline", logs: "Logs", jobs: "Jobs", efficiency: "Efficiency" };

export function Dispatch() {
  const { id } = route.useParams();
  const search = route.useSearch();
  const { data: summary, error, refetch } = useQuery(summaryQuery(id));
  const offline = useLink() !== "ok";
  // Watched as long as the dispatch is open: news are applied to it in whichever view.
  useQuery(lettersQuery(id));
  const view = search.view ?? "graph";
  // On a small screen the tabs are wider than it.
  useEffect(() => {
    document.querySelector(".tab[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [view, summary?.id]);
  const body = useRef<HTMLDivElement>(null);
  const before = useRef(view);
  useEffect(() => {
    if (before.current === view) return;
    before.current = view;
    // A key in the view that is gone led here.
    if (document.activeElement === document.body) body.current?.focus({ preventScroll: true });
  }, [view]);
  if (!summary) {
    return error ? <section className="screen"><Title text="Dispatch" /><Fault error={error} retry={() => void refetch()} /><p><Link to="/dispatches">All dispatches</Link></p></section> : <Loading what="the dispatch" />;
  }
  // A sublattice has an id of its own, and is seen in the dispatch that it is a part of.
  if (summary.root !== id) return <Navigate to="/d/$id" params={{ id: summary.root }} search={{ ...search, in: id }} replace />;
  return (
    <section className={`screen screen-${view}`}>
      <Head summary={summary} offline={offline} />
      <nav className="tabs" aria-label="Views of the dispatch">
        {VIEWS.map((each) => (
          <Link key={each} from={route.fullPath} to="/d/$id" params={{ id }} search={(old) => ({ ...old, view: each })} className="tab" aria-current={view === each ? "page" : undefined}>
            {WORDS[each]}
          </Link>
        ))}
      </nav>
      <div ref={body} tabIndex={-1} className="view">
      {view === "graph" && <Suspense fallback={<Loading what="the graph" />}><GraphView id={id} summary={summary} /></Suspense>}
      {view === "table" && <TaskTable id={id} />}
      {view === "timeline" && <Suspense fallback={<Loading what="the timeline" />}><TimelineView id={id} /></Suspense>}
      {view === "efficiency" && <Suspense fallback={<Loading what="what it used" />}><DispatchEfficiency id={id} live={summary.status === "RUNNING"} /></Suspense>}
      {view === "logs" && <Suspense fallback={<Loading what="the logs" />}><Logs summary={summary} /></Suspense>}
      {view === "jobs" && <Jobs summary={summary} />}
      </div>
    </section>
  );
}

function Head({ summary, offline }: { summary: Summary; offline: boolean }) {
  const now = useNow();
  const [all, setAll] = useState(false);
  const done = ended(summary.counts);
  const live = summary.status === "RUNNING";
  const looks = useLooks(waitingArrays([summary]));
  const { data: clusters } = useQuery(clustersQuery);
  const asksLogin = (name: string) => clusters?.clusters.some((each) => each.name === name && each.state === "needs login") ?? false;
  const away = summary.asked.filter((each) => each.problem || each.unknown_since);
  const told = whyWaiting(summary, looks);
  // What a notice says of a cluster is not said twice.
  const why = told !== null && away.some((each) => each.problem && told.includes(each.problem)) ? null : told;
  const start = why === null ? null : firstStart(summary.arrays, looks);
  return (
    <header className={all ? "dispatch-head" : "dispatch-head brief"}>
      <div className="title-line">
        <Title text={summary.name || "Dispatch"}><span className="clip" title={summary.name}>{summary.name || "(no name)"}</span></Title>
        <StatusBadge status={summary.status} paused={summary.paused} template={summary.template} counts={summary.counts} />
        <DispatchActions summary={summary} disabled={offline} />
      </div>
      <p className="soft meta">
        <span className="id">{summary.id}</span> <CopyButton text={summary.id} label="Copy id of the dispatch">Copy id</CopyButton>{" "}
        <CopyButton text={`import hpcflow as hf\n\nresult = hf.get_result("${summary.id}")\n${summary.status === "COMPLETED" ? "print(result.result)" : "print(result.error)\nrows = result.to_rows()  # of each task what it took, and its result or its error"}\n`} label="Copy as Python">Copy as Python</CopyButton>
        <span>created <When time={summary.created_at} /></span>
        {/* Of what was tried again nobody says how long nothing of it ran in between. */}
        {summary.started_at && summary.again && <span>began <When time={summary.started_at} />{!live && <>, ended <When time={summary.ended_at} /></>}</span>}
        {summary.started_at && !summary.again && <span>{live ? "running for" : "took"} {duration(between(summary.started_at, summary.ended_at, now))}</span>}
      </p>
      <div className="progress-line">
        <Strip counts={summary.counts} total={summary.tasks} label={`${count(done)} of ${plural(summary.tasks, "task")} ended`} />
        <p><strong>{count(done)}</strong> of {plural(summary.tasks, "task")} ended <CountsLine counts={summary.counts} /></p>
      </div>
      {summary.error && <Notice tone={summary.status === "CANCELLED" ? "info" : "bad"}>{summary.error}{summary.hint && <p className="soft"><Words text={summary.hint} /></p>}</Notice>}
      {summary.undelivered && <Notice tone="warn">{summary.undelivered}</Notice>}
      {summary.again && <p className="again"><strong>{live ? "Runs again." : "Tried again."}</strong> {summary.again.text} <span className="soft"><When time={summary.again.at} /></span></p>}
      {summary.paused && live && (summary.template ? <Notice title="Template.">{summary.paused}</Notice> : <Notice tone="warn" title="Paused.">{summary.paused}</Notice>)}
      {away.map((each) => (
        <Notice key={each.cluster} tone="warn" title={`${each.cluster} ${asksLogin(each.cluster) ? CLUSTER_WORDS["needs login"] : "does not answer"}.`}>
          <Words text={each.problem ?? ""} /> {live ? "What it runs" : "All tasks had ended before; what the jobs cost"} is unknown {each.unknown_since ?? each.at ? <>since <When time={each.unknown_since ?? each.at} /></> : "since the server's start"}{live ? ": states are as they were last seen." : "."}{asksLogin(each.cluster) && <> <Link to="/clusters">Log in</Link></>}
        </Notice>
      ))}
      {why && <p className="why"><strong>Why it waits.</strong> <Words text={why} /> <StartSentence start={start} /><Link from={route.fullPath} to="/d/$id" params={{ id: summary.id }} search={(old) => ({ ...old, view: "jobs" })}>Jobs</Link></p>}
      {!why && live && unasked(waitingArrays([summary]), looks) && <p className="why"><strong>Why it waits.</strong> <Unasked arrays={waitingArrays([summary])} looks={looks} /></p>}
      {!live && <Cost id={summary.id} />}
      <button type="button" className="button small small-only" aria-expanded={all} onClick={() => setAll(!all)}>{all ? "Less" : "More about it"}</button>
    </header>
  );
}

/** What it cost is known some seconds after the last task: jobs end later than what they ran. */
function Cost({ id }: { id: string }) {
  const { data, refetch } = useQuery(usageQuery(id));
  const open = (data?.open ?? 0) > 0;
  useEffect(() => {
    if (!open) return;
    const timer = setInterval(() => void refetch(), 5_000);
    return () => clearInterval(timer);
  }, [open, refetch]);
  return data && data.sentences.length > 0 ? <p className="soft cost">{data.sentences.join(" ")}</p> : null;
}
