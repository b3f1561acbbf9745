import { useEffect, useId, useRef, useState, useSyncExternalStore, type ReactNode } from "react";
import { link, Offline, Refused } from "../api/client";
import { absolute, ago, count } from "../format";
import { stateOf, STATES, STATUS_TONE, TONES, type StateName, type StatusName, type Tone } from "../states";

/** A state's shape: told apart without its colour. */
export function Mark({ tone, still = false }: { tone: Tone; still?: boolean }) {
  const shape: Record<Tone, ReactNode> = {
    waiting: <circle cx="8" cy="8" r="5" className="mark-line" />,
    queued: (
      <>
        <circle cx="8" cy="8" r="6" className="mark-line" />
        <path d="M8 4.500V8l2.500 2" className="mark-line" />
      </>
    ),
    running: <path d="M4 2.500v11l9-5.500z" className="mark-fill" />,
    completed: <path d="M2.500 8.500l3.500 3.500 7.500-8" className="mark-thick" />,
    failed: <path d="M3.500 3.500l9 9m0-9l-9 9" className="mark-thick" />,
    cancelled: (
      <>
        <circle cx="8" cy="8" r="5.500" className="mark-line" />
        <path d="M4 12l8-8" className="mark-line" />
      </>
    ),
    skipped: <path d="M3 3.500L7.500 8 3 12.500m6-9L13.500 8 9 12.500" className="mark-line" />,
  };
  return (
    <svg viewBox="0 0 16 16" className={`mark tone-${tone}${tone === "running" && !still ? " mark-lively" : ""}`} aria-hidden="true">
      {shape[tone]}
    </svg>
  );
}

export function StateBadge({ state, unknownSince = null }: { state: string; unknownSince?: string | null }) {
  const facts = stateOf(state);
  if (unknownSince !== null) {
    return (
      <span className="badge" title={`Its cluster does not answer: unknown since ${absolute(unknownSince)}`}>
        <Mark tone={facts.tone} still />
        <span className="unknown">was {facts.word}?</span>
      </span>
    );
  }
  return (
    <span className="badge" title={facts.means}>
      <Mark tone={facts.tone} />
      {facts.word}
    </span>
  );
}

/** With `counts`, one of which nothing runs yet is said to wait. */
export function StatusBadge({ status, paused = null, template = false, counts }: { status: StatusName; paused?: string | null; template?: boolean; counts?: Counts }) {
  const held = status === "RUNNING" && paused !== null;
  const waits = status === "RUNNING" && counts !== undefined && !counts.running && Boolean(counts.queued || counts.ready || counts.waiting);
  return (
    <span className="badge" title={held ? paused : undefined}>
      <Mark tone={!held ? (waits ? "queued" : STATUS_TONE[status]) : template ? "waiting" : "queued"} />
      {!held ? (waits ? "waiting" : status.toLowerCase()) : template ? "template" : "paused"}
    </span>
  );
}

type Counts = Readonly<Partial<Record<StateName, number>>>;

/** What became of tasks, as a strip whose parts are as wide as their numbers, and in words beside it. */
export function Strip({ counts, total, label }: { counts: Counts; total: number; label: string }) {
  const sums = new Map<Tone, number>(TONES.map((tone) => [tone, 0]));
  for (const state of STATES) sums.set(state.tone, sums.get(state.tone)! + (counts[state.name] ?? 0));
  const order: Tone[] = ["completed", "running", "queued", "waiting", "skipped", "cancelled", "failed"];
  const said = STATES.filter((state) => counts[state.name]).map((state) => `${count(counts[state.name]!)} ${state.word}`);
  let at = 0;
  return (
    <svg className="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label={`${label}: ${said.join(", ") || "no tasks"}`}>
      <rect x="0" y="0" width="1000" height="10" className="strip-ground" />
      {order.map((tone) => {
        const value = sums.get(tone)!;
        // The smallest part can still be seen.
        const width = value && total ? Math.max(8, (1000 * value) / total) : 0;
        const x = tone === "failed" ? 1000 - width : at;
        at += width;
        // Told apart without colour as well: what was skipped is thin, what was cancelled is hollow.
        const bars = tone === "skipped" ? [[3.5, 3]] : tone === "cancelled" ? [[0, 3.3], [6.7, 3.3]] : [[0, 10]];
        return width ? bars.map(([y, height]) => <rect key={`${tone} ${y}`} x={x} y={y} width={width} height={height} className={`strip-${tone}`} />) : null;
      })}
    </svg>
  );
}

export function CountsLine({ counts }: { counts: Counts }) {
  return (
    <span className="counts">
      {STATES.filter((state) => counts[state.name]).map((state) => (
        <span key={state.name} className="badge">
          <Mark tone={state.tone} still />
          {count(counts[state.name]!)} {state.word}
        </span>
      ))}
    </span>
  );
}

const clock = (() => {
  let now = Date.now();
  let timer: number | undefined;
  const listeners = new Set<() => void>();
  return {
    subscribe(listener: () => void) {
      listeners.add(listener);
      timer ??= window.setInterval(() => {
        if (document.hidden) return;
        now = Date.now();
        listeners.forEach((each) => each());
      }, 1_000);
      return () => {
        listeners.delete(listener);
        if (listeners.size === 0) {
          window.clearInterval(timer);
          timer = undefined;
        }
      };
    },
    now: () => now,
  };
})();

/** The time, a second apart; nothing runs while nobody looks. */
export function useNow(): number {
  return useSyncExternalStore(clock.subscribe, clock.now);
}

export function When({ time }: { time: string | null | undefined }) {
  const now = useNow();
  if (!time) return null;
  return (
    <time dateTime={time} title={absolute(time)}>
      {ago(time, Math.max(now, Date.parse(time)))}
    </time>
  );
}

export function CopyButton({ text, children = "Copy", label }: { text: string; children?: ReactNode; label?: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 1_500);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without a secure context there is no clipboard but this one.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    setDone(true);
  };
  return (
    <button type="button" className="button small" onClick={() => void copy()} aria-label={label}>
      <span aria-live="polite">{done ? "Copied" : children}</span>
    </button>
  );
}

export function Code({ text, label }: { text: string; label: string }) {
  return (
    <div className="code">
      <CopyButton text={text} label={`Copy ${label}`} />
      <pre role="region" tabIndex={0} aria-label={label}>{text}</pre>
    </div>
  );
}

/** Appears only when something takes longer than people notice. */
export function Loading({ what }: { what: string }) {
  return (
    <div className="loading" role="status">
      <span className="visually-hidden">Loading {what}</span>
      <span className="skeleton" />
      <span className="skeleton" />
      <span className="skeleton" />
    </div>
  );
}

export function Fault({ error, retry }: { error: unknown; retry?: () => void }) {
  const whose = error instanceof Refused ? "hpcflow says" : error instanceof Offline ? "The server is away" : "The page failed";
  const text = error instanceof Error ? error.message : String(error);
  return (
    <div className="notice notice-bad" role="alert">
      <strong>{whose}</strong>
      <p><Words text={text} /></p>
      {retry && (
        <button type="button" className="button small" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** A sentence of the server's, in which what stands between backticks is code. */
export function Words({ text }: { text: string }) {
  return <>{text.split(/`+/).map((part, index, all) => (index % 2 && index < all.length - 1 ? <code key={index} className="breakable">{part}</code> : index % 2 ? `\`${part}` : part))}</>;
}

export function Notice({ tone = "info", title, children }: { tone?: "info" | "bad" | "warn"; title?: string; children: ReactNode }) {
  return (
    <div className={`notice notice-${tone}`}>
      {title && <strong>{title}</strong>}
      <div>{children}</div>
    </div>
  );
}

export function useLink() {
  return useSyncExternalStore(link.subscribe, link.state);
}

/** Whether somebody has gone from one screen to another since the page was opened. */
export const moved = { once: false };

/** Sets the tab's title, and after a move within the page puts the focus where reading begins. */
export function Title({ text, children }: { text: string; children?: ReactNode }) {
  const ref = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${text} · hpcflow`;
  }, [text]);
  useEffect(() => {
    // A screen that had to be fetched comes after the move to it.
    if (moved.once && document.activeElement === document.body) ref.current?.focus({ preventScroll: true });
  }, []);
  return (
    <h1 ref={ref} tabIndex={-1} id="title">
      {children ?? text}
    </h1>
  );
}

export function Field({ label, children }: { label: string; children: (id: string) => ReactNode }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
    </div>
  );
}

/** A text field that tells its value once nobody has typed for a moment. */
export function SearchBox({ value, label, onChange, onGo, shortcut = true }: {
  value: string;
  label: string;
  onChange: (value: string) => void;
  /** To the first that is found for a text: Enter or the arrow down. */
  onGo?: (text: string) => void;
  shortcut?: boolean;
}) {
  const [text, setText] = useState(value);
  const told = useRef(value);
  const id = useId();
  useEffect(() => {
    if (value !== told.current) {
      told.current = value;
      setText(value);
    }
  }, [value]);
  useEffect(() => {
    if (text === told.current) return;
    const timer = setTimeout(() => {
      told.current = text;
      onChange(text);
    }, 200);
    return () => clearTimeout(timer);
  }, [text, onChange]);
  const key = (event: React.KeyboardEvent) => {
    if (!onGo || event.nativeEvent.isComposing || (event.key !== "Enter" && event.key !== "ArrowDown")) return;
    event.preventDefault();
    if (text !== told.current) {
      told.current = text;
      onChange(text);
    }
    onGo(text);
  };
  return (
    <div className="search">
      <label htmlFor={id} className="visually-hidden">{label}</label>
      <input id={id} type="search" value={text} placeholder={label} autoComplete="off" spellCheck={false} data-search={shortcut || undefined} onChange={(event) => setText(event.target.value)} onKeyDown={key} />
    </div>
  );
}

/** Buttons of which any number may be pressed. */
export function Chips<T extends string>({ label, options, chosen, onChange }: {
  label: string;
  options: readonly { value: T; text: ReactNode }[];
  chosen: readonly T[];
  onChange: (chosen: T[]) => void;
}) {
  return (
    <div className="chips" role="group" aria-label={label}>
      {options.map((option) => {
        const on = chosen.includes(option.value);
        return (
          <button key={option.value} type="button" className="chip" aria-pressed={on} onClick={() => onChange(on ? chosen.filter((each) => each !== option.value) : [...chosen, option.value])}>
            {option.text}
          </button>
        );
      })}
    </div>
  );
}
