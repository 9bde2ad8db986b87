import assert from "node:assert/strict";
import { test } from "node:test";

import { Tokenizer } from "../../web/src/tokenizer.js";
import { expected } from "./expected.mjs";

for (const { name, json, texts, ids, length, cut } of expected) {
  const tokenizer = new Tokenizer(json);
  test(`${name}: every text has Python's tokens`, () => {
    texts.forEach((text, i) => assert.deepEqual(tokenizer.encode(text), ids[i], JSON.stringify(text)));
  });
  test(`${name}: long texts are cut before the last token`, () => {
    texts.forEach((text, i) => assert.deepEqual(tokenizer.encodeWithin(text, length), cut[i]));
  });
}

test("another kind of tokenizer is refused", () => {
  assert.throws(() => new Tokenizer({ model: { type: "WordPiece" } }), /byte-level BPE/);
});
