#!/usr/bin/env bash
# Builds the wheel for Pyodide into a directory: Python and the WebAssembly module, no compiled extension, so that one
# wheel (py3-none-any) installs everywhere. Run ./build_wasm.sh first.
#   scripts/build_web_wheel.sh DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ ! -f "$root/py/sparsefire/wasm/sparsefire_core.wasm" ]; then
  echo "build_web_wheel.sh: the WebAssembly module is not built, and a wheel without it runs nowhere: run ./build_wasm.sh first" >&2
  exit 1
fi
options=(--quiet --no-deps --wheel-dir "${1:?usage: build_web_wheel.sh DIRECTORY}")
# With the build backend installed, no environment of its own has to be made for the build.
if "$python" -c "import scikit_build_core" 2>/dev/null; then options+=(--no-build-isolation); fi
exec "$python" -m pip wheel "${options[@]}" \
  -Cwheel.cmake=false "-Cwheel.exclude=**/*.so;**/__pycache__" -Cwheel.py-api=py3 -Cwheel.platlib=false "$root"
