import type { components } from "./api/schema";

type StreamPiece = components["schemas"]["StreamPiece"];

export type Stream = "stdout" | "stderr";
export const STREAMS = ["stderr", "stdout"] as const;

/** What is known of one stream: pieces that follow each other, without the earliest when they became too many. */
export interface View {
  readonly pieces: readonly { readonly offset: number; readonly text: string }[];
  /** The first byte that is not here yet. */
  readonly next: number;
  /** Bytes that there are. */
  readonly size: number;
}

export type Views = Readonly<Record<Stream, View>>;

/** Bytes of each stream that the first answer holds; what follows comes in larger ones. */
export const STEP = 65_536;
/** Characters that are kept: what is before them is read again when somebody asks. */
const KEPT = 2_000_000;
/** Who is further behind the end than this goes there at once. */
const BEHIND = 8 * STEP;
/** Returns a stream with a further piece; one that does not follow stands alone. */
export function joined(known: View | null, got: StreamPiece): View {
  const piece = { offset: got.offset, text: got.text };
  if (!known || got.offset !== known.next || got.size < known.next) return { pieces: piece.text ? [piece] : [], next: got.next, size: got.size };
  const pieces = piece.text ? [...known.pieces, piece] : known.pieces;
  let length = pieces.reduce((sum, each) => sum + each.text.length, 0);
  let first = 0;
  while (length > KEPT && first < pieces.length - 1) length -= pieces[first++]!.text.length;
  return { pieces: first ? pieces.slice(first) : pieces, next: got.next, size: got.size };
}

export function textOf(view: View): string {
  return view.pieces.map((piece) => piece.text).join("");
}

export function startOf(view: View): number {
  return view.pieces[0]?.offset ?? view.next;
}

/** Where to read on: -1 is the end, for who is too far behind, or has more than there is. */
export function wanted(view: View | null): number {
  return !view || view.size - view.next > BEHIND || view.size < view.next ? -1 : view.next;
}
