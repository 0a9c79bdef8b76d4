#!/usr/bin/env bash
# Builds wheels for Pyodide with the compiled extension in them, so that numpy's memory is the core's own and nothing is
# copied: one wheel for each platform that Pyodide versions name. Needs clang 19 with its linker, for their target
# wasm32-unknown-emscripten, and Emscripten's C headers; all are Debian and Ubuntu packages. Run ./build_wasm.sh first.
#   scripts/build_pyodide_extension.sh DIRECTORY
# CLANG and WASM_LD name other compilers and linkers; SYSROOT_INCLUDE the C headers; PYTHON a Python from 3.11, whose
# headers are used.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/tools.sh"
. "$root/scripts/wasm_core.sh"
output=${1:?usage: build_pyodide_extension.sh DIRECTORY}
clang=${CLANG:-clang-19}
wasm_ld=${WASM_LD:-wasm-ld-19}
sysroot=${SYSROOT_INCLUDE:-/usr/share/emscripten/cache/sysroot/include}
# Pyodide 0.27 with Python 3.12, and 314 with Python 3.14.
platforms=(pyodide_2024_0_wasm32 pyemscripten_2026_0_wasm32)

need_tool "$clang" clang-19
need_tool "$wasm_ld" lld-19
need_file "$sysroot" emscripten
install_missing
python=$(find_python)
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
need_file "$headers/Python.h" python3-dev
install_missing

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Python's headers, with what they are told about the machine replaced: pointers, size_t and long of 4 bytes.
mkdir "$work/python"
ln -s "$headers"/* "$work/python/"
rm "$work/python/pyconfig.h"
cat >"$work/python/pyconfig.h" <<'H'
#define ALIGNOF_LONG 4
#define ALIGNOF_MAX_ALIGN_T 8
#define ALIGNOF_SIZE_T 4
#define HAVE_STDARG_PROTOTYPES 1
#define HAVE_UINTPTR_T 1
#define PY_FORMAT_SIZE_T "z"
#define SIZEOF_DOUBLE 8
#define SIZEOF_FLOAT 4
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_OFF_T 8
#define SIZEOF_PID_T 4
#define SIZEOF_PTHREAD_KEY_T 4
#define SIZEOF_PTHREAD_T 4
#define SIZEOF_SHORT 2
#define SIZEOF_SIZE_T 4
#define SIZEOF_TIME_T 8
#define SIZEOF_UINTPTR_T 4
#define SIZEOF_VOID_P 4
#define SIZEOF_WCHAR_T 4
#define SIZEOF__BOOL 1
#define WITH_THREAD 1
H

# A side module: code and data go wherever Pyodide puts them, and the C library is Pyodide's own.
compiler=("$clang" --target=wasm32-unknown-emscripten -fPIC -fvisibility=hidden
  -isystem "$sysroot/compat" -isystem "$sysroot")
compile_core "$work" "${compiler[@]}"
"${compiler[@]}" "${core_flags[@]}" "${rest_flags[@]}" -DPy_LIMITED_API=0x030b0000 -isystem "$work/python" \
  -c "$root/py/ext/_native.c" -o "$work/_native.o"
"$wasm_ld" --experimental-pic -shared --no-entry -Bsymbolic --strip-debug --unresolved-symbols=import-dynamic \
  --export=PyInit__native "$work/_native.o" "${objects[@]}" -o "$work/_native.abi3.so"

mkdir "$work/wheel"
PYTHON="$python" "$root/scripts/build_web_wheel.sh" "$work/wheel"
for platform in "${platforms[@]}"; do
  "$python" "$root/scripts/add_extension.py" "$work"/wheel/sparsefire-*.whl "$work/_native.abi3.so" \
    "cp311-abi3-$platform" "$output"
done
