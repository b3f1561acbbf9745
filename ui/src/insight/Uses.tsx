import { Link } from "@tanstack/react-router";
import type { ColumnDef } from "@tanstack/react-table";
import { useMemo, useState, type ReactNode } from "react";
import type { ElectronUse } from "../api/insight";
import { CopyButton } from "../components/basics";
import { DataTable, HowMany } from "../components/DataTable";
import { count, duration, limit, mebibytes, percents, plural } from "../format";
import "./insight.css";

/** Where charged core-seconds went, in words; the order in which they are drawn. */
const PARTS = [
  ["tasks_s", "a task was running"],
  ["idle_s", "waiting for more"],
  ["startup_s", "start-up and end"],
  ["overhead_s", "workers’ own work"],
  ["slots_s", "empty slots"],
  ["killed_s", "killed workers"],
  ["beyond_s", "cores nobody asked for"],
] as const;

type Sums = Readonly<Record<(typeof PARTS)[number][0] | "charged_s" | "rest_s", number>>;

export function coreTime(seconds: number): string {
  if (seconds >= 3600) return `${count(Math.round(seconds / 360) / 10)} core-hours`;
  return seconds >= 60 ? `${(seconds / 60).toFixed(1)} core-minutes` : `${seconds.toFixed(seconds < 1 ? 2 : 1)} core-seconds`;
}

/** What was charged, as a strip whose parts are as wide as what they cost. */
export function Spent({ sums }: { sums: Sums }) {
  if (!sums.charged_s) return null;
  const shares = sharesOf(sums);
  const told = PARTS.map(([key, word], k) => ({ key, word, share: `${shares[k]!} %` })).filter(({ key }) => sums[key] > 0);
  const whole = told.reduce((sum, { key }) => sum + sums[key], 0);
  let x = 0;
  return (
    <div className="spent">
      <svg className="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label={`Of ${coreTime(sums.charged_s)} charged: ${told.map(({ word, share }) => `${share} ${word}`).join(", ")}`}>
        <rect width="1000" height="10" className="strip-ground" />
        {told.map(({ key }) => {
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
      {-sums.rest_s >= sums.charged_s / 200 && sums.rest_s < 0 && <p className="soft">Schedulers count whole seconds: here {coreTime(-sums.rest_s)} less than workers measured.</p>}
    </div>
  );
}

/** Whole percents of the parts of what was charged, as they are listed. They add up to 100: rounding is no part. */
function sharesOf(sums: Sums): number[] {
  return percents(PARTS.map(([key]) => Math.max(0, sums[key])));
}

/** The share of what was charged in which a task was running. */
export function ranShare(sums: { readonly tasks_s: number; readonly charged_s: number }): string {
  return sums.charged_s > 0 ? `${Math.min(100, Math.round((100 * sums.tasks_s) / sums.charged_s))} %` : "";
}

/** The electron whose tasks let CPUs idle most. */
function idlestOf(uses: readonly ElectronUse[]): { name: string; idle: number; alone: boolean } | null {
  const sums = new Map<string, number>();
  for (const use of uses) sums.set(use.name, (sums.get(use.name) ?? 0) + idle(use));
  const [first] = [...sums].sort(([, one], [, other]) => other - one);
  return first ? { name: first[0], idle: first[1], alone: sums.size === 1 } : null;
}

/** What was charged, in how much of it tasks ran, how much of that CPUs worked, and what was lost of it. */
export function Figures({ sums, uses, children }: { sums: Sums; uses: readonly ElectronUse[]; children?: ReactNode }) {
  const of = (key: "held_core_s" | "used_core_s" | "lost_core_s") => uses.reduce((sum, use) => sum + use[key], 0);
  const [held, used, lost] = [of("held_core_s"), of("used_core_s"), of("lost_core_s")];
  const idlest = held - used >= 1 ? idlestOf(uses) : null;
  return (
    <div className="tiles">
      <Figure label="Charged" value={sums.charged_s > 0 ? coreTime(sums.charged_s) : "–"}>{children ?? "by the schedulers, for all cores of all array tasks"}</Figure>
      <Figure label="A task was running" value={sums.charged_s > 0 ? `${sharesOf(sums)[0]!} %` : "–"}>of the core-hours charged</Figure>
      <Figure label="The CPU worked" value={held > 0 ? `${percents([Math.min(used, held), Math.max(0, held - used)])[0]!} %` : "–"}>of the core-hours in which a task was running{idlest && `: idle ${coreTime(held - used)}${!idlest.alone ? `, most of it, ${coreTime(idlest.idle)},` : ""} in ${idlest.name}`}</Figure>
      <Figure label="Lost" value={lost > 0 ? coreTime(lost) : "none"}>by attempts that failed, were cancelled or repeated{lost > 0 && `: ${percents([lost, Math.max(0, held - lost)])[0]!}\u00a0% of those in which a task was running`}</Figure>
    </div>
  );
}

function Figure({ label, value, children }: { label: string; value: string; children: ReactNode }) {
  const [number, ...unit] = value.split(" ");
  return (
    <div className="tile">
      <span className="tile-label">{label}</span>
      <span className="tile-value">{number} <span className={unit[0] === "%" ? "tile-percent" : "tile-unit"}>{unit.join(" ")}</span></span>
      <span className="soft">{children}</span>
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

const idle = (use: ElectronUse) => Math.max(0, use.held_core_s - use.used_core_s);
const idleShare = (use: ElectronUse) => `${percents([use.used_core_s, idle(use)])[1]!} %`;

/** A row, and what stands with it: an electron has a row for each amount that it asked for, and one advice. */
interface Row extends ElectronUse {
  readonly rows: number;
  readonly first: boolean;
  readonly endedOfAll: number;
}

function asked(use: ElectronUse): string {
  const said = [use.cores > 1 ? plural(use.cores, "core") : "", use.memory_mib === null ? "" : mebibytes(use.memory_mib), use.walltime_s === null ? "" : limit(use.walltime_s)];
  return said.filter(Boolean).join(", ") || plural(use.cores, "core");
}

/** Rows of one electron together, whatever they are sorted by: as its first one is. */
function together(uses: readonly ElectronUse[]): Row[] {
  const electrons = new Map<string, ElectronUse[]>();
  for (const use of uses) {
    const key = JSON.stringify([use.name, use.cluster]);
    electrons.set(key, [...(electrons.get(key) ?? []), use]);
  }
  return [...electrons.values()].flatMap((rows) => rows.map((use, k) => ({ ...use, rows: rows.length, first: k === 0, endedOfAll: rows.reduce((sum, each) => sum + each.ended, 0) })));
}

function columnsFor(enough: number, dispatch: string | null): ColumnDef<Row>[] {
  return [
    {
      id: "name", header: "Electron",
      cell: ({ row: { original: use } }) => <>{dispatch ? <Link to="/d/$id" params={{ id: dispatch }} search={{ view: "table", name: use.name }} className="clip strong" title={use.name}>{use.name}</Link> : <span className="clip strong" title={use.name}>{use.name}</span>}{use.rows > 1 && <span className="asked">asked {asked(use)}</span>}</>,
    },
    { id: "cluster", header: "Cluster", meta: { rank: 3 }, cell: ({ row: { original: use } }) => use.cluster },
    { id: "ended", header: "Returned", meta: { numeric: true, rank: 2 }, cell: ({ row: { original: use } }) => <>{count(use.ended)}{use.lost ? <span className="asked">{count(use.lost)} lost</span> : null}{use.lost_core_s >= 0.1 ? <span className="asked">{coreTime(use.lost_core_s)}</span> : null}</> },
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
    { id: "held", header: "Tasks ran", meta: { numeric: true, rank: 2 }, cell: ({ row: { original: use } }) => coreTime(use.held_core_s) },
    { id: "idle", header: "CPU idle", meta: { numeric: true }, cell: ({ row: { original: use } }) => <>{use.held_core_s ? idleShare(use) : "–"}<span className="asked">{coreTime(idle(use))}</span></> },
    {
      id: "advice", header: "Ask next time", enableSorting: false,
      cell: ({ row: { original: use } }) => (
        <div className="advice">
          {!use.first ? <span className="soft">As above: one electron, one advice.</span> : use.advice.options ? (
            <>
              <div className="code-line"><code>{use.advice.options}</code><CopyButton text={use.advice.options} label={`Copy what ${use.name} had better ask`} /></div>
              {use.advice.why.map((why) => <p key={why} className="soft">{why}</p>)}
            </>
          ) : (
            <span className="soft">{use.endedOfAll < enough ? `Too few to tell: ${enough} have to have returned.` : "Well as it is."}</span>
          )}
        </div>
      ),
    },
  ];
}

/** What electrons asked for and used, those first that held most for nothing. */
export function Uses({ uses, enough, dispatch = null }: { uses: ElectronUse[]; enough: number; dispatch?: string | null }) {
  const [sort, setSort] = useState({ column: "idle", descending: true });
  const columns = useMemo(() => columnsFor(enough, dispatch), [enough, dispatch]);
  const rows = useMemo(() => {
    const value = (use: ElectronUse): number | string => {
      const found: Record<string, number | string> = { name: use.name, cluster: use.cluster, ended: use.ended, cores: use.cores_p95 ?? -1, memory: use.rss_kib_max ?? -1, walltime: use.wall_s_max ?? -1, held: use.held_core_s };
      return found[sort.column] ?? idle(use);
    };
    return together([...uses].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (a === b ? 0 : a < b ? -1 : 1) * (sort.descending ? -1 : 1);
    }));
  }, [uses, sort]);
  const electrons = rows.filter((row) => row.first).length;
  if (!uses.length) return <p className="empty">Nothing has ended yet: what tasks used is known when they end.</p>;
  return (
    <>
      <div className="title-line"><h2>Asked and used</h2><HowMany found={electrons} total={electrons} word="electron" /></div>
      <div className="uses"><DataTable label="Electrons" columns={columns} rows={rows} found={rows.length} keyOf={(use) => [use.name, use.cluster, use.cores, use.ntasks, use.memory_mib, use.walltime_s].join(" ")} sort={sort} onSort={(column, descending) => setSort({ column, descending })} /></div>
      <p className="soft">Cores: what 95 % of the tasks of a second and more keep busy. Memory and time: the most of any that returned. Tasks ran: run time times cores, of all attempts. CPU idle: what of that no core was busy for. Lost: attempts that failed or were cancelled, and the core-hours of these and of those that were repeated. Advice needs {enough} of them, adds a margin, and is for the same input again: its least is 1 core, 256 MiB and 1 min.</p>
    </>
  );
}
