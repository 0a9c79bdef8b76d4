// The engine's life: it starts, loads a model, loads another, and starts again when it has to.
import { Engine } from "./engine.js";
import { adoptFigures, showReport } from "./figures.js";
import { announce, problem, sentence, setPhase, state } from "./page.js";
import { chosen, forgetChoices, isPlain } from "./settings.js";
import { Status } from "./status.js";
import { showWhere } from "./where.js";
import { size } from "./words.js";
import { adoptWriting } from "./writing.js";

export const status = new Status();

const SITE = { kind: "site" };
export const siteSource = () => ({ ...SITE, name: state.site.model.name });

/** Starts the engine, in place of one that runs, and loads a model: the site's own, or one that was in use. */
export async function startEngine(source = siteSource()) {
  state.engine?.close();
  state.model = state.where = null;
  setPhase("starting");
  status.begin(source.name);
  const engine = (state.engine = new Engine());
  engine.addEventListener("bytes", ({ detail }) => status.bytes(detail.done, detail.total));
  engine.addEventListener("stage", ({ detail }) => status.stage(detail.name));
  engine.addEventListener("fetching", ({ detail }) => status.fetching(detail.done, detail.total));
  engine.addEventListener("loading", ({ detail }) => status.loading(detail.done, detail.total));
  engine.addEventListener("text", ({ detail }) => showReport(detail));
  try {
    const { threads, relaxed } = chosen();
    const first = source.kind === "site";
    const started = await engine.start({ site: state.site, threads, relaxed, first });
    state.where = started.where;
    showWhere();
    await load(source);
  } catch (error) {
    if (state.engine === engine) await failedStart(source, error);
  }
}

async function failedStart(source, error) {
  if (state.where && source.kind !== "site") {
    problem(`${error.message}. The page's own model is loaded instead`);
    return startEngine();
  }
  status.failed();
  setPhase("failed");
  const plain = { label: "Start with one thread and strict arithmetic", run: () => (forgetChoices(), startEngine()) };
  const again = { label: "Try again", run: () => startEngine() };
  problem(`the page could not start: ${error.message}`, isPlain() ? again : plain);
}

/** Puts a model into the core and makes it the page's. */
async function load(source) {
  const { context, budget } = chosen();
  const options = { context, budget };
  const { about, where } = await state.engine.ask("load", { model: source, name: source.name, options });
  state.model = about;
  state.where = where;
  showWhere();
  state.source = source;
  status.model(about, source);
  adoptFigures(about);
  setPhase("ready");
  announce(`${about.name} is ready.`);
  adoptWriting();
}

/** Loads another model, if there is room. When that fails, the one before is there again; tells whether it is new. */
export async function useModel(source, { sure = false } = {}) {
  if (state.phase === "busy") state.engine.stop();
  while (!["ready", "failed"].includes(state.phase)) await nextPhase();
  if (state.phase === "failed") return false;
  problem("");
  const before = state.source;
  setPhase("loading");
  status.begin(source.name);
  try {
    await checkRoom(source, sure);
  } catch (error) {
    status.model(state.model, state.source);
    setPhase("ready");
    problem(error.action === undefined ? cannotLoad(source.name, error) : error.message, error.action);
    return false;
  }
  try {
    await load(source);
    return true;
  } catch (error) {
    await comeBack(before, explained(error, source));
    return false;
  }
}

const nextPhase = () => new Promise((resolve) => document.addEventListener("phase", resolve, { once: true }));

/** After a load that failed. The core is made anew, since its memory does not shrink. */
async function comeBack(before, text) {
  await startEngine(before ?? siteSource());
  problem(state.phase === "ready" ? `${sentence(text)} ${state.source.name} is loaded again` : text);
}

function explained(error, source) {
  if (error.kind === "CoreMemoryError") {
    return `The browser has no more memory for ${source.name}: ${error.message}. Close other tabs, take a smaller quantisation, or set a shorter context under “Engine”.`;
  }
  return cannotLoad(source.name, error);
}

/** The sentence for a file that is no model that can run; the core's messages begin with its name too. */
export const cannotLoad = (name, error) => `${name} cannot be loaded: ${error.message.replace(`${name}: `, "")}`;

/** Throws, with the numbers, when the model needs more memory than there can be. */
async function checkRoom(source, sure) {
  const { context, budget } = chosen();
  const needs = await state.engine.ask("inspect", { model: source, name: source.name, options: { context, budget } });
  const refusal = tooLarge(source.name, needs, sure);
  if (!refusal) return;
  const action = refusal.final ? null : { label: "Load it anyway", run: () => useModel(source, { sure: true }) };
  throw Object.assign(new Error(refusal.text), { action });
}

/** Why a model does not fit, or null: what `inspect` found beside what the page and the machine can have. */
export function tooLarge(name, needs, sure = false) {
  const parts = `weights ${size(needs.weights_bytes)}, a context of ${needs.context_tokens} tokens ${size(needs.cache_bytes)}`;
  const need = `${name} needs about ${size(needs.needed_bytes)} of memory (${parts})`;
  const fewer = needs.neuron_bytes ? "give its neurons less memory" : "take a smaller quantisation of it";
  const out = `${fewer}, or set a shorter context under “Engine”`;
  if (needs.needed_bytes > needs.limit_bytes) {
    return { final: true, text: `${need}, and a page can have ${size(needs.limit_bytes)}: ${out}` };
  }
  const machine = (navigator.deviceMemory ?? Infinity) * 2 ** 30; // the browser rounds it, and tells 8 GB at most
  if (!sure && needs.needed_bytes > 0.8 * machine && needs.needed_bytes > 2 ** 28) {
    return { final: false, text: `${need}, and the browser reports ${size(machine)} in this machine: ${out}, or try` };
  }
  return null;
}
