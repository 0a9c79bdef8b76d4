// The worker in which Python runs the model.
import { Client } from "./requests.js";

const SILENT_SECONDS = 120; // without a sign of progress, after which starting has failed

export class Engine extends Client {
  constructor() {
    super("worker.js");
    this.interrupt = null;
  }

  /** Starts Python. With `shared`, Python's interrupt buffer is in memory that the page and the worker share: storing 2
   *  (SIGINT) there interrupts Python at once. */
  start({ shared, ...options }) {
    this.interrupt = shared ? new SharedArrayBuffer(1) : null;
    return this.requestWithin(SILENT_SECONDS, "start", { ...options, interrupt: this.interrupt });
  }

  /** Stops a generation: inside a call to Python with shared memory, otherwise after the current slice. */
  stop() {
    if (this.interrupt) new Uint8Array(this.interrupt)[0] = 2;
    this.notify("stop");
  }
}
