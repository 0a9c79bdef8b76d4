// The page's side of a worker: orders become promises, what comes between them events.

export class Engine extends EventTarget {
  constructor(script) {
    super();
    this.waiting = new Map();
    this.count = 0;
    // Shared with the worker where the browser allows it: 2 there interrupts Python at once.
    this.shared = self.crossOriginIsolated ? new SharedArrayBuffer(1) : null;
    this.worker = new Worker(new URL(script, import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.fail(event.message || "the worker could not be started");
  }

  receive(data) {
    if (data.event) {
      this.dispatchEvent(new CustomEvent(data.event, { detail: data }));
      return;
    }
    const answer = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if (data.error) answer?.reject(Object.assign(new Error(data.error), { kind: data.kind }));
    else answer?.resolve(data);
  }

  /** Ends every order that waits. */
  fail(message) {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }

  ask(order, fields = {}, transfer = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, order, ...fields }, transfer);
    });
  }

  start(options) {
    return this.ask("start", { ...options, shared: this.shared });
  }

  /** Ends a generation: in the middle of a call to Python where memory is shared, else after it. */
  stop() {
    if (this.shared) new Uint8Array(this.shared)[0] = 2;
    this.worker.postMessage({ order: "stop" });
  }
}
