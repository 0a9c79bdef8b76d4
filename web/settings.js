// The engine's settings: threads, arithmetic, context, neuron memory. They apply from the engine's next start.
import { $, preferences, state } from "./page.js";
import { capabilities } from "./capabilities.js";

const MAX_THREADS = 16; // in the list
const NAMES = ["threads", "arithmetic", "context", "budget"];

/** The settings that the engine starts with, limited to what the browser supports. */
export function settings() {
  const has = capabilities();
  const threads = has.shared ? Math.min(Number(preferences.get("threads")), has.cores) : 1; // 0: automatic
  return {
    shared: has.shared,
    threads,
    relaxed: has.relaxed && preferences.get("arithmetic") === "relaxed",
    context: Number(preferences.get("context")) || 0,
    budget: Math.round(1e6 * Number(preferences.get("budget"))) || 0, // bytes
  };
}

/** How every browser can start the engine. */
export const BASIC = { shared: false, threads: 1, relaxed: false };

/** Shows the settings; `restartEngine` applies changes. */
export function wireSettings(restartEngine) {
  const has = capabilities();
  const max = has.shared ? Math.min(has.cores, MAX_THREADS) : 1;
  const numbers = Array.from({ length: max }, (_, i) => new Option(String(i + 1), String(i + 1)));
  $("threads").replaceChildren(...(max > 1 ? [new Option("Automatic", "0")] : []), ...numbers);
  $("threads").disabled = max === 1;
  $("arithmetic").disabled = !has.relaxed;
  show();
  $("engine-form").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const name of NAMES) preferences.set(name, $(name).value);
    restartEngine();
  });
  document.addEventListener("phase", () => {
    $("apply").disabled = state.phase !== "ready" && state.phase !== "failed";
  });
}

function show() {
  const now = settings();
  $("threads").value = String(now.threads);
  $("arithmetic").value = now.relaxed ? "relaxed" : "strict";
  $("context").value = now.context || "";
  $("budget").value = now.budget ? now.budget / 1e6 : "";
}
