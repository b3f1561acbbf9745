import { useMemo, useRef, useState } from "react";
import { Mark } from "../components/basics";
import { count } from "../format";
import { stateOfCode } from "../states";
import type { Renderer } from "./draw";
import type { Layout } from "./layout";

interface Props {
  readonly layout: Layout;
  readonly renderer: Renderer;
  readonly codes: Uint8Array;
  readonly only: ReadonlySet<number> | null;
  readonly selected: number | null;
  readonly task: number | null;
  readonly onSelect: (group: number | null, task?: number | null) => void;
  readonly onOpen: (group: number) => void;
  readonly onStep: (way: "in" | "out", task?: number) => void;
  /** Of the first task, in the whole dispatch; and the tasks here that are sublattices. */
  readonly first: number;
  readonly inner: ReadonlyMap<number, unknown>;
}

/** More of them would be no tree to read; the table has all. */
const GROUPS = 400;
const TASKS = 50;

type Item = { readonly key: string; readonly group: number; readonly task: number | null };

/** The graph for those who read or tab through it: the same groups, tasks and selection as the drawing. */
export function Tree({ layout, renderer, codes, only, selected, task, onSelect, onOpen, onStep, first, inner }: Props) {
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  const [at, setAt] = useState("");
  const list = useRef<HTMLUListElement>(null);
  const groups = useMemo(() => {
    const all = layout.groups.map((_, index) => index).filter((index) => !only || only.has(index));
    return all.sort((one, other) => layout.groups[one]!.depth - layout.groups[other]!.depth || layout.groups[one]!.y - layout.groups[other]!.y);
  }, [layout, only]);
  const shown = groups.slice(0, GROUPS);
  const items: Item[] = shown.flatMap((group) => [
    { key: `g${group}`, group, task: null },
    ...(open.has(group) ? firstTasks(layout, codes, group).map((each) => ({ key: `t${each}`, group, task: each })) : []),
  ]);
  const current = items.some((item) => item.key === at) ? at : (items[0]?.key ?? "");
  const toggle = (group: number, wanted: boolean) => setOpen((old) => {
    const next = new Set(old);
    if (wanted) next.add(group);
    else next.delete(group);
    return next;
  });
  const go = (key: string | undefined) => {
    if (key === undefined) return;
    setAt(key);
    list.current?.querySelector<HTMLElement>(`[data-key="${key}"]`)?.focus();
  };
  const press = (event: React.KeyboardEvent, item: Item) => {
    const position = items.findIndex((each) => each.key === item.key);
    const act: Record<string, () => void> = {
      ArrowDown: () => go(items[position + 1]?.key),
      ArrowUp: () => go(items[position - 1]?.key),
      Home: () => go(items[0]?.key),
      End: () => go(items.at(-1)?.key),
      ArrowRight: () => (item.task === null && !open.has(item.group) ? toggle(item.group, true) : go(items[position + 1]?.key)),
      ArrowLeft: () => (item.task !== null ? go(`g${item.group}`) : toggle(item.group, false)),
      Enter: () => onSelect(item.group, item.task),
      " ": () => onSelect(item.group, item.task),
      t: () => onOpen(item.group),
      s: () => onStep("in", item.task ?? layout.groups[item.group]!.tasks.find((each) => inner.has(each))),
      u: () => onStep("out"),
    };
    const found = act[event.key];
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    found();
  };
  return (
    <div className="tree-side">
      <ul className="tree" role="tree" aria-label="Groups of tasks" ref={list}>
        {items.map((item) => {
          const common = { "data-key": item.key, tabIndex: current === item.key ? 0 : -1, onFocus: () => setAt(item.key), onKeyDown: (event: React.KeyboardEvent) => press(event, item) };
          if (item.task !== null) {
            const each = item.task;
            const state = stateOfCode(codes[each]!);
            return (
              <li key={item.key} role="treeitem" aria-level={2} aria-selected={task === each} {...common}>
                <div className="tree-row tree-child" data-selected={task === each} onClick={() => onSelect(item.group, each)}>
                  <Mark tone={state.tone} still /> task {first + each}{inner.has(each) ? " ⤵" : ""}<span className="visually-hidden"> {state.word}</span>
                </div>
              </li>
            );
          }
          const index = item.group;
          const group = layout.groups[index]!;
          const expanded = open.has(index);
          return (
            <li key={item.key} role="treeitem" aria-level={1} aria-expanded={expanded} aria-selected={selected === index} {...common}>
              <div className="tree-row" data-selected={selected === index && task === null} onClick={() => { setAt(item.key); onSelect(index); }}>
                <span className="twist" aria-hidden="true" onClick={(event) => { event.stopPropagation(); toggle(index, !expanded); }}>{expanded ? "▾" : "▸"}</span>
                <span className="clip" title={group.name}>{group.name}</span>
                {renderer.signs(index).map(({ tone, words, count: many }, k) => (
                  <span key={tone} className={k < 2 ? "badge" : "visually-hidden"}>
                    <Mark tone={tone} still />
                    {count(many)}
                    <span className="visually-hidden"> {words}</span>
                  </span>
                ))}
              </div>
            </li>
          );
        })}
      </ul>
      {groups.length > shown.length && <p className="soft tree-child">{count(shown.length)} of {count(groups.length)} groups shown: search for others.</p>}
    </div>
  );
}

/** The first tasks of a group, those that failed before the others. */
function firstTasks(layout: Layout, codes: Uint8Array, group: number): number[] {
  const tasks = [...layout.groups[group]!.tasks];
  return [...tasks.filter((task) => codes[task] === 102), ...tasks.filter((task) => codes[task] !== 102)].slice(0, TASKS);
}
