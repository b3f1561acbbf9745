import { describe, expect, test } from "vitest";
import { joined, startOf, textOf, wanted } from "./streams";

const piece = (offset: number, text: string, size = offset + text.length) => ({ offset, next: offset + text.length, size, text });

describe("what a task writes", () => {
  test("pieces that follow each other are one text", () => {
    const view = joined(joined(null, piece(10, "ab")), piece(12, "c"));
    expect(textOf(view)).toBe("abc");
    expect(startOf(view)).toBe(10);
    expect(wanted(view)).toBe(13);
  });
  test("a piece that does not follow stands alone", () => {
    const view = joined(joined(null, piece(0, "ab")), piece(50, "c"));
    expect([textOf(view), startOf(view)]).toEqual(["c", 50]);
  });
  test("an answer without news changes nothing", () => {
    const known = joined(null, piece(0, "ab"));
    expect(joined(known, piece(2, "", 2))).toEqual(known);
  });
  test("the earliest pieces are given up when they become too many", () => {
    let view = joined(null, piece(0, "x".repeat(1_500_000)));
    view = joined(view, piece(1_500_000, "y".repeat(1_000_000)));
    expect([startOf(view), textOf(view).length]).toEqual([1_500_000, 1_000_000]);
  });
  test("who is far behind, or beyond the end, goes to the end", () => {
    expect(wanted(null)).toBe(-1);
    expect(wanted(joined(null, piece(0, "ab", 10_000_000)))).toBe(-1);
    expect(wanted({ pieces: [], next: 9, size: 5 })).toBe(-1);
  });
});
