/** From noise to latents, with classifier-free guidance. */

import { SAMPLERS } from "./samplers.js";

/** @typedef {import("./schedule.js").Schedule} Schedule */
/** @typedef {{ sampler: string, spacing: string, end: string, steps: number, guidance: number, guidance_from: number, guidance_until: number }} SamplingConfig */
/**
 * @callback Model
 * @param {Float32Array} latent batch * size values
 * @param {number} t
 * @param {Float32Array} cond batch * embedding values
 * @returns {Promise<Float32Array>} the prediction, of the latent's size
 */

/**
 * Denoise several noises, each as long as `noise.length / conds`, given a condition for each.
 * @param {Model} model
 * @param {Schedule} schedule
 * @param {SamplingConfig} settings
 * @param {Float32Array} noise
 * @param {Float32Array} cond
 * @param {Float32Array} uncond
 * @param {() => void} [stepDone]
 */
export function sample(model, schedule, settings, noise, cond, uncond, stepDone = () => {}) {
  const sampler = SAMPLERS[settings.sampler];
  if (!sampler) {
    const known = Object.keys(SAMPLERS).join(", ");
    throw new Error(`sampler: got ${settings.sampler}; allowed in a browser: ${known}`);
  }
  const predict = guided(model, schedule, settings, cond, uncond);
  return sampler(async (x, t) => schedule.denoised(await predict(x, t), x, t), noise, {
    times: schedule.times(settings.steps, settings.spacing),
    schedule,
    finalAlphaBar: settings.end === "first_step" ? schedule.firstAlphaBar : 1,
    stepDone,
  });
}

/**
 * @param {Model} model
 * @param {Schedule} schedule
 * @param {SamplingConfig} settings
 * @param {Float32Array} cond
 * @param {Float32Array} uncond
 * @returns {(x: Float32Array, t: number) => Promise<Float32Array>}
 */
function guided(model, schedule, settings, cond, uncond) {
  const { guidance: scale, guidance_from: from, guidance_until: until } = settings;
  const { steps } = schedule.config;
  const always = from === 0 && until === 1;
  const both = joined(cond, uncond);
  return async (x, t) => {
    const applies = always || (from * steps <= t && t <= until * steps);
    if (scale === 1 || !applies) return model(x, t, cond);
    const found = await model(joined(x, x), t, both);
    const conditional = found.subarray(0, x.length);
    const unconditional = found.subarray(x.length);
    return conditional.map((value, i) => unconditional[i] + scale * (value - unconditional[i]));
  };
}

/** @param {...Float32Array} arrays */
export function joined(...arrays) {
  const out = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}
