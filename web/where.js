// What the browser gives to the page, and why not more.

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

/** Fills the list. */
export function showWhere(list, where, site) {
  const has = abilities();
  const rows = [
    [true, "Python in this tab", `Pyodide ${site.pyodide.version}, in a worker; the page stays free.`],
    [where.isa === "wasm128", `Vector instructions: ${where.simd}`, relaxedNote(has, where)],
    [has.isolated, has.isolated ? "Cross-origin isolated" : "Not cross-origin isolated", isolationNote(has)],
    [where.threads > 1, where.threads === 1 ? "One thread" : `${where.threads} threads`, threadNote(has, where)],
    [has.storage, has.storage ? "Models are kept" : "Models are not kept", storageNote(has)],
  ];
  list.replaceChildren(...rows.map(([good, title, note]) => row(good, title, note)));
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
  if (where.relaxed) return "With relaxed SIMD: 8-bit products in one instruction.";
  return has.relaxed
    ? "This browser also has relaxed SIMD; this build of the core does not use it."
    : "This browser has no relaxed SIMD, which would speed 8- and 4-bit weights up.";
};

const isolationNote = (has) =>
  has.isolated
    ? "The page may share memory between workers, so Stop interrupts at once."
    : "The server did not send COOP and COEP headers, so workers cannot share memory. Everything works; Stop waits for the present token.";

const threadNote = (has, where) => {
  if (where.threads > 1) return `Of ${has.cores} that the browser reports.`;
  if (!has.isolated) return "Threads need cross-origin isolation.";
  if (has.cores < 2) return "The browser reports one processor core.";
  return "This build of the core has no threads.";
};

const storageNote = (has) =>
  has.storage
    ? "In the browser's private file system, for this site alone."
    : "This browser, or this window, has no private file system; a model has to be chosen again at each visit.";
