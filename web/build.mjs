// Builds the page into a folder (default: dist), which keeps the model that lies in it.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";

const here = import.meta.dirname;
const source = (name) => join(here, "src", name);
const out = process.argv[2] ?? join(here, "dist");
const runtime = join(here, "node_modules", "onnxruntime-web");
const { version } = JSON.parse(await readFile(join(runtime, "package.json"), "utf8"));
const ortFolder = `ort-${version}/`;
const RUNTIME = [
  "ort.wasm.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort.jspi.min.mjs",
  "ort-wasm-simd-threaded.jspi.mjs",
  "ort-wasm-simd-threaded.jspi.wasm",
];

// Bundles a file; returns the name that it got, with a hash of what is in it.
async function bundle(name, define = {}, entryNames = "[name]-[hash]") {
  const { metafile } = await build({
    entryPoints: [source(name)],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    outdir: out,
    entryNames,
    metafile: true,
    define: Object.fromEntries(Object.entries(define).map(([k, v]) => [k, JSON.stringify(v)])),
  });
  return basename(Object.keys(metafile.outputs)[0]);
}

await mkdir(out, { recursive: true });
for (const name of await readdir(out)) {
  if (name !== "model") await rm(join(out, name), { recursive: true });
}
await mkdir(join(out, ortFolder));
for (const name of RUNTIME) await cp(join(runtime, "dist", name), join(out, ortFolder, name));
await cp(source("ort-license.txt"), join(out, ortFolder, "LICENSE.txt"));
await cp(join(here, "..", "LICENSE"), join(out, "LICENSE.txt"));
await cp(source("icon.svg"), join(out, "icon.svg"));
const worker = await bundle("worker.js", { ORT_FOLDER: ortFolder });
const page = await bundle("page.js", { WORKER: worker });
const style = await bundle("style.css");
const html = (await readFile(source("index.html"), "utf8"))
  .replace("style.css", style)
  .replace("page.js", page);
const hash = createHash("sha256").update(html).update(version).digest("hex").slice(0, 12);
await bundle(
  "service-worker.js",
  { VERSION: hash, SHELL: ["./", "icon.svg", page, worker, style] },
  "[name]",
);
// last: make takes it for the sign that all is built
await writeFile(join(out, "index.html"), html);
