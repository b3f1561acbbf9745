import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { timelineQuery, type Timeline } from "../api/insight";
import { Fault, Loading } from "../components/basics";
import { DataTable, HowMany } from "../components/DataTable";
import { absolute, count, duration, plural } from "../format";
import { palette } from "../graph/draw";
import { dispatch as route } from "../router";
import { at, draw, HEAD, ROW, timeOf, type Frame } from "./draw";
import { model as modelOf, moved, zoomed, type Model, type Row, type Span } from "./model";
import "../insight/insight.css";

/** When what ran where: a lane for each worker, and a table of the same. */
export default function TimelineView({ id }: { id: string }) {
  const { data, error, refetch } = useQuery(timelineQuery(id));
  const model = useMemo(() => (data ? modelOf(data) : null), [data]);
  if (error && !data) return <Fault error={error} retry={() => void refetch()} />;
  if (!data || !model) return <Loading what="the timeline" />;
  if (model.rows.length === 0) return <p className="empty">Nothing was submitted yet: a lane comes with each worker.</p>;
  return (
    <>
      <p className="soft timeline-says">
        {plural(data.bars.lane.length, "attempt")} in {plural(data.lanes.length, "worker")}
        {data.unplaced > 0 && `, and ${count(data.unplaced)} of which nobody knows when or where they ran`}. Together they spent {duration(model.sums.tasks)} in tasks, {duration(model.sums.start)} before
        their first one and {duration(model.sums.idle)} between and after them; the longest wait in the queue took {duration(model.sums.waitedMost)}.
      </p>
      <Lanes id={id} timeline={data} model={model} />
      <Legend />
      <Workers model={model} />
    </>
  );
}

function Legend() {
  return (
    <ul className="legend plain" aria-label="What is drawn">
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect x="0.500" y="2.500" width="25" height="7" className="legend-wait" /></svg>in the queue</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><path d="M1 10l4-8m2 8l4-8m2 8l4-8m2 8l4-8" className="legend-start" /></svg>starts</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect width="26" height="12" className="strip-completed" /></svg>✓ a task that returned</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect width="26" height="12" className="strip-failed" /></svg>✕ one that did not</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect width="26" height="12" className="strip-running" /></svg>▶ one that runs</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect x="1" y="1" width="24" height="10" className="legend-cancelled" /></svg>⊘ one that was cancelled</li>
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><rect y="5" width="26" height="2" className="legend-idle" /></svg>idle</li>
    </ul>
  );
}

function Lanes({ id, timeline, model }: { id: string; timeline: Timeline; model: Model }) {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const whole: Span = useMemo(() => ({ from: model.from, to: model.to }), [model]);
  const asked = search.from !== undefined && search.to !== undefined && search.to > search.from ? { from: search.from, to: search.to } : null;
  const span = useRef<Span | null>(asked);
  const scroller = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const due = useRef(0);
  const told = useRef(0);
  const [over, setOver] = useState<{ row: number; bar: number | null } | null>(null);
  const [chosen, setChosen] = useState<{ row: number; bar: number } | null>(null);
  const state = useRef({ chosen });
  state.current = { chosen };

  const frame = useCallback((): Frame | null => {
    const element = canvas.current;
    const around = scroller.current;
    if (!element || !around) return null;
    const width = around.clientWidth;
    return { width, height: around.clientHeight, names: width < 520 ? 84 : 168, scroll: around.scrollTop, span: span.current ?? whole };
  }, [whole]);

  const paint = useCallback(() => {
    if (due.current) return;
    due.current = requestAnimationFrame(() => {
      due.current = 0;
      const now = frame();
      const element = canvas.current;
      if (!now || !element) return;
      const ratio = devicePixelRatio || 1;
      const [w, h] = [Math.round(now.width * ratio), Math.round(now.height * ratio)];
      if (element.width !== w || element.height !== h) {
        [element.width, element.height] = [w, h];
        element.style.width = `${now.width}px`;
        element.style.height = `${now.height}px`;
      }
      draw(element.getContext("2d", { alpha: false })!, ratio, now, model, timeline.bars, timeline.now, palette(), state.current.chosen);
      element.dataset["drawn"] = String(Number(element.dataset["drawn"] ?? 0) + 1);
    });
  }, [frame, model, timeline]);

  useEffect(paint, [paint, chosen]);
  useEffect(() => {
    const observer = new ResizeObserver(paint);
    observer.observe(scroller.current!);
    const theme = new MutationObserver(paint);
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", paint);
    return () => {
      observer.disconnect();
      theme.disconnect();
      dark.removeEventListener("change", paint);
      cancelAnimationFrame(due.current);
      due.current = 0;
      window.clearTimeout(told.current);
    };
  }, [paint]);

  const look = useCallback((next: Span | null) => {
    span.current = next && next.to - next.from < (whole.to - whole.from) * 0.999 ? next : null;
    paint();
    // The address follows when the hand rests.
    window.clearTimeout(told.current);
    told.current = window.setTimeout(() => {
      const seen = span.current;
      void navigate({ search: ({ from: _, to: __, ...old }) => ({ ...old, ...(seen ? { from: round(seen.from), to: round(seen.to) } : {}) }), replace: true });
    }, 250);
  }, [navigate, paint, whole]);

  const zoom = useCallback((factor: number, share = 0.5) => look(zoomed(span.current ?? whole, factor, share, whole)), [look, whole]);
  const pan = useCallback((share: number) => {
    const now = span.current ?? whole;
    look(moved(now, share * (now.to - now.from), whole));
  }, [look, whole]);

  useEffect(() => {
    const element = scroller.current!;
    const wheel = (event: WheelEvent) => {
      const now = frame();
      if (!now || event.offsetX < now.names) return;
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY * 0.01), Math.max(0, (event.offsetX - now.names) / (now.width - now.names)));
      else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / now.width);
      else return;
      event.preventDefault();
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, [frame, zoom, pan]);

  const drag = useRef<{ x: number; y: number; far: boolean } | null>(null);
  const hit = (event: React.PointerEvent) => {
    const now = frame();
    if (!now) return null;
    const box = canvas.current!.getBoundingClientRect();
    return at(now, model, timeline.bars, timeline.now, event.clientX - box.left, event.clientY - box.top);
  };
  const key = (event: React.KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act: Record<string, () => void> = { "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), "-": () => zoom(1.5), "0": () => look(null), ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2) };
    const found = act[event.key];
    if (!found) return;
    event.preventDefault();
    found();
  };
  const shown = over ?? chosen;
  return (
    <div className="timeline">
      <div className="timeline-lanes" ref={scroller} tabIndex={0} role="region" aria-label="Timeline. Arrow keys move in time and among workers, + and − zoom; the table below has the same." onKeyDown={key} onScroll={paint}>
        <canvas
          ref={canvas}
          role="img"
          aria-label={`${plural(timeline.lanes.length, "worker")} from ${absolute(moment(timeline, model.from))} to ${absolute(moment(timeline, model.to))}`}
          onPointerDown={(event) => {
            drag.current = { x: event.clientX, y: event.clientY, far: false };
            event.currentTarget.setPointerCapture(event.pointerId);
          }}
          onPointerMove={(event) => {
            const from = drag.current;
            const now = frame();
            if (!from || !now) {
              const found = hit(event);
              setOver((old) => (old?.row === found?.row && old?.bar === found?.bar ? old : found));
              return;
            }
            const dx = event.clientX - from.x;
            if (!from.far && Math.hypot(dx, event.clientY - from.y) < 4) return;
            scroller.current!.scrollTop -= event.clientY - from.y;
            drag.current = { x: event.clientX, y: event.clientY, far: true };
            pan(-dx / (now.width - now.names));
          }}
          onPointerUp={(event) => {
            const from = drag.current;
            drag.current = null;
            if (!from || from.far) return;
            const found = hit(event);
            setChosen(found && found.bar !== null ? { row: found.row, bar: found.bar } : null);
          }}
          onPointerLeave={() => setOver(null)}
          onDoubleClick={(event) => {
            const now = frame();
            if (now) zoom(0.5, Math.max(0, (timeOf(now, event.nativeEvent.offsetX) - now.span.from) / (now.span.to - now.span.from)));
          }}
        />
        <div className="timeline-room" ref={(element) => { if (element) element.style.height = `${HEAD + model.rows.length * ROW + 8}px`; }} />
      </div>
      <div className="timeline-tools">
        <p className="timeline-told" role="status">{shown ? <Told id={id} timeline={timeline} row={model.rows[shown.row]} bar={shown.bar} /> : <span className="soft">Point at a bar to read it, press it to keep it.</span>}</p>
        <button type="button" className="button small" aria-label="Larger" onClick={() => zoom(1 / 1.5)}>+</button>
        <button type="button" className="button small" aria-label="Smaller" onClick={() => zoom(1.5)}>−</button>
        <button type="button" className="button small" aria-label="Earlier" onClick={() => pan(-0.3)}>←</button>
        <button type="button" className="button small" aria-label="Later" onClick={() => pan(0.3)}>→</button>
        <button type="button" className="button small" onClick={() => look(null)}>All</button>
      </div>
    </div>
  );
}

function Told({ id, timeline, row, bar }: { id: string; timeline: Timeline; row: Row | undefined; bar: number | null }) {
  if (!row) return null;
  const { bars } = timeline;
  if (bar === null || bars.task[bar] === undefined) {
    return <><span className="id">{row.name}</span>{row.host ? ` on ${row.host}` : ""}{row.waited !== null ? `, waited ${duration(row.waited)}` : ""}{row.lane !== null ? `, ${plural(row.bars.length, "attempt")}` : ""}{row.cause ? ` (${row.cause})` : ""}</>;
  }
  const how = { c: "took", f: "did not return, after", x: "was cancelled after", r: "runs for" }[bars.end[bar]!] ?? "took";
  return (
    <>
      <Link to="/d/$id/e/$index" params={{ id, index: String(bars.task[bar]) }}>{timeline.names[bars.name[bar]!]} {bars.task[bar]}</Link>
      {bars.attempt[bar]! > 1 ? `, attempt ${bars.attempt[bar]}` : ""} {how} {duration((bars.to[bar] ?? timeline.now) - bars.from[bar]!)}, from {absolute(moment(timeline, bars.from[bar]!))} <span className="soft id">{row.name}</span>
    </>
  );
}

const COLUMNS: ColumnDef<Row>[] = [
  { id: "name", header: "Array task", cell: ({ row: { original: row } }) => <span className="id">{row.lost ? "✕ " : ""}{row.name}</span> },
  { id: "host", header: "Host", meta: { rank: 2 }, cell: ({ row: { original: row } }) => row.host ?? "" },
  { id: "waited", header: "In the queue", meta: { numeric: true }, cell: ({ row: { original: row } }) => duration(row.waited) },
  { id: "start", header: "Start", meta: { numeric: true, rank: 1 }, cell: ({ row: { original: row } }) => duration(row.start) },
  { id: "count", header: "Attempts", meta: { numeric: true }, cell: ({ row: { original: row } }) => (row.lane === null ? "" : `${count(row.bars.length)}${row.lost ? `, ${count(row.lost)} lost` : ""}`) },
  { id: "tasks", header: "In tasks", meta: { numeric: true }, cell: ({ row: { original: row } }) => (row.lane === null ? "" : duration(row.tasks)) },
  { id: "idle", header: "Idle", meta: { numeric: true, rank: 1 }, cell: ({ row: { original: row } }) => (row.lane === null ? "" : duration(row.idle)) },
  { id: "cause", header: "End", meta: { rank: 2 }, cell: ({ row: { original: row } }) => (row.live ? (row.lane === null ? (row.cause ?? "waits") : "lives") : (row.cause ?? "")) },
];

/** The lanes as a table: sorted by what one asks, and read out by those who don't see the drawing. */
function Workers({ model }: { model: Model }) {
  const [sort, setSort] = useState({ column: "", descending: false });
  const rows = useMemo(() => {
    const value = (row: Row): number | string | null => {
      const found: Record<string, number | string | null> = { name: row.name, host: row.host, waited: row.waited, start: row.start, count: row.bars.length, tasks: row.tasks, idle: row.idle, cause: row.cause };
      return found[sort.column] ?? null;
    };
    if (!sort.column) return [...model.rows];
    return [...model.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === b) return 0;
      if (a === null) return 1;
      if (b === null) return -1;
      return (a < b ? -1 : 1) * (sort.descending ? -1 : 1);
    });
  }, [model, sort]);
  return (
    <section className="timeline-table">
      <div className="title-line"><h2>Workers</h2><HowMany found={rows.length} total={rows.length} word="lane" /></div>
      <DataTable label="Workers" columns={COLUMNS} rows={rows} found={rows.length} keyOf={(row) => `${row.lane ?? "w"} ${row.array}`} sort={sort} onSort={(column, descending) => setSort({ column, descending })} rowClass={(row) => (row.lost ? "row-failed" : "")} />
    </section>
  );
}

function moment(timeline: Timeline, seconds: number): string {
  return new Date(Date.parse(timeline.base) + 1000 * seconds).toISOString();
}

function round(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}
