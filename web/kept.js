// Where models are kept: the site's private file system (OPFS), in the directory "models". A download that is not
// complete has the ending .part, and beside it a note of where it comes from.

export const PART = ".part";
export const NOTE = ".part.json";

export const canKeep = () => Boolean(navigator.storage?.getDirectory);

export async function modelDirectory() {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle("models", { create: true });
}

/** A file in it, which `create` makes. */
export async function keptFile(name, create = false) {
  return (await modelDirectory()).getFileHandle(name, { create });
}

/** Whether an error says that another tab has the file open. */
export const isTaken = (error) => error?.name === "NoModificationAllowedError";
