// Runs a line of Python in Pyodide in node, with folders of this machine in its file system, and prints its value.
//   node in_pyodide.mjs PYODIDE CODE [FOLDER=PLACE …]
import { pathToFileURL } from "node:url";

const [home, code, ...mounts] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${home}/pyodide.mjs`).href);
const silent = () => {};
const pyodide = await loadPyodide({ indexURL: home, stdout: silent });
await pyodide.loadPackage(["numpy"], { messageCallback: silent });
for (const mount of mounts) {
  const at = mount.lastIndexOf("=");
  const [root, place] = [mount.slice(0, at), mount.slice(at + 1)];
  pyodide.FS.mkdirTree(place);
  pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root }, place);
}
process.stdout.write(`${await pyodide.runPythonAsync(code)}\n`);
process.exit(0);
