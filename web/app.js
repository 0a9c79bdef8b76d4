// The page: what is seen and pressed. The work is done in worker.js.
import { Engine } from "./engine.js";
import { NeuronMap } from "./map.js";
import { Speeds } from "./speeds.js";
import { Status } from "./status.js";
import { showWhere } from "./where.js";
import { percent, size, speed } from "./words.js";

const $ = (id) => document.getElementById(id);
const MODES = ["sparse", "exact", "dense"];
const SAMPLING = ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"];

const status = new Status();
const map = new NeuronMap($("map"), $("map-mask"));
const speeds = new Speeds($("side"));
const state = { ready: false, busy: false, model: null, site: null, wanted: false };
let engine;

/* ---- Start ---- */

async function boot() {
  engine = new Engine("worker.js");
  engine.addEventListener("bytes", ({ detail }) => status.bytes(detail.done, detail.total));
  engine.addEventListener("stage", ({ detail }) => status.stage(detail.name));
  engine.addEventListener("text", ({ detail }) => report(detail));
  engine.addEventListener("loading", ({ detail }) => status.loading(detail.done, detail.total));
  status.begin("Starting");
  try {
    const answer = await fetch("site.json");
    if (!answer.ok) throw new Error(`site.json: the server answered ${answer.status}`);
    state.site = await answer.json();
    $("version").textContent = state.site.version;
    const started = await engine.start({ site: state.site, threads: 1, withModel: true });
    showWhere($("where"), started.where, state.site);
    if (started.model.error) throw new Error(started.model.error);
    adopt(started.model);
  } catch (error) {
    status.failed();
    problem(`The page could not start: ${error.message}. Reload it to try again.`);
    return;
  }
  if (state.wanted) generate();
}

/** A model has been loaded. */
function adopt(model) {
  state.model = model;
  state.ready = true;
  status.model(model);
  map.reset(model.layers, model.hidden, model.hot);
  speeds.reset(model.modes);
  $("map-empty").hidden = false;
  for (const input of document.getElementsByName("mode")) {
    input.disabled = Boolean(model.modes[input.value]);
    input.checked = input.value === model.default_mode;
  }
  showRefusals(model);
  showLayers([]);
  buttons();
}

function showRefusals(model) {
  const refused = MODES.filter((mode) => model.modes[mode]);
  $("mode-note").textContent = refused.length ? sentence(model.modes[refused.at(-1)]) : "";
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/* ---- Generation ---- */

function options() {
  const given = {};
  for (const name of SAMPLING) {
    const value = $(name).value.trim();
    if (value !== "") given[name] = Number(value);
  }
  return given;
}

const chosenMode = () => document.querySelector('input[name="mode"]:checked')?.value;

async function generate(overrides = {}) {
  if (!state.ready) {
    state.wanted = true;
    announce("The text begins as soon as the model is there.");
    $("go").textContent = "Starting soon";
    return null;
  }
  problem("");
  state.busy = true;
  state.mode = overrides.mode ?? chosenMode();
  state.wanted = false;
  buttons();
  const prompt = $("prompt").value;
  const text = new Text(prompt);
  state.text = text;
  announce(`Generating, ${state.mode} mode.`);
  let ended = null;
  try {
    ended = await engine.ask("generate", { prompt, options: { ...options(), mode: state.mode, ...overrides } });
    announce(summary(ended.reason));
  } catch (error) {
    problem(sentence(error.message));
  }
  text.flush();
  state.busy = false;
  $("speed-now").textContent = "–";
  buttons();
  return ended;
}

function summary(reason) {
  const { last } = state;
  const why = { stopped: "Stopped", end: "The model ended the text", context: "The context is full" }[reason] ?? "Done";
  return `${why}: ${last.tokens} tokens at ${speed(last.speed)} tokens per second, ${percent(last.share)} of the neurons computed.`;
}

/** The output, which grows at most once a frame. */
class Text {
  constructor(prompt) {
    $("given").textContent = prompt;
    $("made").textContent = "";
    this.node = $("made").appendChild(document.createTextNode(""));
    this.pending = "";
    this.frame = 0;
  }

  add(piece) {
    this.pending += piece;
    this.frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.pending) return;
    const box = $("output");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    this.node.appendData(this.pending);
    this.pending = "";
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
}

/** A slice of a generation. */
function report(detail) {
  state.text?.add(detail.text);
  if (detail.evaluated > 0) {
    const share = mean(detail.active);
    state.last = { tokens: detail.tokens, speed: detail.speed, share };
    if (detail.tokens > 1) speeds.add(state.mode, detail, share);
    figures(detail, share);
    if (detail.fired) {
      $("map-empty").hidden = true;
      map.feed(new Uint8Array(detail.fired), detail.evaluated);
    }
  }
  if (detail.done) map.settle();
  if (detail.done) $("map").setAttribute("aria-label", mapLabel());
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function figures(detail, share) {
  const now = performance.now();
  if (!detail.done && now - (state.figured ?? 0) < 200) return;
  state.figured = now;
  if (detail.speed_now) $("speed-now").textContent = speed(detail.speed_now);
  if (detail.speed) $("speed-mean").textContent = speed(detail.speed);
  $("share").textContent = percent(share);
  const read = detail.ffn_bytes + detail.other_bytes;
  const dense = detail.dense_ffn_bytes + detail.other_bytes;
  $("bytes").textContent = size(read);
  $("read-ffn").style.width = `${(100 * detail.ffn_bytes) / dense}%`;
  $("read-other").style.width = `${(100 * detail.other_bytes) / dense}%`;
  $("read-note").textContent =
    `Weights read per token: ${size(read)} of the dense mode's ${size(dense)}; in the feed-forward layers ` +
    `${size(detail.ffn_bytes)} of ${size(detail.dense_ffn_bytes)}.`;
  showLayers(detail.active, detail.selected);
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

function mapLabel() {
  const { layers, hidden } = state.model;
  return `Map of the model's neurons, ${layers} layers of ${hidden}. In the last text ${percent(state.last?.share ?? 0)} of them were computed for a token.`;
}

/** Every mode that the model has, one after another, on the same prompt. */
async function compare() {
  const modes = MODES.filter((mode) => !state.model.modes[mode]);
  const radio = (mode) => document.querySelector(`input[name="mode"][value="${mode}"]`);
  const before = chosenMode();
  for (const mode of modes) {
    radio(mode).checked = true;
    const ended = await generate({ mode, temperature: 0, repeat_penalty: 1 });
    if (!ended || ended.reason === "stopped") break;
  }
  radio(before).checked = true;
}

/* ---- The rest of the page ---- */

function buttons() {
  document.documentElement.dataset.state = state.busy ? "busy" : state.ready ? "ready" : "starting";
  $("go").disabled = state.busy;
  $("go").textContent = state.busy ? "Generating" : "Generate";
  $("stop").disabled = !state.busy;
  $("compare").disabled = state.busy || !state.ready;
}

function announce(text) {
  $("announce").textContent = text;
}

function problem(text) {
  $("problem").hidden = !text;
  $("problem-text").textContent = text;
}

function wire() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.busy) generate();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
  $("stop").addEventListener("click", () => engine.stop());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.busy) engine.stop();
  });
  $("compare").addEventListener("click", compare);
  $("problem-close").addEventListener("click", () => problem(""));
  $("watch").addEventListener("change", (event) => {
    engine.ask("watch", { on: event.target.checked });
    $("map-box").classList.toggle("off", !event.target.checked);
  });
  wireTheme();
}

function wireTheme() {
  const root = document.documentElement;
  const names = { "": "as the system has them", light: "light", dark: "dark" };
  const signs = { "": "◐", light: "☀", dark: "☾" };
  const show = () => {
    const theme = root.dataset.theme ?? "";
    $("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
    $("theme-sign").textContent = signs[theme];
  };
  $("theme").addEventListener("click", () => {
    const next = { "": "light", light: "dark", dark: "" }[root.dataset.theme ?? ""];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    try {
      localStorage.setItem("sparsefire-theme", next);
    } catch {
      // Storage is forbidden: the choice holds for this visit.
    }
    show();
    map.layout();
  });
  show();
}

wire();
boot();
