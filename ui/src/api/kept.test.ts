import { expect, it } from "vitest";
import { kept } from "./kept";

it("what was shown of a dispatch stays while another part of it is fetched, and nothing is shown of another dispatch", () => {
  const shown = { rows: ["before"] };
  expect(kept("one")(shown, { queryKey: ["dispatch", "one", "page", {}] })).toBe(shown);
  expect(kept("one")(shown, { queryKey: ["dispatch", "other", "page", {}] })).toBeUndefined();
  expect(kept("one")(undefined, undefined)).toBeUndefined();
});
