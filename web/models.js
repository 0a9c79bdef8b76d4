// The user's own models: files, downloads, and the list of stored models.
import { cancel, isCalibrating } from "./calibration.js";
import { showCapabilities } from "./capabilities.js";
import { size } from "./format.js";
import { cannotLoad, inspect, memoryRefusal, siteSource, status, useModel } from "./lifecycle.js";
import { $, announce, problem, state } from "./page.js";
import { openStore } from "./store.js";

const channel = "BroadcastChannel" in self ? new BroadcastChannel("sparsefire-models") : null;
const MAX_FILES = 1000; // of a split model
const CONFIRM_MILLISECONDS = 8000; // within which a second press deletes

let current = null; // the running transfer: {name, done, total}
let stored = { models: [] };
let confirming = null; // the model whose Delete was pressed once
let confirmTimer = 0;

/* ---- Files ---- */

const SPLIT = /-(\d{5})-of-(\d{5})(?=\.gguf$)/i; // in the names of the files of a split model

/** Stores a file, or the files of a split model, and loads it; without storage, loads the files directly. */
async function useFiles(list) {
  problem("");
  const files = [...list].sort((a, b) => (a.name < b.name ? -1 : 1));
  const name = withSuffix(files.length > 1 ? files[0].name.replace(SPLIT, "") : files[0].name);
  const parts = files.map((file) => ({ name: files.length > 1 ? file.name : name, size: file.size, modified: file.lastModified }));
  const direct = { kind: "file", blob: files.length > 1 ? new Blob(files) : files[0], name, parts };
  if (state.phase === "failed") return problem("the engine is not running: reload the page first");
  if (isCalibrating("another model is loaded", () => useFiles(files))) return;
  let needs;
  try {
    needs = await inspect(direct);
  } catch (error) {
    return problem(cannotLoad(name, error));
  }
  const refusal = memoryRefusal(name, needs);
  if (refusal) {
    const action = refusal.final ? null : { label: "Load it anyway", run: () => storeFile(direct, true) };
    return problem(refusal.text, action);
  }
  return storeFile(direct, false);
}

async function storeFile(direct, force) {
  if (!state.stores) return useModel(direct, { force });
  const { name, parts } = direct;
  const copied = await transfer("put", { file: direct.blob, name, parts }, `Copying ${name}`);
  if (copied.error && !["Cancelled", "Busy", "Unreadable"].includes(copied.kind)) {
    const loaded = await useModel(direct, { force });
    if (loaded) problem(`${name} is loaded, but was not stored for the next visit: ${copied.error}`);
    return loaded;
  }
  if (copied.error) return problem(copied.error);
  return useModel({ kind: "stored", name }, { force });
}

/* ---- A download ---- */

async function download(address) {
  problem("");
  let url;
  try {
    url = new URL(address, location.href);
    if (!/^https?:$/.test(url.protocol)) throw new TypeError(url.protocol);
  } catch {
    return problem("this is not the address of a file: it should begin with https://");
  }
  // The address of a file's page on Hugging Face is turned into that of the file.
  if (url.hostname === "huggingface.co") url.pathname = url.pathname.replace("/blob/", "/resolve/");
  const urls = addressesOf(url);
  const name = nameOf(url).replace(urls.length > 1 ? SPLIT : "", "");
  if (!state.stores) return problem("this browser cannot store downloads: download the file and choose it here");
  if (isCalibrating("another model is downloaded", () => download(address))) return;
  const answer = await transfer("download", { urls, name }, `Downloading ${name}`);
  if (answer.error) return problem(`${name}: ${answer.error}`, retryAction(answer, url.href));
  $("url").value = "";
  return useModel({ kind: "stored", name });
}

/** The addresses of the files of a model: those of a split model differ in the number in their names. */
function addressesOf(url) {
  const count = Number(url.pathname.match(SPLIT)?.[2] ?? 1);
  if (!(count > 1 && count <= MAX_FILES)) return [url.href];
  return Array.from({ length: count }, (_, index) => {
    const each = new URL(url);
    each.pathname = url.pathname.replace(SPLIT, `-${String(index + 1).padStart(5, "0")}-of-$2`);
    return each.href;
  });
}

function nameOf(url) {
  let last = url.pathname.split("/").pop() || "model";
  try {
    last = decodeURIComponent(last);
  } catch {
    // Malformed escapes are left as they are.
  }
  return withSuffix(last.replace(/[^\w.+ -]/g, "_").slice(-120));
}

/** The name with which a model is stored: other suffixes mark files that are no models, see storage.js. */
const withSuffix = (name) => (name.toLowerCase().endsWith(".gguf") ? name : `${name}.gguf`);

const retryAction = ({ kind }, url) => (kind === "Network" ? { label: "Try again", run: () => download(url) } : null);

/** Decides from the start of a download whether the rest is worth downloading. */
async function checkHeader({ name, ...start }) {
  let verdict = {};
  try {
    const refusal = memoryRefusal(name, await inspect({ kind: "file", ...start }, name));
    verdict = refusal?.final ? { refusal: refusal.text, kind: "TooLarge" } : { accepted: true };
  } catch (error) {
    // A JsException means that the header is longer than the start, so the decision has to wait.
    if (error.kind?.endsWith("Error") && error.kind !== "JsException") {
      verdict = { refusal: error.message.replace(`${name}: `, ""), kind: error.kind };
    }
  }
  openStore().notify("verdict", verdict);
}

/* ---- Transfers ---- */

/** Copies or downloads, with progress and a Cancel button. Resolves to the store's answer, or {error, kind}. */
async function transfer(type, fields, title) {
  if (current) return { error: "another model is being transferred: wait for it, or cancel it", kind: "Busy" };
  current = { name: fields.name, done: 0, total: 0 };
  status.beginTransfer(title);
  showList();
  navigator.storage.persist?.()?.catch(() => {});
  let answer;
  try {
    answer = await openStore().request(type, fields);
  } catch (error) {
    answer = { error: error.message, kind: error.kind };
  }
  current = null;
  status.endTransfer();
  await refreshModels();
  channel?.postMessage("changed");
  if (answer.kind === "Cancelled") announce("Cancelled.");
  return answer;
}

/* ---- The list ---- */

/** Reads the list of stored models and shows it. A browser that refuses, as some do in private windows, is asked again
 *  the next time. */
export async function refreshModels() {
  if (navigator.storage?.getDirectory) {
    const found = { stores: true, refusal: "" };
    try {
      stored = await openStore().request("list");
    } catch (error) {
      stored = { models: [] };
      Object.assign(found, { stores: false, refusal: error.message });
    }
    const { stores, refusal } = state; // now: another call may have changed them meanwhile
    Object.assign(state, found);
    if (stores !== found.stores || refusal !== found.refusal) showCapabilities();
  }
  showList();
}

function showList() {
  const rows = [siteRow(), ...stored.models.filter(({ name }) => name !== current?.name || current === null).map(storedRow)];
  if (state.source?.kind === "file") rows.push(row(state.source.name, `${size(state.source.blob.size)}, not stored`, [inUseLabel()]));
  $("models").replaceChildren(...rows);
  const { usage, quota } = stored;
  $("storage").textContent = quota ? `${size(usage)} of the ${size(quota)} of storage for this site is in use.` : "";
}

const isUsed = (kind, name) => state.source?.kind === kind && state.source.name === name;

function siteRow() {
  const source = siteSource();
  const used = state.source?.kind === "site";
  return row(source.name, `${size(state.site.model.bytes)}, included with the page`, [used ? inUseLabel() : loadButton(source)]);
}

function storedRow({ name, bytes, partial, total, url }) {
  if (partial) {
    const done = `${size(bytes)}${total ? ` of ${size(total)}` : ""}`;
    const facts = url ? `${done} downloaded` : `${done} copied: choose the file again to go on`;
    const resume = url ? [button("Resume", `Resume ${name}`, () => download(url))] : [];
    return row(name, facts, [...resume, deleteButton(name)]);
  }
  const source = { kind: "stored", name };
  return row(name, size(bytes), [isUsed("stored", name) ? inUseLabel() : loadButton(source), deleteButton(name)]);
}

function row(name, facts, controls) {
  const item = document.createElement("li");
  const title = document.createElement("span");
  title.className = "name";
  const small = document.createElement("small");
  small.textContent = facts;
  title.append(name, small);
  const box = document.createElement("span");
  box.className = "row-buttons";
  box.append(...controls);
  item.append(title, box);
  return item;
}

function button(text, label, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => press(made));
  return made;
}

function inUseLabel() {
  const mark = document.createElement("span");
  mark.className = "in-use";
  mark.textContent = "In use";
  return mark;
}

const loadButton = (source) => {
  const made = button("Load", `Load ${source.name}`, () => useModel(source));
  made.disabled = state.phase !== "ready" && state.phase !== "busy";
  return made;
};

/** Deletes on the second press; the list may be rebuilt in between. */
function deleteButton(name) {
  const confirms = confirming === name;
  const label = confirms ? confirmation(name) : `Delete ${name}`;
  return button(confirms ? "Delete for good?" : "Delete", label, () => (confirms ? remove(name) : askToConfirm(name)));
}

const confirmation = (name) =>
  `Delete ${name} for good?${isUsed("stored", name) ? ` It is in use: ${siteSource().name} is loaded instead.` : ""}`;

function askToConfirm(name) {
  confirming = name;
  showList();
  const wanted = confirmation(name);
  announce(wanted);
  [...$("models").querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === wanted)?.focus();
  clearTimeout(confirmTimer);
  confirmTimer = setTimeout(() => {
    confirming = null;
    showList();
  }, CONFIRM_MILLISECONDS);
}

/** Deletes a model; of one in use, the page's own model takes the place. */
async function remove(name) {
  confirming = null;
  if (isUsed("stored", name)) {
    await cancel(siteSource()); // its calibration
    if (state.source.kind !== "site" && !(await useModel(siteSource()))) return;
  }
  try {
    await openStore().request("remove", { name });
    announce(`${name} was deleted.`);
  } catch (error) {
    problem(error.message);
  }
  await refreshModels();
  channel?.postMessage("changed");
}

/* ---- Controls ---- */

export function wireModels() {
  const store = openStore();
  store.addEventListener("transfer", ({ detail }) => {
    Object.assign(current ?? {}, detail);
    status.transfer(detail);
  });
  store.addEventListener("header", ({ detail }) => checkHeader(detail));
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) useFiles([...target.files]);
    target.value = "";
  });
  $("url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    download($("url").value.trim());
  });
  $("cancel").addEventListener("click", () => openStore().notify("cancel"));
  document.addEventListener("phase", () => state.site && showList());
  if (channel) channel.onmessage = refreshModels;
  wireDrop();
}

function wireDrop() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(-Infinity);
    const { files } = event.dataTransfer;
    if (files.length) useFiles(files);
  });
}
