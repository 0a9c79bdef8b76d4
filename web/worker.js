// The page's engine: Pyodide and sparsefire in a worker. One message is one order; answers carry its `id`, and
// events (progress, text, fired neurons) come between. Orders are obeyed one after another, but "stop" at once.
import { readBlob } from "./blob.js";

const SLICE_SECONDS = 0.033; // of generation between two looks at the messages, and two pictures of the neurons

let pyodide;
let engine;
let jsFile; // the Python class of files that JavaScript reads
let interrupt = null; // Uint8Array(1) shared with the page, where it is isolated
let stopped = false;
let neurons = 0; // layers · hidden of the model
let watching = true;

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

async function start({ site, threads, withModel, shared }) {
  const fetched = [site.wheel, site.numpy, ...["pyodide.asm.wasm", "python_stdlib.zip"].map((name) => site.pyodide.path + name)];
  if (withModel) fetched.push(site.model.path);
  const bare = (path) => path.split("?")[0];
  countFetches(Object.fromEntries(fetched.map((path) => [bare(path), site.bytes[bare(path)] ?? site.model.bytes])));
  stage("python");
  const base = new URL("./", self.location.href);
  const wheel = bytesOf(new URL(site.wheel, base));
  const model = withModel ? bytesOf(new URL(site.model.path, base)) : null;
  wheel.catch(() => {});
  model?.catch(() => {});
  const { loadPyodide } = await import(new URL(`${site.pyodide.path}pyodide.mjs`, base));
  const quiet = () => {};
  pyodide = await loadPyodide({
    indexURL: new URL(site.pyodide.path, base).href,
    packages: ["numpy"],
    stdout: quiet,
    stderr: (line) => console.debug(line),
  });
  stage("package");
  pyodide.unpackArchive(await wheel, "wheel");
  const module = pyodide.pyimport("sparsefire.web_engine");
  jsFile = module.JsFile;
  engine = module.Engine(threads);
  if (shared) {
    interrupt = new Uint8Array(shared);
    pyodide.setInterruptBuffer(interrupt);
  }
  const where = JSON.parse(engine.where());
  if (!withModel) return { where };
  stage("model");
  const about = loadFrom(readBytes(await model), site.model.bytes, site.model.name, 0);
  return { where, model: about };
}

/* ---- Models ---- */

const readBytes = (bytes) => (offset, count) => bytes.subarray(offset, offset + count);

/** Runs `use` with a Python file over `readAt`. */
function withFile(readAt, size, name, use) {
  const file = jsFile(readAt, size, name);
  try {
    return use(file);
  } finally {
    file.destroy();
  }
}

function loadFrom(readAt, size, name, context) {
  let told = 0;
  const counting = (offset, count) => {
    const now = performance.now();
    if (now - told > 60) {
      told = now;
      send({ event: "loading", done: offset, total: size });
    }
    return readAt(offset, count);
  };
  if (interrupt) interrupt[0] = 0;
  const about = withFile(counting, size, name, (file) => JSON.parse(engine.load(file, context)));
  neurons = about.error ? 0 : about.layers * about.hidden;
  if (!about.error) engine.watch(watching);
  return about;
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

async function generate({ prompt, options }) {
  stopped = false;
  if (interrupt) interrupt[0] = 0;
  const began = performance.now();
  const started = JSON.parse(engine.start(prompt, JSON.stringify(options)));
  if (started.error) return started;
  let last = began;
  let first = 0; // when the first token was there
  let tokens = 0;
  for (;;) {
    const report = JSON.parse(engine.run(SLICE_SECONDS));
    if (report.error) return report;
    const now = performance.now();
    if (first === 0) first = now;
    report.speed_now = tokens > 0 && now > last ? (1000 * (report.tokens - tokens)) / (now - last) : 0;
    report.speed = tokens > 0 && now > first ? (1000 * (report.tokens - 1)) / (now - first) : 0;
    report.first_token_ms = first - began;
    report.prompt_tokens = started.prompt_tokens;
    tokens = report.tokens;
    last = now;
    if (stopped && !report.done) {
      engine.end();
      Object.assign(report, { done: true, reason: "stopped" });
    }
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
  inspect: ({ blob, name, context }) =>
    withFile(readBlob(blob), blob.size, name, (file) => JSON.parse(engine.inspect(file, context))),
  load: ({ blob, name, context }) => loadFrom(readBlob(blob), blob.size, name, context),
  loadBytes: ({ bytes, name, context }) => loadFrom(readBytes(bytes), bytes.length, name, context),
  generate,
  watch: ({ on }) => {
    watching = on;
    engine.watch(on);
    return {};
  },
  tokens: () => ({ ids: JSON.parse(engine.token_ids()) }),
  memory: () => ({ python: pyodide._module.HEAPU8.length, core: engine.core_bytes() }),
};

let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.order === "stop") {
    stopped = true;
    return;
  }
  queue = queue.then(async () => {
    try {
      send({ id: data.id, ...(await orders[data.order](data)) });
    } catch (error) {
      send({ id: data.id, error: String(error?.message ?? error), kind: "JavaScript" });
    }
  });
};
