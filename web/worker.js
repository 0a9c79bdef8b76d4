// The page's engine: Pyodide and sparsefire in a worker. Requests run one after another, and events (progress, text, fired
// neurons) are posted in between; "stop" takes effect between two slices of a generation.
import { serve } from "./requests.js";
import { joined, ofBlob, ofBytes, ofStored, ofUrl, storedCompanion } from "./sources.js";

// Length of a slice of generation, after which messages are handled and the page draws a frame. Without a GPU a frame
// takes milliseconds of the processor that decodes.
const SLICE_SECONDS = 0.066;
const PROGRESS_MILLISECONDS = 60; // between two progress events
const WHOLE_BYTES = 32 << 20; // a model of the site up to this size is fetched whole, a larger one in chunks

let pyodide;
let engine;
let openFiles; // the Python function that opens the files of a source
const DEAF = new Uint8Array(1); // an interrupt buffer in which nobody writes
let interrupt = null; // Python's interrupt buffer, a Uint8Array(1) shared with the page where it is isolated
let stopped = false;
let neurons = 0; // of the model: layers · neurons of the widest layer
let watching = true;
let site; // the contents of site.json

const send = (message, transfer = []) => self.postMessage(message, transfer);

/* ---- Start ---- */

/** Replaces fetch() by one that reports the bytes received of the paths in `sizes`, until the engine has started. */
function countFetches(sizes) {
  if (!("TransformStream" in self)) return; // then the bar shows no bytes
  const sumOf = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
  const total = sumOf(sizes);
  const received = {};
  const report = () => engine || send({ event: "bytes", done: Math.min(sumOf(received), total), total });
  const reportSometimes = throttled(report);
  const originalFetch = self.fetch.bind(self);
  self.fetch = async (resource, options) => {
    const answer = await originalFetch(resource, options);
    const url = new URL(resource?.url ?? resource, self.location.href);
    const path = Object.keys(sizes).find((name) => url.pathname.endsWith(`/${name}`));
    if (!path || !answer.ok || !answer.body) return answer;
    received[path] = 0;
    const counter = new TransformStream({
      transform(chunk, controller) {
        received[path] += chunk.byteLength;
        reportSometimes();
        controller.enqueue(chunk);
      },
      flush() {
        received[path] = sizes[path];
        report();
      },
    });
    return new Response(answer.body.pipeThrough(counter), { status: answer.status, headers: answer.headers });
  };
}

async function bytesOf(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: the server answered ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

const stage = (name) => send({ event: "stage", name });

/** Sizes of the fetched files by path: Python's parts, except its script, which is imported, and `withModel` the model. */
function fetchedSizes(withModel) {
  const { pyodide: runtime, bytes, wheel, numpy, chat, model } = site;
  const paths = [wheel, numpy, ...["pyodide.asm.wasm", "python_stdlib.zip"].map((name) => runtime.path + name)];
  if (chat) paths.push(chat);
  if (withModel) paths.push(...model.files);
  return Object.fromEntries(paths.map((path) => [bare(path), bytes[bare(path)]]));
}

/** The path of a file of the site without the version. */
const bare = (path) => path.split("?")[0];

const address = (path) => new URL(path, new URL("./", self.location.href));

/** Starts Python and opens a core. threads: 0 chooses the number by the model's size; relaxed: use relaxed SIMD;
 *  prefetch: fetch the site's model meanwhile; buffer: the interrupt buffer, if there is one. */
async function start({ site: description, threads, relaxed, prefetch, interrupt: buffer }) {
  site = description;
  const withModel = prefetch && site.model.bytes <= WHOLE_BYTES;
  countFetches(fetchedSizes(withModel));
  stage("python");
  const [numpy, wheel] = [site.numpy, site.wheel].map((path) => bytesOf(address(path)));
  const chat = site.chat ? bytesOf(address(site.chat)) : null;
  prefetched = withModel ? modelBytes() : null;
  for (const each of [numpy, wheel, chat, prefetched]) each?.catch(() => {}); // errors surface where they are awaited
  const { loadPyodide } = await import(address(`${site.pyodide.path}pyodide.mjs`));
  pyodide = await loadPyodide({
    indexURL: address(site.pyodide.path).href,
    stdout: () => {},
    stderr: (line) => console.debug(line),
  });
  stage("package");
  // Unpacked, not installed with loadPackage(), which would compile all of numpy's WebAssembly modules.
  pyodide.unpackArchive(await numpy, "wheel");
  pyodide.unpackArchive(await wheel, "wheel");
  if (chat) pyodide.unpackArchive(await chat, "zip", { extractDir: pyodide.FS.cwd() });
  const module = pyodide.pyimport("sparsefire.page.engine");
  openFiles = module.open_files;
  engine = await module.open_engine(threads, relaxed);
  if (buffer) interrupt = new Uint8Array(buffer);
  return { backend: JSON.parse(engine.backend()) };
}

/* ---- Models ---- */

let openedSource = null; // the source of the loaded model, where its neurons are read on demand
let prefetched = null; // promise of the sources of the site's model

/** The source of {kind: "site"}, {kind: "stored", name} or {kind: "file", blob, size, parts}. */
async function openSource(model) {
  if (model.kind === "stored") return ofStored(model.name);
  if (model.kind === "file") return { ...ofBlob(model.blob, model.size), parts: model.parts };
  const files = prefetched ?? (site.model.bytes > WHOLE_BYTES ? modelSources() : modelBytes());
  prefetched = null;
  return joined(await files, site.model.files.map((path) => bare(path).split("/").pop()));
}

/** The sources of the files of the site's model, fetched whole. */
const modelBytes = () => Promise.all(site.model.files.map(async (path) => ofBytes(await bytesOf(address(path)))));

/** The same, fetched in chunks. */
async function modelSources() {
  const { files, bytes: total } = site.model;
  const sources = [];
  let before = 0;
  for (const path of files) {
    const nbytes = site.bytes[bare(path)];
    const report = throttled((done) => send({ event: "fetching", done: before + done, total }));
    sources.push(await ofUrl(address(path), nbytes, report));
    before += nbytes;
  }
  return sources;
}

/** Calls `use` with a Python list of the files of a source: one, unless the source has several `parts`. */
function withFiles(source, name, use) {
  const files = openFiles(source.read, JSON.stringify(source.parts ?? [{ name, size: source.size }]));
  try {
    return use(files);
  } finally {
    files.destroy();
  }
}

/** Calls `report` at most once per interval. */
function throttled(report) {
  let reported = 0;
  return (...values) => {
    const now = performance.now();
    if (now - reported < PROGRESS_MILLISECONDS) return;
    reported = now;
    report(...values);
  };
}

/** A source that reports progress while it is read. */
function withProgress(source) {
  const report = throttled((done) => send({ event: "loading", done, total: source.size }));
  const read = (offset, count) => {
    report(offset);
    return source.read(offset, count);
  };
  return { ...source, read };
}

async function inspect({ model, name, options }) {
  const source = await openSource(model);
  try {
    return withFiles(source, name, (files) => JSON.parse(engine.inspect(files, JSON.stringify(options), model.rest ?? 0)));
  } finally {
    source.close();
  }
}

async function load({ model, name, options }) {
  stage("model");
  unload();
  const source = await openSource(model);
  const companion = model.companion ?? (model.kind === "stored" ? await storedCompanion(name) : null);
  const read = (beside) =>
    withFiles(withProgress(source), name, (files) => JSON.parse(engine.load(files, JSON.stringify(options), beside ?? undefined)));
  let about;
  try {
    await engine.prepare(source.size);
    about = read(companion);
    if (about.error && companion) { // a model must not be lost with its companion
      const alone = read(null);
      if (!alone.error) about = { ...alone, refused: about.kind };
    }
    if (about.budget_bytes) openedSource = source;
  } finally {
    if (!openedSource) source.close();
  }
  if (about.error) return about;
  neurons = about.hidden.length * Math.max(0, ...about.hidden);
  engine.watch(watching);
  setTimeout(() => engine.warm_up()); // after the answer
  return { about, backend: JSON.parse(engine.backend()) };
}

let canWrite = false; // whether Python has what calibration needs

/** Gets what calibration needs, while the model stays loaded. */
async function prepareCalibration() {
  if (!canWrite) pyodide.unpackArchive(await bytesOf(address(site.calibration)), "zip", { extractDir: pyodide.FS.cwd() });
  canWrite = true;
  return {};
}

/** Fits a screen of the output matrix of a model, which is closed; `companion` is then the bytes of the model's companion,
 *  where that pays. Nothing interrupts it: to cancel it, the page ends the worker. */
async function calibrate({ model, name, options }) {
  unload();
  const source = await openSource(model);
  const report = throttled((doing, share) => send({ event: "calibrating", doing, share }));
  try {
    const found = withFiles(source, name, (files) => JSON.parse(engine.calibrate(files, JSON.stringify(options), report)));
    if (!found.written) return found;
    const companion = engine.companion();
    found.companion = companion.toJs();
    companion.destroy?.();
    return found;
  } finally {
    source.close();
  }
}

function unload() {
  engine.unload();
  openedSource?.close();
  openedSource = null;
  neurons = 0;
}

/* ---- Generation ---- */

const channel = new MessageChannel();
let resume = null;
channel.port1.onmessage = () => resume?.();
/** Yields to the event loop, so that messages are handled; unlike a timer it adds no delay. */
const yieldToMessages = () =>
  new Promise((resolve) => {
    resume = resolve;
    channel.port2.postMessage(0);
  });

/** Calls Python, which Stop may interrupt anywhere; returns null when it did. Other calls to Python are not interrupted:
 *  they have no way to go on. */
function interruptible(call) {
  if (interrupt) pyodide.setInterruptBuffer(interrupt);
  try {
    return JSON.parse(call());
  } catch (error) {
    if (!String(error?.message ?? error).includes("KeyboardInterrupt")) throw error;
    return null;
  } finally {
    if (interrupt) pyodide.setInterruptBuffer(DEAF);
  }
}

/** Ends a stopped generation. */
function endText() {
  if (interrupt) interrupt[0] = 0;
  engine.end();
  return { done: true, reason: "stopped" };
}

async function generate({ prompt, messages, options }) {
  stopped = false;
  if (interrupt) interrupt[0] = 0;
  const start = performance.now();
  const input = JSON.stringify({ prompt, messages });
  const started = interruptible(() => engine.start(input, JSON.stringify(options)));
  if (!started) return endText();
  if (started.error) return started;
  let last = start;
  let first = 0; // time of the first token
  let tokens = 0;
  for (;;) {
    const report = interruptible(() => engine.run(SLICE_SECONDS)) ?? { text: "", tokens, evaluated: 0, ...endText() };
    if (report.error) return report;
    const now = performance.now();
    if (first === 0) first = now;
    report.speed_now = tokens > 0 && now > last ? (1000 * (report.tokens - tokens)) / (now - last) : 0;
    report.speed = tokens > 0 && now > first ? (1000 * (report.tokens - 1)) / (now - first) : 0;
    report.first_token_ms = first - start;
    report.prompt_tokens = started.prompt_tokens;
    tokens = report.tokens;
    last = now;
    if (stopped && !report.done) Object.assign(report, endText());
    sendReport(report);
    if (report.done) {
      if (interrupt) interrupt[0] = 0;
      return { done: true, reason: report.reason };
    }
    await yieldToMessages();
  }
}

function sendReport(report) {
  const transfer = [];
  if (watching && neurons > 0 && report.evaluated > 0) {
    const counts = new Uint8Array(neurons);
    if (engine.fired(counts)) {
      report.fired = counts.buffer;
      transfer.push(counts.buffer);
    }
  }
  send({ event: "text", ...report }, transfer);
}

/* ---- Requests ---- */

const handlers = {
  start,
  inspect,
  load,
  prepareCalibration,
  calibrate,
  generate,
  watch: ({ on }) => {
    watching = on;
    engine.watch(on);
    return {};
  },
  tokens: () => ({ ids: JSON.parse(engine.token_ids()) }),
  memory: () => ({ python: pyodide._module.HEAPU8.length, core: engine.core_bytes() }),
};

// Requests that are answered between two slices of a generation.
const IMMEDIATE = new Set(["inspect", "watch", "tokens", "memory"]);

serve(handlers, {
  isQueued: (type) => !engine || !IMMEDIATE.has(type),
  listeners: {
    stop: () => {
      stopped = true;
    },
  },
});
