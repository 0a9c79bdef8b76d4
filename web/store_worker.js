// Stores models in the origin private file system: copies of files, and downloads.
import { fetchModel, readNote, setVerdict } from "./download.js";
import { serve } from "./requests.js";
import * as storage from "./storage.js";
import { COMPANION, estimate, failure, full, isLocked, modelDirectory, NOTE, PARTIAL, PARTS, readFile, removeFile, write, writeJson } from "./storage.js";

const CHUNK_BYTES = 4 << 20;

let transfer = null; // AbortController of the running transfer

/* ---- The list ---- */

async function list() {
  await storage.checkStorage();
  const models = [];
  const directory = await modelDirectory();
  const files = [];
  for await (const [name, handle] of directory.entries()) {
    const isModel = handle.kind === "file" && ![NOTE, PARTS, COMPANION].some((suffix) => name.endsWith(suffix));
    if (isModel) files.push([name, handle]);
  }
  for (const [name, handle] of files) {
    const file = await readFile(handle);
    if (!file) continue; // renamed or deleted meanwhile
    if (!name.endsWith(PARTIAL)) {
      models.push({ name, bytes: file.size, date: file.lastModified });
      continue;
    }
    const model = name.slice(0, -PARTIAL.length);
    const { total, urls } = await readNote(directory, model);
    models.push({ name: model, bytes: file.size, date: file.lastModified, partial: true, total, url: urls[0] });
  }
  models.sort((a, b) => b.date - a.date);
  return { models, ...(await estimate()) };
}

async function remove({ name }) {
  const directory = await modelDirectory();
  for (const each of [name, name + PARTS, name + COMPANION, name + PARTIAL, name + NOTE]) {
    try {
      await removeFile(directory, each);
    } catch (error) {
      throw isLocked(error)
        ? failure(`${name} is in use, here or in another tab: load another model there or close that tab, then delete it`, "Locked")
        : error;
    }
  }
  return keepConversation({ name, messages: [] });
}

/** Keeps what was calibrated for a model. */
async function keepCompanion({ name, bytes }) {
  const directory = await modelDirectory();
  await directory.getFileHandle(name); // throws where the model was deleted meanwhile
  const handle = await directory.getFileHandle(name + COMPANION, { create: true });
  const access = await handle.createSyncAccessHandle();
  try {
    access.truncate(0);
    write(access, bytes, 0);
  } catch (error) {
    access.close();
    await removeFile(directory, name + COMPANION);
    throw error;
  }
  access.close();
  return {};
}

/* ---- Conversations ---- */

const conversations = () => storage.openDirectory("conversations");

/** The messages that were kept with a model. */
async function conversation({ name }) {
  return { messages: (await storage.readJson(await conversations(), `${name}.json`)) ?? [] };
}

async function keepConversation({ name, messages }) {
  const directory = await conversations();
  if (messages.length) await writeJson(directory, `${name}.json`, messages);
  else await removeFile(directory, `${name}.json`);
  return {};
}

/* ---- Writing ---- */

/** Opens the partial file of a model with an exclusive lock. */
async function openPartial(directory, name) {
  const handle = await directory.getFileHandle(name + PARTIAL, { create: true });
  try {
    return await handle.createSyncAccessHandle();
  } catch (error) {
    throw isLocked(error)
      ? failure(`another tab of this page is downloading ${name}; wait until it has finished, then load it from the list`, "Locked")
      : error;
  }
}

/** Renames a complete partial file to the model's name; `parts`: the files that it consists of. */
async function finish(directory, name, parts) {
  const partial = await directory.getFileHandle(name + PARTIAL);
  for (const each of [name, name + PARTS, name + COMPANION]) {
    await removeFile(directory, each).catch(() => {
      throw failure(`${name} is already stored and in use: load another model first, here or in the other tab`, "Locked");
    });
  }
  if (parts.length > 1) await writeJson(directory, name + PARTS, parts);
  await partial.move(name);
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

/** Copies a Blob, that of a split model with its files, `parts`, end to end. A copy that the page did not finish goes on
 *  when the same files are chosen again. */
const put = ({ file, name, parts = [] }) =>
  exclusive(async (signal) => {
    const directory = await modelDirectory();
    const note = { urls: [], total: file.size, files: parts };
    const previous = JSON.stringify(await readNote(directory, name));
    const access = await openPartial(directory, name);
    let done = previous === JSON.stringify(note) ? access.getSize() : 0;
    try {
      access.truncate(done);
      const { usage, quota } = await estimate();
      if (file.size - done > quota - usage) throw full();
      await writeJson(directory, name + NOTE, note);
      const progress = progressReporter(name, file.size);
      while (done < file.size) {
        signal.throwIfAborted();
        const bytes = new Uint8Array(await file.slice(done, done + CHUNK_BYTES).arrayBuffer());
        write(access, bytes, done);
        done += bytes.length;
        progress(done);
      }
    } catch (error) {
      access.close();
      for (const each of [name + PARTIAL, name + NOTE]) await directory.removeEntry(each).catch(() => {});
      throw error.name === "NotReadableError" ? failure(`${name} can no longer be read; choose it again`, "Unreadable") : error;
    }
    access.close();
    await finish(directory, name, parts.map(({ name: each, size }) => ({ name: each, size })));
    return { name };
  });

/* ---- Downloads ---- */

/** Downloads a model from the addresses of its files: one, or those of a split model in order. */
const download = ({ urls, name }) =>
  exclusive(async (signal) => {
    const directory = await modelDirectory();
    const access = await openPartial(directory, name);
    const parts = await fetchModel({ urls, name, directory, access, signal, progressReporter });
    await finish(directory, name, parts);
    return { name };
  });

serve(
  { list, put, download, remove, keepCompanion, conversation, keepConversation },
  { listeners: { cancel: () => transfer?.abort(), verdict: setVerdict } },
);
