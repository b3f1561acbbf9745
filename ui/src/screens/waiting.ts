import type { Summary } from "../api/queries";
import { plural } from "../format";

/** Why jobs of a dispatch wait, the most frequent reason first, as one sentence; null when none waits. */
export function whyWaiting(summary: Pick<Summary, "arrays" | "status" | "counts" | "messages">): string | null {
  if (summary.status !== "RUNNING") return null;
  const reasons = new Map<string, number>();
  for (const array of summary.arrays) {
    const said = array.why ?? array.reason;
    if (array.state === "submitted" && said) reasons.set(said, (reasons.get(said) ?? 0) + 1);
  }
  const sorted = [...reasons].sort((one, other) => other[1] - one[1]);
  const first = sorted[0];
  // Nothing was submitted of what could run: what was said last says why.
  if (!first) return !summary.arrays.some((array) => array.state === "submitted") && summary.counts.ready && !summary.counts.running ? (summary.messages.findLast((message) => !message.text.startsWith("Tried again "))?.text ?? null) : null;
  const rest = sorted.slice(1).reduce((sum, [, number]) => sum + number, 0);
  return `${plural(first[1], "job waits", "jobs wait")}: ${first[0]}${/[.!?]$/.test(first[0]) ? "" : "."}${rest ? ` ${plural(rest, "other waits", "others wait")} for other reasons.` : ""}`;
}
