import { memo, useEffect, useLayoutEffect, useMemo, useRef, useState, type ReactNode, type SyntheticEvent } from "react";
import { pieces, lastOfLine } from "../ansi";
import type { Schemas } from "../api/client";
import { download, follow, readLog, searchLog, type Told } from "../api/output";
import { bytes, count, plural } from "../format";
import { startOf, STEP, STREAMS, textOf, type Stream, type View, type Views } from "../streams";
import { Fault } from "./basics";

/** A line that never ends is shown to here. */
const LONGEST = 4_000;
/** Lines that are drawn: what is before them can be found, and downloaded. */
const DRAWN = 2_000;

const WORDS: Record<Stream, string> = { stdout: "Standard output", stderr: "Standard error" };

/** Where in a stream to begin, as the address says it. */
export interface Spot {
  readonly stream: Stream;
  readonly at: number;
}

interface Props {
  readonly id: string;
  readonly index: number;
  /** Another one: what is shown is of another run. */
  readonly attempt: number;
  readonly running: boolean;
  readonly spot?: Spot | null;
  readonly onSpot?: (spot: Spot | null) => void;
}

/** What a task writes, while it writes it. */
export function Output({ id, index, attempt, running, spot = null, onSpot }: Props) {
  const [told, setTold] = useState<Told>({});
  const [views, setViews] = useState<Views | null>(null);
  const [paused, setPaused] = useState(false);
  useEffect(() => setViews(null), [id, index, attempt]);
  useEffect(() => {
    if (paused) return;
    const stop = new AbortController();
    void follow(id, index, stop.signal, (next) => {
      setTold(next);
      const got = next.views;
      // For a moment after its end what it wrote is between its worker's folder and where it is kept.
      if (got) setViews((old) => ({ stdout: kept(old?.stdout, got.stdout), stderr: kept(old?.stderr, got.stderr) }));
    });
    return () => stop.abort();
  }, [id, index, attempt, running, paused]);
  const live = running && told.running !== false;
  return (
    <>
      {told.error !== undefined && <Fault error={told.error} />}
      {STREAMS.map((stream) => (
        <Log key={`${id} ${index} ${stream}`} id={id} index={index} stream={stream} view={views?.[stream] ?? null} live={live} paused={paused} onPause={setPaused} at={spot?.stream === stream ? spot.at : null} onSpot={(at) => onSpot?.(at === null ? null : { stream, at })} />
      ))}
    </>
  );
}

function kept(old: View | undefined, got: View): View {
  return old && old.size > 0 && got.size === 0 ? old : got;
}

interface LogProps {
  readonly id: string;
  readonly index: number;
  readonly stream: Stream;
  readonly view: View | null;
  readonly live: boolean;
  readonly paused: boolean;
  readonly onPause: (paused: boolean) => void;
  readonly at: number | null;
  readonly onSpot: (at: number | null) => void;
}

function Log({ id, index, stream, view, live, paused, onPause, at, onSpot }: LogProps) {
  const [wrap, setWrap] = useState(true);
  // Once it was opened, by itself or by hand, only a hand closes it.
  const [open, setOpen] = useState<boolean | null>(null);
  const fold = { className: "fold", open: open ?? (view !== null && view.size > 0), onToggle: (event: SyntheticEvent<HTMLDetailsElement>) => { if (event.target === event.currentTarget) setOpen(event.currentTarget.open); } };
  const [before, setBefore] = useState<{ offset: number; text: string } | null>(null);
  const [around, setAround] = useState<{ at: number; offset: number; text: string } | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    if (at === null) return setAround(null);
    const offset = Math.max(0, at - STEP / 2);
    let gone = false;
    readLog(id, index, stream, offset, STEP).then((text) => { if (!gone) setAround({ at, offset, text }); }, (fault: unknown) => { if (!gone) setError(fault); });
    return () => { gone = true; };
  }, [id, index, stream, at]);
  if (!view) return <details {...fold}><summary>{WORDS[stream]}</summary><p className="soft">…</p></details>;
  const size = view.size;
  if (size === 0) {
    return <details {...fold}><summary>{WORDS[stream]}</summary><p className="empty">{live ? "It has written nothing here so far; what it writes appears as it comes." : "It wrote nothing here."}</p></details>;
  }
  const joins = before !== null && !around;
  const start = around ? around.offset : joins ? before.offset : startOf(view);
  const text = around ? around.text : (joins ? before.text : "") + textOf(view);
  const back = async () => {
    const to = Math.max(0, start - 4 * STEP);
    try {
      const earlier = await readLog(id, index, stream, to, start - to);
      setBefore({ offset: to, text: earlier + (before?.text ?? "") });
      setError(null);
    } catch (fault) {
      setError(fault);
    }
  };
  return (
    <details {...fold}>
      <summary>{WORDS[stream]} <span className="soft">{bytes(size)}{live && !around ? (paused ? " · paused" : " · live") : ""}</span></summary>
      <Search id={id} index={index} stream={stream} size={size} onSpot={onSpot}>
        {live && <button type="button" className="button small" aria-pressed={!paused} onClick={() => onPause(!paused)}>{paused ? "Follow" : "Following"}</button>}
        {around && <button type="button" className="button small" onClick={() => onSpot(null)}>To the end</button>}
        {!around && start > 0 && <button type="button" className="button small" onClick={() => void back()}>Read further back</button>}
        <button type="button" className="button small" onClick={() => void download(id, index, stream, size)}>Download</button>
        <label><input type="checkbox" checked={wrap} onChange={(event) => setWrap(event.target.checked)} /> wrap</label>
        <span className="soft" role="status">{around ? `around byte ${count(around.at)} of ${count(size)}` : start > 0 ? `the last ${bytes(size - start)} of ${bytes(size)}` : ""}</span>
      </Search>
      {error !== null && <Fault error={error} />}
      <Lines text={text} cut={start > 0} wrap={wrap} label={WORDS[stream]} tail={!around} mark={around ? around.at - around.offset : null} />
    </details>
  );
}

/** Looks for text in all of a log, on the server: some hundred megabytes for each answer, and on from there when asked. */
function Search({ id, index, stream, size, onSpot, children }: { id: string; index: number; stream: Stream; size: number; onSpot: (at: number) => void; children: ReactNode }) {
  const [found, setFound] = useState<{ q: string; hits: Schemas["LogHit"][]; searched: number; size: number } | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const look = async (q: string, from: number, known: Schemas["LogHit"][]) => {
    setBusy(true);
    setError(null);
    try {
      const got = await searchLog(id, index, stream, q, from);
      setFound({ q, hits: [...known, ...got.hits], searched: got.searched, size: got.size });
    } catch (fault) {
      setError(fault);
    }
    setBusy(false);
  };
  const name = WORDS[stream].toLowerCase();
  return (
    <div className="log-search">
      <div className="log-tools">
      <form className="log-find" role="search" onSubmit={(event) => {
        event.preventDefault();
        const q = String(new FormData(event.currentTarget).get("q") ?? "");
        if (q) void look(q, 0, []);
        else setFound(null);
      }}>
        <input type="search" name="q" maxLength={200} placeholder={`Find in all ${bytes(size)}`} aria-label={`Find in ${name}`} autoComplete="off" spellCheck={false} onChange={(event) => { if (!event.target.value) setFound(null); }} />
        <button type="submit" className="button small" disabled={busy}>{busy ? "Searching…" : "Find"}</button>
        {found && <span className="soft" role="status">{plural(found.hits.length, "line")}{found.searched < found.size ? ` in the first ${bytes(found.searched)}` : ""}</span>}
        {found && found.searched < found.size && <button type="button" className="button small" disabled={busy} onClick={() => void look(found.q, found.searched, found.hits)}>Search on</button>}
      </form>
      {children}
      </div>
      {error !== null && <Fault error={error} />}
      {found && found.hits.length > 0 && (
        <ol className="plain hits" aria-label={`Found in ${name}`} tabIndex={0}>
          {found.hits.map((hit) => (
            <li key={hit.offset}><button type="button" className="hit" onClick={() => onSpot(hit.offset)}><span className="soft id">{count(hit.offset)}</span> <Styled text={hit.text} /></button></li>
          ))}
        </ol>
      )}
    </div>
  );
}

function Lines({ text, cut, wrap, label, tail, mark }: { text: string; cut: boolean; wrap: boolean; label: string; tail: boolean; mark: number | null }) {
  const ref = useRef<HTMLPreElement>(null);
  const atEnd = useRef(true);
  const lines = useMemo(() => linesOf(text, cut), [text, cut]);
  // Bytes are not characters; where they differ, the mark is a little below what was found.
  const marked = useMemo(() => (mark === null ? -1 : Math.max(0, text.slice(0, mark).split("\n").length - 1 - (cut && lines.length ? 1 : 0))), [text, cut, mark, lines]);
  const shown = tail ? lines.slice(-DRAWN) : lines.slice(0, DRAWN);
  const first = tail ? lines.length - shown.length : 0;
  useLayoutEffect(() => {
    const box = ref.current;
    if (!box) return;
    if (marked >= 0) box.querySelector(".log-mark")?.scrollIntoView({ block: "center" });
    else if (atEnd.current) box.scrollTop = box.scrollHeight;
  }, [shown, marked]);
  return (
    <pre ref={ref} className={`log${wrap ? " log-wrap" : ""}${shown.length > 300 ? " log-long" : ""}`} role="region" tabIndex={0} aria-label={label} onScroll={(event) => {
      const box = event.currentTarget;
      atEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
    }}>
      {shown.map((line, at) => <Line key={first + at} text={line} marked={first + at === marked} />)}
    </pre>
  );
}

const Line = memo(function Line({ text, marked }: { text: string; marked: boolean }) {
  return (
    <span className={marked ? "log-line log-mark" : "log-line"}>
      <Styled text={text.slice(0, LONGEST)} />
      {text.length > LONGEST ? ` … ${count(text.length - LONGEST)} characters more` : ""}
      {"\n"}
    </span>
  );
});

function Styled({ text }: { text: string }) {
  return <>{pieces(text).map((piece, k) => (piece.style ? <span key={k} className={piece.style}>{piece.text}</span> : piece.text))}</>;
}

/** The first line of a piece out of the middle is a part of one, and left out unless it is all there is. */
export function linesOf(text: string, cut: boolean): string[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  if (cut && lines.length > 1) lines.shift();
  return lines.map(lastOfLine);
}
