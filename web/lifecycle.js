// The engine's life cycle: start, load a model, switch models, restart after a failure.
import { Engine } from "./engine.js";
import { resetReport, showReport } from "./report.js";
import { announce, problem, sentence, setPhase, state } from "./page.js";
import { BASIC, settings } from "./settings.js";
import { Status } from "./status.js";
import { openStore } from "./store.js";
import { showCapabilities } from "./capabilities.js";
import { size } from "./format.js";
import { resetWriting } from "./writing.js";

export const status = new Status();

const SITE = { kind: "site" };
export const siteSource = () => ({ ...SITE, name: state.site.model.name });

/** Starts the engine, terminating a running one, and loads a model: by default the site's own. An engine that does not
 *  start with the user's settings is started with those that every browser supports, `BASIC`. */
export async function startEngine(given = null, basic = false) {
  const source = given ?? siteSource();
  state.engine?.close();
  state.engine = state.model = state.backend = null;
  setPhase("starting");
  status.begin(source.name);
  let engine = null;
  try {
    engine = state.engine = openEngine();
    const { shared, threads, relaxed } = basic ? BASIC : settings();
    const prefetch = source.kind === "site"; // the model, while Python starts
    const started = await engine.start({ site: state.site, shared, threads, relaxed, prefetch });
    state.backend = started.backend;
    showCapabilities();
    await load(source);
  } catch (error) {
    if (state.engine === engine) await recoverStart(source, basic, error);
  }
}

function openEngine() {
  const engine = new Engine();
  engine.addEventListener("bytes", ({ detail }) => status.bytes(detail.done, detail.total));
  engine.addEventListener("stage", ({ detail }) => status.stage(detail.name));
  engine.addEventListener("fetching", ({ detail }) => status.fetching(detail.done, detail.total));
  engine.addEventListener("loading", ({ detail }) => status.loading(detail.done, detail.total));
  engine.addEventListener("calibrating", ({ detail }) => status.calibrating(detail.doing, detail.share));
  engine.addEventListener("text", ({ detail }) => showReport(detail));
  return engine;
}

/** Starts again with less after a failure: without the user's model, then without the features of `settings`. */
async function recoverStart(source, basic, { message }) {
  if (state.backend && source.kind !== "site") {
    await startEngine(null, basic);
    if (state.phase === "ready") problem(`${sentence(message)} The page's own model is loaded instead`);
    return;
  }
  const chosen = settings();
  if (!basic && Object.keys(BASIC).some((name) => chosen[name] !== BASIC[name])) {
    await startEngine(source, true);
    if (state.phase === "ready") problem(`the engine runs with one thread and strict arithmetic, since it did not start otherwise: ${message}`);
    return;
  }
  status.failed();
  setPhase("failed");
  problem(`the page could not start: ${message}`, { label: "Try again", run: () => startEngine() });
}

/** Loads a model into the core and shows it. */
async function load(source) {
  const model = { ...source, companion: companions.get(keyOf(source)) };
  const { about, backend } = await state.engine.request("load", { model, name: source.name, options: modelOptions() });
  state.model = about;
  state.backend = backend;
  showCapabilities();
  state.source = source;
  status.model(about, source);
  resetReport(about);
  setPhase("ready");
  announce(`${about.name} is ready.`);
  resetWriting();
  if (about.refused) problem(withoutCompanion(source.name, about.refused));
}

/** Why what was calibrated here is not used, by the kind of error. */
const withoutCompanion = (name, kind) =>
  kind === "CoreMemoryError"
    ? `there is not enough memory for what was calibrated here for ${name}: it runs without`
    : `what was calibrated here for ${name} is damaged, or was for another file of that name: it runs without. Calibrate it again`;

/** Goes on with the model that is loaded. */
export function keepModel() {
  status.model(state.model, state.source);
  setPhase("ready");
}

// What was calibrated here for models that are not stored.
const companions = new Map();
const keyOf = ({ kind, name, blob }) => `${kind} ${name} ${blob?.size}`;

/** Keeps what was calibrated for a model: in storage with a stored model, otherwise while the page is open, which is then
 *  said. */
export async function keepCompanion(source, bytes) {
  if (source.kind === "stored") {
    try {
      await openStore().request("keepCompanion", { name: source.name, bytes });
      companions.delete(keyOf(source));
      return "";
    } catch {
      // There is no room for it, or the model is no longer stored.
    }
  }
  companions.set(keyOf(source), bytes);
  return " It is kept until the page is closed.";
}

/** Loads the model in use again. */
export const reload = () => load(state.source);

/** Loads another model, unless it needs too much memory; `force` skips the check against the machine's memory. On
 *  failure the previous model is restored. Returns whether the new model is loaded. */
export async function useModel(source, { force = false } = {}) {
  if (state.phase === "busy") state.engine.stop();
  while (!["ready", "failed"].includes(state.phase)) await nextPhase();
  if (state.phase === "failed") return false;
  problem("");
  const previous = state.source;
  setPhase("loading");
  status.begin(source.name);
  try {
    await checkMemory(source, force);
  } catch (error) {
    keepModel();
    problem(error.action === undefined ? cannotLoad(source.name, error) : error.message, error.action);
    return false;
  }
  try {
    await load(source);
    return true;
  } catch (error) {
    await restore(previous, explained(error, source));
    return false;
  }
}

const nextPhase = () => new Promise((resolve) => document.addEventListener("phase", resolve, { once: true }));

/** Restores the previous model after a failed load, in a new core, since a core's memory cannot shrink. */
async function restore(previous, text) {
  await startEngine(previous);
  problem(state.phase === "ready" ? `${sentence(text)} ${state.source.name} was restored` : text);
}

function explained(error, source) {
  if (error.kind === "CoreMemoryError") {
    return `The browser has not enough memory for ${source.name}: ${error.message}. Close other tabs, use a smaller quantisation, or set a shorter context under “Engine”.`;
  }
  return cannotLoad(source.name, error);
}

/** The message for a file that is not a supported model, with the file's name once. */
export const cannotLoad = (name, error) => `${name} cannot be loaded: ${error.message.replace(`${name}: `, "")}`;

/** The options that a model is inspected and loaded with. */
function modelOptions() {
  const { context, budget } = settings();
  return { context, budget };
}

/** Reads a model's header: how much memory loading it would take. Rejects when it is not a supported model. */
export const inspect = (source, name = source.name) =>
  state.engine.request("inspect", { model: source, name, options: modelOptions() });

/** Throws an error with the sizes when the model needs more memory than is available. */
async function checkMemory(source, force) {
  const refusal = memoryRefusal(source.name, await inspect(source), force);
  if (!refusal) return;
  const action = refusal.final ? null : { label: "Load it anyway", run: () => useModel(source, { force: true }) };
  throw Object.assign(new Error(refusal.text), { action });
}

/** Why a model does not fit into memory, or null: its needs, found by `inspect`, against the limits of WebAssembly and,
 *  without `force`, of the machine. A refusal that is not `final` may be overridden. */
export function memoryRefusal(name, needs, force = false) {
  const parts = `weights ${size(needs.weights_bytes)}, a context of ${needs.context_tokens} tokens ${size(needs.cache_bytes)}`;
  const need = `${name} needs about ${size(needs.needed_bytes)} of memory (${parts})`;
  const smaller = needs.neuron_bytes ? "reduce the memory for neurons" : "use a smaller quantisation";
  const remedy = `${smaller}, or set a shorter context under “Engine”`;
  if (needs.needed_bytes > needs.limit_bytes) {
    return { final: true, text: `${need}, but a page can use at most ${size(needs.limit_bytes)}: ${remedy}` };
  }
  const machine = (navigator.deviceMemory ?? Infinity) * 2 ** 30; // rounded by the browser, which reports at most 8 GB
  if (!force && needs.needed_bytes > 0.8 * machine && needs.needed_bytes > 2 ** 28) {
    return { final: false, text: `${need}, but the browser reports ${size(machine)} in this machine: ${remedy}, or load it anyway` };
  }
  return null;
}
