// Engines side by side in one page: sparsefire (Pyodide in a worker) and wllama, both as they are published. Each has
// load(address), which resolves when a text can be made, and generate(prompt, tokens, mode, onText).
//   window.open(name, kind, address, threads, isa, companion)   starts an engine
//   window.generate(name, prompt, tokens, mode)   resolves to what the page saw of the text
//   window.runPython(name, code)                  resolves to the text that Python code of sparsefire's ends with
import { Wllama, LoggerWithoutDebug } from "/wllama/index.js";

const engines = {};

/** Package and Python in a worker; see browser_worker.js. */
class Sparsefire {
  constructor(threads, isa, companion) {
    this.options = { threads, isa, companion };
    this.worker = new Worker("/browser_worker.js", { type: "module" });
  }

  ask(message, onText = () => {}) {
    return new Promise((resolve, reject) => {
      this.worker.onerror = (event) => reject(new Error(event.message));
      this.worker.onmessage = ({ data }) => {
        if (data.error) reject(new Error(data.error));
        else if (data.text !== undefined) onText(data.text);
        else resolve(data.value);
      };
      this.worker.postMessage(message);
    });
  }

  load(address) {
    return this.ask({ order: "load", address, ...this.options });
  }

  generate(prompt, tokens, mode, onText) {
    return this.ask({ order: "generate", prompt, tokens, mode }, onText);
  }
}

class WllamaEngine {
  constructor(threads) {
    this.threads = threads;
    this.wllama = new Wllama({ default: "/wllama/wllama.wasm" }, { logger: LoggerWithoutDebug, suppressNativeLog: true });
  }

  async load(address) {
    const blob = await (await fetch(address)).blob();
    await this.wllama.loadModel([blob], { n_threads: this.threads, n_ctx: 512, n_gpu_layers: 0, n_parallel: 1 });
    return { threads: this.wllama.getNumThreads(), isa: Wllama.getLibllamaVersion() };
  }

  async generate(prompt, tokens, _mode, onText) {
    const options = { prompt, max_tokens: tokens, temperature: 0, stream: true };
    for await (const chunk of await this.wllama.createCompletion(options)) {
      if (chunk.choices[0]?.text) onText(chunk.choices[0].text);
    }
  }
}

window.open = async (name, kind, address, threads, isa, companion) => {
  engines[name] = kind === "wllama" ? new WllamaEngine(threads) : new Sparsefire(threads, isa, companion);
  return engines[name].load(address);
};

window.generate = async (name, prompt, tokens, mode) => {
  const began = performance.now();
  let first = 0;
  let last = 0;
  let pieces = 0;
  let text = "";
  await engines[name].generate(prompt, tokens, mode, (piece) => {
    last = performance.now();
    first ||= last;
    pieces += 1;
    text += piece;
  });
  return { text, pieces, first_s: (first - began) / 1000, rest_s: (last - first) / 1000 };
};
window.runPython = (name, code) => engines[name].ask({ order: "run", code });
window.ready = true;
