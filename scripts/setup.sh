#!/usr/bin/env bash
# Makes .venv with sparsefire in it, native and WebAssembly. For Debian and Ubuntu: missing tools come from apt-get;
# elsewhere install them first. Run again after a change to rebuild.
#   scripts/setup.sh [EXTRAS]      EXTRAS of pyproject.toml, by default wasmtime,calibrate,chat
# PYTHON names another Python than the first on the path from 3.11.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
extras=${1:-wasmtime,calibrate,chat}
. "$root/scripts/tools.sh"

need_tool gcc gcc libc6-dev
need_tool node nodejs
need_tool emcc emscripten
if [ -z "${PYTHON:-}" ]; then need_tool python3 python3 python3-dev python3-venv; fi
install_missing
check_node
python=$(find_python)
need_file "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" python3-dev
"$python" -c 'import ensurepip' 2>/dev/null || missing_packages+=(python3-venv)
install_missing
[ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"

"$root/build_wasm.sh"
# Optional, and so only where the compiler is there already.
if command -v clang-19 >/dev/null && command -v wasm-ld-19 >/dev/null; then "$root/scripts/build_wasm_modules.sh"; fi
"$root/.venv/bin/python" -m pip install --quiet --upgrade pip
"$root/.venv/bin/python" -m pip install --quiet -Cbuild-dir="$root/build/python" "$root[$extras]"
