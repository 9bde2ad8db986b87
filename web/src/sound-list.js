/** The list of the sounds made in this visit. */

import { wavFile } from "./audio.js";
import { drawSpectrogram } from "./spectrogram.js";

/** @typedef {import("./crafter.js").Request} Request */
/** @typedef {import("./crafter.js").Sound} Sound */

/** @type {HTMLAudioElement | null} */
let current = null; // the sound that Space plays

/**
 * Add a sound at the top of the list and play it.
 * @param {HTMLElement} list
 * @param {Request} request
 * @param {Sound} sound
 * @param {() => void} vary is called when another version is asked for
 */
export function addSound(list, request, sound, vary) {
  const template = /** @type {HTMLTemplateElement} */ (document.getElementById("sound"));
  const item = /** @type {HTMLElement} */ (template.content.cloneNode(true)).querySelector("li");
  if (!item) return;
  const part = (/** @type {string} */ name) =>
    /** @type {HTMLElement} */ (item.querySelector(`.${name}`));
  part("prompt").textContent = request.prompt;
  part("facts").textContent = facts(request, sound);
  const canvas = /** @type {HTMLCanvasElement} */ (part("picture"));
  canvas.setAttribute("aria-label", `Spectrogram of ${request.prompt}`);
  drawSpectrogram(canvas, sound.mel, sound.bands);
  const file = URL.createObjectURL(
    new Blob([wavFile(sound.wave, sound.sampleRate)], { type: "audio/wav" }),
  );
  const save = /** @type {HTMLAnchorElement} */ (part("save"));
  save.href = file;
  save.download = fileName(request);
  save.setAttribute("aria-label", `Save ${request.prompt}`);
  part("vary").setAttribute("aria-label", `Vary ${request.prompt}`);
  part("vary").addEventListener("click", vary);
  const audio = player(file, part("play"), part("cursor"), request.prompt);
  list.prepend(item);
  play(audio);
}

/** Play the sound that was played last, or pause it. */
export function togglePlaying() {
  if (current?.paused) play(current);
  else current?.pause();
}

/** @param {HTMLAudioElement} audio */
function play(audio) {
  if (current !== audio) current?.pause();
  current = audio;
  audio.play().catch(() => {}); // browsers may forbid it until the page is touched
}

/**
 * @param {string} file
 * @param {HTMLElement} button
 * @param {HTMLElement} cursor
 * @param {string} name
 */
function player(file, button, cursor, name) {
  const audio = new Audio(file);
  const show = () => {
    button.textContent = audio.paused ? "Play" : "Pause";
    button.setAttribute("aria-label", `${button.textContent} ${name}`);
  };
  const move = () => {
    cursor.style.left = `${(100 * audio.currentTime) / (audio.duration || 1)}%`;
    cursor.hidden = audio.paused;
    if (!audio.paused) requestAnimationFrame(move);
  };
  show();
  for (const event of ["play", "pause", "ended"]) {
    audio.addEventListener(event, () => {
      show();
      move();
    });
  }
  button.addEventListener("click", () => (audio.paused ? play(audio) : audio.pause()));
  return audio;
}

/**
 * @param {Request} request
 * @param {Sound} sound
 */
function facts({ seed }, { wave, sampleRate, score, isCut }) {
  const seconds = `${(wave.length / sampleRate).toFixed(2)} s`;
  const likeness = score === null ? [] : [`score ${score.toFixed(2)}`];
  const cut = isCut ? ["the end of the prompt was too long to be heard"] : [];
  return [seconds, `seed ${seed}`, ...likeness, ...cut].join(" · ");
}

/** @param {Request} request */
function fileName({ prompt, seed }) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["sound"];
  return `${words.join("-").slice(0, 60)}-${seed}.wav`;
}
