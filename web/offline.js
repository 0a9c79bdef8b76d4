// The page for visits without a network: a service worker keeps its files.
import { state } from "./page.js";
import { showWhere } from "./where.js";

export async function keepOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const { active } = await navigator.serviceWorker.ready;
    state.offline = await ask(active, { order: "keep" });
  } catch (error) {
    state.offline = { error: String(error?.message ?? error) };
  }
  showWhere();
}

function ask(worker, message) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    worker.postMessage(message, [port2]);
  });
}
