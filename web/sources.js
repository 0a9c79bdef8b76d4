// Where a model's bytes come from, read in a worker synchronously, since the Python side cannot wait. A source has
// `size`, `read(offset, count)`, which gives a Uint8Array, and `close()`.
import { keptFile } from "./kept.js";

const nothing = () => {};

export const ofBytes = (bytes) => ({
  size: bytes.length,
  read: (offset, count) => bytes.subarray(offset, offset + count),
  close: nothing,
});

/** A Blob or File; `size` of the whole, when the blob is only its beginning. */
export function ofBlob(blob, size = blob.size) {
  const reader = new FileReaderSync();
  return {
    size,
    read: (offset, count) => {
      if (offset + count > blob.size && blob.size < size) throw new Error("not arrived yet");
      try {
        return new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + count)));
      } catch (error) {
        throw new Error(`the file cannot be read any more (${error.name}): it was changed or removed; choose it again`);
      }
    },
    close: nothing,
  };
}

/** A file that is kept. Several tabs may read it at a time: where the browser lets one alone hold it open, the others
 *  read it as a blob, which is slower for small pieces. */
export async function ofKept(name) {
  const file = await keptFile(name);
  let handle;
  try {
    handle = await file.createSyncAccessHandle({ mode: "read-only" });
  } catch {
    return ofBlob(await file.getFile());
  }
  return {
    size: handle.getSize(),
    read: (offset, count) => {
      const bytes = new Uint8Array(count);
      const got = handle.read(bytes, { at: offset });
      return got === count ? bytes : bytes.subarray(0, got);
    },
    close: () => handle.close(),
  };
}

/* ---- A file of the site ---- */

const PIECE_BYTES = 4 << 20; // at least, of what is asked for at a time
const PAUSES = [300, 1000, 3000]; // milliseconds before a piece that did not come is asked for again

/** A file of the site, read piece by piece where its server sends pieces. Where it does not, all of it is fetched, and
 *  `tell(done)` hears how much has come. */
export async function ofUrl(url, size, tell) {
  const answer = await fetch(url, { headers: { Range: "bytes=0-3" } });
  if (!answer.ok) throw new Error(`${url.pathname}: the server answered ${answer.status}`);
  if (answer.status !== 206) return ofBytes(await whole(answer, size, tell));
  await answer.arrayBuffer(); // to the end: the browser keeps what came whole
  let piece = { start: 0, bytes: new Uint8Array() };
  return {
    size,
    read: (offset, count) => {
      const end = Math.min(offset + count, size);
      if (offset < piece.start || end > piece.start + piece.bytes.length) {
        piece = { start: offset, bytes: fetchPiece(url, offset, Math.min(size, Math.max(end, offset + PIECE_BYTES))) };
      }
      return piece.bytes.subarray(offset - piece.start, end - piece.start);
    },
    close: () => (piece = null),
  };
}

/** The bytes of an answer that has begun. */
async function whole(answer, size, tell) {
  const bytes = new Uint8Array(size);
  let done = 0;
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const part = await reader.read();
      if (part.done) break;
      bytes.set(part.value, done);
      done += part.value.length;
      tell(done);
    }
  } catch (error) {
    throw new Error(`the connection broke after ${done} of the model's ${size} bytes (${error.message})`);
  }
  if (done < size) throw new Error(`the server ended the model after ${done} of ${size} bytes`);
  return bytes;
}

/** Bytes from `start` to `end`; after a break it asks again a few times. */
function fetchPiece(url, start, end) {
  for (let failures = 0; ; failures++) {
    const request = new XMLHttpRequest();
    request.open("GET", url, false);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Range", `bytes=${start}-${end - 1}`);
    let why = "";
    try {
      request.send();
      if (request.status === 206 && request.response.byteLength === end - start) return new Uint8Array(request.response);
      why = request.status === 206 ? "ended too early" : `answered ${request.status}`;
    } catch {
      why = "cannot be reached";
    }
    if (failures === PAUSES.length) throw new Error(`the server ${why} in the middle of the model, after ${start} bytes`);
    for (const until = performance.now() + PAUSES[failures]; performance.now() < until; ); // Python cannot wait
  }
}
