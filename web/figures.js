// What a generation costs, in numbers: now, by layer, by mode; and the map.
import { NeuronMap } from "./map.js";
import { $, state } from "./page.js";
import { Speeds } from "./speeds.js";
import { percent, size, speed } from "./words.js";

const INTERVAL = 200; // milliseconds between two changes of the figures

const map = new NeuronMap($("map"));
const speeds = new Speeds($("side"));
let shown = 0; // when
export const run = { mode: "", write: null, last: null }; // the present text: its mode, and who writes it

/** Begins anew for a model. */
export function adoptFigures(model) {
  map.reset(model.layers, model.hidden, model.hot);
  speeds.reset(model.modes);
  $("map-empty").hidden = false;
  for (const id of ["speed-now", "speed-mean", "share", "bytes", "hits", "disk"]) $(id).textContent = "–";
  for (const id of ["read-ffn", "read-other"]) $(id).style.width = "0";
  $("read-note").textContent = "Weights read per token, of what the dense mode reads.";
  for (const each of document.querySelectorAll(".cached")) each.hidden = !model.budget_bytes;
  run.last = null;
  labelMap();
  showLayers([]);
}

/** A slice of a generation. */
export function showReport(report) {
  run.write?.(report.text);
  if (report.evaluated > 0) {
    const share = mean(report.active);
    run.last = { tokens: report.tokens, speed: report.speed, share };
    if (report.tokens > 1) speeds.add(run.mode, report, share);
    showFigures(report, share);
    if (report.fired) {
      $("map-empty").hidden = true;
      map.feed(new Uint8Array(report.fired), report.evaluated);
    }
  }
  if (!report.done) return;
  map.settle();
  labelMap();
  $("speed-now").textContent = "–";
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function showFigures(report, share) {
  const now = performance.now();
  if (!report.done && now - shown < INTERVAL) return;
  shown = now;
  if (report.speed_now) $("speed-now").textContent = speed(report.speed_now);
  if (report.speed) $("speed-mean").textContent = speed(report.speed);
  $("share").textContent = percent(share);
  const read = report.ffn_bytes + report.other_bytes;
  const dense = report.dense_ffn_bytes + report.other_bytes;
  $("bytes").textContent = size(read);
  $("read-ffn").style.width = `${(100 * report.ffn_bytes) / dense}%`;
  $("read-other").style.width = `${(100 * report.other_bytes) / dense}%`;
  $("read-note").textContent =
    `Weights read per token: ${size(read)} of the dense mode's ${size(dense)}; in the feed-forward layers ` +
    `${size(report.ffn_bytes)} of ${size(report.dense_ffn_bytes)}.`;
  if (report.cache_wanted) {
    $("hits").textContent = percent(report.cache_hits / report.cache_wanted);
    $("disk").textContent = size(report.cache_read_bytes / report.evaluated);
  }
  if ($("layers-box").open) showLayers(report.active, report.selected);
  else run.layers = [report.active, report.selected];
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
      head.textContent = layer + 1;
      row.append(head);
      row.insertCell();
      row.insertCell();
    }
    row.cells[1].textContent = percent(share);
    row.cells[2].textContent = percent(selected[layer]);
  });
}

function labelMap() {
  const { layers, hidden } = state.model;
  const fired = run.last
    ? `In the last text ${percent(run.last.share)} of them were computed for a token.`
    : "Nothing has fired yet.";
  $("map").setAttribute("aria-label", `Map of the model's neurons, ${layers} layers of ${hidden}. ${fired}`);
}

export function wireFigures() {
  $("watch").addEventListener("change", ({ target }) => {
    state.engine.ask("watch", { on: target.checked }).catch(() => {});
    $("map-box").classList.toggle("off", !target.checked);
  });
  $("layers-box").addEventListener("toggle", () => {
    if (run.layers) showLayers(...run.layers);
  });
}

/** The colours have changed. */
export const recolour = () => map.layout();
