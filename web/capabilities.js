// What the browser supports, and why not more.
import { size } from "./format.js";
import { $, state } from "./page.js";

const RELAXED = new Uint8Array([
  // A module with one function: i32x4.relaxed_trunc_f32x4_s of a zero vector.
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 25, 1, 23, 0, 253, 12, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 253, 129, 2, 11,
]);

/** Whether workers can share memory. Found by doing it: a browser may isolate pages and yet have no shared memory. */
function sharesMemory() {
  try {
    structuredClone(new SharedArrayBuffer(1));
    return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

/** What the browser supports. */
export function capabilities() {
  return {
    isolated: Boolean(self.crossOriginIsolated),
    shared: sharesMemory(),
    cores: navigator.hardwareConcurrency || 1,
    relaxed: WebAssembly.validate(RELAXED),
  };
}

/** Fills the list; called once the engine has started. */
export function showCapabilities() {
  const { backend, site, offline, stores, refusal } = state;
  if (!backend) return;
  const has = capabilities();
  const rows = [
    [true, "Python in this tab", `Pyodide ${site.pyodide.version}, in a worker, so that the page stays responsive.`],
    [backend.isa !== "scalar", backend.simd, relaxedNote(has, backend)],
    [has.shared, isolationTitle(has), isolationNote(has, offline)],
    [backend.threads > 1 || (has.shared && has.cores > 1 && !backend.note), backend.threads === 1 ? "One thread" : `${backend.threads} threads`, threadNote(has, backend)],
    [stores, stores ? "Models are stored" : "Models are not stored", storageNote(stores, refusal)],
    [Boolean(offline?.bytes), offline?.bytes ? "Works offline" : "Does not work offline", offlineNote(offline)],
  ];
  $("capabilities").replaceChildren(...rows.map(([good, title, note]) => row(good, title, note)));
  const missing = rows.filter(([good], index) => !good && (offline || index < rows.length - 1)).map(([, title]) => title);
  $("support-summary").textContent = missing.length ? missing.join(", ") : "This browser has all that the page can use";
}

function row(good, title, note) {
  const item = document.createElement("li");
  const sign = document.createElement("i");
  sign.className = good ? "yes" : "no";
  sign.textContent = good ? "●" : "○";
  sign.setAttribute("aria-hidden", "true");
  const body = document.createElement("div");
  const head = document.createElement("b");
  const detail = document.createElement("span");
  head.textContent = title;
  detail.textContent = note;
  body.append(head, detail);
  item.append(sign, body);
  return item;
}

const relaxedNote = (has, backend) => {
  if (backend.isa === "relaxed128") {
    return "Chosen under “Engine”: faster with 8- and 4-bit weights, which are multiplied as 8-bit integers; texts may differ from those of other machines.";
  }
  return has.relaxed
    ? "Strict, so that the same prompt gives the same text everywhere. This browser also supports relaxed SIMD, which is faster with the 8- and 4-bit weights of large models but less accurate: see “Engine”."
    : "This browser does not support relaxed SIMD, which is faster with 8- and 4-bit weights.";
};

const isolationTitle = ({ isolated, shared }) => {
  if (!isolated) return "Not cross-origin isolated";
  return shared ? "Cross-origin isolated" : "No shared memory";
};

const isolationNote = (has, offline) => {
  if (has.shared) return "Workers can share memory, so the model can use threads and Stop takes effect at once.";
  if (has.isolated) {
    return "The page is cross-origin isolated, but this browser does not let workers share memory (SharedArrayBuffer): the model uses one thread, and Stop takes effect after the current step.";
  }
  const later = offline?.bytes ? " From the next visit on the page adds them itself: reload it." : "";
  return `The server does not send the COOP and COEP headers, so workers cannot share memory: the model uses one thread, and Stop takes effect after the current step.${later}`;
};

const threadNote = (has, backend) => {
  if (backend.threads > 1) return `${backend.automatic ? "Chosen for a model of this size" : "Chosen under “Engine”"}; the browser reports ${has.cores} processors.`;
  if (!has.isolated) return "More than one requires cross-origin isolation.";
  if (!has.shared) return "More than one requires shared memory.";
  if (has.cores < 2) return "The browser reports one processor.";
  if (backend.note) return `${backend.note}.`;
  if (!backend.automatic) return `Chosen under “Engine”; the browser reports ${has.cores} processors.`;
  return `This model is too small to gain from more; the browser reports ${has.cores} processors.`;
};

const storageNote = (stores, refusal) => {
  if (stores) return "In the browser's private file system (OPFS), which only this site can read.";
  const why = refusal ? ` It says: ${refusal.replace(/\.?$/, ".")}` : "";
  return `This browser or window gives no private file system (OPFS): choose the model again at each visit.${why}`;
};

const offlineNote = (offline) => {
  if (!offline) return "The page's files are being cached, or the browser does not support service workers.";
  if (offline.error) return `The page's files could not be cached: ${offline.error}.`;
  const model = offline.complete ? "" : ", without its model, which is too large";
  return `The page's files are cached, ${size(offline.bytes)}${model}.`;
};
