// What the browser supports, and why not more.
import { size } from "./format.js";
import { $, state } from "./page.js";
import { hasStorage } from "./storage.js";

const RELAXED = new Uint8Array([
  // A module with one function: i32x4.relaxed_trunc_f32x4_s of a zero vector.
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 25, 1, 23, 0, 253, 12, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 253, 129, 2, 11,
]);

/** What the browser supports. */
export function capabilities() {
  return {
    isolated: self.crossOriginIsolated,
    cores: navigator.hardwareConcurrency || 1,
    relaxed: WebAssembly.validate(RELAXED),
    storage: hasStorage(),
  };
}

/** Fills the list; called once the engine has started. */
export function showCapabilities() {
  const { backend, site, offline } = state;
  if (!backend) return;
  const has = capabilities();
  const rows = [
    [true, "Python in this tab", `Pyodide ${site.pyodide.version}, in a worker, so that the page stays responsive.`],
    [backend.isa !== "scalar", backend.simd, relaxedNote(has, backend)],
    [has.isolated, has.isolated ? "Cross-origin isolated" : "Not cross-origin isolated", isolationNote(has, offline)],
    [backend.threads > 1, backend.threads === 1 ? "One thread" : `${backend.threads} threads`, threadNote(has, backend)],
    [has.storage, has.storage ? "Models are stored" : "Models are not stored", storageNote(has)],
    [Boolean(offline?.bytes), offline?.bytes ? "Works offline" : "Does not work offline", offlineNote(offline)],
  ];
  $("capabilities").replaceChildren(...rows.map(([good, title, note]) => row(good, title, note)));
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

const isolationNote = (has, offline) => {
  if (has.isolated) return "Workers can share memory, so the model can use threads and Stop takes effect at once.";
  const later = offline?.bytes ? " From the next visit on the page adds them itself: reload it." : "";
  return `The server does not send the COOP and COEP headers, so workers cannot share memory: the model uses one thread, and Stop takes effect after the current step.${later}`;
};

const threadNote = (has, backend) => {
  if (backend.threads > 1) return `${backend.automatic ? "Chosen for a model of this size" : "Chosen under “Engine”"}; the browser reports ${has.cores} processors.`;
  if (!has.isolated) return "More than one requires cross-origin isolation.";
  if (has.cores < 2) return "The browser reports one processor.";
  if (backend.note) return `${backend.note}.`;
  if (!backend.automatic) return `Chosen under “Engine”; the browser reports ${has.cores} processors.`;
  return `This model is too small to gain from more; the browser reports ${has.cores} processors.`;
};

const storageNote = (has) =>
  has.storage
    ? "In the browser's private file system (OPFS), which only this site can read."
    : "This browser or window has no private file system (OPFS): choose the model again at each visit.";

const offlineNote = (offline) => {
  if (!offline) return "The page's files are being cached, or the browser does not support service workers.";
  if (offline.error) return `The page's files could not be cached: ${offline.error}.`;
  const model = offline.complete ? "" : ", without its model, which is too large";
  return `The page's files are cached, ${size(offline.bytes)}${model}.`;
};
