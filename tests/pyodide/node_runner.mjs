// Pyodide in node: reads one operation a line from standard input, writes one answer a line.
import fs from "node:fs";
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import { start } from "./runtime.mjs";

const [home, wheel, ...packages] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(fs.readFileSync(path));
const { loadPyodide } = await import(pathToFileURL(`${home}/pyodide.mjs`).href);
const runtime = await start(loadPyodide, home, [...packages.filter(Boolean), wheel]);

const operations = {
  start: () => ({}),
  run: (message) => runtime.run(message.code),
  write: (message) => runtime.write(message.path, bytes(message.source)),
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  const answer = await operations[message.operation](message);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
