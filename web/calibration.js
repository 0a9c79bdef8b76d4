// Calibrates a dense model here: fits a screen of its output matrix, with which a token reads only the rows of the most
// likely tokens, and keeps it with the model where decoding becomes faster.
import { percent, speed } from "./format.js";
import { keepCompanion, keepModel, reload, startEngine, status } from "./lifecycle.js";
import { $, announce, problem, setPhase, state } from "./page.js";

const LONG_BYTES = 20e6; // of a model that takes minutes

let running = null; // the calibration that runs and can be cancelled: {cancelled}

/** Whether the model can be calibrated here: one that computes all of its neurons for every token. */
const isOffered = () =>
  Boolean(state.phase === "ready" && state.site.calibration && state.model?.calibrates && state.model.modes.sparse && state.model.modes.exact);

/** Calibrates the model; `options`: arguments of `calibrate_head`. */
export async function calibrate(options = {}) {
  const { source, model } = state;
  const mine = (running = { cancelled: false });
  problem("");
  $("calibration").textContent = "";
  setPhase("loading");
  status.begin(`Calibrating ${model.name}`);
  announce("Calibrating.");
  let prepared = false;
  try {
    await state.engine.request("prepareCalibration");
    prepared = true;
    const found = await state.engine.request("calibrate", { model: source, name: source.name, options });
    running = null;
    show();
    problem("");
    const kept = found.companion ? await keepCompanion(source, found.companion) : "";
    await reload();
    $("calibration").textContent = `${described(found)}${kept}`;
    announce(found.companion ? "Calibrated." : "The model stays dense.");
  } catch (error) {
    if (mine.cancelled) return;
    running = null;
    if (prepared) await reload().catch(() => startEngine(source));
    else keepModel();
    problem(`${source.name} could not be calibrated: ${error.message}`);
  }
}

/** What was found, in words. */
export function described({ measured, written, held_out_tokens: tokens }) {
  if (!measured) return "No screen of the output matrix was near enough to it and smaller: the model stays dense.";
  const { kl, agreement, read_share: share, tokens_per_s: now, dense_tokens_per_s: before } = measured;
  const quality =
    `On ${tokens} tokens held out: ${percent(share)} of the output matrix read per token, divergence ${kl.toPrecision(2)} nats, ` +
    `the same most likely token for ${(Math.floor(1000 * agreement) / 10).toFixed(1)} %; ${speed(now)} against ${speed(before)} tokens/s.`;
  return written ? `Calibrated. ${quality}` : `Not faster here, so the model stays dense. ${quality}`;
}

/** Ends the calibration, if one runs, and with it the worker, which nothing interrupts; starts again with a model, by
 *  default the same. */
export async function cancel(source = state.source) {
  if (!running) return;
  running.cancelled = true;
  running = null;
  await startEngine(source);
  announce("Cancelled.");
}

/** Whether a calibration runs, which keeps the engine busy. Then says that it must end before `what`, such as "another model
 *  is loaded", and offers to cancel it, after which `next` runs. */
export function isCalibrating(what, next) {
  if (!running) return false;
  const run = async () => {
    await cancel();
    next();
  };
  problem(`${state.source.name} is being calibrated: wait for it before ${what}`, { label: "Cancel calibrating", run });
  return true;
}

function show() {
  const button = $("calibrate");
  $("calibrate-box").hidden = !running && !isOffered();
  button.textContent = running ? "Cancel calibrating" : "Calibrate here";
  $("calibrate-note").hidden = Boolean(running);
  if (!running && isOffered()) {
    $("calibrate-note").textContent =
      `Finds the rows of the output matrix that a token needs, on text that the model writes. ${state.model.bytes < LONG_BYTES ? "" : "It takes minutes."}`;
  }
}

export function wireCalibration() {
  document.addEventListener("phase", () => {
    if (state.phase === "starting" || (state.phase === "loading" && !running)) $("calibration").textContent = "";
    show();
  });
  $("calibrate").addEventListener("click", () => (running ? cancel() : calibrate()));
  addEventListener("beforeunload", (event) => running && event.preventDefault()); // the browser asks: minutes would be lost
}
