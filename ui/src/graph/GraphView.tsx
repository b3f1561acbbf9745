import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useMemo } from "react";
import { arraysQuery, graphQuery, lettersQuery, type Summary } from "../api/queries";
import { CancelButton } from "../components/actions";
import { RetrySome } from "../components/again";
import { Fault, Loading, StateBadge, useLink } from "../components/basics";
import { count, plural } from "../format";
import { dispatch as route } from "../router";
import { Reasons, StartSentence, Unasked, useLooks, Workers } from "../screens/queued";
import { firstStart, reasons, unasked, worked } from "../screens/waiting";
import { FINAL, stateOfCode } from "../states";
import type { Renderer } from "./draw";
import { Graph, useLayout, type GraphActs } from "./Graph";
import { sliceOf, type Layout, type Level, type Slice } from "./layout";

/** A dispatch's graph: its lattice, or one of its sublattices, with what becomes of the tasks. */
export default function GraphView({ id, summary }: { id: string; summary: Summary }) {
  const { data: graph, error, refetch } = useQuery(graphQuery(id));
  const { data: letters } = useQuery(lettersQuery(id));
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const slice = useMemo(() => (graph ? sliceOf(graph, search.in) : null), [graph, search.in]);
  const layout = useLayout(slice?.columns);
  const acts = useMemo<GraphActs>(() => ({
    select: (group, task = null) => void navigate({ search: ({ group: _, sel: __, ...old }) => ({ ...old, ...(group === null ? {} : { group }), ...(task === null ? {} : { sel: task }) }), replace: true }),
    openTable: (name) => void navigate({ search: (old) => ({ ...old, view: "table", name }) }),
    setLens: (lens) => void navigate({ search: (old) => ({ ...old, lens }), replace: true }),
    enter: (level) => void navigate({ search: level === null ? {} : { in: level } }),
  }), [navigate]);
  if (error) return <Fault error={error} retry={() => void refetch()} />;
  if (!layout || !letters || !slice || layout.groupOf.length !== slice.columns.tasks) return <Loading what="the graph" />;
  if (layout.groups.length === 0) return <p className="empty">This lattice called no electron.</p>;
  return (
    <>
      <Crumbs id={id} summary={summary} slice={slice} />
      <Graph key={slice.level?.id ?? ""} name={summary.name} layout={layout} all={letters.codes} slice={slice} levels={graph?.levels ?? []} search={search} acts={acts}>
        {(shown) => <Panel {...shown} id={id} summary={summary} layout={layout} all={letters.codes} slice={slice} onClose={() => acts.select(null)} />}
      </Graph>
    </>
  );
}

/** Where one is among the sublattices of a dispatch, each a way back. */
function Crumbs({ id, summary, slice }: { id: string; summary: Summary; slice: Slice }) {
  const { level } = slice;
  if (!level) return null;
  return (
    <nav aria-label="Sublattices" className="crumbs">
      <Link to="/d/$id" params={{ id }} search={{}}>{summary.name || "(no name)"}</Link>
      {slice.around.map((each) => <span key={each.id}> / <Link to="/d/$id" params={{ id }} search={{ in: each.id }}>{each.name} {each.task}</Link></span>)}
      <span> / <strong aria-current="page">{level.name} {level.task}</strong></span>
    </nav>
  );
}

const SHOWN = 12;

function Panel({ id, summary, layout, renderer, codes, all, slice, group: index, task, onClose }: {
  id: string;
  summary: Summary;
  layout: Layout;
  renderer: Renderer;
  codes: Uint8Array;
  /** Of the whole dispatch. */
  all: Uint8Array;
  slice: Slice;
  group: number;
  task: number | null;
  onClose: () => void;
}) {
  const offline = useLink() !== "ok";
  const group = layout.groups[index]!;
  const counts = renderer.counts(index);
  // Numbers in what is drawn; the server numbers the tasks of all of the dispatch.
  const inState = (wanted: (name: string) => boolean) => [...group.tasks].filter((each) => wanted(stateOfCode(codes[each]!).name));
  const open = inState((name) => !FINAL.has(name));
  const running = open.filter((each) => stateOfCode(codes[each]!).name === "running").length;
  const lost = (wanted: string) => inState((name) => name === wanted).map((each) => slice.first + each);
  const [failed, cancelled] = [lost("failed"), lost("cancelled")];
  const first = [...inState((name) => name === "failed"), ...inState((name) => name === "running"), ...inState((name) => name !== "failed" && name !== "running")].slice(0, SHOWN);
  return (
    <aside className="panel" aria-label={`Group ${group.name}`}>
      <button type="button" className="icon-button panel-close" aria-label="Close" onClick={onClose}>✕</button>
      <h2>{group.name}</h2>
      <p className="soft">{plural(group.tasks.length, "task")} at depth {group.depth}</p>
      <ul className="plain">{counts.map(({ state, count: many }) => <li key={state.name}><StateBadge state={state.name} /> {count(many)}</li>)}</ul>
      <div className="actions">
        <Link className="button" to="/d/$id" params={{ id }} search={{ view: "table", name: group.name }}>Open as table</Link>
        {summary.status === "RUNNING" && <CancelButton summary={summary} tasks={() => inState((name) => !FINAL.has(name)).map((each) => slice.first + each)} running={running} waiting={open.length - running} what={group.name} disabled={offline} />}
        <RetrySome id={id} tasks={[...failed, ...cancelled]} failed={failed.length} cancelled={cancelled.length} accepted={summary.status === "COMPLETED"} what={group.name} disabled={offline} />
      </div>
      {summary.status === "RUNNING" && counts.some(({ state }) => state.name === "queued") && <WhyGroupWaits id={id} name={group.name} />}
      {task !== null && (
        <p><StateBadge state={stateOfCode(codes[task]!).name} /> <Link to="/d/$id/e/$index" params={{ id, index: String(slice.first + task) }} className="strong">{group.name} {slice.first + task}</Link> {slice.inner.has(task) && <StepInto id={id} level={slice.inner.get(task)!} all={all} />}</p>
      )}
      <ul className="plain">
        {first.map((each) => (
          <li key={each} className="neighbour">
            <StateBadge state={stateOfCode(codes[each]!).name} />
            <Link to="/d/$id/e/$index" params={{ id, index: String(slice.first + each) }}>task {slice.first + each}</Link>
            {slice.inner.has(each) && <StepInto id={id} level={slice.inner.get(each)!} all={all} />}
          </li>
        ))}
      </ul>
      {group.tasks.length > first.length && <p className="soft">{count(first.length)} of {count(group.tasks.length)} shown, failed ones first.</p>}
    </aside>
  );
}

/** Why tasks of an electron are queued: the reasons of the arrays that are to run them. */
function WhyGroupWaits({ id, name }: { id: string; name: string }) {
  const { data } = useQuery(arraysQuery(id));
  const serving = (data?.arrays ?? []).filter((array) => array.state === "submitted" && array.electrons.some((each) => each.name === name && each.queued > 0));
  const looks = useLooks(serving);
  const why = reasons(serving, looks);
  const start = firstStart(serving, looks);
  const bags = [...new Set(serving.map((array) => array.bag))].map((bag) => serving.filter((array) => array.bag === bag));
  const behind = bags.map((arrays) => ({ workers: worked(arrays, looks), tasks: arrays[0]!.electrons.find((each) => each.name === name)!.queued })).filter(({ workers }) => workers.length > 0);
  if (!why.length && !behind.length && !unasked(serving, looks)) return null;
  return (
    <section aria-label="Why it waits">
      <h3>Why it waits</h3>
      {behind.length > 0 && <ul className="plain reasons">{behind.map(({ workers, tasks }) => <li key={workers[0]!.job_id}><span>{count(tasks)} {tasks === 1 ? "waits" : "wait"} for <Workers workers={workers} />.</span></li>)}</ul>}
      {why.length > 0 && <Reasons reasons={why} />}
      <p className="soft"><Unasked arrays={serving} looks={looks} /> <StartSentence start={start} /><Link to="/d/$id" params={{ id }} search={{ view: "jobs" }}>Jobs</Link></p>
    </section>
  );
}

/** The way into a sublattice, with what became of the tasks that it built itself. */
function StepInto({ id, level, all }: { id: string; level: Level; all: Uint8Array }) {
  const own = all.subarray(level.first, level.first + level.tasks);
  const lost = own.reduce((sum, code) => sum + (code === 102 ? 1 : 0), 0);
  return <Link to="/d/$id" params={{ id }} search={{ in: level.id }} className="step-into">Step into {plural(level.tasks, "task")}{lost ? `, ${count(lost)} failed` : ""}</Link>;
}
