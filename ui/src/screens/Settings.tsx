import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useCallback, useMemo } from "react";
import { settingsQuery, type EffectiveSettings } from "../api/insight";
import { logOut } from "../api/session";
import { Chips, Fault, Loading, Notice, SearchBox, Title, Words } from "../components/basics";
import { HowMany } from "../components/DataTable";
import { bytes, limit, mebibytes, plural } from "../format";
import { settings as route } from "../router";
import "../insight/insight.css";

type Setting = EffectiveSettings["settings"][number];

type Unit = Setting["unit"];

/** A value as people read it; `written` is how a file spells it. */
function told(value: unknown, unit: Unit = null): string {
  if (typeof value !== "number" || unit === null) return written(value);
  return { s: limit, days: (days: number) => plural(days, "day"), bytes, MiB: mebibytes }[unit](value);
}

const written = (value: unknown): string => (value === "" ? "(empty)" : typeof value === "string" ? value : Array.isArray(value) ? (value.length ? value.map(written).join(", ") : "(none)") : value === null ? "(none)" : String(value));

/** What holds, who said so, and where it is changed: the page changes none of it. */
export function Settings() {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const { data, error, refetch } = useQuery(settingsQuery);
  const seek = useCallback((q: string) => void navigate({ search: (old) => ({ ...old, q }), replace: true }), [navigate]);
  const wanted = (search.q ?? "").toLowerCase();
  const rows = useMemo(() => (data?.settings ?? []).filter((each) => (!search.set || each.source !== "default" || each.pending !== null) && (!wanted || [each.name, each.about, told(each.value, each.unit), written(each.value)].some((text) => text.toLowerCase().includes(wanted)))), [data, wanted, search.set]);
  return (
    <section className="screen">
      <div className="title-line settings-head">
        <Title text="Settings" />
        <span className="push" />
        <Link to="/logs" className="button">The server’s log</Link>
        <button type="button" className="button" onClick={() => void logOut()}>Log this browser out</button>
      </div>
      {error && <Fault error={error} retry={() => void refetch()} />}
      {!data && !error && <Loading what="the settings" />}
      {data && (
        <>
          <p>
            What holds now. A setting is changed in <code className="breakable">{data.config}</code> or, for the next server, by its variable in the environment; a cluster in{" "}
            <code className="breakable">{data.clusters_file}</code>. Then: <code>hpcflow restart</code>; jobs in the queue go on meanwhile. Files give times in seconds and sizes in bytes. To log all browsers out: <code>hpcflow token rotate</code>.
          </p>
          {data.problem && <Notice tone="bad" title="A file is wrong.">{data.problem}</Notice>}
          <div className="toolbar">
            <SearchBox label="Search settings" value={search.q ?? ""} onChange={seek} />
            <Chips label="Which" chosen={search.set ? ["set"] : []} options={[{ value: "set", text: "Only what somebody set" }]} onChange={(chosen) => void navigate({ search: ({ set: _, ...old }) => ({ ...old, ...(chosen.length ? { set: true } : {}) }) })} />
            <HowMany found={rows.length} total={data.settings.length} word="setting" />
          </div>
          {rows.length === 0 && <p className="empty">{search.set && !wanted ? "Nobody set anything: all is as by default." : "No setting fits."}</p>}
          {rows.length > 0 && (
            <div className="table settings" tabIndex={0} role="region" aria-label="Settings">
              <table>
                <thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col">From</th><th scope="col">What it is</th></tr></thead>
                <tbody>{rows.map((each) => <Row key={each.name} setting={each} />)}</tbody>
              </table>
            </div>
          )}
          {data.clusters.map((cluster) => (
            <section key={cluster.name}>
              <h2>Cluster {cluster.name} <span className="soft">({cluster.scheduler})</span></h2>
              {cluster.said.length === 0 ? <p className="soft">All is as by default.</p> : (
                <div className="table settings" tabIndex={0} role="region" aria-label={`Settings of ${cluster.name}`}>
                  <table>
                    <thead><tr><th scope="col">Key</th><th scope="col">Value</th><th scope="col">From</th></tr></thead>
                    <tbody>{cluster.said.map((each) => <tr key={each.name}><td className="id">{each.name}</td><td className="value id" title={written(each.value)}>{told(each.value, each.unit)}</td><td>{each.source === "site" ? "the site’s template" : "clusters.toml"}</td></tr>)}</tbody>
                  </table>
                </div>
              )}
            </section>
          ))}
        </>
      )}
    </section>
  );
}

const SOURCES: Readonly<Record<Setting["source"], string>> = { environment: "the environment", "config.toml": "config.toml", default: "default" };

function Row({ setting }: { setting: Setting }) {
  return (
    <tr>
      <td className="id"><span title={setting.variable}>{setting.name}</span></td>
      <td className="value"><span className={setting.source === "default" ? "id" : "id strong"} title={`${setting.name} = ${written(setting.value)}`}>{told(setting.value, setting.unit)}</span>{setting.pending !== null && <span className="asked">from the next start on: <strong className="id">{told(setting.pending, setting.unit)}</strong></span>}</td>
      <td>{setting.source === "environment" ? <code>{setting.variable}</code> : SOURCES[setting.source]}{setting.source !== "default" && <span className="asked">default: {told(setting.default, setting.unit)}</span>}</td>
      <td className="about"><Words text={setting.about} /></td>
    </tr>
  );
}
