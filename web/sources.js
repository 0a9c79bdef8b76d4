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

/** A file of the site, read piece by piece where its server sends pieces; null where it does not. */
export function ofUrl(url, size) {
  const fetchPiece = (offset, count) => {
    const request = new XMLHttpRequest();
    request.open("GET", url, false);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Range", `bytes=${offset}-${offset + count - 1}`);
    request.send();
    return request;
  };
  if (fetchPiece(0, 4).status !== 206) return null;
  return {
    size,
    read: (offset, count) => {
      const { status, response } = fetchPiece(offset, count);
      if (status !== 206) throw new Error(`the server answered ${status} in the middle of the model`);
      return new Uint8Array(response);
    },
    close: nothing,
  };
}
