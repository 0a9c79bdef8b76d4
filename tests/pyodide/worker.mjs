// Pyodide in a module worker: one message is one operation, answered by one message.
import { start } from "./runtime.mjs";

let runtime;

async function bytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

const operations = {
  start: async (message) => {
    const { loadPyodide } = await import("/pyodide/pyodide.mjs");
    runtime = await start(loadPyodide, "/pyodide/", ["numpy", message.wheel]);
    return {};
  },
  run: (message) => runtime.run(message.code),
  write: async (message) => runtime.write(message.path, await bytes(message.source)),
};

self.onmessage = async (event) => {
  try {
    self.postMessage(await operations[event.data.operation](event.data));
  } catch (error) {
    self.postMessage({ error: String(error.stack ?? error) });
  }
};
