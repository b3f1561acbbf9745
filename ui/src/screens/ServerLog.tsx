import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useCallback, useLayoutEffect, useRef } from "react";
import { serverLogQuery, type LogLevel, type ServerLog as Log } from "../api/insight";
import { Chips, Fault, Loading, SearchBox, Title } from "../components/basics";
import { absolute, bytes, count } from "../format";
import { logs as route } from "../router";
import "../insight/insight.css";

const FIRST = 500;
const MOST = 5_000;

/** The newest of the server's own log, as it is written, and a search in all that is kept of it. */
export function ServerLog() {
  const search = route.useSearch();
  const navigate = useNavigate({ from: route.fullPath });
  const level: LogLevel = search.level ?? "INFO";
  const limit = search.all ? MOST : FIRST;
  const follow = !search.still;
  const { data, error, refetch } = useQuery({ ...serverLogQuery(search.q ?? "", level, limit, follow), placeholderData: keepPreviousData });
  const seek = useCallback((q: string) => void navigate({ search: (old) => ({ ...old, q }), replace: true }), [navigate]);
  const list = useRef<HTMLOListElement>(null);
  const last = data?.entries.at(-1);
  // Whoever reads further up stays there; whoever was at the end before something came goes on there, however long it is.
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    const element = list.current;
    if (!element || !follow) return;
    let frame = 0;
    const toEnd = () => {
      element.scrollTop = element.scrollHeight;
      // An entry is as high as it is only once it is drawn, and the end may move by that.
      if (element.scrollHeight - element.scrollTop - element.clientHeight > 1) frame = requestAnimationFrame(toEnd);
    };
    const settle = () => {
      if (atEnd.current) {
        toEnd();
        frame = requestAnimationFrame(toEnd);
      }
    };
    settle();
    // A window that becomes narrower wraps more lines.
    const observer = new ResizeObserver(settle);
    observer.observe(element);
    return () => {
      observer.disconnect();
      cancelAnimationFrame(frame);
    };
  }, [follow, last?.at, last?.text, data?.found, data === undefined]);
  return (
    <section className="screen">
      <Title text="Server log">The server’s log</Title>
      {error && <Fault error={error} retry={() => void refetch()} />}
      {!data && !error && <Loading what="the log" />}
      {data && (
        <>
          <div className="toolbar">
            <SearchBox label="Search the log" value={search.q ?? ""} onChange={seek} />
            <div className="chips" role="group" aria-label="Least level">
              {(["INFO", "WARNING", "ERROR"] as const).map((each) => <button key={each} type="button" className="chip" aria-pressed={level === each} onClick={() => void navigate({ search: ({ level: _, ...old }) => ({ ...old, ...(each === "INFO" ? {} : { level: each }) }) })}>{{ INFO: "All", WARNING: "Warnings and errors", ERROR: "Errors" }[each]}</button>)}
            </div>
            <Chips label="Whether to follow" chosen={follow ? ["follow"] : []} options={[{ value: "follow", text: "Follow" }]} onChange={(chosen) => { atEnd.current = true; void navigate({ search: ({ still: _, ...old }) => ({ ...old, ...(chosen.length ? {} : { still: true }) }) }); }} />
            <p className="soft howmany" role="status">{count(data.entries.length)} of {count(data.found)} entries{data.found < data.total ? `, in ${count(data.total)}` : ""}</p>
          </div>
          {data.entries.length === 0 ? <p className="empty">{search.q || level !== "INFO" ? "No entry fits." : "The log is empty."}</p> : (
            <ol className="entries" ref={list} tabIndex={0} aria-label="Entries" onScroll={(event) => { const box = event.currentTarget; atEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < 24; }}>{data.entries.map((entry, index) => <Entry key={`${entry.at} ${index}`} entry={entry} q={search.q ?? ""} />)}</ol>
          )}
          <p className="soft">
            {data.found > data.entries.length && !search.all && <><button type="button" className="button small" onClick={() => void navigate({ search: (old) => ({ ...old, all: true }) })}>Show up to {count(MOST)}</button> </>}
            <span className="breakable">{data.path}</span>, {bytes(data.bytes)} with what was before it. Only you can read it.
          </p>
        </>
      )}
    </section>
  );
}

function Entry({ entry, q }: { entry: Log["entries"][number]; q: string }) {
  return (
    <li>
      <time dateTime={String(entry.at)} title={absolute(String(entry.at))} className="soft">{new Date(entry.at).toLocaleString("sv-SE")}</time>
      <span className={`entry-${entry.level}`}>{entry.level}</span>
      <pre><span className="soft">{entry.source.replace(/^hpcflow\./, "")}</span> <Found text={entry.text} q={q} /></pre>
    </li>
  );
}

/** A text with what was looked for in it marked. */
function Found({ text, q }: { text: string; q: string }) {
  if (!q) return <>{text}</>;
  const parts: React.ReactNode[] = [];
  const [low, wanted] = [text.toLowerCase(), q.toLowerCase()];
  let at = 0;
  // Letters that change their length in lower case would mark the wrong place.
  for (let found = low.length === text.length ? low.indexOf(wanted) : -1; found >= 0; found = low.indexOf(wanted, at)) {
    parts.push(text.slice(at, found), <mark key={found}>{text.slice(found, found + q.length)}</mark>);
    at = found + q.length;
  }
  return <>{parts}{text.slice(at)}</>;
}
