// The worker in which Python runs the model.
import { Orders } from "./orders.js";

export class Engine extends Orders {
  constructor() {
    super("worker.js");
    // Shared with the worker where the browser allows it: 2 there interrupts Python at once.
    this.shared = self.crossOriginIsolated ? new SharedArrayBuffer(1) : null;
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
