// Reading a file in a worker, synchronously, since the Python side cannot wait.

/** (offset, count) → Uint8Array of a Blob or File. */
export function readBlob(blob) {
  const reader = new FileReaderSync();
  return (offset, count) => new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + count)));
}
