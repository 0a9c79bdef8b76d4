// One helper thread of the core: a web worker, or a worker thread of node, that instantiates the core's module over the
// memory it is given, with a stack of its own, and then waits inside the module for work. It never returns to its
// event loop.
function help({ module, memory, seat, stack }) {
  const env = { memory, emscripten_notify_memory_growth() {} };
  const { exports } = new WebAssembly.Instance(module, { env });
  exports.__stack_pointer.value = stack;
  exports.sf_pool_help(seat);
}

if (typeof require === "function") {
  require("node:worker_threads").parentPort.once("message", help);
} else {
  self.onmessage = (event) => help(event.data);
}
