import { BASE, link, sessionKey } from "./client";
import { client, type Letters } from "./queries";
import { EventParser, type ServerEvent } from "./sse";

/** One stream of news per browser: the tab that has the lock reads it, and tells the others. */

interface Moved {
  readonly dispatches: Readonly<Record<string, { version: number; moves: Readonly<Record<string, string>> }>>;
}
type Told = { readonly event: ServerEvent } | { readonly offline: true };

const NAME = `hpcflow-news ${location.pathname}`;
const PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000];
/** The server greets at once: a stream that is silent for so long is kept back by a proxy. */
const GREETING_MS = 4_000;
/** An answer to a question for news takes no longer, even without any. */
const ANSWER_MS = 40_000;
/** Lists and tables are read again at most so often, whatever happens. */
const LIST_MS = 1_000;

let lastId = "";
let listsDue: number | undefined;
const tablesDue = new Set<string>();

/** Watch until `signal` ends it. */
export function watch(signal: AbortSignal): void {
  const channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(NAME);
  if (channel) {
    channel.onmessage = (message: MessageEvent<Told>) => hear(message.data);
    signal.addEventListener("abort", () => channel.close());
  }
  const tell = (told: Told) => {
    channel?.postMessage(told);
    hear(told);
  };
  const lead = () => follow(tell, signal);
  // Locks need a secure context; 127.0.0.1 is one. Elsewhere each tab that is seen has a stream of its own.
  if (navigator.locks && channel) void navigator.locks.request(NAME, { signal }, lead).catch(() => undefined);
  else void lead();
}

async function follow(tell: (told: Told) => void, signal: AbortSignal): Promise<void> {
  let failures = 0;
  // Behind a proxy that hands on only what has ended, news are asked for one by one.
  let singly = false;
  while (!signal.aborted) {
    const given = new AbortController();
    const end = () => given.abort();
    signal.addEventListener("abort", end);
    let silent = true;
    const patience = setTimeout(end, singly ? ANSWER_MS : GREETING_MS);
    try {
      const headers: Record<string, string> = { "x-hpcflow-key": sessionKey.get(), accept: "text/event-stream" };
      if (lastId) headers["last-event-id"] = lastId;
      const response = await fetch(`${BASE}/api/v1/events${singly ? "?once=true" : ""}`, { headers, signal: given.signal, cache: "no-store" });
      if (response.status === 401) {
        link.set("login");
        return;
      }
      if (!response.ok || !response.body) throw new Error(`${response.status}`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (!singly) clearTimeout(patience);
        silent = false;
        failures = 0;
        for (const event of parser.feed(value)) tell({ event });
      }
    } catch {
      if (signal.aborted) return;
      if (silent && given.signal.aborted && !singly) {
        singly = true;
        continue;
      }
    } finally {
      clearTimeout(patience);
      signal.removeEventListener("abort", end);
    }
    // The server ended the stream, or there is none: the next answer tells which.
    if (failures > 0) tell({ offline: true });
    await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)]));
    failures += 1;
  }
}

function hear(told: Told): void {
  if ("offline" in told) {
    link.set("offline");
    return;
  }
  const { event } = told;
  const known = lastId;
  lastId = event.id;
  link.set("ok");
  if (event.kind === "moved") moved(JSON.parse(event.data) as Moved, numberOf(event.id));
  // A stream that begins anew from where the last one ended has missed nothing.
  else if (event.kind === "reset" || known !== event.id) {
    void client.invalidateQueries({ predicate: (query) => event.kind === "reset" || query.queryKey[0] !== "graph" });
  }
}

function numberOf(id: string): number {
  return Number(id.slice(id.lastIndexOf(".") + 1));
}

function moved(news: Moved, number: number): void {
  for (const [id, change] of Object.entries(news.dispatches)) {
    // A sublattice was built: its tasks are behind those that were known.
    const known = client.getQueryData<Letters>(["letters", id]);
    if (known && Object.keys(change.moves).some((index) => Number(index) >= known.codes.length)) {
      void client.invalidateQueries({ queryKey: ["graph", id] });
      void client.invalidateQueries({ queryKey: ["letters", id] }, { cancelRefetch: false });
    }
    client.setQueryData<Letters>(["letters", id], (known) => (known ? applied(known, change.moves, number) : known));
    void client.invalidateQueries({ queryKey: ["dispatch", id, "summary"] }, { cancelRefetch: false });
    tablesDue.add(id);
  }
  listsDue ??= window.setTimeout(() => {
    listsDue = undefined;
    for (const id of tablesDue) void client.invalidateQueries({ queryKey: ["dispatch", id] }, { cancelRefetch: false });
    tablesDue.clear();
    void client.invalidateQueries({ queryKey: ["dispatches"] }, { cancelRefetch: false });
  }, LIST_MS);
}

/** Returns the states after some moves; those that were in it already change nothing. */
export function applied(known: Letters, moves: Readonly<Record<string, string>>, number: number): Letters {
  const entries = Object.entries(moves);
  if (number <= known.number || entries.length === 0) return known;
  const codes = known.codes.slice();
  for (const [index, letter] of entries) codes[Number(index)] = letter.charCodeAt(0);
  return { number, codes };
}
