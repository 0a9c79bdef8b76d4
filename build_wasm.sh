#!/usr/bin/env bash
# Builds the C core as a WebAssembly module, py/sparsefire/wasm/sparsefire_core.wasm (or the path given).
#
# Needs emcc, version 3.1.6 or newer, with strict SIMD only: the module runs in every browser since 2021, in node 16
# and newer, and in wasmtime. EMCC names another compiler driver.
set -euo pipefail

root=$(cd "$(dirname "$0")" && pwd)
. "$root/scripts/wasm_core.sh"
output=${1:-$root/py/sparsefire/wasm/sparsefire_core.wasm}
emcc=${EMCC:-emcc}
# Kernels for each of 26 weight formats take a large part of it.
max_bytes=$((400 * 1024))
# The one function that the module asks of its host: called after its memory has grown, when views of it are stale.
allowed_import=env.emscripten_notify_memory_growth

if ! command -v "$emcc" >/dev/null; then
  echo "build_wasm.sh: '$emcc' not found. Install Emscripten: 'apt-get install emscripten' (Debian, Ubuntu)," >&2
  echo "'brew install emscripten' (macOS), or https://emscripten.org/docs/getting_started/downloads.html" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile_core "$work" "$emcc"
exports=$(core_functions sparsefire.h | sed 's/^/_/' | paste -sd,)
"$emcc" -Os -msimd128 --no-entry "${objects[@]}" -o "$work/core.wasm" \
  -sSTANDALONE_WASM -sEXPORTED_FUNCTIONS="$exports" -sMALLOC=emmalloc \
  -sALLOW_MEMORY_GROWTH -sMAXIMUM_MEMORY=4GB -sTOTAL_STACK=262144

# Node comes with Emscripten.
node - "$work/core.wasm" "$allowed_import" <<'JS'
const [path, allowed] = process.argv.slice(2);
const module = new WebAssembly.Module(require("fs").readFileSync(path));
const imports = WebAssembly.Module.imports(module).map((entry) => `${entry.module}.${entry.name}`);
const unexpected = imports.filter((name) => name !== allowed);
if (unexpected.length > 0) {
  console.error(`build_wasm.sh: the module imports what no host gives it: ${unexpected.join(", ")}`);
  process.exit(1);
}
JS

bytes=$(wc -c <"$work/core.wasm")
if [ "$bytes" -gt "$max_bytes" ]; then
  echo "build_wasm.sh: the module has $bytes bytes, more than the $max_bytes that it may have" >&2
  exit 1
fi
mkdir -p "$(dirname "$output")"
cp "$work/core.wasm" "$output.new"
mv "$output.new" "$output"
# Modules for engines that can do more, of older sources; scripts/build_wasm_modules.sh makes them again.
rm -f "${output%.wasm}"_*.wasm
echo "$output: $bytes bytes"
