import { answer, api, Refused, type Schemas } from "./client";
import { joined, STEP, STREAMS, wanted, type Stream, type View, type Views } from "../streams";

const WAIT_S = 20;
const PAUSE_MS = 3_000;

export interface Told {
  readonly views?: Views;
  readonly running?: boolean;
  readonly error?: unknown;
}

/**
 * Reads what a task writes until it has ended, one request at a time and none while nobody can see the page. The first answer is
 * the end of both streams, so that a log of any size opens at once.
 */
export async function follow(id: string, index: number, signal: AbortSignal, tell: (told: Told) => void): Promise<void> {
  const known: Record<Stream, View | null> = { stdout: null, stderr: null };
  for (;;) {
    await seen(signal);
    if (signal.aborted) return;
    try {
      const at = { stdout: wanted(known.stdout), stderr: wanted(known.stderr) };
      const wait = at.stdout < 0 || at.stderr < 0 ? 0 : WAIT_S;
      const query = { ...at, limit: wait ? 4 * STEP : STEP, wait };
      const got = await answer(api.GET("/api/v1/dispatches/{dispatch_id}/tasks/{index}/output", { params: { path: { dispatch_id: id, index }, query }, signal }));
      if (signal.aborted) return;
      for (const name of STREAMS) {
        if (got[name].size < (known[name]?.next ?? 0)) known[name] = null;
        known[name] = joined(known[name], got[name]);
      }
      tell({ views: { stdout: known.stdout!, stderr: known.stderr! }, running: got.running });
      if (!got.running && STREAMS.every((name) => known[name]!.next >= known[name]!.size)) return;
    } catch (error) {
      if (signal.aborted) return;
      tell({ error });
      if (error instanceof Refused && error.status < 500) return;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** Resolves when the page can be seen. */
function seen(signal: AbortSignal): Promise<void> {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });
}

/** A piece of what a task wrote, as it is: pieces may be cut within a character. */
export function readLogBytes(id: string, index: number, stream: Stream, offset: number, limit: number): Promise<Blob> {
  return answer<Blob>(
    api.GET("/api/v1/dispatches/{dispatch_id}/tasks/{index}/{stream}", {
      params: { path: { dispatch_id: id, index, stream }, query: { offset, limit } },
      parseAs: "blob",
    }) as Promise<{ data?: Blob; response: Response }>,
  );
}

/** A piece of what a task wrote, as text. */
export async function readLog(id: string, index: number, stream: Stream, offset: number, limit: number): Promise<string> {
  return new TextDecoder().decode(await (await readLogBytes(id, index, stream, offset, limit)).arrayBuffer());
}

export function searchLog(id: string, index: number, stream: Stream, q: string, offset: number): Promise<Schemas["LogSearch"]> {
  return answer(api.GET("/api/v1/dispatches/{dispatch_id}/tasks/{index}/{stream}/search", { params: { path: { dispatch_id: id, index, stream }, query: { q, offset } } }));
}

/** Saves what all tasks of a dispatch wrote, or those that have failed, as one archive. */
export async function downloadLogs(id: string, failed: boolean): Promise<void> {
  const archive = await answer<Blob>(
    api.GET("/api/v1/dispatches/{dispatch_id}/logs", { params: { path: { dispatch_id: id }, query: { failed } }, parseAs: "blob" }) as Promise<{ data?: Blob; response: Response }>,
  );
  save(archive, `${id}-logs${failed ? "-failed" : ""}.tar.gz`);
}

function save(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Saves all of a stream as a file of the browser's. */
export async function download(id: string, index: number, stream: Stream, size: number): Promise<void> {
  const parts: Blob[] = [];
  const most = 8 * 2 ** 20;
  for (let at = 0; at < size; at += most) {
    const part = await readLogBytes(id, index, stream, at, Math.min(most, size - at));
    parts.push(part);
    if (part.size === 0) break;
  }
  save(new Blob(parts, { type: "text/plain" }), `${id}-${index}.${stream}.txt`);
}
