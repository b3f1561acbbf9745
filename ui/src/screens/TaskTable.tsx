import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useCallback, useEffect, useMemo, useState } from "react";
import { lettersQuery, tasksQuery, type TaskFilter, type TaskRow, type TaskSort } from "../api/queries";
import { Chips, Fault, Loading, Mark, SearchBox, StateBadge, useNow, When } from "../components/basics";
import { DataTable, HowMany } from "../components/DataTable";
import { between, duration, mebibytes, percent } from "../format";
import { dispatch as route } from "../router";
import { stateOfCode, STATES } from "../states";


export function TaskTable({ id }: { id: string }) {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const filter = useMemo<TaskFilter>(
    () => ({ state: (search.state ?? "").split(",").filter(Boolean), q: search.q ?? "", name: search.name ?? null, sort: search.sort ?? "index", descending: search.down ?? false }),
    [search.state, search.q, search.name, search.sort, search.down],
  );
  const query = useInfiniteQuery(tasksQuery(id, filter));
  const { data: letters } = useQuery(lettersQuery(id));
  const pages = query.data?.pages;
  // States come with the news, in a moment; the other columns follow within a second or two.
  const rows = useMemo(
    () => pages?.flatMap((page) => page.rows).map((row) => {
      const code = letters?.codes[row.index];
      return code === undefined ? row : { ...row, state: stateOfCode(code).name };
    }) ?? [],
    [pages, letters],
  );
  const last = pages?.at(-1);
  const { fetchNextPage, hasNextPage, isFetchingNextPage } = query;
  const more = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const columns = useMemo(() => columnsOf(id), [id]);
  const seek = useCallback((q: string) => void navigate({ search: (old) => ({ ...old, q }), replace: true }), [navigate]);
  const [going, go] = useState<string | null>(null);
  const arrived = going === filter.q && !query.isPending && !query.isPlaceholderData;
  useEffect(() => {
    if (!arrived) return;
    go(null);
    document.querySelector<HTMLElement>("[data-tasks] tbody a")?.focus();
  }, [arrived]);
  return (
    <div data-tasks>
      <div className="toolbar">
        <SearchBox label="Search electron, error, host or job" value={filter.q} onChange={seek} onGo={go} />
        <Chips label="State" chosen={filter.state} options={STATES.map((state) => ({ value: state.name as string, text: <span className="badge"><Mark tone={state.tone} still />{state.word}</span> }))} onChange={(state) => void navigate({ search: (old) => ({ ...old, state: state.join(",") }) })} />
        {filter.name !== null && (
          <button type="button" className="chip" aria-pressed="true" onClick={() => void navigate({ search: ({ name: _, ...old }) => old })}>{filter.name} ✕<span className="visually-hidden"> show all electrons</span></button>
        )}
        {last && <HowMany found={last.found} total={last.total} word="task" />}
      </div>
      {query.error && <Fault error={query.error} retry={() => void query.refetch()} />}
      {query.isPending && <Loading what="tasks" />}
      {last && (rows.length ? (
        <DataTable lean label="Tasks" columns={columns} rows={rows} found={last.found} keyOf={(row) => String(row.index)} more={more} sort={{ column: filter.sort, descending: filter.descending }} onSort={(column, down) => void navigate({ search: (old) => ({ ...old, sort: column as TaskSort, down }) })} rowClass={(row) => `row-${row.state}`} />
      ) : (
        <p className="empty">No task fits. <Link to="/d/$id" params={{ id }} search={{ view: "table" }}>Show all</Link></p>
      ))}
    </div>
  );
}

function Wall({ task }: { task: TaskRow }) {
  const now = useNow();
  // Where there is little room, "3 min" is above "00 s".
  return <>{duration(task.wall_s ?? (task.state === "running" ? between(task.started_at, null, now) : null)).replace(/(\d) (?=[a-z])/g, "$1\u00a0")}</>;
}

function jobOf(task: TaskRow): string {
  return task.job_id === null ? "" : `${task.job_id}${task.array_index === null ? "" : `_${task.array_index}`}`;
}

/** On a small screen, what has no column there. */
function Notes({ task }: { task: TaskRow }) {
  const where = [task.host ?? task.cluster, jobOf(task) && `job ${jobOf(task)}`, task.attempt > 1 && `try ${task.attempt}`].filter(Boolean).join(", ");
  const used = [task.cpu_s !== null && task.wall_s ? `CPU ${percent(task.cpu_s, task.wall_s * task.cores)}` : "", task.max_rss_kib === null ? "" : mebibytes(task.max_rss_kib / 1024)].filter(Boolean).join(", ");
  return (
    <>
      {where && <span className="note-3">{where}</span>}
      {(used || task.started_at) && <span className="note-2">{used}{used && task.started_at ? ", " : ""}{task.started_at && <>began <When time={task.started_at} /></>}</span>}
      {task.error && <span className="narrow-note">{task.error}</span>}
    </>
  );
}

function columnsOf(id: string): ColumnDef<TaskRow>[] {
  return [
    { id: "index", header: "Task", meta: { numeric: true }, cell: ({ row }) => <Link to="/d/$id/e/$index" params={{ id, index: String(row.original.index) }}>{row.original.index}</Link> },
    { id: "name", header: "Electron", cell: ({ row }) => <><Link to="/d/$id/e/$index" params={{ id, index: String(row.original.index) }} className="strong clip" title={row.original.name}>{row.original.name}</Link><Notes task={row.original} /></> },
    { id: "state", header: "State", cell: ({ row }) => <StateBadge state={row.original.state} unknownSince={row.original.unknown_since} /> },
    { id: "wall_s", header: "Time", meta: { numeric: true }, cell: ({ row }) => <Wall task={row.original} /> },
    { id: "cpu_s", header: "CPU", meta: { numeric: true, rank: 2 }, cell: ({ row }) => (row.original.cpu_s !== null && row.original.wall_s ? <span title={duration(row.original.cpu_s)}>{percent(row.original.cpu_s, row.original.wall_s * row.original.cores)}</span> : "") },
    { id: "max_rss_kib", header: "Memory", meta: { numeric: true, rank: 2 }, cell: ({ row }) => mebibytes(row.original.max_rss_kib === null ? null : row.original.max_rss_kib / 1024) },
    { id: "host", header: "Where", meta: { rank: 3 }, cell: ({ row }) => <span className="clip" title={row.original.host ?? ""}>{row.original.host ?? row.original.cluster ?? ""}</span> },
    { id: "job", header: "Job", enableSorting: false, meta: { rank: 3 }, cell: ({ row }) => <span className="id">{jobOf(row.original)}</span> },
    { id: "attempt", header: "Try", meta: { numeric: true, rank: 3 }, cell: ({ row }) => (row.original.attempt > 1 ? row.original.attempt : "") },
    { id: "started_at", header: "Began", meta: { numeric: true, rank: 2 }, cell: ({ row }) => <When time={row.original.started_at} /> },
    { id: "error", header: "What happened", enableSorting: false, meta: { rank: 1 }, cell: ({ row }) => <span className="clip wide" title={row.original.error ?? ""}>{row.original.error ?? ""}</span> },
  ];
}
