// The worker in which Python runs the model.
import { Client } from "./requests.js";

export class Engine extends Client {
  constructor() {
    super("worker.js");
    // Python's interrupt buffer, where the browser allows shared memory: storing 2 (SIGINT) interrupts Python at once.
    this.interrupt = self.crossOriginIsolated ? new SharedArrayBuffer(1) : null;
  }

  start(options) {
    return this.request("start", { ...options, interrupt: this.interrupt });
  }

  /** Stops a generation: inside a call to Python with shared memory, otherwise after the current slice. */
  stop() {
    if (this.interrupt) new Uint8Array(this.interrupt)[0] = 2;
    this.notify("stop");
  }
}
