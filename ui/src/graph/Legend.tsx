import { Mark } from "../components/basics";
import { type Drawn, TONES } from "../states";

interface Props {
  /** Those that tasks here are in. */
  readonly states: readonly Drawn[];
  readonly lens: "all" | "failed";
  readonly deep: boolean;
  readonly numbers: boolean;
}

/** What is drawn in the graph, in words. */
export function Legend({ states, lens, deep, numbers }: Props) {
  return (
    <ul className="legend plain" aria-label="What is drawn">
      {lens === "failed" && <li><strong>Bright: tasks that failed. Paler: what hangs on them. Faint: all else.</strong></li>}
      {TONES.map((tone) => states.filter((state) => state.tone === tone)).filter((same) => same.length > 0).map((same) => <li key={same[0]!.tone} title={same.map((state) => state.means).join(" ")}><Mark tone={same[0]!.tone} still />{same.map((state) => state.word).join(" or ")}</li>)}
      {deep && <li><svg viewBox="0 0 26 14" aria-hidden="true"><rect x="4.500" y="3.500" width="21" height="10" rx="2" className="legend-frame" /><rect x="0.500" y="0.500" width="21" height="10" rx="2" className="legend-frame" /></svg>with a sublattice</li>}
      <li><svg viewBox="0 0 26 12" aria-hidden="true"><path d="M0 6h20" className="legend-line" /><path d="M18 2l8 4-8 4z" className="legend-head" /></svg>needed by{numbers ? "; its number: pairs of tasks" : ""}</li>
    </ul>
  );
}
