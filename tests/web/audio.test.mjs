import assert from "node:assert/strict";
import { test } from "node:test";

import { limitPeak, trimSilence, wavFile } from "../../web/src/audio.js";
import { logMel } from "../../web/src/mel.js";
import { expected, near } from "./expected.mjs";

for (const { name, wave, rate, limited, trimmed, wav } of expected.waves) {
  const samples = Float32Array.from(wave);
  test(`${name}: peak, silence and file are Python's`, () => {
    near(limitPeak(samples), limited, 1e-6);
    near(trimSilence(samples, rate), trimmed, 1e-6);
    const bytes = new Uint8Array(wavFile(limitPeak(samples), rate));
    assert.equal(bytes.length, 44 + 2 * wave.length);
    near(new Int16Array(bytes.buffer, 44), wav, 1);
  });
}

for (const { name, wave, config, mel } of expected.mels) {
  test(`the spectrogram with framing ${name} is Python's`, () => {
    near(logMel(Float32Array.from(wave), config), mel, 1e-3);
  });
}
