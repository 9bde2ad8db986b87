/** Log-mel spectrograms on a canvas. */

const RANGE = Math.log(1000); // 60 dB below the peak is black
/** Colours from quiet to loud, of matplotlib's magma. */
const COLOURS = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
];

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} mel natural logarithms, frame by frame
 * @param {number} bands
 */
export function drawSpectrogram(canvas, mel, bands) {
  const frames = mel.length / bands;
  [canvas.width, canvas.height] = [frames, bands];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(frames, bands);
  const peak = mel.reduce((most, value) => Math.max(most, value), -Infinity);
  for (let frame = 0; frame < frames; frame++) {
    for (let band = 0; band < bands; band++) {
      const level = Math.max(0, 1 + (mel[frame * bands + band] - peak) / RANGE);
      const row = bands - 1 - band; // low pitches at the bottom
      image.data.set([...colour(level), 255], 4 * (row * frames + frame));
    }
  }
  context.putImageData(image, 0, 0);
}

/** @param {number} level from 0 to 1 */
function colour(level) {
  const place = level * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((value, i) => value + (place - low) * (COLOURS[low + 1][i] - value));
}
