import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useCallback, useMemo, useState } from "react";
import { dispatchesQuery, type DispatchFilter, type Summary } from "../api/queries";
import { Chips, Fault, Loading, Mark, SearchBox, StatusBadge, Strip, Title, useLink, useNow, When } from "../components/basics";
import { Bulk } from "../components/bulk";
import { DataTable, HowMany } from "../components/DataTable";
import { between, count, duration } from "../format";
import { dispatches as route } from "../router";
import { ended, STATUS_TONE, type StatusName } from "../states";
import { FirstDispatch } from "./FirstDispatch";

const STATUSES = Object.keys(STATUS_TONE) as StatusName[];

export function Dispatches() {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const filter = useMemo<DispatchFilter>(
    () => ({ status: (search.status ?? "").split(",").filter(Boolean) as StatusName[], q: search.q ?? "", sort: search.sort ?? "created_at", ascending: search.up ?? false }),
    [search],
  );
  const query = useInfiniteQuery(dispatchesQuery(filter));
  const rows = useMemo(() => query.data?.pages.flatMap((page) => page.dispatches) ?? [], [query.data]);
  const last = query.data?.pages.at(-1);
  const { fetchNextPage, hasNextPage, isFetchingNextPage } = query;
  const more = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const seek = useCallback((q: string) => void navigate({ search: (old) => ({ ...old, q }), replace: true }), [navigate]);
  const [chosen, choose] = useState<ReadonlySet<string>>(new Set());
  const offline = useLink() !== "ok";
  const columns = useMemo(() => [chooser(chosen, choose, rows), ...COLUMNS], [chosen, rows]);
  const none = last !== undefined && last.total === 0;
  return (
    <section className="screen screen-dispatches">
      <Title text="Dispatches" />
      {none ? (
        <FirstDispatch />
      ) : (
        <>
          <div className="toolbar">
            <SearchBox label="Search names and ids" value={filter.q} onChange={seek} />
            <Chips label="Status" chosen={filter.status} options={STATUSES.map((status) => ({ value: status, text: status === "RUNNING" ? <span className="badge" title="Running, or waiting to run"><Mark tone="running" still />live</span> : <StatusBadge status={status} /> }))} onChange={(status) => void navigate({ search: (old) => ({ ...old, status: status.join(",") }) })} />
            {last && <HowMany found={last.found} total={last.total} word="dispatch" words="dispatches" />}
          </div>
          <Bulk chosen={rows.filter((row) => chosen.has(row.id))} disabled={offline} onDone={() => choose(new Set())} />
          {query.error && <Fault error={query.error} retry={() => void query.refetch()} />}
          {query.isPending && <Loading what="dispatches" />}
          {last && (rows.length ? (
            <DataTable lean label="Dispatches" columns={columns} rows={rows} found={last.found} keyOf={(row) => row.id} more={more} sort={{ column: filter.sort, descending: !filter.ascending }} onSort={(column, descending) => void navigate({ search: (old) => ({ ...old, sort: column as DispatchFilter["sort"], up: !descending }) })} />
          ) : (
            <p className="empty">No dispatch fits. <Link to="/dispatches" search={{}}>Show all {count(last.total)}</Link></p>
          ))}
        </>
      )}
    </section>
  );
}

/** Before the sum, so that sums stand in a line. */
function Lost({ counts }: { counts: Summary["counts"] }) {
  return <>{(["skipped", "cancelled", "failed"] as const).map((state) => (counts[state] ? <span key={state} className={state === "failed" ? "nowrap ink-failed" : "nowrap soft"}>{count(counts[state])} {state}</span> : null))}</>;
}

function Took({ summary }: { summary: Summary }) {
  const now = useNow();
  return <>{duration(between(summary.started_at, summary.ended_at, now))}</>;
}

function chooser(chosen: ReadonlySet<string>, choose: (chosen: ReadonlySet<string>) => void, rows: readonly Summary[]): ColumnDef<Summary> {
  const all = rows.length > 0 && rows.every((row) => chosen.has(row.id));
  const turn = (id: string) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    choose(next);
  };
  return {
    id: "chosen",
    enableSorting: false,
    header: () => <label className="tick"><input type="checkbox" checked={all} aria-label="Choose all that are shown" onChange={() => choose(all ? new Set() : new Set(rows.map((row) => row.id)))} /></label>,
    cell: ({ row }) => <label className="tick"><input type="checkbox" checked={chosen.has(row.original.id)} aria-label={`Choose ${row.original.name || "(no name)"} ${row.original.id}`} onChange={() => turn(row.original.id)} /></label>,
  };
}

const COLUMNS: ColumnDef<Summary>[] = [
  { id: "name", header: "Lattice", cell: ({ row }) => <Link to="/d/$id" params={{ id: row.original.id }} className="strong clip" title={row.original.name}>{row.original.name || "(no name)"}</Link> },
  // Dispatches of one lattice are told apart by it; it is what commands and the search take.
  { id: "id", header: "Id", enableSorting: false, meta: { rank: 3 }, cell: ({ row }) => <span className="id soft">{row.original.id}</span> },
  { id: "status", header: "Status", cell: ({ row }) => <StatusBadge status={row.original.status} paused={row.original.paused} template={row.original.template} counts={row.original.counts} /> },
  { id: "progress", header: "Progress", enableSorting: false, meta: { rank: 2 }, cell: ({ row }) => <Strip counts={row.original.counts} total={row.original.tasks} label={row.original.name} /> },
  { id: "n_tasks", header: "Tasks", meta: { numeric: true }, cell: ({ row }) => <span className="tally"><Lost counts={row.original.counts} /><span className="nowrap">{count(ended(row.original.counts))} / {count(row.original.tasks)}</span></span> },
  { id: "took", header: "Took", enableSorting: false, meta: { numeric: true, rank: 2 }, cell: ({ row }) => <Took summary={row.original} /> },
  { id: "created_at", header: "Created", meta: { rank: 1, numeric: true }, cell: ({ row }) => <When time={row.original.created_at} /> },
];
