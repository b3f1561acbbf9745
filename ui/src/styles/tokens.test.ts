import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { TONES } from "../states";

/** The colours of both themes as the page has them, by the names of their tokens. */
const SHEET = readFileSync(new URL("./tokens.css", import.meta.url), "utf8");
const block = (selector: string): Map<string, string> => {
  const from = SHEET.indexOf(`${selector} {`) + selector.length + 2;
  return new Map([...SHEET.slice(from, SHEET.indexOf("}", from)).matchAll(/--([\w-]+):\s*(#[0-9a-f]{6})/g)].map((found) => [found[1]!, found[2]!]));
};
const LIGHT = block(":root");
const DARK = block(':root[data-theme="dark"]');
const BY_SYSTEM = block(':root:not([data-theme="light"])');
const THEMES = { light: LIGHT, dark: new Map([...LIGHT, ...DARK]) };

const GROUNDS = ["ground", "raised", "sunken", "accent-ground"];
const TINTED = ["bad-ground", "warn-ground", "info-ground"];
/** Words, and what they are on. */
const WORDS: readonly (readonly [string, readonly string[]])[] = [
  ...["ink", "ink-2", "accent", "bad-ink"].map((name) => [name, [...GROUNDS, ...TINTED]] as const),
  ...[1, 2, 3, 4, 5, 6].map((number) => [`ansi-${number}`, ["ground", "raised"]] as const),
  ["on-accent", ["accent"]],
  ["on-danger", ["danger", "danger-strong"]],
];
/** Shapes, and edges of what can be pressed. */
const MARKS: readonly (readonly [string, readonly string[]])[] = [
  ...TONES.map((tone) => [`s-${tone}`, GROUNDS] as const),
  ["line-strong", [...GROUNDS, ...TINTED]],
  ["accent", GROUNDS],
];

type Colour = readonly [number, number, number];
const linear = (hex: string): Colour => {
  const part = (at: number) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return [part(1), part(3), part(5)];
};
const times = (matrix: readonly Colour[], [a, b, c]: Colour): Colour => matrix.map((row) => row[0] * a + row[1] * b + row[2] * c) as unknown as Colour;
const luminance = (hex: string) => times([[0.2126, 0.7152, 0.0722]], linear(hex))[0];
/** As WCAG 2 counts it. */
const contrast = (one: string, other: string) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (light + 0.05) / (dark + 0.05);
};

/** Normal vision, and what is seen without one kind of cones (Machado et al. 2009), on linear RGB. */
const EYES: Readonly<Record<string, readonly Colour[]>> = {
  normal: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protan: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  deutan: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  tritan: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};
const oklab = (colour: Colour): Colour => {
  const bounded = colour.map((part) => Math.min(1, Math.max(0, part))) as unknown as Colour;
  const cones = times([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]], bounded).map(Math.cbrt) as unknown as Colour;
  return times([[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099], [0.0259040371, 0.7827717662, -0.808675766]], cones);
};

test.each(Object.entries(THEMES))("in the %s theme words have 4.5:1 and marks 3:1 on every ground that they are on", (_, colours) => {
  const of = (name: string) => colours.get(name) ?? expect.fail(`there is no --${name}`);
  const weak = (pairs: typeof WORDS, least: number) => pairs.flatMap(([name, grounds]) => grounds.map((ground) => [name, ground, contrast(of(name), of(ground))] as const)).filter(([, , found]) => found < least);
  expect(weak(WORDS, 4.5)).toEqual([]);
  expect(weak(MARKS, 3)).toEqual([]);
});

test.each(Object.entries(THEMES))("in the %s theme no two states look alike, whatever colours an eye can see", (_, colours) => {
  const near = TONES.flatMap((one, k) => TONES.slice(k + 1).flatMap((other) => Object.entries(EYES).map(([eye, matrix]) => {
    const [a, b] = [one, other].map((tone) => oklab(times(matrix, linear(colours.get(`s-${tone}`)!)))) as [Colour, Colour];
    return [one, other, eye, 100 * Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2])] as const;
  }))).filter(([, , , far]) => far < 11);
  expect(near).toEqual([]);
});

test("the dark theme is the same, whether the system or somebody chose it", () => {
  expect([...BY_SYSTEM]).toEqual([...DARK]);
  expect(DARK.size).toBeGreaterThan(20);
});
