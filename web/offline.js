// Caches the page's files with a service worker, so that the page works offline.
import { state } from "./page.js";
import { showCapabilities } from "./capabilities.js";

export async function cacheForOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const { active } = await navigator.serviceWorker.ready;
    state.offline = await request(active, { type: "cache" });
  } catch (error) {
    state.offline = { error: String(error?.message ?? error) };
  }
  showCapabilities();
}

function request(worker, message) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    worker.postMessage(message, [port2]);
  });
}
