/** The forward process: noise levels, time steps, and what the network's prediction says. */

import { roundHalfEven } from "./rounding.js";

/** @typedef {{ steps: number, betas: string, beta_start: number, beta_end: number, objective: string }} DiffusionConfig */

export class Schedule {
  /** @type {number[]} the share of the signal's power that is left at each training step */
  #alphaBar = [];

  /** @param {DiffusionConfig} config */
  constructor(config) {
    this.config = config;
    const { steps, beta_start: start, beta_end: end } = config;
    const linear = config.betas === "linear";
    const [low, high] = linear ? [start, end] : [Math.sqrt(start), Math.sqrt(end)];
    let product = 1;
    for (let i = 0; i < steps; i++) {
      const value = low + (steps > 1 ? (i * (high - low)) / (steps - 1) : 0);
      product *= 1 - (linear ? value : value ** 2);
      this.#alphaBar.push(product);
    }
  }

  get isFlow() {
    return this.config.objective === "flow";
  }

  /** The noise that diffusers' DDIM leaves after the last step. */
  get firstAlphaBar() {
    return this.#alphaBar[0];
  }

  /**
   * Descending times: indices, or floats for flow.
   * @param {number} count
   * @param {string} spacing trailing, leading or linspace
   */
  times(count, spacing) {
    const { steps } = this.config;
    return Array.from({ length: count }, (_, i) => {
      if (this.isFlow) return Math.fround(steps * (1 - i / count));
      if (spacing === "trailing") return roundHalfEven(steps - i * (steps / count)) - 1;
      if (spacing === "leading") {
        const stride = Math.floor(steps / count);
        return (count - 1 - i) * stride + Math.min(1, steps - 1 - (count - 1) * stride);
      }
      return roundHalfEven(count > 1 ? steps - 1 - (i * (steps - 1)) / (count - 1) : steps - 1);
    });
  }

  /**
   * The scales of signal and noise at a time.
   * @param {number} t
   * @returns {[number, number]}
   */
  level(t) {
    if (this.isFlow) return [1 - t / this.config.steps, t / this.config.steps];
    return [Math.sqrt(this.#alphaBar[t]), Math.sqrt(1 - this.#alphaBar[t])];
  }

  /**
   * The signal and the noise in x at time t, according to the prediction.
   * @param {Float32Array} prediction
   * @param {Float32Array} x
   * @param {number} t
   */
  denoised(prediction, x, t) {
    const [alpha, sigma] = this.level(t);
    const signal = new Float32Array(x.length);
    const noise = new Float32Array(x.length);
    const { objective } = this.config;
    for (let i = 0; i < x.length; i++) {
      const found = prediction[i];
      if (objective === "epsilon") {
        signal[i] = (x[i] - sigma * found) / alpha;
        noise[i] = found;
      } else if (objective === "flow") {
        signal[i] = x[i] - sigma * found;
        noise[i] = x[i] + alpha * found;
      } else {
        signal[i] = alpha * x[i] - sigma * found;
        noise[i] = sigma * x[i] + alpha * found;
      }
    }
    return { signal, noise };
  }
}
