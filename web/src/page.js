/** The page: the form, the progress, and the list of sounds. */

import { MOST_SEED } from "./crafter.js";
import { isolate } from "./isolation.js";
import { addSound, togglePlaying } from "./sound-list.js";

/** @typedef {import("./crafter.js").Request} Request */

/** @type {<T extends HTMLElement>(id: string) => T} */
const element = (id) => /** @type {any} */ (document.getElementById(id));
const form = /** @type {HTMLFormElement} */ (element("form"));
const prompt = /** @type {HTMLInputElement} */ (element("prompt"));
const seconds = /** @type {HTMLInputElement} */ (element("seconds"));
const seed = /** @type {HTMLInputElement} */ (element("seed"));
const lock = /** @type {HTMLInputElement} */ (element("lock"));
const generate = /** @type {HTMLButtonElement} */ (element("generate"));
const vary = /** @type {HTMLButtonElement} */ (element("vary"));
const cancel = /** @type {HTMLButtonElement} */ (element("cancel"));
const progress = /** @type {HTMLProgressElement} */ (element("progress"));
const [status, problem, device] = ["status", "problem", "device"].map(element);

/** @type {Worker} */
let worker;
/** @type {Request | null} what is being made */
let pending = null;
let isReady = false;
let isBroken = false; // nothing can be made any more

seed.value = String(randomSeed());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (pending) return;
  if (!lock.checked) seed.value = String(randomSeed());
  make(requested());
});
vary.addEventListener("click", () => makeVaried(requested()));
seed.addEventListener("input", () => (lock.checked = true));
cancel.addEventListener("click", () => worker.postMessage({ type: "cancel" }));
element("examples").addEventListener("click", ({ target }) => {
  if (!(target instanceof HTMLButtonElement)) return;
  prompt.value = target.textContent ?? "";
  prompt.focus();
});
document.addEventListener("keydown", (event) => {
  const { target } = event;
  const isBusy = target instanceof Element && target.closest("input, button, a, summary");
  if (event.key !== " " || isBusy) return;
  event.preventDefault(); // or the page scrolls
  togglePlaying();
});
start();

async function start() {
  await isolate(); // nothing can be asked for until then: it may reload the page
  worker = new Worker(`${WORKER}${location.search}`, { type: "module" });
  worker.addEventListener("message", ({ data }) => answered(data));
  worker.addEventListener("error", () => failed("The page could not be loaded. Reload it.", true));
  show("Loading the model", null);
}

/** @returns {Request} */
function requested() {
  const length = seconds.value === "" ? null : seconds.valueAsNumber;
  return { prompt: prompt.value.trim(), seconds: length, seed: seed.valueAsNumber };
}

/** @param {Request} request */
function makeVaried(request) {
  if (pending) return;
  const next = { ...request, seed: (request.seed + 1) % (MOST_SEED + 1) };
  prompt.value = next.prompt;
  seed.value = String(next.seed);
  make(next);
}

/** @param {Request} request */
function make(request) {
  pending = request;
  problem.textContent = "";
  show("Waiting for the model", null);
  worker.postMessage({ type: "generate", request });
}

/** @param {import("./worker.js").Answer} answer */
function answered(answer) {
  if (isBroken) return;
  if (answer.type === "progress") {
    show(answer.words, answer.share);
  } else if (answer.type === "ready") {
    isReady = true;
    device.textContent = ranOn(answer);
    if (!pending) show("", null);
  } else if (answer.type === "sound") {
    const { request, sound } = answer;
    pending = null;
    addSound(element("sounds"), request, sound, () => makeVaried(request));
    element("none").hidden = true;
    show(`Ready: ${request.prompt}`, null);
  } else if (answer.type === "cancelled") {
    pending = null;
    show("Cancelled", null);
  } else {
    failed(answer.words, answer.final);
  }
}

/**
 * @param {string} words
 * @param {boolean} isFinal
 */
function failed(words, isFinal) {
  pending = null;
  isBroken = isFinal;
  show("", null);
  problem.textContent = words;
}

/**
 * @param {string} words
 * @param {number | null} share of the work, null where it is unknown
 */
function show(words, share) {
  // set only when it changes, or a screen reader repeats it
  if (status.textContent !== words) status.textContent = words;
  progress.hidden = isBroken || (isReady && !pending);
  if (share === null) progress.removeAttribute("value");
  else progress.value = share;
  cancel.hidden = !pending;
  generate.disabled = isBroken || Boolean(pending);
  vary.disabled = generate.disabled || !element("sounds").children.length;
}

/** @param {{ threads: number, gpu: boolean }} device */
function ranOn({ threads, gpu }) {
  const processor = threads === 1 ? "one thread" : `${threads} threads`;
  return gpu ? `GPU and ${processor}` : `Processor, ${processor}`;
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
