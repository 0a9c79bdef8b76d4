// What the browser gives to the page, and why not more.
import { $, state } from "./page.js";
import { size } from "./words.js";

const RELAXED = new Uint8Array([
  // A module with one function: i32x4.relaxed_trunc_f32x4_s of a zero vector.
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 25, 1, 23, 0, 253, 12, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 253, 129, 2, 11,
]);

/** What the page can have here. */
export function abilities() {
  return {
    isolated: self.crossOriginIsolated,
    cores: navigator.hardwareConcurrency || 1,
    relaxed: WebAssembly.validate(RELAXED),
    storage: Boolean(navigator.storage?.getDirectory),
    memory: navigator.deviceMemory,
  };
}

/** Fills the list, once the engine has started. */
export function showWhere() {
  const { where, site, offline } = state;
  if (!where) return;
  const has = abilities();
  const rows = [
    [true, "Python in this tab", `Pyodide ${site.pyodide.version}, in a worker, so that the page stays free.`],
    [where.isa !== "scalar", where.simd, relaxedNote(has, where)],
    [has.isolated, has.isolated ? "Cross-origin isolated" : "Not cross-origin isolated", isolationNote(has, offline)],
    [where.threads > 1, where.threads === 1 ? "One thread" : `${where.threads} threads`, threadNote(has, where)],
    [has.storage, has.storage ? "Models are kept" : "Models are not kept", storageNote(has)],
    [Boolean(offline?.bytes), offline?.bytes ? "Works without a network" : "Needs its server", offlineNote(offline)],
  ];
  $("where").replaceChildren(...rows.map(([good, title, note]) => row(good, title, note)));
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

const relaxedNote = (has, where) => {
  if (where.isa === "relaxed128") {
    return "Chosen under “Engine”: faster with 8- and 4-bit weights, which are multiplied in 8 bits; texts may differ from other machines'.";
  }
  return has.relaxed
    ? "Strict, so that the text is the same everywhere. This browser also has relaxed SIMD, faster with 8- and 4-bit weights of large models, but less exact: see “Engine”."
    : "This browser has no relaxed SIMD, which would be faster with 8- and 4-bit weights.";
};

const isolationNote = (has, offline) => {
  if (has.isolated) return "Workers may share memory: threads are possible, and Stop interrupts at once.";
  const later = offline?.bytes ? " This page adds them itself from the next visit on: reload it." : "";
  return `The server does not send the COOP and COEP headers, so workers cannot share memory: one thread, and Stop waits for the present token.${later}`;
};

const threadNote = (has, where) => {
  if (where.threads > 1) return `${where.suited ? "They suit a model of this size" : "Chosen under “Engine”"}, of ${has.cores} that the browser reports.`;
  if (!has.isolated) return "More need cross-origin isolation.";
  if (has.cores < 2) return "The browser reports one processor core.";
  if (where.note) return `${where.note}.`;
  if (!where.suited) return `Chosen under “Engine”, of ${has.cores} that the browser reports.`;
  return `Of ${has.cores} that the browser reports: this model is too small to gain from more.`;
};

const storageNote = (has) =>
  has.storage
    ? "In the browser's private file system, for this site alone."
    : "This browser, or this window, has no private file system: a model has to be chosen again at each visit.";

const offlineNote = (offline) => {
  if (!offline) return "Its files are being kept, or the browser does not allow it.";
  if (offline.error) return `Its files could not be kept: ${offline.error}.`;
  const model = offline.whole ? "" : ", without the model it opens with, which is large";
  return `The page's own files are kept, ${size(offline.bytes)}${model}.`;
};
