/** Log-mel spectrograms. They are those of Python's `onnx.audio_tower.log_mel`. */

/** @typedef {{ sample_rate: number, n_fft: number, hop: number, num_mels: number, fmin: number, fmax: number, power: number, log: string, floor: number, norm: string, scale: string, framing: string }} MelConfig */
/** @typedef {{ start: number, weights: number[] }} Filter the bins that a band sums */

/**
 * The number of frames of a wave.
 * @param {MelConfig} config
 * @param {number} samples
 */
export function numFrames(config, samples) {
  if (config.framing === "exact") return Math.ceil(samples / config.hop);
  return Math.floor(samples / config.hop) + 1;
}

/**
 * The log-mel spectrogram of a wave, frame by frame.
 * @param {Float32Array} wave
 * @param {MelConfig} config
 */
export function logMel(wave, config) {
  const { n_fft: size, hop, num_mels: bands } = config;
  const frames = numFrames(config, wave.length);
  const exact = config.framing === "exact";
  const edge = exact ? Math.floor((size - hop) / 2) : Math.floor(size / 2);
  const length = exact ? frames * hop : wave.length; // the last hop is filled with zeros
  if (length <= edge) throw new RangeError(`wave: got ${length} samples; allowed: above ${edge}`);
  const filters = melFilters(config);
  const window = Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const out = new Float32Array(frames * bands);
  const [real, imag] = [new Float64Array(size), new Float64Array(size)];
  const magnitudes = new Float64Array(size / 2 + 1);
  for (let frame = 0; frame < frames; frame++) {
    for (let i = 0; i < size; i++) {
      real[i] = window[i] * (wave[reflected(frame * hop + i - edge, length)] ?? 0);
    }
    imag.fill(0);
    transform(real, imag);
    for (let bin = 0; bin <= size / 2; bin++) {
      const power = real[bin] ** 2 + imag[bin] ** 2;
      magnitudes[bin] = config.power === 2 ? power : Math.sqrt(power);
    }
    filters.forEach(({ start, weights }, band) => {
      const sum = weights.reduce((total, weight, i) => total + weight * magnitudes[start + i], 0);
      out[frame * bands + band] = logarithm(Math.max(sum, config.floor), config);
    });
  }
  return out;
}

/**
 * @param {number} value
 * @param {MelConfig} config
 */
function logarithm(value, config) {
  return config.log === "ln" ? Math.log(value) : (20 / config.power) * Math.log10(value);
}

/**
 * An index of a wave that is mirrored at both ends.
 * @param {number} index
 * @param {number} length
 */
function reflected(index, length) {
  if (index < 0) return -index;
  return index < length ? index : 2 * (length - 1) - index;
}

/**
 * The triangular filters of the mel bands.
 * @param {MelConfig} config
 * @returns {Filter[]}
 */
export function melFilters(config) {
  const { n_fft: size, num_mels: bands, sample_rate: rate } = config;
  const [toMel, toHertz] = config.scale === "htk" ? [htkMel, htkHertz] : [slaneyMel, slaneyHertz];
  const [low, high] = [toMel(config.fmin), toMel(config.fmax)];
  const corner = (/** @type {number} */ i) => toHertz(low + (i * (high - low)) / (bands + 1));
  const width = Math.floor(rate / 2) / Math.floor(size / 2); // Hz of a bin
  return Array.from({ length: bands }, (_, band) => {
    const [left, centre, right] = [corner(band), corner(band + 1), corner(band + 2)];
    const area = config.norm === "slaney" ? 2 / (right - left) : 1;
    const start = Math.max(0, Math.ceil(left / width));
    const end = Math.min(Math.floor(size / 2), Math.floor(right / width));
    const weights = [];
    for (let bin = start; bin <= end; bin++) {
      const hertz = bin * width;
      const rising = (hertz - left) / (centre - left);
      const falling = (right - hertz) / (right - centre);
      weights.push(Math.fround(area * Math.max(0, Math.min(rising, falling))));
    }
    return { start, weights };
  });
}

const SLANEY_STEP = Math.log(6.4) / 27; // of the logarithmic part, above 1 kHz

/** @param {number} hertz */
function slaneyMel(hertz) {
  return hertz >= 1000 ? 15 + Math.log(hertz / 1000) / SLANEY_STEP : (3 * hertz) / 200;
}

/** @param {number} mel */
function slaneyHertz(mel) {
  return mel >= 15 ? 1000 * Math.exp(SLANEY_STEP * (mel - 15)) : (200 * mel) / 3;
}

/** @param {number} hertz */
function htkMel(hertz) {
  return 2595 * Math.log10(1 + hertz / 700);
}

/** @param {number} mel */
function htkHertz(mel) {
  return 700 * (10 ** (mel / 2595) - 1);
}

/**
 * The discrete Fourier transform in place, for a size that is a power of two.
 * @param {Float64Array} real
 * @param {Float64Array} imag
 */
function transform(real, imag) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imag[i], imag[j]] = [imag[j], imag[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const angle = (-Math.PI * k) / half;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let i = k; i < size; i += 2 * half) {
        const j = i + half;
        const a = real[j] * cos - imag[j] * sin;
        const b = real[j] * sin + imag[j] * cos;
        real[j] = real[i] - a;
        imag[j] = imag[i] - b;
        real[i] += a;
        imag[i] += b;
      }
    }
  }
}
