// Downloads models, which can be resumed, for the worker that stores them. The files of a split model are downloaded one
// after another into one partial file.
import { estimate, failure, full, NOTE, PARTIAL, readJson, write, writeJson } from "./storage.js";

// Bytes of a download after which its header is checked: enough for most models, enough for all.
const CHECK_BYTES = [1 << 20, 16 << 20];
const RETRY_DELAYS = [500, 1500, 4000]; // milliseconds

/** What is known of a partial download: the addresses `urls`, the size `total` of all files, where all servers say it, and
 *  {size, tag, modified} of each file that has begun. */
export const readNote = async (directory, name) => ({ urls: [], total: 0, files: [], ...(await readJson(directory, name + NOTE)) });

/** Downloads the files at `urls` into the partial file `access` and closes it; resolves to the name and size of each. */
export async function fetchModel({ urls, name, directory, access, signal, progressReporter }) {
  const state = { urls, name, directory, access, signal, progressReporter, checks: 0, accepted: false, refused: false };
  try {
    state.note = await readNote(directory, name);
    if (String(state.note.urls) !== String(urls)) restart(state);
    state.sizes = urls.length > 1 ? await Promise.all(urls.map((url) => sizeOf(url, signal))) : [0];
    for (let index = 0; index < urls.length; index++) await fetchFile(index, state);
    const names = urls.length > 1 ? urls.map(fileName) : [name];
    const parts = names.map((each, index) => ({ name: each, size: state.note.files[index].size }));
    if (!state.accepted && access.getSize() <= CHECK_BYTES.at(-1)) await checkWhole(state, parts);
    return parts;
  } finally {
    access.flush();
    const discard = state.refused || access.getSize() === 0;
    access.close();
    if (discard) for (const each of [name + PARTIAL, name + NOTE]) await directory.removeEntry(each).catch(() => {});
  }
}

const fileName = (url) => new URL(url).pathname.split("/").pop();

/** Discards the bytes of the files from `index` on. */
function restart(state, index = 0) {
  state.note.files.length = index;
  state.access.truncate(startOf(state, index));
  if (index === 0) state.note = { urls: state.urls, total: 0, files: [] };
}

/** Where file `index` begins in the partial file. */
const startOf = ({ note }, index) => note.files.slice(0, index).reduce((sum, { size }) => sum + size, 0);

/** The size of all files, 0 where it is not known. */
function totalOf({ note, sizes }) {
  const known = sizes.map((size, index) => note.files[index]?.size || size);
  return known.includes(0) ? 0 : known.reduce((sum, size) => sum + size, 0);
}

/** The size of a file from its headers, 0 where the server does not say it. */
async function sizeOf(url, signal) {
  const answer = await request(url, { method: "HEAD", signal });
  if ([404, 410].includes(answer.status)) throw refusedBy(answer, ` for ${fileName(url)}`);
  return answer.ok ? lengthOf(answer) : 0;
}

const lengthOf = (answer) => Number(answer.headers.get("Content-Length")) || 0;

/* ---- One file ---- */

/** Downloads a file, and resumes a few times after the connection breaks. */
async function fetchFile(index, state) {
  const { access, signal } = state;
  for (let failures = 0; ; failures++) {
    const received = access.getSize();
    try {
      await fetchRest(index, state);
      return;
    } catch (error) {
      if (access.getSize() > received) failures = 0; // there was progress
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
async function fetchRest(index, state) {
  const { urls, access, signal, note } = state;
  const known = note.files[index];
  const start = startOf(state, index);
  const have = known ? access.getSize() - start : 0;
  if (index + 1 < note.files.length || (have > 0 && have === known.size)) return; // complete
  const answer = await fetchFrom(urls[index], have, signal);
  const resumes = answer.status === 206;
  const length = lengthOf(answer);
  const found = {
    size: length && length + (resumes ? have : 0),
    tag: answer.headers.get("ETag"),
    modified: answer.headers.get("Last-Modified"),
  };
  if (answer.status === 416 || (resumes && !sameFile(found, known))) {
    restart(state, index); // the file on the server is another one
    throw failure("the file on the server has changed; try again", "Network", true);
  }
  if (!resumes) restart(state, index);
  state.note.files[index] = found;
  await writeNote(state);
  await checkQuota(state.note.total || found.size, access.getSize());
  await receive(answer, index, state);
}

async function writeNote(state) {
  state.note.total = totalOf(state);
  await writeJson(state.directory, state.name + NOTE, state.note);
}

const sameFile = (now, previous) =>
  now.size === previous.size && now.tag === previous.tag && now.modified === previous.modified;

async function fetchFrom(url, have, signal) {
  const headers = have > 0 ? { Range: `bytes=${have}-` } : {};
  const answer = await request(url, { headers, signal }, have > 0);
  if (answer.ok || (answer.status === 416 && have > 0)) return answer;
  throw refusedBy(answer);
}

async function request(url, options, retry = false) {
  try {
    return await fetch(url, { ...options, mode: "cors", credentials: "omit", cache: "no-store" });
  } catch {
    throw failure(unreachable(new URL(url).host), "Network", retry);
  }
}

function refusedBy(answer, which = "") {
  const reasons = { 401: ": a login is required", 403: ": access is denied", 404: ": there is no such file", 410: ": there is no such file" };
  const message = `the server answered ${answer.status}${which}${reasons[answer.status] ?? ""}`;
  return failure(`${message}. Check the address, or download the file with the browser and drop it here`, "Network", answer.status >= 500);
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

async function receive(answer, index, state) {
  const { access, note, name, signal } = state;
  const progress = state.progressReporter(name, note.total);
  const reader = answer.body.getReader();
  const file = note.files[index];
  const start = startOf(state, index);
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
    if (index === 0 && !state.accepted && at >= CHECK_BYTES[state.checks]) await checkStart(state);
    signal.throwIfAborted();
  }
  if (file.size && at - start < file.size) throw failure(BROKEN, "Network", true);
  if (file.size !== at - start) {
    file.size = at - start;
    await writeNote(state);
  }
}

/* ---- The page inspects a download and may refuse it ---- */

let resolveVerdict = null;

/** Receives the page's verdict: {accepted}, {refusal, kind}, or {} where the start is too short to decide. */
export const setVerdict = (verdict) => resolveVerdict?.(verdict);

async function checkStart(state) {
  const { access, note } = state;
  while (access.getSize() >= CHECK_BYTES[state.checks]) state.checks++;
  const [first] = note.files;
  const size = first.size || access.getSize();
  await check(state, { bytes: CHECK_BYTES[state.checks - 1], size, rest: Math.max(0, note.total - size) });
}

const checkWhole = (state, parts) => check(state, { bytes: state.access.getSize(), parts });

async function check(state, { bytes, ...fields }) {
  const buffer = new Uint8Array(bytes);
  state.access.read(buffer, { at: 0 });
  const verdict = new Promise((resolve) => (resolveVerdict = resolve));
  self.postMessage({ event: "header", name: state.name, blob: new Blob([buffer]), ...fields });
  const { accepted, refusal, kind } = await verdict;
  state.accepted = Boolean(accepted);
  if (!refusal) return;
  state.refused = true;
  throw failure(refusal, kind);
}
