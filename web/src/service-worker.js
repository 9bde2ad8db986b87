/**
 * Keeps the page for use without a network, and isolates it from other origins, which threads
 * need and static hosts have no setting for.
 */

const EXTRAS = ["model/README.md", "model/CREDITS.csv"];
const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const CACHES = `soundcrafter-page ${worker.registration.scope} `; // others may share the origin
const CACHE = `${CACHES}${VERSION}`;

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const isModel = /\/model\/.*\.(onnx|json)$/.test(url.pathname);
  if (request.method === "GET" && url.origin === location.origin && !isModel) {
    event.respondWith(respond(request));
  }
});

async function install() {
  const cache = await caches.open(CACHE);
  await cache.addAll(SHELL.map((path) => new Request(path, { cache: "reload" })));
  await Promise.allSettled(EXTRAS.map((path) => cache.add(path)));
  await worker.skipWaiting();
}

async function activate() {
  for (const name of await caches.keys()) {
    if (name.startsWith(CACHES) && name !== CACHE) await caches.delete(name);
  }
  await worker.clients.claim();
}

/** @param {Request} request */
async function respond(request) {
  const cache = await caches.open(CACHE);
  // the names of scripts change with their contents, that of the page does not
  const isPage = request.mode === "navigate";
  const fresh = isPage ? await fetch(request, { cache: "no-cache" }).catch(() => null) : null;
  const kept = fresh ? null : await cache.match(request, { ignoreSearch: true });
  const found = fresh ?? kept ?? (await fetch(request));
  if (!isPage && !kept && found.ok) await cache.put(request, found.clone());
  return isolated(found);
}

/** @param {Response} response */
function isolated(response) {
  if (response.type === "opaqueredirect") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  const empty = [204, 205, 304].includes(status);
  return new Response(empty ? null : response.body, { status, statusText, headers });
}
