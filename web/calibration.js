// Calibrates a dense model here: fits a screen of its output matrix, with which a token reads only the rows of the most
// likely tokens, and keeps it with the model where decoding becomes faster.
import { percent, speed } from "./format.js";
import { keepCompanion, reload, startEngine, status } from "./lifecycle.js";
import { $, announce, problem, setPhase, state } from "./page.js";

const LONG_BYTES = 20e6; // of a model that takes minutes

let running = null; // the calibration that runs: {cancelled}

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
  let text = "";
  try {
    const found = await state.engine.request("calibrate", { model: source, name: source.name, options });
    const kept = found.companion ? await keepCompanion(source, found.companion) : "";
    text = `${described(found)}${kept}`;
    await reload();
  } catch (error) {
    running = null;
    if (mine.cancelled) return;
    await startEngine(source);
    problem(`${source.name} could not be calibrated: ${error.message}`);
    return;
  }
  running = null;
  show();
  $("calibration").textContent = text;
  announce("Calibrated.");
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

/** Ends the worker, which nothing interrupts, and starts again with the same model. */
async function cancel() {
  running.cancelled = true;
  running = null;
  await startEngine(state.source);
  announce("Cancelled.");
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
}
