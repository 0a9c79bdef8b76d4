#!/usr/bin/env bash
# Compiles and links the core, the C tests and the Python extension for systems other than this one, with every warning
# an error, and runs the C tests where that is possible: those for Windows under wine64, those for musl here.
#   scripts/cross_build.sh [TARGET…]      by default all of them:
#     x86_64-windows-gnu aarch64-macos x86_64-macos x86_64-linux-musl
# Built files and tools are kept in build/cross; the first build takes some minutes, most of them for the C libraries.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/tools.sh"
. "$root/scripts/zig.sh"
targets=("$@")
if [ $# -eq 0 ]; then targets=(x86_64-windows-gnu aarch64-macos x86_64-macos x86_64-linux-musl); fi
kept=$root/build/cross
wine=$(command -v wine64 || command -v /usr/lib/wine/wine64 || true)

headers=$("$(find_python)" -c 'import sysconfig; print(sysconfig.get_path("include"))')
need_file "$headers/Python.h" python3-dev
install_missing
zig_environment "$root/build/tools"
export PATH="$tools:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Python's headers, with what they are told about the machine replaced: for processors of 64 bits.
mkdir "$work/python"
ln -s "$headers"/* "$work/python/"
rm "$work/python/pyconfig.h"
cat >"$work/python/pyconfig.h" <<'H'
#define ALIGNOF_MAX_ALIGN_T 16
#define ALIGNOF_SIZE_T 8
#define HAVE_SSIZE_T 1
#define HAVE_STDARG_PROTOTYPES 1
#define SIZEOF_DOUBLE 8
#define SIZEOF_FLOAT 4
#define SIZEOF_FPOS_T 8
#define SIZEOF_INT 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_OFF_T 8
#define SIZEOF_PID_T 4
#define SIZEOF_SHORT 2
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_UINTPTR_T 8
#define SIZEOF_VOID_P 8
#define WITH_THREAD 1
#ifdef _WIN32
#define ALIGNOF_LONG 4
#define HAVE_DECLSPEC_DLL 1
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define Py_ENABLE_SHARED 1
#define SIZEOF_LONG 4
#define SIZEOF_WCHAR_T 2
#else
#define ALIGNOF_LONG 8
#define SIZEOF_LONG 8
#define SIZEOF_WCHAR_T 4
#endif
H

# build_core TARGET: the core and its tests, in $kept/TARGET.
build_core() {
  local target=$1 options=(-DCMAKE_BUILD_TYPE=Release -DSPARSEFIRE_TESTS=ON -DSPARSEFIRE_WERROR=ON)
  case $target in
    *-windows-*) options+=(-DCMAKE_SYSTEM_NAME=Windows) ;;
    *-macos) options+=(-DCMAKE_SYSTEM_NAME=Darwin) ;;
    *-linux-*) options+=(-DCMAKE_SYSTEM_NAME=Linux) ;;
  esac
  zig_compiler "$target" "$kept/$target/bin"
  cmake -G Ninja -S "$root/core_c" -B "$kept/$target" "${options[@]}" "-DCMAKE_SYSTEM_PROCESSOR=${target%%-*}" \
    "-DCMAKE_C_COMPILER=$kept/$target/bin/cc" "-DCMAKE_AR=$kept/$target/bin/ar" \
    "-DCMAKE_RANLIB=$kept/$target/bin/ranlib" -DCMAKE_POSITION_INDEPENDENT_CODE=ON >/dev/null
  cmake --build "$kept/$target" >"$work/build.log" || {
    cat "$work/build.log"
    return 1
  }
}

# build_extension TARGET: the Python extension, linked without Python where the system lets Python's own functions be
# found at run time, and on Windows against a library that says that python3.dll has them.
build_extension() {
  local target=$1 compiler=$kept/$1/bin/cc object=$work/_native.o output=$kept/$1/_native.abi3.so libraries=()
  "$compiler" -std=c99 -O2 -fPIC -Wall -Wextra -Wconversion -Werror -DPy_LIMITED_API=0x030b0000 \
    -isystem "$work/python" -I"$root/core_c/include" -c "$root/py/ext/_native.c" -o "$object"
  case $target in
    *-windows-*)
      output=$kept/$target/_native.pyd
      { echo 'LIBRARY python3.dll'; echo EXPORTS; python_symbols "$object"; } >"$work/python3.def"
      "$zig" dlltool -m i386:x86-64 -d "$work/python3.def" -l "$work/libpython3.a"
      libraries=("$work/libpython3.a")
      ;;
    *-macos) libraries=(-undefined dynamic_lookup) ;;
  esac
  "$compiler" -shared "$object" "$kept/$target/libsparsefire.a" "${libraries[@]}" -o "$output"
  echo "$target: linked ${output#"$root/"}"
}

# python_symbols OBJECT: the functions and data of Python that an object file uses, as lines of a .def file.
python_symbols() {
  strings -n 3 "$1" | sed -n 's/^__imp_\(_\{0,1\}Py[A-Za-z_]*\)$/\1/p' | sort -u |
    sed 's/^\(PyExc_.*\|_Py_[A-Za-z]*Struct\|Py[A-Za-z]*_Type\)$/\1 DATA/'
}

# run_tests TARGET: the C tests, where they can be run.
run_tests() {
  local target=$1 runner=() program said
  case $target in
    "$(uname -m)"-linux-*) ;;
    *-windows-*)
      if [ -z "$wine" ]; then
        echo "$target: compiled, not run: there is no wine64"
        return
      fi
      runner=("$wine")
      # A prefix of its own, and nothing of wine's beside the tests' own output.
      export HOME=$work WINEPREFIX=$work/wine WINEARCH=win64 WINEDEBUG=-all
      ;;
    *)
      echo "$target: compiled, not run"
      return
      ;;
  esac
  for program in "$kept/$target"/tests/test_*; do
    case $program in *.exe) ;; *.*) continue ;; esac
    [ -f "$program" ] || continue
    said=$("${runner[@]}" "$program" 2>&1) || {
      echo "$said"
      return 1
    }
    echo "$target: $(basename "$program"): ${said##*$'\n'}"
  done
}

for target in "${targets[@]}"; do
  build_core "$target"
  build_extension "$target"
  run_tests "$target"
done
