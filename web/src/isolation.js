/** The service worker, which keeps the page for later and gives it threads. */

const TRIED = "isolation-tried"; // this visit, so that a browser that refuses is asked once
const PATIENCE = 10_000; // ms until the page goes on without

/** Register it, and reload once if the page is not isolated yet: then this never returns. */
export async function isolate() {
  try {
    await navigator.serviceWorker.register("service-worker.js");
    if (self.crossOriginIsolated || sessionStorage.getItem(TRIED)) return;
    const ready = navigator.serviceWorker.ready.then(() => true);
    const late = new Promise((done) => setTimeout(done, PATIENCE));
    if (!(await Promise.race([ready, late]))) return;
    sessionStorage.setItem(TRIED, "yes");
  } catch {
    return; // no service workers here, or no storage: the page works without
  }
  location.reload();
  await new Promise(() => {});
}
