import type { components } from "./api/schema";

export type StateName = components["schemas"]["State"];
export type StatusName = components["schemas"]["Status"];
/** What has a colour and a shape of its own: several states share one. */
export type Tone = "waiting" | "queued" | "running" | "completed" | "failed" | "cancelled" | "skipped";

interface StateFacts {
  readonly name: StateName;
  readonly letter: string;
  readonly tone: Tone;
  readonly word: string;
  readonly means: string;
}

/** In the order in which they are counted and drawn. The letters are those of the API's `states`. */
export const STATES: readonly StateFacts[] = [
  { name: "failed", letter: "f", tone: "failed", word: "failed", means: "It ran and did not give a result." },
  { name: "running", letter: "r", tone: "running", word: "running", means: "A worker runs it." },
  { name: "queued", letter: "q", tone: "queued", word: "queued", means: "In a bag that a scheduler has, or is about to get." },
  { name: "paused", letter: "p", tone: "queued", word: "paused", means: "Could run, but waits for you to resume." },
  { name: "ready", letter: "y", tone: "waiting", word: "ready", means: "Can run; is gathered with others like it." },
  { name: "waiting", letter: "w", tone: "waiting", word: "waiting", means: "Something upstream has not ended yet." },
  { name: "completed", letter: "c", tone: "completed", word: "completed", means: "Its result is there." },
  { name: "cancelled", letter: "x", tone: "cancelled", word: "cancelled", means: "Somebody cancelled it." },
  { name: "skipped", letter: "s", tone: "skipped", word: "skipped", means: "Not run, because something upstream was lost." },
];

export const TONES: readonly Tone[] = ["failed", "running", "queued", "waiting", "completed", "cancelled", "skipped"];
/** A state's shape as a character, where something is drawn or told in text. */
export const SIGNS: Readonly<Record<Tone, string>> = { waiting: "○", queued: "◷", running: "▶", completed: "✓", failed: "✕", cancelled: "⊘", skipped: "»" };
/** What can be drawn. No task of a dispatch is new: that is how a graph is seen before there is one. */
export type Drawn = Omit<StateFacts, "name"> & { readonly name: StateName | "new" };
export const NEW: Drawn = { name: "new", letter: "n", tone: "waiting", word: "new", means: "Nobody dispatched it yet." };
export const DRAWN: readonly Drawn[] = [...STATES, NEW];
const BY_NAME = new Map<string, Drawn>(DRAWN.map((each) => [each.name, each]));
const UNKNOWN: StateFacts = { name: "waiting", letter: "?", tone: "waiting", word: "unknown", means: "" };

/** Position in DRAWN by the character code of a state's letter; 255: no state. */
export const INDEX_OF_CODE: Uint8Array = (() => {
  const table = new Uint8Array(256).fill(255);
  DRAWN.forEach((each, index) => (table[each.letter.charCodeAt(0)] = index));
  return table;
})();

export function stateOf(name: string): Drawn {
  return BY_NAME.get(name) ?? { ...UNKNOWN, word: name };
}

export function stateOfCode(code: number): Drawn {
  return DRAWN[INDEX_OF_CODE[code] ?? 255] ?? UNKNOWN;
}

export const STATUS_TONE: Readonly<Record<StatusName, Tone>> = {
  RUNNING: "running",
  COMPLETED: "completed",
  FAILED: "failed",
  CANCELLED: "cancelled",
};

export const FINAL: ReadonlySet<string> = new Set(["completed", "failed", "cancelled", "skipped"]);

export function ended(counts: Readonly<Partial<Record<StateName, number>>>): number {
  return STATES.reduce((sum, each) => sum + (FINAL.has(each.name) ? (counts[each.name] ?? 0) : 0), 0);
}

/** What is said of a cluster behind its name. */
export const CLUSTER_WORDS: Record<components["schemas"]["ClusterAnswer"]["state"], string> = { ok: "answers", unreachable: "can't be reached", "needs login": "wants you to log in", "needs admin": "has to be set up anew by you", "not set up": "installed here, and not set up", unknown: "not asked yet" };
