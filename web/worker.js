// The page's engine: Pyodide and sparsefire in a worker. One message is one order; answers carry its `id`, and
// events (progress, text, fired neurons) come between. Orders are obeyed one after another, but "stop" at once.
import { obey } from "./orders.js";
import { ofBlob, ofBytes, ofKept, ofUrl } from "./sources.js";

// Of generation between two looks at the messages, and two frames of the page: where there is no graphics processor, a
// frame takes milliseconds of the processor that decodes.
const SLICE_SECONDS = 0.066;
const WHOLE_BYTES = 32 << 20; // a model of the site up to this size is fetched at once, a larger one in pieces

let pyodide;
let engine;
let jsFile; // the Python class of files that JavaScript reads
let interrupt = null; // Uint8Array(1) shared with the page, where it is isolated
let stopped = false;
let neurons = 0; // layers · hidden of the model
let watching = true;
let site; // site.json

const send = (message, transfer = []) => self.postMessage(message, transfer);

/* ---- Start ---- */

/** Counts the bytes of every answer to fetch() whose path is in `sizes`. */
function countFetches(sizes) {
  const total = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  const arrived = {};
  let told = 0;
  const tell = (final) => {
    const now = performance.now();
    if (!final && now - told < 60) return;
    told = now;
    const done = Object.values(arrived).reduce((sum, size) => sum + size, 0);
    send({ event: "bytes", done: Math.min(done, total), total });
  };
  const plain = self.fetch.bind(self);
  self.fetch = async (resource, options) => {
    const answer = await plain(resource, options);
    const url = new URL(resource?.url ?? resource, self.location.href);
    const path = Object.keys(sizes).find((name) => url.pathname.endsWith(`/${name}`));
    if (!path || !answer.ok || !answer.body) return answer;
    arrived[path] = 0;
    const counter = new TransformStream({
      transform(chunk, controller) {
        arrived[path] += chunk.byteLength;
        tell(false);
        controller.enqueue(chunk);
      },
      flush() {
        arrived[path] = sizes[path];
        tell(true);
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

/** What is fetched, with bytes: Python's parts, but its script, which is imported; and the model, when it comes at once. */
function expected(whole) {
  const { pyodide: runtime, bytes, wheel, numpy, chat, model } = site;
  const bare = (path) => path.split("?")[0];
  const paths = [wheel, numpy, ...["pyodide.asm.wasm", "python_stdlib.zip"].map((name) => runtime.path + name)];
  if (chat) paths.push(chat);
  if (whole) paths.push(model.path);
  return Object.fromEntries(paths.map((path) => [bare(path), bytes[bare(path)]]));
}

const address = (path) => new URL(path, new URL("./", self.location.href));

/** Starts Python, and makes a core with so many threads, 0 for what suits each model; with `first`, the site's model is
 *  fetched meanwhile. */
async function start({ site: described, threads, relaxed, first, shared }) {
  site = described;
  const whole = first && site.model.bytes <= WHOLE_BYTES;
  countFetches(expected(whole));
  stage("python");
  const [numpy, wheel] = [site.numpy, site.wheel].map((path) => bytesOf(address(path)));
  const chat = site.chat ? bytesOf(address(site.chat)) : null;
  early = whole ? bytesOf(address(site.model.path)) : null;
  for (const each of [numpy, wheel, chat, early]) each?.catch(() => {}); // told when they are awaited
  const { loadPyodide } = await import(address(`${site.pyodide.path}pyodide.mjs`));
  pyodide = await loadPyodide({
    indexURL: address(site.pyodide.path).href,
    stdout: () => {},
    stderr: (line) => console.debug(line),
  });
  stage("package");
  // Unpacked by hand, so that of numpy's compiled modules only those that are used are compiled.
  pyodide.unpackArchive(await numpy, "wheel");
  pyodide.unpackArchive(await wheel, "wheel");
  if (chat) pyodide.unpackArchive(await chat, "zip", { extractDir: pyodide.FS.cwd() });
  const module = pyodide.pyimport("sparsefire.page.engine");
  jsFile = module.JsFile;
  engine = await module.open_engine(threads, relaxed);
  if (shared) {
    interrupt = new Uint8Array(shared);
    pyodide.setInterruptBuffer(interrupt);
  }
  return { where: JSON.parse(engine.where()) };
}

/* ---- Models ---- */

let open = null; // the source of the loaded model, while its neurons are read from it
let early = null; // the bytes of the site's model, on their way since the start

/** The source of {kind: "site"}, {kind: "kept", name} or {kind: "file", blob, size}. */
async function openSource(model) {
  if (model.kind === "kept") return ofKept(model.name);
  if (model.kind === "file") return ofBlob(model.blob, model.size);
  const url = address(site.model.path);
  if (site.model.bytes > WHOLE_BYTES) {
    const total = site.model.bytes;
    return ofUrl(url, total, seldom((done) => send({ event: "fetching", done, total })));
  }
  const bytes = early ?? bytesOf(url);
  early = null;
  return ofBytes(await bytes);
}

/** Runs `use` with a Python file over a source. */
function withFile(source, name, use) {
  const file = jsFile(source.read, source.size, name);
  try {
    return use(file);
  } finally {
    file.destroy();
  }
}

/** `tell`, but not at every call. */
function seldom(tell) {
  let told = 0;
  return (done) => {
    const now = performance.now();
    if (now - told < 60) return;
    told = now;
    tell(done);
  };
}

/** The source's progress is told while its bytes are read. */
function counting(source) {
  const tell = seldom((done) => send({ event: "loading", done, total: source.size }));
  const read = (offset, count) => {
    tell(offset);
    return source.read(offset, count);
  };
  return { ...source, read };
}

async function inspect({ model, name, options }) {
  const source = await openSource(model);
  try {
    return withFile(source, name, (file) => JSON.parse(engine.inspect(file, JSON.stringify(options))));
  } finally {
    source.close();
  }
}

async function load({ model, name, options }) {
  stage("model");
  unload();
  const source = await openSource(model);
  if (interrupt) interrupt[0] = 0;
  let about;
  try {
    await engine.prepare(source.size);
    about = withFile(counting(source), name, (file) => JSON.parse(engine.load(file, JSON.stringify(options))));
    if (about.budget_bytes) open = source;
  } finally {
    if (!open) source.close();
  }
  if (about.error) return about;
  neurons = about.layers * about.hidden;
  engine.watch(watching);
  setTimeout(() => engine.warm()); // once the page knows
  return { about, where: JSON.parse(engine.where()) };
}

function unload() {
  engine.unload();
  open?.close();
  open = null;
  neurons = 0;
}

/* ---- Generation ---- */

const channel = new MessageChannel();
let resume = null;
channel.port1.onmessage = () => resume?.();
/** Lets messages in; unlike a timer it does not wait. */
const breathe = () =>
  new Promise((resolve) => {
    resume = resolve;
    channel.port2.postMessage(0);
  });

/** Runs Python that Stop may interrupt anywhere; null when it did. */
function interruptible(work) {
  try {
    return JSON.parse(work());
  } catch (error) {
    if (!String(error?.message ?? error).includes("KeyboardInterrupt")) throw error;
    return null;
  }
}

/** Breaks the text off. */
function endText() {
  if (interrupt) interrupt[0] = 0;
  engine.end();
  return { done: true, reason: "stopped" };
}

async function generate({ prompt, messages, options }) {
  stopped = false;
  if (interrupt) interrupt[0] = 0;
  const began = performance.now();
  const given = JSON.stringify({ prompt, messages });
  const started = interruptible(() => engine.start(given, JSON.stringify(options)));
  if (!started) return endText();
  if (started.error) return started;
  let last = began;
  let first = 0; // when the first token was there
  let tokens = 0;
  for (;;) {
    const report = interruptible(() => engine.run(SLICE_SECONDS)) ?? { text: "", tokens, evaluated: 0, ...endText() };
    if (report.error) return report;
    const now = performance.now();
    if (first === 0) first = now;
    report.speed_now = tokens > 0 && now > last ? (1000 * (report.tokens - tokens)) / (now - last) : 0;
    report.speed = tokens > 0 && now > first ? (1000 * (report.tokens - 1)) / (now - first) : 0;
    report.first_token_ms = first - began;
    report.prompt_tokens = started.prompt_tokens;
    tokens = report.tokens;
    last = now;
    if (stopped && !report.done) Object.assign(report, endText());
    sendReport(report);
    if (report.done) {
      if (interrupt) interrupt[0] = 0;
      return { done: true, reason: report.reason };
    }
    await breathe();
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

/* ---- Orders ---- */

const orders = {
  start,
  inspect,
  load,
  generate,
  watch: ({ on }) => {
    watching = on;
    engine.watch(on);
    return {};
  },
  tokens: () => ({ ids: JSON.parse(engine.token_ids()) }),
  memory: () => ({ python: pyodide._module.HEAPU8.length, core: engine.core_bytes() }),
};

// These may come between two slices of a text.
const BETWEEN = new Set(["inspect", "watch", "tokens", "memory"]);

obey(orders, {
  queued: (order) => !engine || !BETWEEN.has(order),
  urgent: {
    stop: () => {
      stopped = true;
    },
  },
});
