/** Samplers, from noise to a latent. They are those of Python's `diffusion.samplers`. */

/** @typedef {import("./schedule.js").Schedule} Schedule */
/** @typedef {{ signal: Float32Array, noise: Float32Array }} Denoised */
/** @typedef {(x: Float32Array, t: number) => Promise<Denoised>} Denoise */
/** @typedef {{ times: number[], schedule: Schedule, finalAlphaBar: number, stepDone: () => void }} Steps */
/** @typedef {(denoise: Denoise, x: Float32Array, steps: Steps) => Promise<Float32Array>} Sampler */

/**
 * DDIM without added noise (Song et al., 2021, eq. 12).
 * @type {Sampler}
 */
async function ddim(denoise, x, { times, schedule, finalAlphaBar, stepDone }) {
  for (const [step, t] of times.entries()) {
    const { signal, noise } = await denoise(x, t);
    const [alpha, sigma] = levelAfter(schedule, times, step, finalAlphaBar);
    x = signal.map((value, i) => alpha * value + sigma * noise[i]);
    stepDone();
  }
  return x;
}

/**
 * DPM-Solver++(2M) (Lu et al., 2022, algorithm 2); the first and the last step are of first order.
 * @type {Sampler}
 */
async function dpmpp(denoise, x, { times, schedule, stepDone }) {
  /** @type {{ signal: Float32Array, h: number } | null} */
  let previous = null;
  for (const [step, t] of times.entries()) {
    const { signal } = await denoise(x, t);
    const [alpha, sigma] = schedule.level(t);
    const [nextAlpha, nextSigma] = levelAfter(schedule, times, step, 1);
    if (nextSigma === 0) {
      x = signal.map((value) => nextAlpha * value);
    } else {
      // a time without any signal (flow's first) is infinitely far away
      const h = alpha === 0 ? Infinity : Math.log(((nextAlpha / nextSigma) * sigma) / alpha);
      const before = previous && Number.isFinite(previous.h) ? previous : null;
      const extra = before ? h / (2 * before.h) : 0;
      const [keep, add] = [nextSigma / sigma, nextAlpha * -Math.expm1(-h)];
      x = x.map((value, i) => {
        const change = before ? extra * (signal[i] - before.signal[i]) : 0;
        return keep * value + add * (signal[i] + change);
      });
      previous = { signal, h };
    }
    stepDone();
  }
  return x;
}

/**
 * @param {Schedule} schedule
 * @param {number[]} times
 * @param {number} step
 * @param {number} finalAlphaBar what the last step leaves of the signal's power
 * @returns {[number, number]}
 */
function levelAfter(schedule, times, step, finalAlphaBar) {
  if (step + 1 < times.length) return schedule.level(times[step + 1]);
  return [Math.sqrt(finalAlphaBar), Math.sqrt(1 - finalAlphaBar)];
}

/** @type {Record<string, Sampler>} */
export const SAMPLERS = { ddim, dpmpp };
