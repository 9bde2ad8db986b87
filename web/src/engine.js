/** ONNX Runtime: the parts of a model, ready to run. */

/** @typedef {typeof import("onnxruntime-web")} Runtime */
/** @typedef {import("./crafter.js").Input} Input */
/** @typedef {{ threads: number, gpu: boolean }} Device */

// Most of the work, in large matrices. The other parts are small, or loops that a GPU waits for.
const GPU_PARTS = ["unet", "vae_decoder"];
const MOST_THREADS = 4; // more gain little with networks as small as these
// a function that only an engine with vector instructions takes
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0];
const SIMD_END = [253, 15, 253, 98, 11];
export const NO_SIMD =
  "This browser lacks WebAssembly with SIMD, which the model needs. A version from 2021 or later has it.";

/**
 * What this browser offers.
 * @param {URLSearchParams} asked may name the threads and `gpu=off`, for measurements
 * @param {boolean} isGpuAllowed
 * @returns {Promise<Device>}
 */
export async function findDevice(asked, isGpuAllowed) {
  const simd = new Uint8Array([...SIMD, ...SIMD_END]);
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) throw new Error(NO_SIMD);
  const cores = Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  const threads = self.crossOriginIsolated ? Number(asked.get("threads")) || cores : 1;
  return { threads, gpu: isGpuAllowed && asked.get("gpu") !== "off" && (await hasGpu()) };
}

/** Whether there is a GPU, and the switching of stacks that its half of the runtime needs. */
async function hasGpu() {
  if (!("Suspending" in WebAssembly)) return false;
  const gpu = /** @type {any} */ (navigator).gpu;
  return Boolean(await gpu?.requestAdapter().catch(() => null));
}

export class Engine {
  /** @type {Map<string, import("onnxruntime-web").InferenceSession>} */
  #sessions = new Map();

  /**
   * @param {Runtime} runtime
   * @param {Device} device
   */
  constructor(runtime, device) {
    this.runtime = runtime;
    this.device = device;
  }

  /**
   * @param {string} folder of the runtime's files, its address
   * @param {Device} device
   */
  static async load(folder, device) {
    const name = device.gpu ? "ort.jspi.min.mjs" : "ort.wasm.min.mjs";
    /** @type {Runtime} */
    const runtime = await import(`${folder}${name}`);
    runtime.env.wasm.wasmPaths = folder;
    runtime.env.wasm.numThreads = device.threads;
    return new Engine(runtime, device);
  }

  /**
   * @param {string} part
   * @param {ArrayBuffer} bytes
   */
  async add(part, bytes) {
    const onGpu = this.device.gpu && GPU_PARTS.includes(part);
    const session = await this.runtime.InferenceSession.create(new Uint8Array(bytes), {
      executionProviders: onGpu ? ["webgpu", "wasm"] : ["wasm"],
      logSeverityLevel: 3, // errors; its warnings are about the graphs' shape hints
    });
    this.#sessions.set(part, session);
  }

  /**
   * @param {string} part
   * @param {Record<string, Input>} inputs
   */
  async run(part, inputs) {
    const session = /** @type {import("onnxruntime-web").InferenceSession} */ (this.#sessions.get(part));
    const { Tensor } = this.runtime;
    const tensors = Object.entries(inputs).map(([name, { data, dims }]) => [
      name,
      data instanceof BigInt64Array ? new Tensor("int64", data, dims) : new Tensor("float32", data, dims),
    ]);
    const found = await session.run(Object.fromEntries(tensors));
    return /** @type {Float32Array} */ (await found[session.outputNames[0]].getData());
  }
}
