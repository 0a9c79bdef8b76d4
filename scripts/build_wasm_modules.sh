#!/usr/bin/env bash
# Builds the further WebAssembly modules, beside the one of ../build_wasm.sh, for engines that can do more:
#   sparsefire_core_threads.wasm           memory that workers share
#   sparsefire_core_relaxed.wasm           relaxed SIMD instead of strict
#   sparsefire_core_relaxed_threads.wasm   both
# The package works without them. Needs clang 19 with its linker, and Emscripten's C library; all are Debian and Ubuntu
# packages.
#   scripts/build_wasm_modules.sh [DIRECTORY]      by default py/sparsefire/wasm
# CLANG and WASM_LD name other compilers and linkers, SYSROOT another C library.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/tools.sh"
. "$root/scripts/wasm_core.sh"
output=${1:-$root/py/sparsefire/wasm}
clang=${CLANG:-clang-19}
wasm_ld=${WASM_LD:-wasm-ld-19}
sysroot=${SYSROOT:-/usr/share/emscripten/cache/sysroot}
lib=$sysroot/lib/wasm32-emscripten
max_bytes=$((400 * 1024))

need_tool "$clang" clang-19
need_tool "$wasm_ld" lld-19
need_file "$lib" emscripten
install_missing

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t exports < <(core_functions sparsefire.h | sed 's/^/--export=/')
mapfile -t pool_exports < <(core_functions sparsefire_pool.h | sed 's/^/--export=/')

compiler=("$clang" --target=wasm32-unknown-emscripten -mbulk-memory
  -isystem "$sysroot/include/compat" -isystem "$sysroot/include")
compile_core "$work" "${compiler[@]}"
# What the further modules have another version of: the kernels, the list of instruction sets, the pool.
relaxed=("$work/kernels_tmpl-relaxed.o" "$work/isa-relaxed.o")
"${compiler[@]}" "${core_flags[@]}" "${kernel_flags[@]}" -mrelaxed-simd -DSF_ISA_RELAXED128 \
  -c "$root/core_c/src/kernels/kernels_tmpl.c" -o "$work/kernels_tmpl-relaxed.o"
"${compiler[@]}" "${core_flags[@]}" "${rest_flags[@]}" -DSF_WASM_RELAXED -c "$root/core_c/src/kernels/isa.c" -o "$work/isa-relaxed.o"
"${compiler[@]}" "${core_flags[@]}" "${rest_flags[@]}" -matomics -c "$root/core_c/src/base/pool.c" -o "$work/pool-threads.o"

# link NAME FLAG-OR-OBJECT…: every object of the core but those that another version of the same name replaces.
link() {
  local name=$1 object bytes inputs=()
  shift
  for object in "${objects[@]}"; do
    case " $* " in *"${object%.o}-"*) ;; *) inputs+=("$object") ;; esac
  done
  # The C library is the one for a single thread: helpers compute, and only the calling thread takes memory.
  "$wasm_ld" --no-check-features --entry=_initialize --global-base=1024 -z stack-size=262144 \
    --initial-memory=16777216 --max-memory=4294967296 --import-undefined --strip-all -O2 "${exports[@]}" \
    "$lib/crt1_reactor.o" "${inputs[@]}" "$@" -L"$lib" -lstandalonewasm-memgrow -lstubs -lnoexit -lc -lemmalloc \
    -lcompiler_rt -o "$work/$name.wasm"
  bytes=$(wc -c <"$work/$name.wasm")
  if [ "$bytes" -gt "$max_bytes" ]; then
    echo "build_wasm_modules.sh: $name has $bytes bytes, more than the $max_bytes that it may have" >&2
    exit 1
  fi
  mkdir -p "$output"
  mv "$work/$name.wasm" "$output/$name.wasm"
  echo "$output/$name.wasm: $bytes bytes"
}

# What the host that starts the helpers needs.
threads=("$work/pool-threads.o" --shared-memory --import-memory "${pool_exports[@]}" --export=__stack_pointer)
link sparsefire_core_threads "${threads[@]}"
link sparsefire_core_relaxed "${relaxed[@]}"
link sparsefire_core_relaxed_threads "${relaxed[@]}" "${threads[@]}"
