// Keeps models in the site's private file system: copies of files, and downloads, which go on where they broke off.
import { isTaken, modelDirectory, NOTE, PART } from "./kept.js";
import { obey } from "./orders.js";

const LOOKS = [1 << 20, 16 << 20]; // bytes that have come when the header is looked at: of most models, of any
const PIECE_BYTES = 4 << 20;
const RETRIES = [500, 1500, 4000]; // milliseconds before a broken download goes on by itself

let transfer = null; // the AbortController of the one that runs

/** An error with a sentence for the user; `retry`: it may pass. */
const failure = (message, kind, retry = false) => Object.assign(new Error(message), { kind, retry });

/* ---- The list ---- */

async function list() {
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
  const { usage, quota } = await navigator.storage.estimate();
  return { models, usage, quota };
}

async function readNote(directory, name) {
  try {
    const handle = await directory.getFileHandle(name + NOTE);
    return JSON.parse(await (await handle.getFile()).text());
  } catch {
    return null; // of a copy, or damaged: then it begins anew
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
      throw isTaken(error)
        ? failure(`${name} is in use, here or in another tab: load another model there, or close that tab, and delete it then`, "Taken")
        : error;
    }
  }
  return {};
}

/* ---- Writing ---- */

/** Opens the unfinished file of a model for this tab alone. */
async function openPart(directory, name) {
  const handle = await directory.getFileHandle(name + PART, { create: true });
  try {
    return await handle.createSyncAccessHandle();
  } catch (error) {
    throw isTaken(error)
      ? failure(`another tab of this page is fetching ${name}; wait until it has it, then load it here from the list`, "Taken")
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

const full = (error) =>
  error && error.name !== "QuotaExceededError"
    ? error
    : failure("the browser gives this page no more disk space; delete a model from the list, or free some space", "Full");

/** Makes a finished part the model. */
async function finish(directory, name) {
  const part = await directory.getFileHandle(name + PART);
  await directory.removeEntry(name).catch((error) => {
    if (error.name !== "NotFoundError") {
      throw failure(`${name} is there already, and in use: load another model first, here or in the other tab`, "Taken");
    }
  });
  await part.move(name);
  await directory.removeEntry(name + NOTE).catch(() => {});
}

/** Tells of progress, ten times a second at most. */
function teller(name, total) {
  let told = 0;
  const began = performance.now();
  let first = null;
  return (done) => {
    first ??= done;
    const now = performance.now();
    if (now - told < 100 && done !== total) return;
    told = now;
    const rate = now > began + 500 ? (1000 * (done - first)) / (now - began) : 0;
    self.postMessage({ event: "transfer", name, done, total, rate });
  };
}

async function exclusive(work) {
  if (transfer) throw failure("one model at a time: wait for the one that is coming, or cancel it", "Busy");
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

/* ---- A file that the user has ---- */

const put = ({ file, name }) =>
  exclusive(async (signal) => {
    const directory = await modelDirectory();
    const { usage, quota } = await navigator.storage.estimate();
    if (file.size > quota - usage) throw full();
    await directory.removeEntry(name + NOTE).catch(() => {});
    const access = await openPart(directory, name);
    let done = 0;
    try {
      const tell = teller(name, file.size);
      access.truncate(0);
      while (done < file.size) {
        signal.throwIfAborted();
        const bytes = new Uint8Array(await file.slice(done, done + PIECE_BYTES).arrayBuffer());
        write(access, bytes, done);
        done += bytes.length;
        tell(done);
      }
    } catch (error) {
      access.close();
      await directory.removeEntry(name + PART).catch(() => {});
      throw error.name === "NotReadableError" ? failure(`${name} cannot be read any more; choose it again`, "Unreadable") : error;
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
    const state = { note: await readNote(directory, name), name, directory, access, looks: 0 };
    if (state.note?.url !== url) begin(state);
    try {
      await fetchAll(url, state, signal);
    } finally {
      access.flush();
      const useless = state.useless || access.getSize() === 0;
      access.close();
      if (useless) await discardPart(directory, name);
    }
    await finish(directory, name);
    return { name };
  });

/** Forgets what had come. */
function begin(state) {
  state.access.truncate(0);
  state.note = null;
}

async function discardPart(directory, name) {
  for (const each of [name + PART, name + NOTE]) await directory.removeEntry(each).catch(() => {});
}

/** Fetches, and after a break goes on by itself a few times. */
async function fetchAll(url, state, signal) {
  for (let failures = 0; ; failures++) {
    const before = state.access.getSize();
    try {
      await fetchRest(url, state, signal);
      return;
    } catch (error) {
      if (state.access.getSize() > before) failures = 0; // it did get on
      if (!error.retry || signal.aborted || failures >= RETRIES.length) throw error;
      await pause(RETRIES[failures], signal);
    }
  }
}

const pause = (milliseconds, signal) =>
  new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve);
  });

/** Fetches what is missing of a file. */
async function fetchRest(url, state, signal) {
  const { access, directory, name } = state;
  const have = state.note ? access.getSize() : 0;
  if (have > 0 && have === state.note.total) return;
  const answer = await ask(url, have, signal);
  const goesOn = answer.status === 206;
  const length = Number(answer.headers.get("Content-Length")) || 0;
  const note = {
    url,
    total: length && length + (goesOn ? have : 0),
    tag: answer.headers.get("ETag"),
    modified: answer.headers.get("Last-Modified"),
  };
  if (answer.status === 416 || (goesOn && !sameFile(note, state.note))) {
    begin(state); // another file is there now
    throw failure("the file has changed on its server; try again", "Network", true);
  }
  if (!goesOn) begin(state);
  if (!state.note) await writeNote(directory, name, note);
  state.note = note;
  await checkRoom(note.total, access.getSize());
  await receive(answer, state, signal);
}

const sameFile = (now, before) =>
  now.total === before.total && now.tag === before.tag && now.modified === before.modified;

async function ask(url, have, signal) {
  const headers = have > 0 ? { Range: `bytes=${have}-` } : {};
  let answer;
  try {
    answer = await fetch(url, { headers, signal, mode: "cors", credentials: "omit", cache: "no-store" });
  } catch {
    throw failure(unreachable(new URL(url).host), "Network", have > 0);
  }
  if (answer.ok || (answer.status === 416 && have > 0)) return answer;
  const why = { 401: ": it wants a login", 403: ": it does not allow it", 404: ": there is no such file" };
  const said = `the server answered ${answer.status}${why[answer.status] ?? ""}`;
  throw failure(`${said}. Check the address, or download the file with the browser and drop it here`, "Network", answer.status >= 500);
}

const unreachable = (host) =>
  navigator.onLine
    ? `${host} cannot be reached, or does not let other sites read its files (CORS). Try again, or download the file with the browser and drop it here`
    : "this machine is offline. What has come is kept: resume when there is a connection";

async function checkRoom(total, have) {
  const { usage, quota } = await navigator.storage.estimate();
  if (total - have > quota - usage) throw full();
}

const BROKEN = "the connection broke. What has come is kept: resume the download in the list of models";

async function receive(answer, state, signal) {
  const { access, note, name } = state;
  const tell = teller(name, note.total);
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
    tell(at);
    if (at >= LOOKS[state.looks]) await showHead(state);
    signal.throwIfAborted();
  }
  if (note.total && at < note.total) {
    throw failure(BROKEN, "Network", true);
  }
}

/* The page looks at the beginning of what comes, and may say that the rest is of no use. */

let judged = null;

async function showHead(state) {
  const { access, note, name } = state;
  while (access.getSize() >= LOOKS[state.looks]) state.looks++;
  const bytes = new Uint8Array(LOOKS[state.looks - 1]);
  access.read(bytes, { at: 0 });
  const verdict = new Promise((resolve) => (judged = resolve));
  self.postMessage({ event: "head", name, blob: new Blob([bytes]), total: note.total || access.getSize() });
  const { refusal, kind } = await verdict;
  if (!refusal) return;
  state.useless = true;
  throw failure(refusal, kind);
}

obey(
  { list, put, download, remove },
  { urgent: { cancel: () => transfer?.abort(), judge: (data) => judged?.(data) } },
);
