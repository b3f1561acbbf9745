import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useMemo } from "react";
import { sketchGraphQuery, sketchQuery } from "../api/queries";
import type { Schemas } from "../api/client";
import { Fault, Loading, StateBadge, Title, When } from "../components/basics";
import { count, duration, mebibytes, plural } from "../format";
import { Graph, useLayout, type GraphActs } from "../graph/Graph";
import { sliceOf, type Layout } from "../graph/layout";
import { preview as route } from "../router";
import { NEW } from "../states";

type Sketch = Schemas["Sketch"];
type Electron = Schemas["SketchedElectron"];

/** What `lattice.draw()` sent: a graph that nobody dispatched yet, and what its electrons ask for. */
export function Preview() {
  const { id } = route.useParams();
  const { view = "graph" } = route.useSearch();
  const { data: sketch, error, refetch } = useQuery(sketchQuery(id));
  if (!sketch) {
    return error ? <section className="screen"><Title text="Preview" /><Fault error={error} retry={() => void refetch()} /><p><Link to="/dispatches">All dispatches</Link></p></section> : <Loading what="the preview" />;
  }
  return (
    <section className={`screen screen-${view}`}>
      <header className="dispatch-head">
        <div className="title-line"><Title text={sketch.name || "Preview"}><span className="clip" title={sketch.name}>{sketch.name || "(no name)"}</span></Title> <StateBadge state={NEW.name} /></div>
        <p className="soft">Not dispatched: this is what the lattice would run, {plural(sketch.tasks, "task")}, as <code>draw()</code> was called <When time={sketch.made_at} />. It is forgotten after an hour.</p>
      </header>
      <nav className="tabs" aria-label="Views of the preview">
        {(["graph", "table"] as const).map((each) => (
          <Link key={each} from={route.fullPath} to="/preview/$id" params={{ id }} search={(old) => ({ ...old, view: each })} className="tab" aria-current={view === each ? "page" : undefined}>
            {each === "graph" ? "Graph" : "Table"}
          </Link>
        ))}
      </nav>
      {view === "graph" ? <Drawing sketch={sketch} /> : <Electrons sketch={sketch} />}
    </section>
  );
}

function Drawing({ sketch }: { sketch: Sketch }) {
  const { data: graph, error, refetch } = useQuery(sketchGraphQuery(sketch.id));
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const slice = useMemo(() => (graph ? sliceOf(graph, undefined) : null), [graph]);
  const layout = useLayout(slice?.columns);
  const codes = useMemo(() => new Uint8Array(sketch.tasks).fill(NEW.letter.charCodeAt(0)), [sketch.tasks]);
  const acts = useMemo<GraphActs>(() => ({
    select: (group, task = null) => void navigate({ search: ({ group: _, sel: __, ...old }) => ({ ...old, ...(group === null ? {} : { group }), ...(task === null ? {} : { sel: task }) }), replace: true }),
    openTable: (name) => void navigate({ search: { view: "table", name } }),
    enter: () => undefined,
  }), [navigate]);
  if (error) return <Fault error={error} retry={() => void refetch()} />;
  if (!layout || !slice || layout.groupOf.length !== slice.columns.tasks) return <Loading what="the graph" />;
  return (
    <Graph name={sketch.name} layout={layout} all={codes} slice={slice} levels={[]} search={search} acts={acts}>
      {({ group }) => <Panel sketch={sketch} layout={layout} group={group} onClose={() => acts.select(null)} />}
    </Graph>
  );
}

function Panel({ sketch, layout, group: index, onClose }: { sketch: Sketch; layout: Layout; group: number; onClose: () => void }) {
  const group = layout.groups[index]!;
  const kinds = sketch.electrons.filter((each) => each.name === group.name);
  return (
    <aside className="panel" aria-label={`Group ${group.name}`}>
      <button type="button" className="icon-button panel-close" aria-label="Close" onClick={onClose}>✕</button>
      <h2>{group.name}</h2>
      <p className="soft">{plural(group.tasks.length, "task")} at depth {group.depth}</p>
      {kinds.map((each, k) => (
        <dl key={k} className="facts">
          {facts(each).map(([word, text]) => <div key={word}><dt>{word}</dt><dd>{text}</dd></div>)}
        </dl>
      ))}
      <div className="actions"><Link className="button" to="/preview/$id" params={{ id: sketch.id }} search={{ view: "table", name: group.name }}>Open as table</Link></div>
    </aside>
  );
}

function Electrons({ sketch }: { sketch: Sketch }) {
  const { name } = route.useSearch();
  const rows = sketch.electrons.filter((each) => name === undefined || each.name === name);
  return (
    <>
      <div className="toolbar">
        {name !== undefined && <Link className="chip" to="/preview/$id" params={{ id: sketch.id }} search={{ view: "table" }}>{name} ✕<span className="visually-hidden"> show all electrons</span></Link>}
        <p className="soft howmany" role="status">{count(rows.length)} of {plural(sketch.electrons_total, "kind of task", "kinds of tasks")}: those of one electron that ask for the same are one</p>
      </div>
      <div className="table" tabIndex={0} role="region" aria-label="Electrons">
        <table>
          <thead><tr><th scope="col">Electron</th><th scope="col" className="numeric">Tasks</th><th scope="col">Cluster</th><th scope="col">Asks for</th></tr></thead>
          <tbody>
            {rows.map((each, k) => (
              <tr key={k}>
                <td><span className="clip strong" title={each.name}>{each.name}</span></td>
                <td className="numeric">{count(each.tasks)}</td>
                <td>{each.cluster}</td>
                <td className="why-cell">{facts(each).filter(([word]) => word !== "Cluster").map(([word, text]) => `${word.toLowerCase()} ${text}`).join(", ")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** What is not worth a word: one of each is what everybody gets. */
const USUAL: Readonly<Record<string, unknown>> = { nodes: 1, ntasks: 1, gpus: 0 };
const WORDS: Readonly<Record<string, string>> = { cpus: "Cores", ntasks: "Ranks", nodes: "Nodes", gpus: "GPUs", qos: "QoS" };

/** What an electron asks for, in words. */
function facts(electron: Electron): [string, string][] {
  const asked = Object.entries(electron.asked).filter(([key, value]) => USUAL[key] !== value).map(([key, value]): [string, string] => {
    if (key === "memory_mib" && typeof value === "number") return ["Memory", mebibytes(value)];
    if (key === "walltime_s" && typeof value === "number") return ["Walltime", duration(value)];
    return [WORDS[key] ?? key[0]!.toUpperCase() + key.slice(1), Array.isArray(value) ? value.join(" ") : String(value)];
  });
  return [
    ["Cluster", electron.cluster],
    ...asked,
    ...(electron.retries ? [["Retries", String(electron.retries)] as [string, string]] : []),
    ...(electron.sublattice ? [["Sublattice", "its own tasks are known when it runs"] as [string, string]] : []),
  ];
}
