// What a generation costs: the figures, the table of layers, the table of modes and the map of neurons.
import { layerMark, layerName, percent, size, speed } from "./format.js";
import { NeuronMap } from "./map.js";
import { $, state } from "./page.js";
import { layersOf } from "./status.js";
import { Speeds } from "./speeds.js";

const INTERVAL = 200; // milliseconds between two updates of the figures

const map = new NeuronMap($("map"));
const speeds = new Speeds($("side"));
let updated = 0; // when the figures were last updated

// What the colours mean, by the sparsest mode that the model supports, and for experts in dense mode; a colour without a
// meaning is not shown.
const IDLE = "does not fire";
const LEGENDS = {
  sparse: { cold: "fires, predicted", hot: "fires, always computed", idle: IDLE },
  exact: { cold: "fires", idle: IDLE },
  dense: { hot: "computed, as all neurons of this model are for every token" },
  experts: { cold: "expert that the router chose", hot: "always computed", idle: "other expert: skipped" },
};

/** The current text: its mode, its figures so far, and the last shares by layer; `beginReport` sets what else it has. */
export const run = { mode: "", last: null, layers: null };

/** Resets everything for a newly loaded model. */
export function resetReport(model) {
  const mode = ["sparse", "exact"].find((each) => !model.modes[each]);
  const expert = Math.max(0, ...model.layers.map((layer) => layer.expert)); // neurons of one
  const kind = mode ?? (expert ? "experts" : "dense");
  // Neurons that are always computed, besides the hot ones: all of them in a dense model, layers without experts in others.
  const whole = model.hidden.map((count, layer) => (kind === "dense" || !model.layers[layer].expert ? count : 0));
  const hot = kind === "dense" || kind === "experts" ? whole : model.hot;
  showLegend(kind, hot.some((count) => count > 0), mode && expert > 0);
  const mixers = new Set(model.layers.map(({ mixer }) => mixer));
  for (const row of $("legend").querySelectorAll("[data-mixer]")) row.hidden = !mixers.has(row.dataset.mixer);
  $("why-sparse").hidden = true; // until both modes are measured
  const experts = model.layers.map((layer) => (mode ? layer.expert : 0)); // the neurons of each are shown
  map.reset(model.hidden, hot, model.layers.map(layerMark), kind === "experts" ? expert : 1, experts);
  speeds.reset(model.modes);
  $("map-empty").hidden = false;
  for (const id of ["speed-now", "speed-mean", "share", "bytes", "hits", "disk"]) $(id).textContent = "–";
  for (const id of ["read-ffn", "read-other"]) $(id).style.width = "0";
  $("read-note").textContent = "Weights read per token, relative to dense mode.";
  for (const each of document.querySelectorAll(".cached")) each.hidden = !model.budget_bytes;
  run.last = run.layers = null;
  $("headline").textContent = "";
  labelMap();
  showLayers([]);
}

function showLegend(kind, hasHot, inTiles) {
  for (const dot of $("legend").querySelectorAll(".dot")) {
    const row = dot.parentElement;
    const colour = dot.classList[1];
    const text = LEGENDS[kind][colour];
    row.hidden = !text || (colour === "hot" && !hasHot);
    row.lastElementChild.textContent = text ?? "";
  }
  const fires = kind === "sparse" || kind === "exact";
  $("fire-title").textContent = fires ? "Neurons firing" : kind === "experts" ? "Experts chosen" : "Neurons";
  $("map-empty").textContent =
    kind === "experts"
      ? "Each tile is an expert. It lights up when the router chooses it."
      : `Each dot is a neuron${inTiles ? ", in the tile of its expert" : ""}. It lights up when it ${fires ? "fires" : "is computed"}.`;
}

/** Shows one slice of a generation. */
export function showReport(report) {
  run.write?.(report.text, report.speed);
  const active = report.evaluated > 0 ? mean(report.active) : 0;
  if (run.counted && report.tokens > 1) speeds.add(run.mode, report, active);
  if (report.evaluated > 0) {
    run.evaluated += report.evaluated;
    run.active += active * report.evaluated;
    run.ffnBytes += report.ffn_bytes * report.evaluated;
    run.last = { tokens: report.tokens, speed: report.speed, active: run.active / run.evaluated };
    showFigures(report);
    if (report.fired) {
      $("map-empty").hidden = true;
      map.feed(new Uint8Array(report.fired), report.evaluated);
    }
  }
  showHeadline();
  if (!report.done) return;
  $("why-sparse").hidden = !speeds.isFaster("sparse", "exact");
  map.settle();
  labelMap();
  $("speed-now").textContent = "–";
}

/** One line of figures that this tab has measured, as the figures and the table of modes show them. */
function showHeadline() {
  if (!run.last || run.mode === "dense") return;
  const factor = speeds.factors[run.mode];
  const compared = factor ? `, ${factor}× as fast as dense` : "";
  $("headline").textContent = `${$("share").textContent} of neurons computed${compared}, in this tab`;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);

/** Begins the figures of a text, which are means over it: all but “tokens/s now”. */
export function beginReport(mode, counted, write) {
  Object.assign(run, { mode, counted, write, evaluated: 0, active: 0, ffnBytes: 0 });
}

function showFigures(report) {
  const now = performance.now();
  if (!report.done && now - updated < INTERVAL) return;
  updated = now;
  if (report.speed_now) $("speed-now").textContent = speed(report.speed_now);
  if (report.speed) $("speed-mean").textContent = speed(report.speed);
  $("share").textContent = percent(run.last.active);
  const ffn = run.ffnBytes / run.evaluated;
  const read = ffn + report.other_bytes;
  const dense = report.dense_ffn_bytes + report.other_bytes;
  $("bytes").textContent = size(read);
  $("read-ffn").style.width = `${(100 * ffn) / dense}%`;
  $("read-other").style.width = `${(100 * report.other_bytes) / dense}%`;
  $("read-note").textContent =
    `Weights read per token: ${size(read)}, dense mode ${size(dense)}; in the feed-forward layers ` +
    `${size(ffn)}, dense mode ${size(report.dense_ffn_bytes)}.`;
  if (report.cache_wanted) {
    $("hits").textContent = percent(report.cache_hits / report.cache_wanted);
    $("disk").textContent = size(report.cache_read_bytes / report.evaluated);
  }
  run.layers = [report.active, report.selected];
  if ($("layers-box").open) showLayers(...run.layers);
}

function showLayers(active, selected = []) {
  const body = $("layers");
  while (body.rows.length > active.length) body.deleteRow(-1);
  active.forEach((share, layer) => {
    let row = body.rows[layer];
    if (!row) {
      row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = layerName(state.model.layers[layer], state.model.layers);
      row.append(head);
      row.insertCell();
      row.insertCell();
    }
    row.cells[1].textContent = percent(share);
    row.cells[2].textContent = percent(selected[layer]);
  });
}

function labelMap() {
  const activity = run.last
    ? `In the last text ${percent(run.last.active)} of them were computed per token.`
    : "No activity yet.";
  $("map").setAttribute("aria-label", `Map of the model's neurons: ${layersOf(state.model)}. ${activity}`);
}

export function wireReport() {
  $("watch").addEventListener("change", ({ target }) => {
    state.engine.request("watch", { on: target.checked }).catch(() => {});
  });
  $("layers-box").addEventListener("toggle", () => {
    if (run.layers) showLayers(...run.layers);
  });
}
