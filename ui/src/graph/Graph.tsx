import { useCallback, useEffect, useMemo, useState, type ReactNode } from "react";
import { Chips, SearchBox } from "../components/basics";
import { count, plural } from "../format";
import { DRAWN, INDEX_OF_CODE } from "../states";
import { Canvas } from "./Canvas";
import { palette, Renderer } from "./draw";
import { taskOf, type GraphColumns, type Layout, type Level, type Slice } from "./layout";
import { BRIGHT, FAINT, failedLens, ofGroups } from "./lens";
import { Legend } from "./Legend";
import { Tree } from "./Tree";

/** What is seen of a graph, as the address has it. */
export interface GraphSearch {
  readonly group?: number;
  readonly sel?: number;
  readonly lens?: "all" | "failed";
}

/** What the drawing asks of the screen that it is on. */
export interface GraphActs {
  readonly select: (group: number | null, task?: number | null) => void;
  readonly openTable: (electron: string) => void;
  /** Not given where nothing can have failed. */
  readonly setLens?: (lens: "all" | "failed") => void;
  /** Into a sublattice; null: out to the lattice itself. */
  readonly enter: (level: string | null) => void;
}

/** The group that is selected, for the panel that tells of it. */
export interface Selected {
  readonly renderer: Renderer;
  readonly codes: Uint8Array;
  readonly group: number;
  readonly task: number | null;
}

interface Props {
  readonly name: string;
  readonly layout: Layout;
  /** The states of all tasks, those in sublattices as well. */
  readonly all: Uint8Array;
  readonly slice: Slice;
  readonly levels: readonly Level[];
  readonly search: GraphSearch;
  readonly acts: GraphActs;
  readonly children: (selected: Selected) => ReactNode;
}

/** Lays a graph out in a worker: the page goes on meanwhile. */
export function useLayout(graph: GraphColumns | undefined): Layout | null {
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

/** A graph: a box for each electron at each depth, with a cell for each of its tasks, and a tree beside it. */
export function Graph({ name, layout, all, slice, levels, search, acts, children }: Props) {
  const { first, inner } = slice;
  const codes = useMemo(() => (slice.columns.tasks === all.length ? all : all.slice(first, first + slice.columns.tasks)), [all, first, slice]);
  const deep = useMemo(() => new Set([...inner.keys()].map((task) => layout.groupOf[task]!)), [inner, layout]);
  const { select, setLens } = acts;
  const renderer = useMemo(() => new Renderer(layout, codes, palette(), deep), [layout, deep]); // eslint-disable-line react-hooks/exhaustive-deps
  const [text, setText] = useState("");
  useMemo(() => renderer.update(codes), [renderer, codes]);
  const openTable = useCallback((group: number) => acts.openTable(layout.groups[group]!.name), [acts, layout]);
  const failed = useMemo(() => new Set(layout.groups.flatMap((_, index) => (renderer.has(index, "failed") ? [index] : []))), [layout, renderer, codes]); // eslint-disable-line react-hooks/exhaustive-deps
  const one = useMemo(() => taskOf(text, layout, first), [text, layout, first]);
  const matching = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return null;
    return new Set(layout.groups.flatMap((group, index) => (group.name.toLowerCase().includes(wanted) || (one !== null && layout.groupOf[one] === index) ? [index] : [])));
  }, [layout, text, one]);
  const lens = search.lens ?? "all";
  const seen = useMemo(() => {
    const tasks = lens === "failed" ? failedLens(slice.columns, codes) : null;
    renderer.look(tasks);
    const groups = tasks && ofGroups(layout.groupOf, layout.groups.length, tasks);
    return matching ? Uint8Array.from(layout.groups, (_, group) => (matching.has(group) ? (groups?.[group] ?? BRIGHT) : FAINT)) : groups;
  }, [matching, lens, layout, slice, codes, renderer]);
  // What failed is looked for first, then what runs.
  const matters = useMemo(() => [...failed][0] ?? Math.max(0, layout.groups.findIndex((_, group) => renderer.has(group, "running"))), [failed, layout, renderer]);
  const selected = search.group !== undefined && layout.groups[search.group] ? search.group : null;
  const task = search.sel !== undefined && layout.groupOf[search.sel] === selected ? search.sel : null;
  const step = useCallback((way: "in" | "out", wanted?: number) => {
    const out = slice.around.at(-1)?.id;
    const group = selected === null ? [...inner.keys()] : [...layout.groups[selected]!.tasks].filter((each) => inner.has(each));
    const into = inner.get(wanted ?? task ?? -1) ?? inner.get(group.find((each) => codes[each] === 102) ?? group[0] ?? -1);
    if (way === "in" ? !into : !slice.level) return;
    acts.enter(way === "in" ? into!.id : (out ?? null));
  }, [slice, inner, layout, selected, task, codes, acts]);
  const nextFailed = useCallback((step: 1 | -1) => {
    const all = [...failed];
    const at = selected === null ? -1 : all.indexOf(selected);
    const next = all[(at + step + all.length) % all.length];
    if (next !== undefined) select(next);
  }, [failed, selected, select]);
  const present = useMemo(() => {
    const found = new Uint8Array(256);
    codes.forEach((code) => (found[INDEX_OF_CODE[code]!] = 1));
    return found;
  }, [codes]);
  const lost = useMemo(() => codes.reduce((sum, code) => sum + (code === 102 ? 1 : 0), 0), [codes]);
  // What lies deeper is told as well: nothing that is drawn is taken for all there is.
  const below = levels.filter((each) => !slice.level || within(levels, each, slice.level));
  const deeper = below.reduce((sum, each) => sum + each.tasks, 0);
  const says = `${plural(codes.length, "task")} in ${plural(layout.groups.length, "group")}${below.length ? `, and ${plural(deeper, "task")} in ${plural(below.length, "sublattice")}` : ""}`;
  return (
    <>
      <div className="toolbar">
        <SearchBox label="Search electrons, or a task’s number" value={text} onChange={setText} onGo={(typed) => { const task = taskOf(typed, layout, first); if (task !== null) select(layout.groupOf[task]!, task); }} />
        {setLens && <Chips label="Lens" chosen={[lens]} options={[{ value: "all", text: "All" }, { value: "failed", text: `Failed ${failed.size ? count(lost) : ""}` }]} onChange={(chosen) => setLens(chosen.includes("failed") && lens === "all" ? "failed" : "all")} />}
        <p className="soft howmany" role="status">{says}{matching ? `, ${count(matching.size)} found` : ""}</p>
        {one !== null && <button type="button" className="button small" onClick={() => select(layout.groupOf[one]!, one)}>Show {layout.groups[layout.groupOf[one]!]!.name} {first + one}</button>}
      </div>
      <Legend states={DRAWN.filter((_, k) => present[k])} lens={lens} deep={deep.size > 0} numbers={layout.edges.some((edge) => edge.count > 1)} />
      <div className={`graph${selected === null ? "" : " with-panel"}`}>
        <Tree layout={layout} renderer={renderer} codes={codes} only={matching} selected={selected} task={task} onSelect={select} onOpen={openTable} onStep={step} first={first} inner={inner} />
        <Canvas layout={layout} renderer={renderer} codes={codes} selected={selected} task={task} seen={seen} matters={matters} onSelect={select} onOpen={openTable} onFailed={nextFailed} onStep={step} label={`${slice.level?.name ?? name}: ${says}${setLens ? `, ${count(lost)} failed` : ""}. The tree beside it has the same.`} />
        {selected !== null && children({ renderer, codes, group: selected, task })}
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
