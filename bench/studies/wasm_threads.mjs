// Products of a matrix with a vector in the WebAssembly module with threads, in node: one thread against two.
//   scripts/build_wasm_modules.sh && node bench/studies/wasm_threads.mjs
// Prints for each shape (F32) the best time of a call and the ratio. A fork and join is what the smallest shapes pay.
import fs from "node:fs";
import { Worker } from "node:worker_threads";

const home = new URL("../../py/sparsefire/", import.meta.url);
const module = new WebAssembly.Module(fs.readFileSync(new URL("wasm/sparsefire_core_threads.wasm", home)));
const memory = new WebAssembly.Memory({ initial: 256, maximum: 65536, shared: true });
const env = { memory, emscripten_notify_memory_growth() {} };
const core = new WebAssembly.Instance(module, { env }).exports;
core._initialize();

const STACK_BYTES = 1 << 18;
const helper = new Worker(fs.readFileSync(new URL("core/helper.js", home), "utf8"), { eval: true });
helper.unref();
helper.postMessage({ module, memory, seat: 0, stack: core.sf_alloc(STACK_BYTES) + STACK_BYTES });
while (core.sf_pool_helpers() < 1) await new Promise((resolve) => setTimeout(resolve, 5));
core.sf_pool_may_sleep(1);

const handle = core.sf_alloc(64);
const opened = (status) => {
  if (status !== 0) throw new Error(`status ${status}`);
  return new Uint32Array(memory.buffer)[handle >> 2];
};
const contexts = [2, 1].map((threads) => opened(core.sf_context_open(handle, -1, threads))).reverse();
const weights = core.sf_alloc(1 << 26);
const x = core.sf_alloc(1 << 16);
const y = core.sf_alloc(1 << 16);
new Float32Array(memory.buffer, weights, 1 << 24).fill(1);
new Float32Array(memory.buffer, x, 1 << 14).fill(1);

for (const [rows, columns, calls] of [
  [128, 64, 300],
  [512, 64, 300],
  [256, 512, 100],
  [1024, 1024, 20],
  [4096, 4096, 3],
]) {
  const matrix = opened(core.sf_matrix_open(handle, weights, rows * columns * 4, 0, rows, columns, 0));
  const best = [Infinity, Infinity];
  for (let round = 0; round < 25; round++) {
    for (const [i, context] of contexts.entries()) {
      const start = performance.now();
      for (let call = 0; call < calls; call++) core.sf_matrix_multiply(context, matrix, x, 1, y);
      best[i] = Math.min(best[i], ((performance.now() - start) / calls) * 1000);
    }
  }
  core.sf_matrix_close(matrix);
  const [one, two] = best.map((time) => time.toFixed(1));
  console.log(`${rows}×${columns}: ${one} µs, two threads ${two} µs, ${(best[0] / best[1]).toFixed(2)}×`);
}
process.exit(0);
