/** Loads the model and makes the sounds, so that the page stays responsive. */

import { Crafter } from "./crafter.js";
import { Engine, findDevice } from "./engine.js";
import { inWords } from "./errors.js";
import { ModelFiles } from "./model-files.js";

/** @typedef {import("./crafter.js").Request} Request */
/** @typedef {import("./crafter.js").Sound} Sound */
/** @typedef {{ type: "generate", request: Request } | { type: "cancel" }} Question */
/**
 * @typedef {{ type: "progress", words: string, share: number | null }
 *   | { type: "ready", threads: number, gpu: boolean }
 *   | { type: "sound", request: Request, sound: Sound }
 *   | { type: "cancelled" }
 *   | { type: "failed", words: string, final: boolean }} Answer
 */

class Cancelled extends Error {}

let isCancelled = false;
let isGpuAllowed = true;
let isOnGpu = false;
const asked = new URLSearchParams(location.search);
const address = (/** @type {string} */ path) => new URL(path, location.href).href;
const files = new ModelFiles(address("model/"), ({ loaded, total }) => {
  answer({ type: "progress", words: "Loading the model", share: total ? loaded / total : null });
});
let crafter = load();
crafter.catch((error) => answer({ type: "failed", words: inWords(error), final: true }));

self.addEventListener("message", ({ data }) => {
  const question = /** @type {Question} */ (data);
  isCancelled = question.type === "cancel";
  if (question.type === "generate") generate(question.request);
});

async function load() {
  const device = await findDevice(asked, isGpuAllowed);
  const settings = await files.settings();
  const tokenizer = files.read("tokenizer.json");
  const parts = Object.entries(settings.parts).map(
    ([part, { file }]) => /** @type {const} */ ([part, files.read(file)]),
  );
  await Promise.all([tokenizer, ...parts.map(([, bytes]) => bytes)]);
  answer({ type: "progress", words: "Preparing the model", share: null });
  const engine = await prepared(parts, device);
  isOnGpu = engine.device.gpu;
  answer({ type: "ready", ...engine.device });
  const json = JSON.parse(new TextDecoder().decode(await tokenizer));
  return new Crafter(settings, json, engine.run.bind(engine));
}

/**
 * @param {(readonly [string, Promise<ArrayBuffer>])[]} parts
 * @param {import("./engine.js").Device} device
 * @returns {Promise<Engine>}
 */
async function prepared(parts, device) {
  try {
    const engine = await Engine.load(address(ORT_FOLDER), device);
    for (const [part, bytes] of parts) await engine.add(part, await bytes);
    return engine;
  } catch (error) {
    if (!device.gpu) throw error;
    return prepared(parts, { ...device, gpu: false });
  }
}

/** @param {Request} request */
async function generate(request) {
  try {
    const sound = await (await crafter).generate(request, report);
    answer({ type: "sound", request, sound }, [sound.wave.buffer, sound.mel.buffer]);
  } catch (error) {
    if (error instanceof Cancelled) answer({ type: "cancelled" });
    else if (isOnGpu && !(error instanceof RangeError)) await generateWithoutGpu(request);
    else answer({ type: "failed", words: inWords(error), final: false });
  }
}

/**
 * A GPU may be lost, or lack what only a run shows.
 * @param {Request} request
 */
async function generateWithoutGpu(request) {
  isGpuAllowed = isOnGpu = false;
  crafter = load();
  await generate(request);
}

/** @type {import("./crafter.js").Report} */
async function report(words, share) {
  answer({ type: "progress", words, share });
  await new Promise((done) => setTimeout(done)); // let a message to cancel arrive
  if (isCancelled) throw new Cancelled();
}

/**
 * @param {Answer} message
 * @param {Transferable[]} [transfer]
 */
function answer(message, transfer = []) {
  self.postMessage(message, { transfer });
}
