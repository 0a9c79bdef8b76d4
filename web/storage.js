// The directory "models" in the origin private file system (OPFS). A partial download has the suffix .part and a JSON
// file beside it that records its source.

export const PART = ".part";
export const NOTE = ".part.json";

/** Rejects where the browser cannot store models; private windows may refuse at the first access. */
export async function checkStorage() {
  const methods = self.FileSystemFileHandle?.prototype ?? {};
  for (const name of ["createSyncAccessHandle", "move"]) {
    if (!(name in methods)) throw new Error(`the browser's private file system has no ${name}()`);
  }
  await modelDirectory();
}

export async function modelDirectory() {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle("models", { create: true });
}

/** Handle of a stored model. */
export async function storedFile(name) {
  return (await modelDirectory()).getFileHandle(name);
}

/** Whether an error means that another tab has the file open. */
export const isLocked = (error) => error?.name === "NoModificationAllowedError";
