/** Text of a terminal as pieces with a style: colours become classes, everything else that moves a cursor is dropped. */

export interface Piece {
  readonly text: string;
  /** Classes, as "ansi-1 ansi-bold"; empty: plain. */
  readonly style: string;
}

// eslint-disable-next-line no-control-regex
const SEQUENCE = /\u001b(?:\[([0-9;:?]*)[ -/]*([@-~])|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;

/** A progress bar overwrites its line with carriage returns: what it wrote last is what a terminal shows. */
export function lastOfLine(line: string): string {
  const end = line.endsWith("\r") ? line.length - 1 : line.length;
  return line.slice(line.lastIndexOf("\r", end - 1) + 1, end);
}

export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let colour = "";
  let bold = false;
  let at = 0;
  const add = (part: string) => {
    const clean = part.replace(CONTROL, "\ufffd");
    if (clean) found.push({ text: clean, style: [colour, bold ? "ansi-bold" : ""].filter(Boolean).join(" ") });
  };
  for (const match of text.matchAll(SEQUENCE)) {
    add(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[2] !== "m") continue;
    const codes = (match[1] || "0").split(/[;:]/).map(Number);
    for (let k = 0; k < codes.length; k++) {
      const code = codes[k]!;
      if (code === 0) [colour, bold] = ["", false];
      else if (code === 1) bold = true;
      else if (code === 22) bold = false;
      else if (code === 39) colour = "";
      else if (code >= 30 && code <= 37) colour = `ansi-${code - 30}`;
      else if (code >= 90 && code <= 97) colour = `ansi-${code - 90}`;
      else if (code === 38 || code === 48) k += codes[k + 1] === 5 ? 2 : 4;
    }
  }
  add(text.slice(at));
  return found;
}
