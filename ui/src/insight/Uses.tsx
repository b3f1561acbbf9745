import { Link } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useMemo, useState } from "react";
import type { ElectronUse } from "../api/insight";
import { CopyButton } from "../components/basics";
import { DataTable, HowMany } from "../components/DataTable";
import { count, duration, limit, mebibytes, percent, percents } from "../format";
import "./insight.css";

/** Where charged core-seconds went, in words; the order in which they are drawn. */
const PARTS = [
  ["tasks_s", "tasks"],
  ["idle_s", "waiting for more"],
  ["startup_s", "start-up and end"],
  ["overhead_s", "workers’ own work"],
  ["slots_s", "empty slots"],
  ["killed_s", "killed workers"],
  ["beyond_s", "cores nobody asked for"],
  ["rest_s", "rounding: schedulers count whole seconds"],
] as const;

type Sums = Readonly<Record<(typeof PARTS)[number][0] | "charged_s", number>>;

export function coreTime(seconds: number): string {
  if (seconds < 0) return `−${coreTime(-seconds)}`;
  if (seconds >= 3600) return `${count(Math.round(seconds / 360) / 10)} core-hours`;
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} core-minutes` : `${seconds.toFixed(seconds < 1 ? 2 : 1)} core-seconds`;
}

/** What was charged, as a strip whose parts are as wide as what they cost. */
export function Spent({ sums }: { sums: Sums }) {
  if (!sums.charged_s) return null;
  const shares = percents(PARTS.map(([key]) => sums[key]));
  const told = PARTS.map(([key, word], k) => ({ key, word, share: `${shares[k]! < 0 ? "−" : ""}${Math.abs(shares[k]!)} %` })).filter(({ key }) => sums[key] !== 0);
  // Rounding is below zero, and nothing that could be drawn.
  const parts = told.filter(({ key }) => sums[key] > 0);
  const whole = parts.reduce((sum, { key }) => sum + sums[key], 0);
  let x = 0;
  return (
    <div className="spent">
      <svg className="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label={`Of ${coreTime(sums.charged_s)} charged: ${told.map(({ word, share }) => `${share} ${word}`).join(", ")}`}>
        <rect width="1000" height="10" className="strip-ground" />
        {parts.map(({ key }) => {
          const width = (1000 * sums[key]) / whole;
          x += width;
          return <rect key={key} x={x - width} width={width} height="10" className={`part-${key}`} />;
        })}
      </svg>
      <ul className="plain spent-list">
        {told.map(({ key, word, share }) => (
          <li key={key}><svg className="spent-key" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" className={`part-${key}`} /></svg>{share} {word} <span className="soft">{coreTime(sums[key])}</span></li>
        ))}
      </ul>
    </div>
  );
}

function Meter({ used, asked }: { used: number | null; asked: number | null }) {
  if (used === null || !asked) return null;
  const share = Math.min(1, used / asked);
  return (
    <svg className="meter" viewBox="0 0 100 5" preserveAspectRatio="none" aria-hidden="true">
      <rect width="100" height="5" className="strip-ground" />
      <rect width={100 * share} height="5" className={used > asked ? "strip-failed" : share < 0.5 ? "strip-queued" : "strip-completed"} />
    </svg>
  );
}

const wasted = (use: ElectronUse) => Math.max(0, use.held_core_s - use.used_core_s);

function columnsFor(enough: number, dispatch: string | null): ColumnDef<ElectronUse>[] {
  return [
    { id: "name", header: "Electron", cell: ({ row: { original: use } }) => (dispatch ? <Link to="/d/$id" params={{ id: dispatch }} search={{ view: "table", name: use.name }} className="clip strong" title={use.name}>{use.name}</Link> : <span className="clip strong" title={use.name}>{use.name}</span>) },
    { id: "cluster", header: "Cluster", meta: { rank: 3 }, cell: ({ row: { original: use } }) => use.cluster },
    { id: "ended", header: "Returned", meta: { numeric: true, rank: 2 }, cell: ({ row: { original: use } }) => <>{count(use.ended)}{use.lost ? <span className="asked">{count(use.lost)} lost</span> : null}</> },
    {
      id: "cores", header: "Cores", meta: { numeric: true, rank: 2 },
      cell: ({ row: { original: use } }) => <>{use.cores_p95 === null ? "–" : use.cores_p95.toFixed(1)}<span className="asked">of {count(use.cores)}</span><Meter used={use.cores_p95} asked={use.cores} /></>,
    },
    {
      id: "memory", header: "Memory, most", meta: { numeric: true, rank: 1 },
      cell: ({ row: { original: use } }) => <>{mebibytes(use.rss_kib_max === null ? null : use.rss_kib_max / 1024) || "–"}<span className="asked">{use.memory_mib === null ? "asked nothing" : `of ${mebibytes(use.memory_mib)}`}</span><Meter used={use.rss_kib_max} asked={use.memory_mib === null ? null : use.memory_mib * 1024} /></>,
    },
    {
      id: "walltime", header: "Time, longest", meta: { numeric: true, rank: 1 },
      cell: ({ row: { original: use } }) => <>{duration(use.wall_s_max) || "–"}<span className="asked">{use.walltime_s === null ? "asked nothing" : `of ${limit(use.walltime_s)}`}</span><Meter used={use.wall_s_max} asked={use.walltime_s} /></>,
    },
    { id: "held", header: "Held", meta: { numeric: true, rank: 2 }, cell: ({ row: { original: use } }) => coreTime(use.held_core_s) },
    { id: "wasted", header: "Not used", meta: { numeric: true }, cell: ({ row: { original: use } }) => <>{percent(wasted(use), use.held_core_s) || "–"}<span className="asked">{coreTime(wasted(use))}</span></> },
    {
      id: "advice", header: "Ask next time", enableSorting: false,
      cell: ({ row: { original: use } }) => (
        <div className="advice">
          {use.advice.options ? (
            <>
              <div className="code-line"><code>{use.advice.options}</code><CopyButton text={use.advice.options} label={`Copy what ${use.name} had better ask`} /></div>
              {use.advice.why.map((why) => <p key={why} className="soft">{why}</p>)}
            </>
          ) : (
            <span className="soft">{use.ended < enough ? `Too few to tell: ${enough} have to have returned.` : "Well as it is."}</span>
          )}
        </div>
      ),
    },
  ];
}

/** What electrons asked for and used, those first that held most for nothing. */
export function Uses({ uses, enough, dispatch = null }: { uses: ElectronUse[]; enough: number; dispatch?: string | null }) {
  const [sort, setSort] = useState({ column: "wasted", descending: true });
  const columns = useMemo(() => columnsFor(enough, dispatch), [enough, dispatch]);
  const rows = useMemo(() => {
    const value = (use: ElectronUse): number | string => {
      const found: Record<string, number | string> = { name: use.name, cluster: use.cluster, ended: use.ended, cores: use.cores_p95 ?? -1, memory: use.rss_kib_max ?? -1, walltime: use.wall_s_max ?? -1, held: use.held_core_s };
      return found[sort.column] ?? wasted(use);
    };
    return [...uses].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (a === b ? 0 : a < b ? -1 : 1) * (sort.descending ? -1 : 1);
    });
  }, [uses, sort]);
  if (!uses.length) return <p className="empty">Nothing has ended yet: what tasks used is known when they end.</p>;
  return (
    <>
      <div className="title-line"><h2>Asked and used</h2><HowMany found={uses.length} total={uses.length} word="electron" /></div>
      <div className="uses"><DataTable label="Electrons" columns={columns} rows={rows} found={rows.length} keyOf={(use) => [use.name, use.cluster, use.cores, use.ntasks, use.memory_mib, use.walltime_s].join(" ")} sort={sort} onSort={(column, descending) => setSort({ column, descending })} /></div>
      <p className="soft">Cores: what 95 % of the tasks of a second and more keep busy. Memory and time: the most of any that returned. Held: run time times cores, of all attempts; not used: what of it no core was busy for. Advice needs {enough} of them, adds a margin, and is for the same input again: its least is 1 core, 256 MiB and 1 min.</p>
    </>
  );
}
