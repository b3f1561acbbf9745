import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useCallback, useEffect, useMemo, useState } from "react";
import { graphQuery, lettersQuery, type Summary } from "../api/queries";
import { CancelButton } from "../components/actions";
import { RetryTasks } from "../components/again";
import { Chips, Fault, Loading, SearchBox, StateBadge, useLink } from "../components/basics";
import { count, plural } from "../format";
import { dispatch as route, type DispatchSearch } from "../router";
import { FINAL, stateOfCode } from "../states";
import { Canvas } from "./Canvas";
import { palette, Renderer } from "./draw";
import { around, sliceOf, type GraphColumns, type Layout, type Level, type Slice } from "./layout";
import { Tree } from "./Tree";

/** The dispatch as a graph: a box for each electron at each depth, with a cell for each of its tasks, and a tree beside it. */
export default function GraphView({ id, summary }: { id: string; summary: Summary }) {
  const { data: graph, error, refetch } = useQuery(graphQuery(id));
  const { data: letters } = useQuery(lettersQuery(id));
  const { in: inside } = route.useSearch();
  const slice = useMemo(() => (graph ? sliceOf(graph, inside) : null), [graph, inside]);
  const layout = useLayout(slice?.columns);
  if (error) return <Fault error={error} retry={() => void refetch()} />;
  if (!layout || !letters || !slice || layout.groupOf.length !== slice.columns.tasks) return <Loading what="the graph" />;
  if (layout.groups.length === 0) return <p className="empty">This lattice called no electron.</p>;
  return (
    <>
      <Crumbs id={id} summary={summary} slice={slice} />
      <Graph key={slice.level?.id ?? ""} id={id} summary={summary} layout={layout} all={letters.codes} slice={slice} levels={graph?.levels ?? []} />
    </>
  );
}

/** Lays a graph out in a worker: the page goes on meanwhile. */
function useLayout(graph: GraphColumns | undefined): Layout | null {
  const [layout, setLayout] = useState<Layout | null>(null);
  useEffect(() => {
    if (!graph) return;
    const worker = new Worker(new URL("./layout.worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = (message: MessageEvent<Layout>) => setLayout(message.data);
    worker.postMessage(graph);
    return () => worker.terminate();
  }, [graph]);
  return layout;
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

function Graph({ id, summary, layout, all, slice, levels }: { id: string; summary: Summary; layout: Layout; all: Uint8Array; slice: Slice; levels: readonly Level[] }) {
  const { first, inner } = slice;
  const codes = useMemo(() => (slice.columns.tasks === all.length ? all : all.slice(first, first + slice.columns.tasks)), [all, first, slice]);
  const deep = useMemo(() => new Set([...inner.keys()].map((task) => layout.groupOf[task]!)), [inner, layout]);
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const renderer = useMemo(() => new Renderer(layout, codes, palette(), deep), [layout, deep]); // eslint-disable-line react-hooks/exhaustive-deps
  const [text, setText] = useState("");
  useMemo(() => renderer.update(codes), [renderer, codes]);
  const change = useCallback((next: DispatchSearch) => void navigate({ search: (old) => ({ ...old, ...next }), replace: true }), [navigate]);
  const select = useCallback((group: number | null, task: number | null = null) => {
    void navigate({ search: ({ group: _, sel: __, ...old }) => ({ ...old, ...(group === null ? {} : { group }), ...(task === null ? {} : { sel: task }) }), replace: true });
  }, [navigate]);
  const openTable = useCallback((group: number) => {
    void navigate({ search: (old) => ({ ...old, view: "table", name: layout.groups[group]!.name }) });
  }, [navigate, layout]);
  const failed = useMemo(() => new Set(layout.groups.flatMap((_, index) => (renderer.has(index, "failed") ? [index] : []))), [layout, renderer, codes]); // eslint-disable-line react-hooks/exhaustive-deps
  const matching = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return null;
    return new Set(layout.groups.flatMap((group, index) => (group.name.toLowerCase().includes(wanted) ? [index] : [])));
  }, [layout, text]);
  const lens = search.lens ?? "all";
  const lit = useMemo(() => matching ?? (lens === "failed" ? around(layout, failed) : null), [matching, lens, layout, failed]);
  const selected = search.group !== undefined && layout.groups[search.group] ? search.group : null;
  const task = search.sel !== undefined && layout.groupOf[search.sel] === selected ? search.sel : null;
  const step = useCallback((way: "in" | "out", wanted?: number) => {
    const out = slice.around.at(-1)?.id;
    const group = selected === null ? [...inner.keys()] : [...layout.groups[selected]!.tasks].filter((each) => inner.has(each));
    const into = inner.get(wanted ?? task ?? -1) ?? inner.get(group.find((each) => codes[each] === 102) ?? group[0] ?? -1);
    if (way === "in" ? !into : !slice.level) return;
    void navigate({ search: way === "in" ? { in: into!.id } : out === undefined ? {} : { in: out } });
  }, [slice, inner, layout, selected, task, codes, navigate]);
  const nextFailed = useCallback((step: 1 | -1) => {
    const all = [...failed];
    const at = selected === null ? -1 : all.indexOf(selected);
    const next = all[(at + step + all.length) % all.length];
    if (next !== undefined) select(next);
  }, [failed, selected, select]);
  const lost = useMemo(() => codes.reduce((sum, code) => sum + (code === 102 ? 1 : 0), 0), [codes]);
  // What lies deeper is told as well: nothing that is drawn is taken for all there is.
  const below = levels.filter((each) => !slice.level || within(levels, each, slice.level));
  const deeper = below.reduce((sum, each) => sum + each.tasks, 0);
  const says = `${plural(codes.length, "task")} in ${plural(layout.groups.length, "group")}${below.length ? `, and ${plural(deeper, "task")} in ${plural(below.length, "sublattice")}` : ""}`;
  return (
    <>
      <div className="toolbar">
        <SearchBox label="Search electrons" value={text} onChange={setText} />
        <Chips label="Lens" chosen={[lens]} options={[{ value: "all", text: "All" }, { value: "failed", text: `Failed ${failed.size ? count(lost) : ""}` }]} onChange={(chosen) => change({ lens: chosen.includes("failed") && lens === "all" ? "failed" : "all" })} />
        <p className="soft howmany" role="status">{says}{matching ? `, ${count(matching.size)} found` : ""}</p>
      </div>
      <div className={`graph${selected === null ? "" : " with-panel"}`}>
        <Tree layout={layout} renderer={renderer} codes={codes} only={matching} selected={selected} task={task} onSelect={select} onOpen={openTable} onStep={step} first={first} inner={inner} />
        <Canvas layout={layout} renderer={renderer} codes={codes} selected={selected} task={task} lit={lit} onSelect={select} onOpen={openTable} onFailed={nextFailed} onStep={step} label={`${slice.level?.name ?? summary.name}: ${says}, ${count(lost)} failed. The tree beside it has the same.`} />
        {selected !== null && <Panel id={id} summary={summary} layout={layout} renderer={renderer} codes={codes} all={all} slice={slice} group={selected} task={task} onClose={() => select(null)} />}
      </div>
    </>
  );
}

/** Whether a sublattice lies in another one, however deep. */
function within(levels: readonly Level[], one: Level, other: Level): boolean {
  for (let at: Level | undefined = one; at; ) {
    const task: number = at.task;
    at = levels.find((each) => task >= each.first && task < each.first + each.tasks);
    if (at?.id === other.id) return true;
  }
  return false;
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
  const inState = (wanted: (name: string) => boolean) => [...group.tasks].filter((each) => wanted(stateOfCode(codes[each]!).name));
  const open = inState((name) => !FINAL.has(name));
  const running = open.filter((each) => stateOfCode(codes[each]!).name === "running").length;
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
        {summary.status === "RUNNING" && <CancelButton summary={summary} tasks={() => inState((name) => !FINAL.has(name))} running={running} waiting={open.length - running} what={group.name} disabled={offline} />}
        <RetryTasks id={id} tasks={inState((name) => name === "failed")} what={group.name} disabled={offline} />
      </div>
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

/** The way into a sublattice, with what became of the tasks that it built itself. */
function StepInto({ id, level, all }: { id: string; level: Level; all: Uint8Array }) {
  const own = all.subarray(level.first, level.first + level.tasks);
  const lost = own.reduce((sum, code) => sum + (code === 102 ? 1 : 0), 0);
  return <Link to="/d/$id" params={{ id }} search={{ in: level.id }} className="step-into">Step into {plural(level.tasks, "task")}{lost ? `, ${count(lost)} failed` : ""}</Link>;
}
