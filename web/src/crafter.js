/** From a prompt to a sound: the straight line of Python's `onnx.runtime`. */

import { limitPeak, trimSilence } from "./audio.js";
import { logMel, numFrames } from "./mel.js";
import { TorchGenerator } from "./noise.js";
import { roundHalfEven } from "./rounding.js";
import { joined, sample } from "./sampling.js";
import { Schedule } from "./schedule.js";
import { Tokenizer } from "./tokenizer.js";

export const SECONDS = { least: 1, most: 10 };
export const MOST_SEED = 2 ** 32 - 1; // torch's generator takes no more bits than these

/**
 * Run a part of the model on its inputs by name: the first output.
 * @callback Run
 * @param {string} part
 * @param {Record<string, Input>} inputs
 * @returns {Promise<Float32Array>}
 */
/** @typedef {{ data: Float32Array | BigInt64Array, dims: number[] }} Input */
/** @typedef {{ prompt: string, seconds: number | null, seed: number }} Request seconds null: the
 * model's usual length, without the silence around the sound */
/** @typedef {{ wave: Float32Array, sampleRate: number, score: number | null, mel: Float32Array, bands: number, isCut: boolean }} Sound
 * isCut: the prompt was too long, and its end was not heard */
/** @typedef {(words: string, share: number) => Promise<void>} Report may throw, to cancel */

export class Crafter {
  /**
   * @param {any} settings the contents of settings.json
   * @param {any} tokenizer the contents of tokenizer.json
   * @param {Run} run
   */
  constructor(settings, tokenizer, run) {
    this.settings = settings;
    this.run = run;
    this.tokenizer = new Tokenizer(tokenizer);
    this.schedule = new Schedule(settings.diffusion);
    const { audio, vocoder, sampling } = settings;
    // a tower that reads another spectrogram would need another rate: then nothing is scored
    const scored = audio && JSON.stringify(audio.mel) === JSON.stringify(vocoder.mel);
    this.candidates = scored ? sampling.candidates : 1;
    this.audio = scored ? audio : null;
  }

  /**
   * @param {Request} request
   * @param {Report} [report] is called before each step
   * @returns {Promise<Sound>}
   */
  async generate({ prompt, seconds: asked, seed }, report = async () => {}) {
    checkRequest(prompt, asked, seed);
    const { sampling, vocoder } = this.settings;
    const seconds = Math.min(asked ?? sampling.seconds, SECONDS.most);
    const progress = new Progress(report, this.candidates, sampling);
    await progress.next("Reading the prompt", 0);
    const cond = await this.embedText(prompt);
    const uncond = await this.#negative();
    const noise = await this.#noise(seed, seconds, cond, uncond, progress);
    const latent = await this.#sample(sampling, noise, 1, cond, uncond, () =>
      progress.next("Making the sound", 1),
    );
    await progress.next("Decoding", 1);
    const whole = await this.#vocode(await this.#decode(latent));
    let wave = limitPeak(whole.slice(0, this.#samples(seconds)));
    if (asked === null) wave = trimSilence(wave, vocoder.mel.sample_rate);
    await progress.next("Listening to it", 2);
    const mel = logMel(wave, vocoder.mel);
    return {
      wave,
      sampleRate: vocoder.mel.sample_rate,
      score: this.audio && similarity(await this.#embedWave(wave), cond),
      mel,
      bands: vocoder.mel.num_mels,
      isCut: this.tokenizer.encode(prompt).length > this.settings.text.max_length,
    };
  }

  /**
   * The embedding of a prompt, of unit length.
   * @param {string} text
   */
  embedText(text) {
    const ids = this.tokenizer.encodeWithin(text, this.settings.text.max_length);
    const dims = [1, ids.length];
    return this.run("clap_text", {
      tokens: { data: BigInt64Array.from(ids, BigInt), dims },
      mask: { data: new BigInt64Array(ids.length).fill(1n), dims },
    });
  }

  /** The condition that guidance moves away from. */
  async #negative() {
    const { sampling, latent } = this.settings;
    const text = sampling.negative.trim();
    return text ? this.embedText(text) : Float32Array.from(latent.null_cond);
  }

  /**
   * The noise of a seed; of several candidates, the one whose draft is nearest to the prompt.
   * @param {number} seed
   * @param {number} seconds
   * @param {Float32Array} cond
   * @param {Float32Array} uncond
   * @param {Progress} progress
   */
  async #noise(seed, seconds, cond, uncond, progress) {
    const { latent, sampling, diffusion } = this.settings;
    const count = this.candidates;
    const generator = new TorchGenerator(seed);
    const size = latent.channels * this.#latentFrames(seconds) * latent.rows;
    const noises = Array.from({ length: count }, () => generator.randn(size));
    if (count === 1) return noises[0];
    const most = this.schedule.isFlow ? Infinity : diffusion.steps;
    const rough = { ...sampling, steps: Math.min(sampling.draft_steps, most) };
    const repeat = (/** @type {Float32Array} */ value) => joined(...Array(count).fill(value));
    const drafts = await this.#sample(
      rough,
      joined(...noises),
      count,
      repeat(cond),
      repeat(uncond),
      () => progress.next(`Drafting ${count} sounds`, count),
    );
    const scores = [];
    for (let i = 0; i < count; i++) {
      await progress.next("Choosing the best draft", 1);
      const mel = await this.#decode(drafts.slice(i * size, (i + 1) * size));
      const heard = mel.slice(0, this.settings.vocoder.mel.num_mels * this.#frames(seconds));
      scores.push(similarity(await this.#embedMel(heard), cond));
    }
    return noises[scores.indexOf(Math.max(...scores))];
  }

  /**
   * @param {import("./sampling.js").SamplingConfig} sampling
   * @param {Float32Array} noise
   * @param {number} count of noises
   * @param {Float32Array} cond
   * @param {Float32Array} uncond
   * @param {() => Promise<void>} before is called before each step
   */
  #sample(sampling, noise, count, cond, uncond, before) {
    const { channels, rows } = this.settings.latent;
    const frames = noise.length / (count * channels * rows);
    /** @type {import("./sampling.js").Model} */
    const model = async (latent, t, conds) => {
      await before();
      const batch = latent.length / (channels * frames * rows);
      return this.run("unet", {
        latent: { data: latent, dims: [batch, channels, frames, rows] },
        t: { data: new Float32Array(batch).fill(t), dims: [batch] },
        cond: { data: conds, dims: [batch, conds.length / batch] },
      });
    };
    return sample(model, this.schedule, sampling, noise, cond, uncond);
  }

  /**
   * A latent to its log-mel spectrogram.
   * @param {Float32Array} latent
   */
  #decode(latent) {
    const { channels, rows } = this.settings.latent;
    const dims = [1, channels, latent.length / (channels * rows), rows];
    return this.run("vae_decoder", { latent: { data: latent, dims } });
  }

  /** @param {Float32Array} mel */
  #vocode(mel) {
    const { vocoder } = this.settings;
    const frames = mel.length / vocoder.mel.num_mels;
    /** @type {Record<string, Input>} */
    const inputs = { mel: { data: mel, dims: [1, 1, frames, vocoder.mel.num_mels] } };
    if (vocoder.phase_bins) {
      const dims = [1, frames + 2, vocoder.phase_bins];
      inputs.phases = { data: new TorchGenerator(0).rand(dims[1] * dims[2]), dims };
    }
    return this.run("vocoder", inputs);
  }

  /** @param {Float32Array} wave */
  #embedWave(wave) {
    const { mel, min_samples: least } = this.audio;
    const enough =
      wave.length < least
        ? Float32Array.from({ length: least }, (_, i) => wave[i % wave.length])
        : wave;
    return this.#embedMel(logMel(enough, mel));
  }

  /** @param {Float32Array} mel of at most `SECONDS.most`, which the tower takes at once */
  #embedMel(mel) {
    const bands = this.audio.mel.num_mels;
    return this.run("clap_audio", { mel: { data: mel, dims: [1, 1, mel.length / bands, bands] } });
  }

  /** @param {number} seconds */
  #samples(seconds) {
    return roundHalfEven(seconds * this.settings.vocoder.mel.sample_rate);
  }

  /** @param {number} seconds */
  #frames(seconds) {
    return numFrames(this.settings.vocoder.mel, this.#samples(seconds));
  }

  /** @param {number} seconds */
  #latentFrames(seconds) {
    const { mel_frames: frames, multiple } = this.settings.latent;
    return Math.ceil(this.#frames(seconds) / frames / multiple) * multiple;
  }
}

/** Turns steps of known cost, in passes of the U-Net, into a share of the whole. */
class Progress {
  #done = 0;
  #cost = 0;

  /**
   * @param {Report} report
   * @param {number} candidates
   * @param {import("./sampling.js").SamplingConfig & { draft_steps: number }} sampling
   */
  constructor(report, candidates, sampling) {
    this.report = report;
    const drafts = candidates > 1 ? candidates * (sampling.draft_steps + 1) : 0;
    this.total = drafts + sampling.steps + 3;
  }

  /**
   * @param {string} words what is done next
   * @param {number} cost of it
   */
  async next(words, cost) {
    this.#done += this.#cost;
    this.#cost = cost;
    await this.report(words, Math.min(this.#done / this.total, 1));
  }
}

/**
 * @param {string} prompt
 * @param {number | null} seconds
 * @param {number} seed
 */
function checkRequest(prompt, seconds, seed) {
  if (!prompt.trim()) throw new RangeError("The prompt is empty. Describe a sound.");
  if (/[\p{Cs}\p{Cc}]/u.test(prompt.replace(/\p{White_Space}/gu, ""))) {
    throw new RangeError("The prompt has characters that are no text.");
  }
  const { least, most } = SECONDS;
  if (seconds !== null && !(seconds >= least && seconds <= most)) {
    throw new RangeError(`The length must be between ${least} and ${most} seconds.`);
  }
  if (!Number.isInteger(seed) || seed < 0 || seed > MOST_SEED) {
    throw new RangeError(`The seed must be a whole number from 0 to ${MOST_SEED}.`);
  }
}

/**
 * The cosine of two embeddings of unit length.
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
function similarity(a, b) {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}
