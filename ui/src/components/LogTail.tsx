import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { lastOfLine, pieces } from "../ansi";
import { readLog, readLogBytes, type Stream } from "../api/queries";
import { bytes, count, plural } from "../format";
import { Fault } from "./basics";

/** Read at once, and with each further step back, in bytes. */
const STEP = 65_536;
/** A line that never ends is shown to here. */
const LONGEST = 4_000;

const WORDS: Record<Stream, string> = { stdout: "Standard output", stderr: "Standard error" };

/** The end of what a task wrote; what is before it comes when it is asked for, so that a log of any size opens at once. */
export function LogTail({ id, index, stream, size, running }: { id: string; index: number; stream: Stream; size: number; running: boolean }) {
  const [wanted, setWanted] = useState(STEP);
  const [find, setFind] = useState("");
  const [wrap, setWrap] = useState(true);
  const from = Math.max(0, size - wanted);
  const query = useQuery({
    queryKey: ["log", id, index, stream, size, wanted],
    queryFn: () => readLog(id, index, stream, from, wanted),
    enabled: size > 0,
    staleTime: Infinity,
    placeholderData: (before: string | undefined) => before,
  });
  const lines = useMemo(() => linesOf(query.data ?? "", from > 0), [query.data, from]);
  const shown = useMemo(() => (find ? lines.filter((line) => line.toLowerCase().includes(find.toLowerCase())) : lines), [lines, find]);
  if (size === 0) {
    return <details className="fold"><summary>{WORDS[stream]}</summary><p className="empty">{running ? "What it writes can be read here when it has ended." : "It wrote nothing here."}</p></details>;
  }
  return (
    <details className="fold" open>
      <summary>{WORDS[stream]} <span className="soft">{bytes(size)}</span></summary>
      <div className="log-tools">
        <input type="search" value={find} placeholder="Lines that contain" aria-label={`Lines of ${WORDS[stream].toLowerCase()} that contain`} onChange={(event) => setFind(event.target.value)} />
        <label><input type="checkbox" checked={wrap} onChange={(event) => setWrap(event.target.checked)} /> wrap</label>
        {from > 0 && <button type="button" className="button small" onClick={() => setWanted((before) => before * 4)}>Read further back</button>}
        <button type="button" className="button small" onClick={() => void download(id, index, stream)}>Download</button>
        <span className="soft" role="status">{find ? `${count(shown.length)} of ${count(lines.length)} lines` : from > 0 ? `the last ${bytes(size - from)} of ${bytes(size)}` : plural(lines.length, "line")}</span>
      </div>
      {query.error && <Fault error={query.error} retry={() => void query.refetch()} />}
      <pre className={`log${wrap ? " log-wrap" : ""}`} role="region" tabIndex={0} aria-label={WORDS[stream]}>
        {shown.slice(-5_000).map((line, at) => (
          <span key={at} className="log-line">
            {pieces(line.slice(0, LONGEST)).map((piece, k) => (piece.style ? <span key={k} className={piece.style}>{piece.text}</span> : piece.text))}
            {line.length > LONGEST ? ` … ${count(line.length - LONGEST)} characters more` : ""}
            {"\n"}
          </span>
        ))}
      </pre>
    </details>
  );
}

/** The first line of a piece out of the middle is a part of one, and left out. */
export function linesOf(text: string, cut: boolean): string[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  if (cut && lines.length > 1) lines.shift();
  return lines.map(lastOfLine);
}

async function download(id: string, index: number, stream: Stream): Promise<void> {
  const parts: Blob[] = [];
  const most = 8 * 2 ** 20;
  for (let at = 0; ; at += most) {
    const part = await readLogBytes(id, index, stream, at, most);
    parts.push(part);
    if (part.size === 0) break;
  }
  const url = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = `${id}-${index}.${stream}.txt`;
  anchor.click();
  URL.revokeObjectURL(url);
}
