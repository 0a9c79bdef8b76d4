// Sources of a model's bytes, read synchronously in a worker, since Python cannot await. A source has `size`,
// `read(offset, count)`, which returns a Uint8Array, and `close()`. That of a split model holds its files end to end, and
// has a list `parts` of their {name, size}.
import { COMPANION, modelDirectory, PARTS, readJson } from "./storage.js";

export const ofBytes = (bytes) => ({
  size: bytes.length,
  read: (offset, count) => bytes.subarray(offset, offset + count),
  close() {},
});

/** The sources of the files of a model, end to end; a read stays within one file. */
export function joined(sources, names) {
  if (sources.length === 1) return sources[0];
  let size = 0;
  const starts = sources.map((each) => (size += each.size) - each.size);
  return {
    size,
    parts: sources.map((each, index) => ({ name: names[index], size: each.size })),
    read: (offset, count) => {
      const index = starts.filter((start) => start <= offset).length - 1;
      return sources[index].read(offset - starts[index], count);
    },
    close: () => sources.forEach((each) => each.close()),
  };
}

/** A Blob or File; `size` is the whole file's where the blob is only its start. */
export function ofBlob(blob, size = blob.size) {
  const reader = new FileReaderSync();
  return {
    size,
    read: (offset, count) => {
      if (offset + count > blob.size && blob.size < size) throw new Error("not downloaded yet");
      try {
        return new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + count)));
      } catch (error) {
        throw new Error(`the file can no longer be read (${error.name}): it was changed or removed; choose it again`);
      }
    },
    close() {},
  };
}

/** A stored model. Several tabs may read it: where the browser allows only one open handle, other tabs read it as a
 *  blob, which is slower for small reads. */
export async function ofStored(name) {
  const directory = await modelDirectory();
  const file = await directory.getFileHandle(name);
  const parts = await readJson(directory, name + PARTS);
  let handle;
  try {
    handle = await file.createSyncAccessHandle({ mode: "read-only" });
  } catch {
    return { ...ofBlob(await file.getFile()), parts };
  }
  return {
    parts,
    size: handle.getSize(),
    read: (offset, count) => {
      const bytes = new Uint8Array(count);
      const got = handle.read(bytes, { at: offset });
      return got === count ? bytes : bytes.subarray(0, got);
    },
    close: () => handle.close(),
  };
}

/** The companion that is stored with a model, or null. */
export async function storedCompanion(name) {
  try {
    const file = await (await modelDirectory()).getFileHandle(name + COMPANION);
    return new Uint8Array(await (await file.getFile()).arrayBuffer());
  } catch {
    return null;
  }
}

/* ---- A file of the site ---- */

const CHUNK_BYTES = 4 << 20; // fetched at a time, at least
const RETRY_DELAYS = [300, 1000, 3000]; // milliseconds

/** A file of the site, read in chunks where the server supports ranges. Otherwise the whole file is fetched, and
 *  `progress(done)` is called with the bytes received. */
export async function ofUrl(url, size, progress) {
  const answer = await fetch(url, { headers: { Range: "bytes=0-3" } });
  if (!answer.ok) throw new Error(`${url.pathname}: the server answered ${answer.status}`);
  if (answer.status !== 206) return ofBytes(await readWhole(answer, size, progress));
  await answer.arrayBuffer(); // read to the end, so that the connection can be reused
  let chunk = { start: 0, bytes: new Uint8Array() };
  return {
    size,
    read: (offset, count) => {
      const end = Math.min(offset + count, size);
      if (offset < chunk.start || end > chunk.start + chunk.bytes.length) {
        chunk = { start: offset, bytes: fetchChunk(url, offset, Math.min(size, Math.max(end, offset + CHUNK_BYTES))) };
      }
      return chunk.bytes.subarray(offset - chunk.start, end - chunk.start);
    },
    close: () => (chunk = null),
  };
}

/** Reads the whole body of an answer. */
async function readWhole(answer, size, progress) {
  const bytes = new Uint8Array(size);
  let done = 0;
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const part = await reader.read();
      if (part.done) break;
      bytes.set(part.value, done);
      done += part.value.length;
      progress(done);
    }
  } catch (error) {
    throw new Error(`the connection broke after ${done} of the model's ${size} bytes (${error.message})`);
  }
  if (done < size) throw new Error(`the server sent only ${done} of the model's ${size} bytes`);
  return bytes;
}

/** Fetches the bytes from `start` to `end`, synchronously, with retries. */
function fetchChunk(url, start, end) {
  for (let failures = 0; ; failures++) {
    const request = new XMLHttpRequest();
    request.open("GET", url, false);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Range", `bytes=${start}-${end - 1}`);
    let failure = "";
    try {
      request.send();
      if (request.status === 206 && request.response.byteLength === end - start) return new Uint8Array(request.response);
      failure = request.status === 206 ? "closed the connection early" : `answered ${request.status}`;
    } catch {
      failure = "cannot be reached";
    }
    if (failures === RETRY_DELAYS.length) throw new Error(`the server ${failure} while the model was read, at byte ${start}`);
    for (const until = performance.now() + RETRY_DELAYS[failures]; performance.now() < until; ); // busy wait: Python cannot await
  }
}
