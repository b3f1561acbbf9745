import { expect, test } from "vitest";
import { pieces, lastOfLine } from "./ansi";
import { EventParser } from "./api/sse";
import { ago, between, bytes, count, duration, mebibytes, parseMemory, parseNumbers, parseWalltime, percent, percents, plural } from "./format";

test("durations are as long as people say them", () => {
  expect([0, 0.02, 4.21, 12, 65, 3600, 8100, 273_600].map(duration)).toEqual(["0 s", "20 ms", "4.2 s", "12 s", "1 min 05 s", "1 h 00 min", "2 h 15 min", "3 d 4 h"]);
  expect([null, undefined, Number.NaN].map(duration)).toEqual(["", "", ""]);
});

test("numbers keep their groups together", () => {
  expect(count(10_000)).toBe("10\u202f000");
  expect([plural(1, "task"), plural(2, "task"), plural(2, "dispatch", "dispatches")]).toEqual(["1 task", "2 tasks", "2 dispatches"]);
});

test("percents of parts add up", () => {
  expect(percents([1, 1, 1])).toEqual([34, 33, 33]);
  expect(percents([6.1, 4, -0.1])).toEqual([61, 40, -1]);
  expect(percents([0.3, 2, 2, 1.7])).toEqual([5, 34, 33, 28]);
  expect(percents([0, 0])).toEqual([0, 0]);
});

test("memory is given in the unit that fits", () => {
  expect([mebibytes(0.5), mebibytes(3.25), mebibytes(512), mebibytes(16_384), mebibytes(null)]).toEqual(["512 KiB", "3.3 MiB", "512 MiB", "16 GiB", ""]);
  expect([bytes(12), bytes(2 ** 20)]).toEqual(["12 B", "1.0 MiB"]);
});

test("what people write for memory and time is read, and what means nothing is not", () => {
  expect(["24 GB", "24GiB", "512 MiB", "1.5gib", "1 TB"].map(parseMemory)).toEqual([22_889, 24_576, 512, 1536, 953_675]);
  expect(["", "lots", "-3 GB", "24 GBx", "0", "512", "2G"].map(parseMemory)).toEqual([null, null, null, null, null, null, null]);
  expect(["2 h", "90 min", "1 h 30 min", "1h30min", "01:30:00", "1-00:00:00", "45 s", "2 days"].map(parseWalltime)).toEqual([7200, 5400, 5400, 5400, 5400, 86_400, 45, 172_800]);
  // Whether these are minutes or hours, nobody knows; Python refuses them as well.
  for (const text of ["", "soon", "2 x", "00:00:00", "45", "1:30", "-2 h", "30 min 1 h", "2 h 2 h", "1-24:00:00", "400 days", "90 m"]) expect([text, parseWalltime(text)]).toEqual([text, null]);
  expect(parseMemory("300 TiB")).toBeNull();
  expect(["3", "3, 7,10-12", "7 3;7"].map(parseNumbers)).toEqual([[3], [3, 7, 10, 11, 12], [7, 3]]);
  expect(["", ",", "-3", "3-", "5-3", "a", "1.5", "0-99999999"].map(parseNumbers)).toEqual(Array(8).fill(null));
});

test("times are told from now", () => {
  const now = Date.parse("2026-01-01T12:00:00Z");
  expect(["2026-01-01T12:00:00Z", "2026-01-01T11:59:20Z", "2026-01-01T11:00:00Z", "2025-12-30T12:00:00Z"].map((time) => ago(time, now))).toEqual(["just now", "40 s ago", "1 h ago", "2 d ago"]);
  expect(between("2026-01-01T11:59:00Z", null, now)).toBe(60);
  expect(between(null, null, now)).toBeNull();
  expect(percent(1, 3)).toBe("33 %");
});

test("a terminal's colours become classes, and what moves its cursor is dropped", () => {
  expect(pieces("\u001b[1;31mbad\u001b[0m \u001b[2Kok\u001b]0;title\u0007!")).toEqual([
    { text: "bad", style: "ansi-1 ansi-bold" },
    { text: " ", style: "" },
    { text: "ok", style: "" },
    { text: "!", style: "" },
  ]);
  expect(pieces("\u001b[38;5;196mx\u001b[39m<b>\u0000")).toEqual([{ text: "x", style: "" }, { text: "<b>\ufffd", style: "" }]);
  expect(["10 %\r20 %\r", "plain", "a\rb"].map(lastOfLine)).toEqual(["20 %", "plain", "b"]);
});

test("events are found wherever the stream is cut", () => {
  const text = ": alive\n\nid: e.1\nevent: moved\ndata: {\"a\":\ndata: 1}\n\nid: e.2\r\ndata: x\r\n\r\n";
  const whole = new EventParser().feed(text);
  expect(whole).toEqual([{ id: "e.1", kind: "moved", data: '{"a":\n1}' }, { id: "e.2", kind: "message", data: "x" }]);
  const parser = new EventParser();
  expect([...text.replaceAll("\r\n", "\n")].flatMap((letter) => parser.feed(letter))).toEqual(whole);
});
