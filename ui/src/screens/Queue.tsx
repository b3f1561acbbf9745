import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useCallback, useMemo } from "react";
import type { Schemas } from "../api/client";
import { clustersQuery } from "../api/queries";
import { Chips, Fault, Loading, Mark, Notice, SearchBox, Title, useNow, When, Words } from "../components/basics";
import { DataTable, HowMany } from "../components/DataTable";
import { absolute, ago, count, duration, limit, plural } from "../format";
import { queue as route } from "../router";
import { queueQuery, Starts } from "./queued";
import { codeOf } from "./waiting";

type Job = Schemas["QueuedJobAnswer"];
type Partition = Schemas["QueuePartitionAnswer"];

/** Three looks without an answer. */
const STALE = 3;

/** A cluster's queue beside the workflow: what is ours, why it waits, and when it is to start, with who says so. */
export function Queue() {
  const { cluster } = route.useParams();
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const mine = search.mine ?? true;
  const { data, error, refetch } = useQuery(queueQuery(cluster, mine));
  const { data: clusters } = useQuery(clustersQuery);
  const now = useNow();
  const seek = useCallback((q: string) => void navigate({ search: (old) => ({ ...old, q }), replace: true }), [navigate]);
  const states = useMemo(() => (search.state ?? "").split(",").filter(Boolean) as Job["state"][], [search.state]);
  const wanted = (search.q ?? "").toLowerCase();
  const rows = useMemo(() => {
    const fits = (job: Job) =>
      (!states.length || states.includes(job.state)) &&
      (!search.partition || job.partition.split(",").includes(search.partition)) &&
      (!wanted || [job.job_id, job.name, job.user, job.account, job.reason, job.why, job.hosts].some((text) => text?.toLowerCase().includes(wanted)));
    return (data?.jobs ?? []).filter(fits).map((job, order) => ({ ...job, order })).sort(sorter(search.sort ?? "order", search.down ?? false));
  }, [data, states, search.partition, search.sort, search.down, wanted]);
  const scheduler = data?.scheduler ?? "";
  const whole = !data?.problems.length;
  const columns = useMemo(() => columnsOf(scheduler, whole), [scheduler, whole]);
  const age = data?.asked_at ? (now - Date.parse(data.asked_at)) / 1_000 : null;
  const stale = data && age !== null && age > STALE * Math.max(data.poll_s, 5);
  return (
    <section className="screen">
      <div className="title-line">
        <Title text={`Queue of ${cluster}`}>Queue</Title>
        <nav className="chips" aria-label="Clusters">
          {clusters?.clusters.map((each) => (
            <Link key={each.name} to="/queue/$cluster" params={{ cluster: each.name }} className="chip chip-link" aria-current={each.name === cluster ? "page" : undefined}>{each.name}</Link>
          ))}
        </nav>
        {data?.asked_at && (
          <span className={stale ? "stale" : "soft"} title={absolute(data.asked_at)}>
            {stale ? "stale: " : ""}asked {ago(data.asked_at, Math.max(now, Date.parse(data.asked_at)))}, every {limit(data.poll_s)} at most
          </span>
        )}
      </div>
      {error && <Fault error={error} retry={() => void refetch()} />}
      {!data && !error && <Loading what="the queue" />}
      {data?.problem && <Notice tone="warn" title={`${cluster} does not answer.`}><Words text={data.problem} /> {data.asked_at ? <>This is what it said <When time={data.asked_at} />; what became of it since then is unknown.</> : "Nothing is known of its queue yet."}</Notice>}
      {data?.problems.map((problem) => <Notice key={problem} tone="warn"><Words text={problem} /></Notice>)}
      {data && data.partitions.length > 0 && <Partitions partitions={data.partitions} chosen={search.partition ?? null} onChoose={(partition) => void navigate({ search: ({ partition: _, ...old }) => ({ ...old, ...(partition === null ? {} : { partition }) }) })} />}
      {data && (
        <div className="toolbar">
          <SearchBox label="Search job, name, user, account or reason" value={search.q ?? ""} onChange={seek} />
          <Chips label="Whose" chosen={mine ? ["mine"] : []} options={[{ value: "mine", text: `Mine${data.user ? ` (${data.user})` : ""}` }]} onChange={(chosen) => void navigate({ search: (old) => ({ ...old, mine: chosen.length > 0 }) })} />
          <Chips label="State" chosen={states} options={[{ value: "running", text: <span className="badge"><Mark tone="running" still />running</span> }, { value: "pending", text: <span className="badge"><Mark tone="queued" still />pending</span> }, ...(states.includes("suspended") || data.jobs?.some((job) => job.state === "suspended") ? [{ value: "suspended" as const, text: <span className="badge"><Mark tone="queued" still />suspended</span> }] : [])]} onChange={(state) => void navigate({ search: (old) => ({ ...old, state: state.join(",") }) })} />
          {data.jobs && <HowMany found={rows.length} total={data.jobs_total ?? rows.length} word="row" />}
        </div>
      )}
      {data && data.jobs === null && <p className="empty">The scheduler did not tell its jobs.</p>}
      {data?.jobs && (rows.length ? (
        <DataTable label="Jobs" columns={columns} rows={rows} found={rows.length} keyOf={(job) => `${job.job_id} ${job.indices ?? ""} ${job.state} ${job.order}`} sort={{ column: search.sort ?? "order", descending: search.down ?? false }} onSort={(sort, down) => void navigate({ search: (old) => ({ ...old, sort, down }) })} rowClass={(job) => (job.mine ? "" : "row-others")} />
      ) : (
        <p className="empty">{wanted || states.length || search.partition ? "No job fits." : mine ? "Nothing of yours is in this queue." : "This queue is empty."} {mine && <Link to="/queue/$cluster" params={{ cluster }} search={{ mine: false }}>Show everybody’s</Link>}</p>
      ))}
      {data?.jobs && (data.jobs_total ?? 0) > data.jobs.length && <p className="soft">{count(data.jobs.length)} of {count(data.jobs_total ?? 0)} rows are here, yours first of all.</p>}
    </section>
  );
}

type Row = Job & { readonly order: number };

function sorter(column: string, down: boolean): (one: Row, other: Row) => number {
  const key = (job: Row): string | number | null => {
    const value = { order: job.order, job: job.job_id, partition: job.partition, state: job.state, ahead: job.ahead, start: job.starts_at ?? job.started_at, cores: job.cores, user: job.user, walltime: job.walltime_s }[column];
    return value === undefined ? job.order : value;
  };
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === b) return one.order - other.order;
    // What is not known comes last either way.
    if (a === null) return 1;
    if (b === null) return -1;
    return (a < b ? -1 : 1) * (down ? -1 : 1);
  };
}

function Start({ job }: { job: Job }) {
  const now = useNow();
  if (job.state === "pending") return <Starts brief start={{ at: job.starts_at, from: job.starts_from, stuck: job.stuck }} />;
  return job.started_at ? <span title={absolute(job.started_at)}>{job.state === "suspended" ? "began" : "runs"} {duration((now - Date.parse(job.started_at)) / 1_000)}{job.state === "suspended" ? " ago" : ""}</span> : null;
}

/** Why nobody can say how many go first. */
function unplaced(job: Job, scheduler: string, whole: boolean): string {
  if (job.priority !== null) return whole ? "" : "Part of the scheduler’s answer can’t be read: who goes first is not known.";
  if (scheduler !== "slurm") return `${scheduler.toUpperCase()} does not tell in which order jobs are to start.`;
  return "It is not in line: it waits for something else than room.";
}

function Ahead({ job, scheduler, whole }: { job: Job; scheduler: string; whole: boolean }) {
  if (job.state !== "pending") return null;
  if (job.ahead !== null) return <>{count(job.ahead)}</>;
  const why = unplaced(job, scheduler, whole);
  return <span className="soft" title={why}>–<span className="visually-hidden"> {why}</span></span>;
}

function Why({ job }: { job: Job }) {
  if (job.state === "running") return <span className="soft">{job.hosts}</span>;
  const code = job.state === "suspended" ? job.raw : job.reason === null ? "" : codeOf(job.reason);
  return <>{job.why ?? code} {job.why && code && job.why.toLowerCase() !== code.toLowerCase() && <span className="soft id">({code})</span>}</>;
}

/** As the scheduler writes it: LSF and PBS have brackets, and LSF counts from 1 where hpcflow's own 41_0 counts from 0. */
function spelledId(job: Job, scheduler: string): string {
  if (!job.indices) return job.job_id;
  if (scheduler === "pbs" || scheduler === "lsf") return `${job.job_id}[${job.indices}]`;
  return /^\d+$/.test(job.indices) ? `${job.job_id}_${job.indices}` : `${job.job_id}_[${job.indices}]`;
}

const named = (job: Job) => (job.dispatch ? <Link to="/d/$id" params={{ id: job.dispatch }} className="clip short" title={job.name}>{job.name}</Link> : <span className="clip short" title={job.name}>{job.name}</span>);
const whose = (job: Job) => (job.mine ? "you" : job.user);
const cores = (job: Job) => `${job.cores ?? ""}${job.gpus ? ` + ${job.gpus} GPU` : ""}`;

const AHEAD = "Jobs and array tasks in line for the same partition that go first: those of a higher priority, and of the same one those that came earlier";

/** What is left out on a small screen is on a second line: see `note-1` to `note-3`. */
function columnsOf(scheduler: string, whole: boolean): ColumnDef<Row>[] {
  return [
    {
      id: "job",
      header: "Job",
      cell: ({ row: { original: job } }) => (
        <>
          <span className="id">{spelledId(job, scheduler)}</span>
          <span className="note-2">{named(job)} in {job.partition}</span>
          <span className="note-3">{whose(job)}{job.cores ? `, ${plural(job.cores, "core")}` : ""}{job.gpus ? ` + ${plural(job.gpus, "GPU")}` : ""}{job.walltime_s ? `, ${limit(job.walltime_s)}` : ""}</span>
          <span className="note-1"><Why job={job} />{job.state === "pending" ? <>. Starts </> : job.hosts ? ", " : ""}<Start job={job} />{job.ahead === null || job.state !== "pending" ? "" : `, ${count(job.ahead)} ahead`}</span>
        </>
      ),
    },
    { id: "name", header: "Name", enableSorting: false, meta: { rank: 2 }, cell: ({ row: { original: job } }) => named(job) },
    { id: "partition", header: "Partition", meta: { rank: 2 }, cell: ({ row: { original: job } }) => job.partition },
    { id: "state", header: "State", cell: ({ row: { original: job } }) => <span className="badge"><Mark tone={job.stuck === "never" ? "failed" : job.state === "running" ? "running" : "queued"} still />{job.tasks > 1 ? `${count(job.tasks)} ` : ""}{job.state}</span> },
    { id: "ahead", header: () => <span title={AHEAD}>Ahead</span>, meta: { numeric: true, rank: 1 }, cell: ({ row: { original: job } }) => <Ahead job={job} scheduler={scheduler} whole={whole} /> },
    { id: "start", header: "Starts", meta: { rank: 1, wraps: "start" }, cell: ({ row: { original: job } }) => <Start job={job} /> },
    { id: "why", header: "Why", enableSorting: false, meta: { rank: 1, wraps: "why" }, cell: ({ row: { original: job } }) => <Why job={job} /> },
    { id: "user", header: "User", meta: { rank: 3 }, cell: ({ row: { original: job } }) => <span title={job.account ?? ""}>{whose(job)}</span> },
    { id: "cores", header: "Cores", meta: { numeric: true, rank: 3 }, cell: ({ row: { original: job } }) => cores(job) },
    { id: "walltime", header: "Walltime", meta: { numeric: true, rank: 3 }, cell: ({ row: { original: job } }) => limit(job.walltime_s) },
  ];
}

function Partitions({ partitions, chosen, onChoose }: { partitions: Partition[]; chosen: string | null; onChoose: (name: string | null) => void }) {
  return (
    <div className="table" tabIndex={0} role="region" aria-label="Partitions">
      <table>
        <thead><tr><th scope="col">Partition</th><th scope="col" className="rank-1">Cores in use</th><th scope="col" className="numeric rank-2">Nodes idle / mixed / full / down</th><th scope="col" className="numeric">Pending</th><th scope="col" className="numeric">Running</th><th scope="col" className="numeric rank-2">Longest job</th></tr></thead>
        <tbody>
          {partitions.map((partition) => {
            const used = partition.cores && partition.cores_used !== null ? partition.cores_used / partition.cores : null;
            const { nodes } = partition;
            return (
              <tr key={partition.name}>
                <td>
                  <button type="button" className="chip" aria-pressed={chosen === partition.name} onClick={() => onChoose(chosen === partition.name ? null : partition.name)}>{partition.name}</button>
                  {partition.is_default && <span className="soft"> default</span>}
                  {partition.open === false && <span className="ink-failed"> closed ({partition.raw})</span>}
                </td>
                <td className="rank-1">
                  {used !== null && (
                    <span className="load">
                      <svg className="strip" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10" className="strip-ground" /><rect width={100 * used} height="10" className="strip-running" /></svg>
                      <span>{count(partition.cores_used ?? 0)} of {count(partition.cores ?? 0)}</span>
                    </span>
                  )}
                </td>
                <td className="numeric rank-2">{nodes ? `${nodes.idle} / ${nodes.mixed} / ${nodes.allocated + nodes.reserved} / ${nodes.down}` : ""}</td>
                <td className="numeric">{partition.pending === null ? "" : count(partition.pending)}{partition.pending_mine ? <span className="soft"> ({count(partition.pending_mine)} yours)</span> : ""}</td>
                <td className="numeric">{partition.running === null ? "" : count(partition.running)}{partition.running_mine ? <span className="soft"> ({count(partition.running_mine)} yours)</span> : ""}</td>
                <td className="numeric rank-2">{partition.max_walltime_s === null ? "" : limit(partition.max_walltime_s)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
