// Models of the user's own: files, downloads, and the list of those that are kept.
import { canKeep } from "./kept.js";
import { Orders } from "./orders.js";
import { $, announce, problem, state } from "./page.js";
import { cannotLoad, siteSource, status, tooLarge, useModel } from "./running.js";
import { chosen } from "./settings.js";
import { size } from "./words.js";

const channel = "BroadcastChannel" in self ? new BroadcastChannel("sparsefire-models") : null;
const SURE_MILLISECONDS = 8000; // in which a second press deletes

let store = null; // the worker that keeps models, once it is needed
let coming = null; // what is being copied or downloaded: {name, done, total}
let kept = { models: [] };
let sure = null; // the model whose Delete was pressed once
let disarming = 0;

function theStore() {
  if (store) return store;
  store = new Orders("store_worker.js");
  store.addEventListener("transfer", ({ detail }) => {
    Object.assign(coming ?? {}, detail);
    status.transfer(detail);
  });
  store.addEventListener("head", ({ detail }) => judge(detail));
  return store;
}

/* ---- A file ---- */

/** Copies a file to where models are kept, and loads it; where there is no such place, loads the file itself. */
async function useFile(file) {
  problem("");
  const name = file.name;
  const direct = { kind: "file", blob: file, name };
  if (state.phase === "failed") return problem("the engine does not run: reload the page first");
  const needs = await look(direct);
  if (!needs) return undefined;
  const refusal = tooLarge(name, needs);
  if (refusal) {
    const action = refusal.final ? null : { label: "Load it anyway", run: () => keepFile(direct, true) };
    return problem(refusal.text, action);
  }
  return keepFile(direct, false);
}

/** What loading it would take, null when it is no model that can run: then that is said. */
async function look(source) {
  try {
    const { context, budget } = chosen();
    return await state.engine.ask("inspect", { model: source, name: source.name, options: { context, budget } });
  } catch (error) {
    problem(cannotLoad(source.name, error));
    return null;
  }
}

async function keepFile(direct, sure) {
  if (!canKeep()) return useModel(direct, { sure });
  const { name } = direct;
  const moved = await transfer("put", { file: direct.blob, name }, `Copying ${name}`);
  if (moved.kind === "Full" || moved.kind === "Taken") {
    const loaded = await useModel(direct, { sure });
    if (loaded) problem(`${name} runs, but is not kept for the next visit: ${moved.error}`);
    return loaded;
  }
  if (moved.error) return problem(moved.error);
  return useModel({ kind: "kept", name }, { sure });
}

/* ---- A download ---- */

async function download(address) {
  problem("");
  let url;
  try {
    url = new URL(address, location.href);
    if (!/^https?:$/.test(url.protocol)) throw new TypeError(url.protocol);
  } catch {
    return problem("this is no address of a file: it should begin with https://");
  }
  // Hugging Face's page about a file, instead of the file.
  if (url.hostname === "huggingface.co") url.pathname = url.pathname.replace("/blob/", "/resolve/");
  const name = nameOf(url);
  if (!canKeep()) return problem("this browser has no place to keep a download: download the file and choose it here");
  const got = await transfer("download", { url: url.href, name }, `Downloading ${name}`);
  if (got.error) return problem(`${name}: ${got.error}`, resumption(got, url.href));
  $("url").value = "";
  return useModel({ kind: "kept", name });
}

function nameOf(url) {
  let last = url.pathname.split("/").pop() || "model";
  try {
    last = decodeURIComponent(last);
  } catch {
    // As it is.
  }
  last = last.replace(/[^\w.+ -]/g, "_").slice(-120);
  return last.toLowerCase().endsWith(".gguf") ? last : `${last}.gguf`;
}

const resumption = ({ kind }, url) => (kind === "Network" ? { label: "Try again", run: () => download(url) } : null);

/** The beginning of a download is here: whether the rest is worth having. */
async function judge({ name, blob, total }) {
  const { context, budget } = chosen();
  const model = { kind: "file", blob, size: total };
  let verdict = {};
  try {
    const needs = await state.engine.ask("inspect", { model, name, options: { context, budget } });
    const refusal = tooLarge(name, needs);
    if (refusal?.final) verdict = { refusal: refusal.text, kind: "TooLarge" };
  } catch (error) {
    // Of a header that goes on beyond the beginning nothing can be said yet.
    if (error.kind?.endsWith("Error") && error.kind !== "JsException") {
      verdict = { refusal: error.message.replace(`${name}: `, ""), kind: error.kind };
    }
  }
  store.worker.postMessage({ order: "judge", ...verdict });
}

/* ---- Transfers ---- */

/** Has the store copy or download, with progress and a cancel button; its answer, or {error, kind}. */
async function transfer(order, fields, title) {
  if (coming) return { error: "one model at a time: wait for the one that is coming, or cancel it", kind: "Busy" };
  coming = { name: fields.name, done: 0, total: 0 };
  status.beginTransfer(title);
  showList();
  navigator.storage.persist?.().catch(() => {});
  let answer;
  try {
    answer = await theStore().ask(order, fields);
  } catch (error) {
    answer = { error: error.message, kind: error.kind };
  }
  coming = null;
  status.endTransfer();
  await refresh();
  channel?.postMessage("changed");
  if (answer.kind === "Cancelled") announce("Cancelled.");
  return answer;
}

/* ---- The list ---- */

/** Reads again what is kept. */
export async function refresh() {
  if (canKeep()) {
    try {
      kept = await theStore().ask("list");
    } catch {
      kept = { models: [] }; // a private window, say; `where` tells
    }
  }
  showList();
}

function showList() {
  const rows = [siteRow(), ...kept.models.filter(({ name }) => name !== coming?.name || coming === null).map(keptRow)];
  if (state.source?.kind === "file") rows.push(row(state.source.name, `${size(state.source.blob.size)}, not kept`, [inUse()]));
  $("models").replaceChildren(...rows);
  const { usage, quota } = kept;
  $("storage").textContent = quota ? `${size(usage)} of the ${size(quota)} that the browser gives this site are in use.` : "";
}

const uses = (kind, name) => state.source?.kind === kind && state.source.name === name;

function siteRow() {
  const source = siteSource();
  const used = state.source?.kind === "site";
  return row(source.name, `${size(state.site.model.bytes)}, comes with the page`, [used ? inUse() : loader(source)]);
}

function keptRow({ name, bytes, part, total, url }) {
  if (part) {
    const facts = total ? `${size(bytes)} of ${size(total)} have come` : `${size(bytes)} have come`;
    const resume = url ? [button("Resume", `Resume ${name}`, () => download(url))] : [];
    return row(name, facts, [...resume, deleter(name, bytes)]);
  }
  const source = { kind: "kept", name };
  return row(name, size(bytes), [uses("kept", name) ? inUse() : loader(source), deleter(name, bytes)]);
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

function inUse() {
  const mark = document.createElement("span");
  mark.className = "in-use";
  mark.textContent = "In use";
  return mark;
}

const loader = (source) => {
  const made = button("Load", `Load ${source.name}`, () => useModel(source));
  made.disabled = state.phase !== "ready" && state.phase !== "busy";
  return made;
};

/** Deletes when it is pressed twice; the list may be shown anew in between. */
function deleter(name, bytes) {
  const armed = sure === name;
  const label = armed ? `Press again to delete ${name}` : `Delete ${name}`;
  return button(armed ? `Free ${size(bytes)}?` : "Delete", label, () => (armed ? remove(name) : arm(name)));
}

function arm(name) {
  sure = name;
  showList();
  [...$("models").querySelectorAll("button")].find((each) => each.ariaLabel === `Press again to delete ${name}`)?.focus();
  clearTimeout(disarming);
  disarming = setTimeout(() => {
    sure = null;
    showList();
  }, SURE_MILLISECONDS);
}

async function remove(name) {
  sure = null;
  try {
    await theStore().ask("remove", { name });
    announce(`${name} is deleted.`);
  } catch (error) {
    problem(error.message);
  }
  await refresh();
  channel?.postMessage("changed");
}

/* ---- Controls ---- */

export function wireModels() {
  $("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) useFile(target.files[0]);
    target.value = "";
  });
  $("url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    download($("url").value.trim());
  });
  $("cancel").addEventListener("click", () => store?.worker.postMessage({ order: "cancel" }));
  document.addEventListener("phase", () => state.site && showList());
  if (channel) channel.onmessage = refresh;
  wireDrop();
}

function wireDrop() {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => holdsFile(event) && show(1));
  addEventListener("dragleave", (event) => holdsFile(event) && show(-1));
  addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    show(-Infinity);
    const { files } = event.dataTransfer;
    if (files.length > 1) problem("one file at a time: drop the GGUF file alone");
    else if (files[0]) useFile(files[0]);
  });
}
