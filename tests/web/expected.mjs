// What Python found, and how near to it is near enough.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const expected = JSON.parse(readFileSync(process.env.EXPECTED, "utf8"));

export function near(found, wanted, tolerance) {
  assert.equal(found.length, wanted.length);
  wanted.forEach((value, i) => {
    const off = Math.abs(found[i] - value);
    assert.ok(off <= tolerance, `at ${i}: got ${found[i]}, wanted ${value}`);
  });
}
