// One matrix times one vector, weights out of cache, in onnxruntime-web and in sparsefire's module, in turns.
// window.measure(options) resolves to seconds of each by name.
import * as ort from "/ort/ort.wasm.min.mjs";

const SF_F32 = 0;

async function openCore(url) {
  const imports = { env: { emscripten_notify_memory_growth: () => {} } };
  const { instance } = await WebAssembly.instantiateStreaming(fetch(url), imports);
  const core = instance.exports;
  core._initialize?.();
  return core;
}

function check(status) {
  if (status < 0) throw new Error(`the core answered ${status}`);
}

function opened(core, call) {
  const out = core.sf_alloc(4);
  check(call(out));
  const handle = new DataView(core.memory.buffer).getUint32(out, true);
  core.sf_free(out);
  return handle;
}

/** A function that multiplies, and its result. */
function sparsefireProduct(core, weights, x, rows, columns) {
  const bytes = weights.byteLength;
  const data = core.sf_alloc(bytes) >>> 0;
  if (data === 0) throw new Error("out of memory");
  new Float32Array(core.memory.buffer, data, weights.length).set(weights);
  const context = opened(core, (out) => core.sf_context_open(out, -1, 1));
  const matrix = opened(core, (out) => core.sf_matrix_open(out, data, bytes, SF_F32, rows, columns, 0));
  const input = core.sf_alloc(4 * columns) >>> 0;
  const output = core.sf_alloc(4 * rows) >>> 0;
  new Float32Array(core.memory.buffer, input, columns).set(x);
  return {
    run: () => check(core.sf_matrix_multiply(context, matrix, input, 1, output)),
    result: () => new Float32Array(core.memory.buffer, output, rows).slice(),
  };
}

async function ortProduct(url, x) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const session = await ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
  const feeds = { x: new ort.Tensor("float32", x, [1, x.length]) };
  let last;
  return {
    run: async () => {
      last = await session.run(feeds);
    },
    result: () => last.y.data,
  };
}

window.measure = async ({ rows, columns, repeats }) => {
  const weights = new Float32Array(await (await fetch("/weights.f32")).arrayBuffer());
  const x = Float32Array.from({ length: columns }, (_, i) => Math.sin(i));
  const core = await openCore("/core.wasm");
  const products = {
    ours: sparsefireProduct(core, weights, x, rows, columns),
    "onnxruntime-web": await ortProduct("/matmul.onnx", x),
  };
  products.again = products.ours;
  let names = Object.keys(products);
  const seconds = Object.fromEntries(names.map((name) => [name, []]));
  for (const name of names) await products[name].run();
  const [mine, theirs] = [products.ours.result(), products["onnxruntime-web"].result()];
  const worst = mine.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i])), 0);
  if (!(worst < 1e-3)) throw new Error(`the products differ by ${worst}`);
  for (let index = 0; index < repeats; index += 1) {
    for (const name of names) {
      const began = performance.now();
      await products[name].run();
      seconds[name].push((performance.now() - began) / 1000);
    }
    names = [...names.slice(1), names[0]];
  }
  return seconds;
};
window.ready = true;
