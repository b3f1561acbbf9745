import type { GraphColumns } from "./layout";

/** What a lens makes of a task: all but what it is for is faint. */
export const FAINT = 0;
export const PALE = 1;
export const BRIGHT = 2;

const FAILED = "f".charCodeAt(0);

/** Returns for each task whether it failed (bright), hangs on one that did (pale), or has nothing to do with it (faint). */
export function failedLens(graph: GraphColumns, codes: Uint8Array): Uint8Array {
  const seen = new Uint8Array(graph.tasks);
  for (let task = 0; task < graph.tasks; task++) if (codes[task] === FAILED) seen[task] = BRIGHT;
  const ofSet = new Uint8Array(graph.sets.length);
  const known = new Uint8Array(graph.sets.length);
  // Traced in order, a task needs earlier ones only, and one pass is enough; a second proves it.
  for (let pass = 0, moved = true; moved && pass <= graph.tasks; pass++) {
    moved = false;
    known.fill(0);
    for (let task = 0; task < graph.tasks; task++) {
      if (seen[task]) continue;
      const set = graph.needs[task]!;
      if (!known[set]) [known[set], ofSet[set]] = [1, Number(graph.sets[set]!.some((each) => seen[each]))];
      if (!ofSet[set]) continue;
      seen[task] = PALE;
      moved = true;
    }
  }
  return seen;
}

/** Returns how strongly each of some groups is seen: as its strongest task. */
export function ofGroups(groupOf: Int32Array, groups: number, tasks: Uint8Array): Uint8Array {
  const seen = new Uint8Array(groups);
  tasks.forEach((each, task) => (seen[groupOf[task]!] = Math.max(seen[groupOf[task]!]!, each)));
  return seen;
}
