import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { answer, api, type Schemas } from "../api/client";
import { client, clustersQuery } from "../api/queries";
import { Fault, Loading, Mark, Notice, Title, useLink, When, Words } from "../components/basics";
import { AddCluster } from "../components/AddCluster";
import { LoginButton } from "../components/Login";
import { count, limit, mebibytes } from "../format";
import { CLUSTER_WORDS } from "../states";
import { queueQuery } from "./queued";

export function Clusters() {
  const { data, error, refetch } = useQuery(clustersQuery);
  const [added, setAdded] = useState<string | null>(null);
  const offline = useLink() !== "ok";
  return (
    <section className="screen">
      <Title text="Clusters" />
      {error && !data && <Fault error={error} retry={() => void refetch()} />}
      {!data && !error && <Loading what="clusters" />}
      <div className="stack">{data?.clusters.map((cluster) => <Cluster key={cluster.name} cluster={cluster} fresh={cluster.name === added} />)}</div>
      <div className="below"><AddCluster disabled={offline} onAdded={setAdded} /></div>
      <p className="soft">Clusters are named in <code>clusters.toml</code>, where all else can be set that is not asked here.</p>
    </section>
  );
}

const sentence = (words: string) => `${words[0]!.toUpperCase()}${words.slice(1)}.`;

/** What the last look at the queue says of a partition in which nothing can run now. */
function shut(partition: Schemas["QueuePartitionAnswer"] | undefined): string | null {
  if (!partition) return null;
  if (partition.open === false) return partition.raw ? `closed (${partition.raw})` : "closed";
  if (!partition.nodes?.total || partition.nodes.down < partition.nodes.total) return null;
  return partition.nodes.total === 1 ? "its node is down" : "all nodes are down";
}

const STEP_TONES = { running: "running", ok: "completed", failed: "failed", skipped: "skipped" } as const;

function Cluster({ cluster, fresh }: { cluster: Schemas["ClusterAnswer"]; fresh: boolean }) {
  const [test, setTest] = useState<{ busy: boolean; result?: Schemas["ClusterTest"]; error?: unknown }>({ busy: false });
  const offline = useLink() !== "ok";
  // Looks at queues are shared, and few.
  const { data: queue } = useQuery({ ...queueQuery(cluster.name, true), enabled: cluster.state === "ok" && cluster.scheduler !== "local" });
  const run = async () => {
    setTest({ busy: true });
    const path = { name: cluster.name };
    try {
      let result = await answer(api.POST("/api/v1/clusters/{name}/test", { params: { path } }));
      while (!result.done) {
        setTest({ busy: true, result });
        result = await answer(api.GET("/api/v1/clusters/{name}/test", { params: { path, query: { since: result.version, wait: 20 } } }));
      }
      setTest({ busy: false, result });
    } catch (error) {
      setTest({ busy: false, error });
    }
    await client.invalidateQueries({ queryKey: ["clusters"] });
  };
  const begun = useRef(false);
  useEffect(() => {
    // One that was just added is tested at once, and only once.
    if (!fresh || begun.current) return;
    begun.current = true;
    void run();
  });
  return (
    <article className="card" aria-labelledby={`cluster-${cluster.name}`}>
      <div className="title-line">
        <h2 id={`cluster-${cluster.name}`}><span className={`dot dot-${cluster.state.replaceAll(" ", "-")}`} aria-hidden="true" /> {cluster.name}</h2>
        <span className="soft">{cluster.name === "local" ? "this machine" : cluster.scheduler === "local" ? "no scheduler" : cluster.version || cluster.scheduler} · {CLUSTER_WORDS[cluster.state]}{cluster.default ? " · the default" : ""}</span>
        <div className="actions">
          {cluster.state === "needs login" && <LoginButton name={cluster.name} disabled={offline} />}
          <Link to="/queue/$cluster" params={{ cluster: cluster.name }} className="button">Queue</Link>
          <button type="button" className="button" disabled={test.busy || offline} onClick={() => void run()}>{test.busy ? "Testing…" : "Test"}</button>
        </div>
      </div>
      {cluster.problem && cluster.state === "not set up" && (
        <details className="fold">
          <summary>Nothing is submitted to it. What it says</summary>
          <p className="error-text">{cluster.problem}</p>
        </details>
      )}
      {cluster.problem && cluster.state !== "not set up" && (
        <Notice tone="warn" title={sentence(CLUSTER_WORDS[cluster.state])}>
          <Words text={cluster.problem} /> {cluster.unknown_since && <>What its jobs do is unknown since <When time={cluster.unknown_since} />. </>}
        </Notice>
      )}
      {test.error !== undefined && <Fault error={test.error} retry={() => void run()} />}
      {test.result && (
        <ol className="plain steps" aria-label={`The test of ${cluster.name}`}>
          {test.result.steps.map((step) => (
            <li key={step.step}>
              <Mark tone={STEP_TONES[step.state]} />
              <div>
                <strong>{step.step}</strong> {step.state === "ok" ? "" : step.state}
                <p className={step.ok === false ? "" : "soft"}><Words text={step.detail} /></p>
                {step.command && <code>{step.command}</code>}
                {step.output && <pre className="error-text">{step.output}</pre>}
              </div>
            </li>
          ))}
        </ol>
      )}
      {cluster.partitions.length > 0 && (
        <div className="table" tabIndex={0} role="region" aria-label={`Partitions of ${cluster.name}`}>
          <table>
            <thead><tr><th scope="col">Partition</th><th scope="col" className="numeric rank-1">Nodes</th><th scope="col" className="numeric">Cores per node</th><th scope="col" className="numeric rank-1">Memory per node</th><th scope="col" className="numeric rank-1">GPUs per node</th><th scope="col" className="numeric">Longest job</th></tr></thead>
            <tbody>
              {cluster.partitions.map((partition) => ({ partition, closed: shut(queue?.partitions.find((each) => each.name === partition.name)) })).map(({ partition, closed }) => (
                <tr key={partition.name}>
                  <td><strong>{partition.name}</strong>{partition.is_default ? <span className="soft"> default</span> : ""}{partition.exclusive ? <span className="soft"> whole nodes</span> : ""}{closed !== null && <strong className="ink-failed block">{closed}</strong>}</td>
                  <td className="numeric rank-1">{partition.total_nodes === null ? "" : count(partition.total_nodes)}</td>
                  <td className="numeric">{partition.cpus_per_node ?? ""}</td>
                  <td className="numeric rank-1">{mebibytes(partition.memory_mib_per_node)}</td>
                  <td className="numeric rank-1">{partition.gpus_per_node || ""}</td>
                  <td className="numeric">{partition.max_walltime_s === null ? "no limit" : limit(partition.max_walltime_s)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </article>
  );
}
