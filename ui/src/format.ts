/** Numbers and times as people read them. Pure: the time now is always given. */

const GROUPS = new Intl.NumberFormat("en-US");

/** 10 000, with narrow spaces that never break. */
export function count(value: number): string {
  return GROUPS.format(value).replaceAll(",", "\u202f");
}

export function plural(value: number, one: string, several = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : several}`;
}

/** "0.42 s", "12 s", "3 min 05 s", "2 h 10 min", "4 d 3 h"; nothing for what is not known. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const total = Math.max(0, seconds);
  if (total < 0.0005) return "0 s";
  if (total < 1) return `${Math.round(total * 1000)} ms`;
  if (total < 10) return `${total.toFixed(1)} s`;
  const whole = Math.round(total);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A limit as people set it: "5 min", "1 h 30 min", "2 d"; what is zero is left out. */
export function limit(seconds: number | null | undefined): string {
  return duration(seconds).replace(/\.0 s$/, " s").replace(/ 0+ (s|min|h)$/, "");
}

/** Seconds between two times as the API spells them; the end may be open. */
export function between(from: string | null | undefined, to: string | null | undefined, now: number): number | null {
  if (!from) return null;
  return ((to ? Date.parse(to) : now) - Date.parse(from)) / 1000;
}

/** "just now", "40 s ago", "12 min ago", "3 h ago", "5 d ago". */
export function ago(time: string, now: number): string {
  const seconds = (now - Date.parse(time)) / 1000;
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** Date, time and zone in full. */
export function absolute(time: string): string {
  return new Date(time).toLocaleString("en-GB", {
    day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  });
}

/** A length of time that is only estimated: no seconds beside minutes. */
export function roughly(seconds: number): string {
  return limit(seconds < 60 ? Math.round(seconds) : 60 * Math.round(seconds / 60));
}

/** A time of today as "16:20 UTC", of another day with its date; in local time. */
export function moment(time: string, now: number): string {
  const at = new Date(time);
  const today = at.toDateString() === new Date(now).toDateString();
  return at.toLocaleString("en-GB", { ...(today ? {} : { day: "numeric", month: "short" }), hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
}

export function mebibytes(mib: number | null | undefined): string {
  if (mib === null || mib === undefined) return "";
  if (mib < 1) return `${Math.round(mib * 1024)} KiB`;
  return mib < 1024 ? `${mib < 10 ? mib.toFixed(1) : Math.round(mib)} MiB` : `${trimmed(mib / 1024)} GiB`;
}

export function bytes(size: number): string {
  return size < 1024 ? `${size} B` : mebibytes(size / 2 ** 20);
}

export function percent(part: number, whole: number): string {
  return whole > 0 ? `${Math.round((100 * part) / whole)} %` : "";
}

/** Whole percents of what the parts amount to, which add up to 100: those cut most are rounded up. */
export function percents(parts: readonly number[]): number[] {
  const whole = parts.reduce((sum, part) => sum + part, 0);
  if (!whole) return parts.map(() => 0);
  const exact = parts.map((part) => (100 * part) / whole);
  const told = exact.map(Math.floor);
  const rest = 100 - told.reduce((sum, share) => sum + share, 0);
  // Rounded, so that of equal ones it is the first here and in `hpcflow show`, and not what the last bit of a float says.
  const fraction = (place: number) => Math.round((exact[place]! - told[place]!) * 1e6);
  const cut = [...exact.keys()].sort((one, other) => fraction(other) - fraction(one));
  for (const place of cut.slice(0, rest)) told[place]! += 1;
  return told;
}

function trimmed(value: number): string {
  return value.toFixed(1).replace(/\.0$/, "");
}

/** As in Python: "24 GB" (powers of 1000) or "24 GiB" (powers of 1024) as whole MiB; null when it is no amount of memory. */
export function parseMemory(text: string): number | null {
  const found = /^\s*(\d+(?:\.\d+)?) ?([kmgt])(i?)b\s*$/i.exec(text);
  if (!found) return null;
  const power = "kmgt".indexOf(found[2]!.toLowerCase()) + 1;
  const mib = Math.ceil((Number(found[1]) * (found[3] ? 1024 : 1000) ** power) / 2 ** 20);
  return upTo(mib, 256 * 2 ** 20);
}

const SECONDS: Readonly<Record<string, number>> = {
  ...Object.fromEntries(["s", "sec", "second", "seconds"].map((unit) => [unit, 1])),
  ...Object.fromEntries(["min", "minute", "minutes"].map((unit) => [unit, 60])),
  ...Object.fromEntries(["h", "hour", "hours"].map((unit) => [unit, 3600])),
  ...Object.fromEntries(["d", "day", "days"].map((unit) => [unit, 86_400])),
};

/** "90 min", "2 h", "1 h 30 min", "01:30:00" or "1-00:00:00" as whole seconds; null when Python would take it for no time. */
export function parseWalltime(text: string): number | null {
  const clock = /^\s*(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)\s*$/.exec(text);
  if (clock) {
    const [days, hours, minutes, seconds] = clock.slice(1).map((part) => Number(part ?? 0)) as [number, number, number, number];
    return clock[1] !== undefined && hours >= 24 ? null : upTo(((days * 24 + hours) * 60 + minutes) * 60 + seconds, 366 * 86_400);
  }
  if (!/^\s*(\d+(?:\.\d+)? ?[a-z]+\s*)+$/i.test(text)) return null;
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?) ?([a-z]+)/gi)].map((part) => ({ number: Number(part[1]), size: SECONDS[part[2]!.toLowerCase()] }));
  if (parts.some(({ size }, k) => size === undefined || (k > 0 && size >= parts[k - 1]!.size!))) return null;
  return upTo(Math.ceil(parts.reduce((sum, { number, size }) => sum + number * size!, 0)), 366 * 86_400);
}

/** "3, 7, 10-12" as numbers, each once; null when it is anything else. */
export function parseNumbers(text: string): number[] | null {
  const found = new Set<number>();
  for (const part of text.split(/[\s,;]+/).filter(Boolean)) {
    const [, first, last] = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(part) ?? [];
    if (first === undefined) return null;
    const stop = Number(last ?? first);
    if (stop < Number(first) || found.size + stop - Number(first) > 1e6) return null;
    for (let number = Number(first); number <= stop; number++) found.add(number);
  }
  return found.size ? [...found] : null;
}

function upTo(amount: number, most: number): number | null {
  return amount >= 1 && amount <= most ? amount : null;
}

// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f]/g;
const TURNS = /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Text with signs for what can't be seen, and for what would turn the direction of all around it. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (found) => (found === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + found.charCodeAt(0)))).replace(TURNS, "\u25c7");
}
