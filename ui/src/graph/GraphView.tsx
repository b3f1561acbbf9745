import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useCallback, useEffect, useMemo, useState } from "react";
import { graphQuery, lettersQuery, type Summary } from "../api/queries";
import { CancelButton } from "../components/actions";
import { Chips, Fault, Loading, SearchBox, StateBadge, useLink } from "../components/basics";
import { count, plural } from "../format";
import { dispatch as route, type DispatchSearch } from "../router";
import { FINAL, stateOfCode } from "../states";
import { Canvas } from "./Canvas";
import { palette, Renderer } from "./draw";
import { around, type GraphColumns, type Layout } from "./layout";
import { Tree } from "./Tree";

/** The dispatch as a graph: a box for each electron at each depth, with a cell for each of its tasks, and a tree beside it. */
export default function GraphView({ id, summary }: { id: string; summary: Summary }) {
  const { data: graph, error, refetch } = useQuery(graphQuery(id));
  const { data: letters } = useQuery(lettersQuery(id));
  const layout = useLayout(graph);
  if (error) return <Fault error={error} retry={() => void refetch()} />;
  if (!layout || !letters) return <Loading what="the graph" />;
  if (layout.groups.length === 0) return <p className="empty">This lattice called no electron.</p>;
  return <Graph id={id} summary={summary} layout={layout} codes={letters.codes} />;
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

function Graph({ id, summary, layout, codes }: { id: string; summary: Summary; layout: Layout; codes: Uint8Array }) {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const renderer = useMemo(() => new Renderer(layout, codes, palette()), [layout]); // eslint-disable-line react-hooks/exhaustive-deps
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
  const nextFailed = useCallback((step: 1 | -1) => {
    const all = [...failed];
    const at = selected === null ? -1 : all.indexOf(selected);
    const next = all[(at + step + all.length) % all.length];
    if (next !== undefined) select(next);
  }, [failed, selected, select]);
  return (
    <>
      <div className="toolbar">
        <SearchBox label="Search electrons" value={text} onChange={setText} />
        <Chips label="Lens" chosen={[lens]} options={[{ value: "all", text: "All" }, { value: "failed", text: `Failed ${failed.size ? count(summary.counts.failed ?? 0) : ""}` }]} onChange={(chosen) => change({ lens: chosen.includes("failed") && lens === "all" ? "failed" : "all" })} />
        <p className="soft howmany" role="status">{plural(summary.tasks, "task")} in {plural(layout.groups.length, "group")}{matching ? `, ${count(matching.size)} found` : ""}</p>
      </div>
      <div className={`graph${selected === null ? "" : " with-panel"}`}>
        <Tree layout={layout} renderer={renderer} codes={codes} only={matching} selected={selected} task={task} onSelect={select} onOpen={openTable} />
        <Canvas layout={layout} renderer={renderer} codes={codes} selected={selected} task={task} lit={lit} onSelect={select} onOpen={openTable} onFailed={nextFailed} label={`${summary.name}: ${plural(summary.tasks, "task")} in ${plural(layout.groups.length, "group")}, ${count(summary.counts.failed ?? 0)} failed. The tree beside it has the same.`} />
        {selected !== null && <Panel id={id} summary={summary} layout={layout} renderer={renderer} codes={codes} group={selected} task={task} onClose={() => select(null)} />}
      </div>
    </>
  );
}

const SHOWN = 12;

function Panel({ id, summary, layout, renderer, codes, group: index, task, onClose }: {
  id: string;
  summary: Summary;
  layout: Layout;
  renderer: Renderer;
  codes: Uint8Array;
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
        {summary.status === "RUNNING" && <CancelButton summary={summary} tasks={() => inState((name) => !FINAL.has(name))} running={running} waiting={open.length - running} what={group.name} disabled={offline} />}
      </div>
      {task !== null && (
        <p><StateBadge state={stateOfCode(codes[task]!).name} /> <Link to="/d/$id/e/$index" params={{ id, index: String(task) }} className="strong">{group.name} {task}</Link></p>
      )}
      <ul className="plain">
        {first.map((each) => (
          <li key={each} className="neighbour">
            <StateBadge state={stateOfCode(codes[each]!).name} />
            <Link to="/d/$id/e/$index" params={{ id, index: String(each) }}>task {each}</Link>
          </li>
        ))}
      </ul>
      {group.tasks.length > first.length && <p className="soft">{count(first.length)} of {count(group.tasks.length)} shown, failed ones first.</p>}
    </aside>
  );
}
