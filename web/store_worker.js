// Stores models in the origin private file system: copies of files, and downloads, which can be resumed.
import { serve } from "./requests.js";
import { checkStorage, isLocked, modelDirectory, NOTE, PART } from "./storage.js";

// Bytes of a download after which its header is checked: enough for most models, enough for all.
const CHECK_BYTES = [1 << 20, 16 << 20];
const CHUNK_BYTES = 4 << 20;
const RETRY_DELAYS = [500, 1500, 4000]; // milliseconds

let transfer = null; // AbortController of the running transfer

/** An error with a message for the user; `retry`: trying again may succeed. */
const failure = (message, kind, retry = false) => Object.assign(new Error(message), { kind, retry });

/* ---- The list ---- */

async function list() {
  await checkStorage();
  const models = [];
  const directory = await modelDirectory();
  for await (const [name, handle] of directory.entries()) {
    if (handle.kind !== "file" || name.endsWith(NOTE)) continue;
    const file = await handle.getFile();
    if (!name.endsWith(PART)) {
      models.push({ name, bytes: file.size, date: file.lastModified });
      continue;
    }
    const model = name.slice(0, -PART.length);
    const note = await readNote(directory, model);
    models.push({ name: model, bytes: file.size, date: file.lastModified, part: true, total: note?.total, url: note?.url });
  }
  models.sort((a, b) => b.date - a.date);
  return { models, ...(await estimate()) };
}

/** Bytes of storage in use and available, {} where the browser does not say. */
async function estimate() {
  const { usage, quota } = (await navigator.storage.estimate?.()) ?? {};
  return { usage, quota };
}

async function readNote(directory, name) {
  try {
    const handle = await directory.getFileHandle(name + NOTE);
    return JSON.parse(await (await handle.getFile()).text());
  } catch {
    return null; // none, as for a copy, or damaged: the download starts again
  }
}

async function writeNote(directory, name, note) {
  const handle = await directory.getFileHandle(name + NOTE, { create: true });
  const access = await handle.createSyncAccessHandle();
  try {
    access.truncate(0);
    access.write(new TextEncoder().encode(JSON.stringify(note)), { at: 0 });
  } finally {
    access.close();
  }
}

async function remove({ name }) {
  const directory = await modelDirectory();
  for (const each of [name, name + PART, name + NOTE]) {
    try {
      await directory.removeEntry(each);
    } catch (error) {
      if (error.name === "NotFoundError") continue;
      throw isLocked(error)
        ? failure(`${name} is in use, here or in another tab: load another model there or close that tab, then delete it`, "Locked")
        : error;
    }
  }
  return {};
}

/* ---- Writing ---- */

/** Opens the partial file of a model with an exclusive lock. */
async function openPart(directory, name) {
  const handle = await directory.getFileHandle(name + PART, { create: true });
  try {
    return await handle.createSyncAccessHandle();
  } catch (error) {
    throw isLocked(error)
      ? failure(`another tab of this page is downloading ${name}; wait until it has finished, then load it from the list`, "Locked")
      : error;
  }
}

function write(access, bytes, at) {
  let written = 0;
  try {
    written = access.write(bytes, { at });
  } catch (error) {
    throw full(error);
  }
  if (written < bytes.length) throw full();
}

/** The error for a full disk, or `error` where it has another cause. */
const full = (error) =>
  error && error.name !== "QuotaExceededError"
    ? error
    : failure("the browser has no more storage for this site; delete a model from the list or free some disk space", "Full");

/** Renames a complete partial file to the model's name. */
async function finish(directory, name) {
  const part = await directory.getFileHandle(name + PART);
  await directory.removeEntry(name).catch((error) => {
    if (error.name !== "NotFoundError") {
      throw failure(`${name} is already stored and in use: load another model first, here or in the other tab`, "Locked");
    }
  });
  await part.move(name);
  await directory.removeEntry(name + NOTE).catch(() => {});
}

/** A function that posts progress, at most ten times a second. */
function progressReporter(name, total) {
  let reported = 0;
  const start = performance.now();
  let first = null;
  return (done) => {
    first ??= done;
    const now = performance.now();
    if (now - reported < 100 && done !== total) return;
    reported = now;
    const rate = now > start + 500 ? (1000 * (done - first)) / (now - start) : 0;
    self.postMessage({ event: "transfer", name, done, total, rate });
  };
}

/** Runs one transfer at a time. */
async function exclusive(work) {
  if (transfer) throw failure("another model is being transferred: wait for it, or cancel it", "Busy");
  transfer = new AbortController();
  try {
    return await work(transfer.signal);
  } catch (error) {
    if (transfer.signal.aborted) throw failure("cancelled", "Cancelled");
    throw error;
  } finally {
    transfer = null;
  }
}

/* ---- Copies ---- */

const put = ({ file, name }) =>
  exclusive(async (signal) => {
    const directory = await modelDirectory();
    const { usage, quota } = await estimate();
    if (file.size > quota - usage) throw full();
    await directory.removeEntry(name + NOTE).catch(() => {});
    const access = await openPart(directory, name);
    let done = 0;
    try {
      const progress = progressReporter(name, file.size);
      access.truncate(0);
      while (done < file.size) {
        signal.throwIfAborted();
        const bytes = new Uint8Array(await file.slice(done, done + CHUNK_BYTES).arrayBuffer());
        write(access, bytes, done);
        done += bytes.length;
        progress(done);
      }
    } catch (error) {
      access.close();
      await directory.removeEntry(name + PART).catch(() => {});
      throw error.name === "NotReadableError" ? failure(`${name} can no longer be read; choose it again`, "Unreadable") : error;
    }
    access.close();
    await finish(directory, name);
    return { name };
  });

/* ---- Downloads ---- */

const download = ({ url, name }) =>
  exclusive(async (signal) => {
    const directory = await modelDirectory();
    const access = await openPart(directory, name);
    const state = { note: await readNote(directory, name), name, directory, access, checks: 0 };
    if (state.note?.url !== url) restart(state);
    try {
      await fetchAll(url, state, signal);
    } finally {
      access.flush();
      const discard = state.refused || access.getSize() === 0;
      access.close();
      if (discard) await discardPart(directory, name);
    }
    await finish(directory, name);
    return { name };
  });

/** Discards the bytes downloaded so far. */
function restart(state) {
  state.access.truncate(0);
  state.note = null;
}

async function discardPart(directory, name) {
  for (const each of [name + PART, name + NOTE]) await directory.removeEntry(each).catch(() => {});
}

/** Downloads, and resumes a few times after the connection breaks. */
async function fetchAll(url, state, signal) {
  for (let failures = 0; ; failures++) {
    const received = state.access.getSize();
    try {
      await fetchRest(url, state, signal);
      return;
    } catch (error) {
      if (state.access.getSize() > received) failures = 0; // there was progress
      if (!error.retry || signal.aborted || failures >= RETRY_DELAYS.length) throw error;
      await pause(RETRY_DELAYS[failures], signal);
    }
  }
}

const pause = (milliseconds, signal) =>
  new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve);
  });

/** Downloads the missing part of a file. */
async function fetchRest(url, state, signal) {
  const { access, directory, name } = state;
  const have = state.note ? access.getSize() : 0;
  if (have > 0 && have === state.note.total) return;
  const answer = await fetchFrom(url, have, signal);
  const resumes = answer.status === 206;
  const length = Number(answer.headers.get("Content-Length")) || 0;
  const note = {
    url,
    total: length && length + (resumes ? have : 0),
    tag: answer.headers.get("ETag"),
    modified: answer.headers.get("Last-Modified"),
  };
  if (answer.status === 416 || (resumes && !sameFile(note, state.note))) {
    restart(state); // the file on the server is another one
    throw failure("the file on the server has changed; try again", "Network", true);
  }
  if (!resumes) restart(state);
  if (!state.note) await writeNote(directory, name, note);
  state.note = note;
  await checkQuota(note.total, access.getSize());
  await receive(answer, state, signal);
}

const sameFile = (now, previous) =>
  now.total === previous.total && now.tag === previous.tag && now.modified === previous.modified;

async function fetchFrom(url, have, signal) {
  const headers = have > 0 ? { Range: `bytes=${have}-` } : {};
  let answer;
  try {
    answer = await fetch(url, { headers, signal, mode: "cors", credentials: "omit", cache: "no-store" });
  } catch {
    throw failure(unreachable(new URL(url).host), "Network", have > 0);
  }
  if (answer.ok || (answer.status === 416 && have > 0)) return answer;
  const reasons = { 401: ": a login is required", 403: ": access is denied", 404: ": there is no such file" };
  const message = `the server answered ${answer.status}${reasons[answer.status] ?? ""}`;
  throw failure(`${message}. Check the address, or download the file with the browser and drop it here`, "Network", answer.status >= 500);
}

const unreachable = (host) =>
  navigator.onLine
    ? `${host} cannot be reached, or does not allow other sites to read its files (CORS). Try again, or download the file with the browser and drop it here`
    : "this machine is offline. The downloaded part is kept: resume when there is a connection";

async function checkQuota(total, have) {
  const { usage, quota } = await estimate();
  if (total - have > quota - usage) throw full();
}

const BROKEN = "the connection broke. The downloaded part is kept: resume the download in the list of models";

async function receive(answer, state, signal) {
  const { access, note, name } = state;
  const progress = progressReporter(name, note.total);
  const reader = answer.body.getReader();
  let at = access.getSize();
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      throw failure(BROKEN, "Network", true);
    }
    if (part.done) break;
    write(access, part.value, at);
    at += part.value.length;
    progress(at);
    if (at >= CHECK_BYTES[state.checks]) await checkHeader(state);
    signal.throwIfAborted();
  }
  if (note.total && at < note.total) {
    throw failure(BROKEN, "Network", true);
  }
}

/* The page inspects the start of a download and may refuse the rest. */

let resolveVerdict = null;

async function checkHeader(state) {
  const { access, note, name } = state;
  while (access.getSize() >= CHECK_BYTES[state.checks]) state.checks++;
  const bytes = new Uint8Array(CHECK_BYTES[state.checks - 1]);
  access.read(bytes, { at: 0 });
  const verdict = new Promise((resolve) => (resolveVerdict = resolve));
  self.postMessage({ event: "header", name, blob: new Blob([bytes]), total: note.total || access.getSize() });
  const { refusal, kind } = await verdict;
  if (!refusal) return;
  state.refused = true;
  throw failure(refusal, kind);
}

serve(
  { list, put, download, remove },
  { listeners: { cancel: () => transfer?.abort(), verdict: (data) => resolveVerdict?.(data) } },
);
