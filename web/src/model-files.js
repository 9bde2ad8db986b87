/** The files of an exported model: fetched, checked, and kept for later visits. */

const CACHE = "soundcrafter-model";
export const NO_MODEL =
  "There is no model beside this page. Run make web, or export one into the folder model/.";

/** @typedef {{ loaded: number, total: number }} Bytes */

export class ModelFiles {
  /** @type {Map<string, string>} */
  #hashes = new Map();
  /** @type {Bytes} */
  #bytes = { loaded: 0, total: 0 };

  /**
   * @param {string} folder its address, with a slash at the end
   * @param {(bytes: Bytes) => void} progress
   */
  constructor(folder, progress) {
    this.folder = folder;
    this.progress = progress;
  }

  /** The contents of settings.json, those of the last visit if there is no network. */
  async settings() {
    const address = `${this.folder}settings.json`;
    const kept = await openCache();
    const response = await fetch(address, { cache: "no-cache" }).catch(() => kept?.match(address));
    if (!response?.ok) throw new Error(NO_MODEL);
    await keep(kept, address, response.clone());
    const settings = await response.json();
    if (settings.format !== 1) throw new Error("This page is too old for its model. Build it again.");
    this.#hashes.set("tokenizer.json", settings.tokenizer_sha256);
    for (const part of Object.values(settings.parts)) this.#hashes.set(part.file, part.sha256);
    await this.#forgetOthers(kept);
    return settings;
  }

  /**
   * The bytes of a file, which have the sha256 that the settings name.
   * @param {string} name
   */
  async read(name) {
    const hash = this.#hashes.get(name);
    const address = this.#address(name);
    const kept = await openCache();
    const stored = await kept?.match(address);
    if (stored) {
      const bytes = await stored.arrayBuffer();
      if ((await sha256(bytes)) === hash) return bytes;
    }
    const response = await fetch(address).catch(() => null);
    if (!response?.ok) throw new Error(`${name} of the model could not be loaded. Try again later.`);
    const bytes = await this.#download(response);
    if ((await sha256(bytes)) !== hash) {
      throw new Error(`${name} of the model is damaged or of another version. Reload the page.`);
    }
    await keep(kept, address, new Response(bytes));
    return bytes;
  }

  /** @param {Response} response */
  async #download(response) {
    this.#bytes.total += Number(response.headers.get("content-length"));
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const pieces = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return new Blob(pieces).arrayBuffer();
      pieces.push(/** @type {Uint8Array<ArrayBuffer>} */ (value));
      this.#bytes.loaded += value.length;
      this.progress(this.#bytes);
    }
  }

  /** @param {string} name */
  #address(name) {
    return `${this.folder}${name}?sha256=${this.#hashes.get(name)}`;
  }

  /**
   * Free the space of files of earlier models.
   * @param {Cache | null} kept
   */
  async #forgetOthers(kept) {
    const wanted = new Set([...this.#hashes.keys()].map((name) => this.#address(name)));
    wanted.add(`${this.folder}settings.json`);
    for (const { url } of (await kept?.keys()) ?? []) {
      if (url.startsWith(this.folder) && !wanted.has(url)) await kept?.delete(url);
    }
  }
}

/** The cache, or null where the browser forbids it. */
function openCache() {
  return self.caches ? caches.open(CACHE).catch(() => null) : null;
}

/**
 * @param {Cache | null} cache
 * @param {string} address
 * @param {Response} response
 */
async function keep(cache, address, response) {
  // without space to keep it the page still works, and loads it again next time
  await cache?.put(address, response).catch(() => {});
}

/** @param {ArrayBuffer} bytes */
async function sha256(bytes) {
  if (!crypto.subtle) throw new Error("Open this page by https, or from this machine: it is not secure.");
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
