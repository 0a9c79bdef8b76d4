// The page's side of a worker: orders become promises, what comes between them events.

export class Orders extends EventTarget {
  constructor(script) {
    super();
    this.waiting = new Map();
    this.count = 0;
    this.worker = new Worker(new URL(script, import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.fail(event.message || "its script did not load");
    };
  }

  receive(data) {
    if (data.event) {
      this.dispatchEvent(new CustomEvent(data.event, { detail: data }));
      return;
    }
    const answer = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if (data.error) answer?.reject(Object.assign(new Error(data.error), data, { message: data.error }));
    else answer?.resolve(data);
  }

  /** Ends every order that waits. */
  fail(message) {
    for (const { reject } of this.waiting.values()) reject(new Error(message));
    this.waiting.clear();
  }

  /** Resolves to the worker's answer; rejects with its sentence, and `kind` of the error. */
  ask(order, fields = {}, transfer = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, order, ...fields }, transfer);
    });
  }

  /** Ends the worker, and with it what it holds in memory. */
  close() {
    this.worker.terminate();
    this.fail("the worker was ended");
  }
}

/** Answers the messages of a worker: orders for which `queued(order)` holds one after another, others whenever the
 *  worker waits; `urgent` ones get no answer. */
export function obey(orders, { urgent = {}, queued = () => false } = {}) {
  let queue = Promise.resolve();
  const answer = async (data) => {
    try {
      self.postMessage({ id: data.id, ...(await orders[data.order](data)) });
    } catch (error) {
      // Of a traceback of Python, what it ends with.
      const message = String(error?.message ?? error).trim().split("\n").at(-1);
      self.postMessage({ id: data.id, error: message, kind: error?.kind ?? error?.name });
    }
  };
  self.onmessage = ({ data }) => {
    if (urgent[data.order]) urgent[data.order](data);
    else if (queued(data.order)) queue = queue.then(() => answer(data));
    else answer(data);
  };
}
