/** Waves: levels, silence, and files. */

import { roundHalfEven } from "./rounding.js";

const QUIET = 1e-3; // of the peak, -60 dB: what is below it before and after a sound is silence
const PEAK = 0.99;

/** @param {Float32Array} wave */
function peakOf(wave) {
  return wave.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/**
 * Scale a wave down to full scale; a quieter one is unchanged.
 * @param {Float32Array} wave
 */
export function limitPeak(wave) {
  const peak = peakOf(wave);
  return peak <= PEAK ? wave : wave.map((value) => value * (PEAK / peak));
}

/**
 * Cut the silence before and after the sound in a wave, with fades; at least 0.2 s are kept.
 * @param {Float32Array} wave
 * @param {number} sampleRate
 */
export function trimSilence(wave, sampleRate) {
  const samples = (/** @type {number} */ seconds) => roundHalfEven(seconds * sampleRate);
  const [least, before, after] = [samples(0.2), samples(0.005), samples(0.02)];
  const limit = QUIET * peakOf(wave);
  const isLoud = (/** @type {number} */ value) => Math.abs(value) > limit;
  const first = wave.findIndex(isLoud);
  if (first < 0) return wave;
  const end = Math.min(Math.max(wave.findLastIndex(isLoud) + 1 + after, least), wave.length);
  const start = Math.min(Math.max(first - before, 0), Math.max(end - least, 0));
  const cut = wave.slice(start, end);
  if (start > 0) fade(cut.subarray(0, before));
  if (end < wave.length) fade(cut.subarray(cut.length - after).reverse()).reverse();
  return cut;
}

/**
 * Fade a part in, in place.
 * @param {Float32Array} part
 */
function fade(part) {
  for (let i = 0; i < part.length; i++) part[i] *= i / (part.length - 1);
  return part;
}

/**
 * A wav file of 16 bits.
 * @param {Float32Array} wave
 * @param {number} sampleRate
 */
export function wavFile(wave, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const text = (/** @type {number} */ at, /** @type {string} */ letters) =>
    Array.from(letters).forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * wave.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of this chunk
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true); // bytes of a sample
  view.setUint16(34, 16, true); // bits of a sample
  text(36, "data");
  view.setUint32(40, 2 * wave.length, true);
  wave.forEach((value, i) => {
    const step = roundHalfEven(value * 32768);
    view.setInt16(44 + 2 * i, Math.min(Math.max(step, -32768), 32767), true);
  });
  return view.buffer;
}
