// The directory "models" in the origin private file system (OPFS). The files of a split model are stored end to end as one
// file, and a JSON file records their names and sizes. A partial download or copy has the suffix .part, and a JSON file
// records its source. A file with the suffix .companion is what was calibrated
// here for a model. The directory "conversations" has a JSON file for each model.

export const PARTIAL = ".part";
export const NOTE = ".part.json";
export const PARTS = ".parts.json";
export const COMPANION = ".companion";

/** Rejects where the browser cannot store models; private windows may refuse at the first access. */
export async function checkStorage() {
  const methods = self.FileSystemFileHandle?.prototype ?? {};
  for (const name of ["createSyncAccessHandle", "move"]) {
    if (!(name in methods)) throw new Error(`the browser's private file system has no ${name}()`);
  }
  await modelDirectory();
}

export async function openDirectory(name) {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(name, { create: true });
}

export const modelDirectory = () => openDirectory("models");

/** A handle's file, or null where it does not exist any more. */
export async function readFile(handle) {
  try {
    return await handle.getFile();
  } catch (error) {
    if (error.name !== "NotFoundError") throw error;
    return null;
  }
}

/** The value in a JSON file, or null where the file does not exist or is damaged. */
export async function readJson(directory, name) {
  try {
    const handle = await directory.getFileHandle(name);
    return JSON.parse(await (await handle.getFile()).text());
  } catch {
    return null;
  }
}

/** Whether an error means that another tab has the file open. */
export const isLocked = (error) => error?.name === "NoModificationAllowedError";

/** Removes a file, if it exists. */
export async function removeFile(directory, name) {
  try {
    await directory.removeEntry(name);
  } catch (error) {
    if (error.name !== "NotFoundError") throw error;
  }
}

/** Writes a value to a JSON file; for workers, as what follows. */
export async function writeJson(directory, name, value) {
  const handle = await directory.getFileHandle(name, { create: true });
  const access = await handle.createSyncAccessHandle();
  try {
    access.truncate(0);
    access.write(new TextEncoder().encode(JSON.stringify(value)), { at: 0 });
  } finally {
    access.close();
  }
}

export function write(access, bytes, at) {
  let written = 0;
  try {
    written = access.write(bytes, { at });
  } catch (error) {
    throw full(error);
  }
  if (written < bytes.length) throw full();
}

/** Bytes of storage in use and available, {} where the browser does not say. */
export async function estimate() {
  const { usage, quota } = (await navigator.storage.estimate?.()) ?? {};
  return { usage, quota };
}

/** An error with a message for the user; `retry`: trying again may succeed. */
export const failure = (message, kind, retry = false) => Object.assign(new Error(message), { kind, retry });

/** The error for a full disk, or `error` where it has another cause. */
export const full = (error) =>
  error && error.name !== "QuotaExceededError"
    ? error
    : failure("the browser has no more storage for this site; delete a model from the list or free some disk space", "Full");
