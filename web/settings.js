// The engine's settings: threads, instructions, context. They hold from the next start of the engine on.
import { $, remembered, state } from "./page.js";
import { abilities } from "./where.js";

const MOST_THREADS = 16;
const NAMES = ["threads", "arithmetic", "context", "budget"];

/** What the engine is started with, as far as the browser allows it. */
export function chosen() {
  const has = abilities();
  const threads = has.isolated ? Math.min(Number(remembered.get("threads")), has.cores) : 1; // 0: what suits the model
  return {
    threads,
    relaxed: has.relaxed && remembered.get("arithmetic") === "relaxed",
    context: Number(remembered.get("context")) || 0,
    budget: Math.round(1e6 * Number(remembered.get("budget"))) || 0, // bytes
  };
}

export const isPlain = () => chosen().threads === 1 && !chosen().relaxed;

/** Back to what every browser has. */
export function forgetChoices() {
  for (const name of NAMES) remembered.set(name, name === "threads" ? "1" : "");
  show();
}

/** Shows what is chosen; `restart` applies it. */
export function wireSettings(restart) {
  const has = abilities();
  const most = has.isolated ? Math.min(has.cores, MOST_THREADS) : 1;
  const numbers = Array.from({ length: most }, (_, i) => new Option(String(i + 1), String(i + 1)));
  $("threads").replaceChildren(...(most > 1 ? [new Option("What suits the model", "0")] : []), ...numbers);
  $("threads").disabled = most === 1;
  $("arithmetic").disabled = !has.relaxed;
  show();
  $("engine-form").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const name of NAMES) remembered.set(name, $(name).value);
    restart();
  });
  document.addEventListener("phase", () => {
    $("apply").disabled = state.phase !== "ready" && state.phase !== "failed";
  });
}

function show() {
  const now = chosen();
  $("threads").value = String(now.threads);
  $("arithmetic").value = now.relaxed ? "relaxed" : "strict";
  $("context").value = now.context || "";
  $("budget").value = now.budget ? now.budget / 1e6 : "";
}
