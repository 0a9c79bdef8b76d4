// sparsefire in a worker: Pyodide, numpy and the pure wheel, as the documentation has it for pages of one's own.
import { loadPyodide } from "/pyodide/pyodide.mjs";

const PYTHON = `
import sparsefire as sf
from sparsefire.page.engine import JsFile

async def load(read_at, size, name, threads, isa, companion):
    global model
    if threads > 1:
        backend = await sf.enable_threads(threads, isa=isa)
    else:
        backend = sf.use_backend("pyodide", isa=isa, threads=1)
    model = sf.Model.load(JsFile(read_at, size, name), context=512, companion=companion)
    model.tokenizer
    return backend.threads, backend.isa

def generate(prompt, tokens, mode, show):
    for piece in model.generate(prompt, max_tokens=tokens, temperature=0, mode=mode):
        show(piece)
`;

let pyodide;
let python;

async function load({ address, threads, isa, companion }) {
  pyodide = await loadPyodide({ indexURL: "/pyodide/", packages: ["numpy"], stdout: () => {} });
  pyodide.unpackArchive(await (await fetch("/sparsefire.whl")).arrayBuffer(), "wheel");
  pyodide.runPython(PYTHON);
  python = (name) => pyodide.globals.get(name);
  const bytes = new Uint8Array(await (await fetch(address)).arrayBuffer());
  const readAt = (offset, count) => bytes.subarray(offset, offset + count);
  const kept = companion && "/companion.gguf";
  if (kept) pyodide.FS.writeFile(kept, new Uint8Array(await (await fetch(companion)).arrayBuffer()));
  const got = await python("load")(readAt, bytes.length, address, threads, isa ?? undefined, kept);
  const [gotThreads, gotIsa] = got.toJs();
  return { threads: gotThreads, isa: gotIsa };
}

function generate({ prompt, tokens, mode }) {
  python("generate")(prompt, tokens, mode ?? undefined, (text) => self.postMessage({ text }));
  return {};
}

/** The value of the last expression, which is text. */
const run = ({ code }) => pyodide.runPython(code);

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ value: await { load, generate, run }[data.order](data) });
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};
