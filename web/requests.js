// Requests to a worker: the page sends them with `Client`, the worker answers them with `serve`.

/** The page's side: a request becomes a promise; messages with an `event` become events. */
export class Client extends EventTarget {
  constructor(script) {
    super();
    this.pending = new Map();
    this.count = 0;
    this.started = false; // it has sent something
    this.heard = performance.now(); // when it last has
    this.failure = null; // why it will never answer
    let hasModules = false;
    const options = {
      get type() {
        hasModules = true; // browsers without module workers do not read this option
        return "module";
      },
    };
    this.worker = new Worker(new URL(script, import.meta.url), options);
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.fail(hasModules ? event.message || "the worker's script did not load" : "this browser lacks module workers");
    };
  }

  receive(data) {
    this.started = true;
    this.heard = performance.now();
    if (data.event) {
      this.dispatchEvent(new CustomEvent(data.event, { detail: data }));
      return;
    }
    const promise = this.pending.get(data.id);
    this.pending.delete(data.id);
    if (data.error) promise?.reject(Object.assign(new Error(data.error), data, { message: data.error }));
    else promise?.resolve(data);
  }

  /** Rejects all pending requests and, unless the worker runs, all later ones. */
  fail(message, final = !this.started) {
    if (final) this.failure ??= message;
    for (const { reject } of this.pending.values()) reject(new Error(message));
    this.pending.clear();
  }

  /** Resolves to the worker's answer; rejects with an error that has the worker's message and `kind`. */
  request(type, fields = {}, transfer = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      if (this.failure) throw new Error(this.failure);
      this.worker.postMessage({ id, type, ...fields }, transfer);
      this.pending.set(id, { resolve, reject });
    });
  }

  /** As `request`, but rejects as well once the worker has sent nothing for so many seconds. */
  async requestWithin(seconds, type, fields) {
    let timer = 0;
    const silence = new Promise((_, reject) => {
      timer = setInterval(() => {
        if (performance.now() - this.heard > 1000 * seconds) reject(new Error(`the worker has not answered for ${seconds} s`));
      }, 1000);
    });
    try {
      return await Promise.race([this.request(type, fields), silence]);
    } finally {
      clearInterval(timer);
    }
  }

  /** Sends a message that gets no answer. */
  notify(type, fields = {}) {
    this.worker.postMessage({ type, ...fields });
  }

  /** Terminates the worker and frees its memory. */
  close() {
    this.worker.terminate();
    this.fail("the worker was terminated", true);
  }
}

/** The worker's side. `handlers` answer requests: those for which `isQueued(type)` holds run one after another, the
 *  others as soon as the worker receives them. `listeners` handle messages that get no answer. */
export function serve(handlers, { listeners = {}, isQueued = () => false } = {}) {
  let queue = Promise.resolve();
  const answer = async (data) => {
    try {
      self.postMessage({ id: data.id, ...(await handlers[data.type](data)) });
    } catch (error) {
      self.postMessage({ id: data.id, ...described(error) });
    }
  };
  self.onmessage = ({ data }) => {
    if (listeners[data.type]) listeners[data.type](data);
    else if (isQueued(data.type)) queue = queue.then(() => answer(data));
    else answer(data);
  };
}

/** An error's message for users, and its kind. Of a Python traceback, only the message of the package's own errors is
 *  for users. */
function described(error) {
  const text = String(error?.message ?? error).trim();
  if (error?.name !== "PythonError") return { error: text.split("\n").at(-1), kind: error?.kind ?? error?.name };
  console.debug(text);
  const last = text.lastIndexOf("\nsparsefire.errors.");
  const unexpected = `an unexpected error in Python, ${error.type}: the browser's console has the details`;
  const message = last < 0 ? unexpected : text.slice(last).replace(/^\n[\w.]+: /, "").replace(/\s+/g, " ");
  return { error: message, kind: error.type };
}
