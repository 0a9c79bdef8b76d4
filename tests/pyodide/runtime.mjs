// The part of the Pyodide test host that node and the browser share: operations on one Pyodide.

// Runs code in fresh globals and gives the value of its last expression as JSON.
const RUN = `
import json
from pyodide.code import eval_code_async

async def run(code):
    return json.dumps(await eval_code_async(code, {"__name__": "__main__"}, filename="<test>"))

run
`;

/** Starts Pyodide from `indexURL` with `packages`: names, and wheels by their place. */
export async function start(loadPyodide, indexURL, packages) {
  const silent = () => {};
  const pyodide = await loadPyodide({ indexURL, stdout: silent });
  await pyodide.loadPackage(packages, { messageCallback: silent });
  const runPython = pyodide.runPython(RUN);

  /** Answers {value: JSON} or {error: traceback}. */
  async function run(code) {
    try {
      return { value: await runPython(code) };
    } catch (error) {
      return { error: String(error.message ?? error) };
    }
  }

  function write(path, bytes) {
    pyodide.FS.writeFile(path, bytes);
    return {};
  }

  return { run, write };
}
