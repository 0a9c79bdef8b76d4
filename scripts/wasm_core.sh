# How the C core is compiled to WebAssembly, for the scripts that source this; `root` is the project's directory.

# The kernels for speed, without copies of loops whose trip counts only a run tells; the rest for size, above all what
# keeps the books and computes nothing. SIMD only: an
# engine without it refuses the whole module, so scalar kernels would never run.
core_flags=(-std=c99 -DNDEBUG -msimd128 -ffp-contract=off -Wall -Wextra -Werror
  -I"$root/core_c/include" -I"$root/core_c/src")
kernel_flags=(-O3 -mllvm -unroll-runtime=false -mllvm -unroll-allow-partial=false)
rest_flags=(-Os)
books_flags=(-Oz)

# compile_core DIRECTORY COMPILER FLAG…: compiles every file of the core into DIRECTORY, several at a time, and puts
# the object files into the array `objects`.
compile_core() {
  local directory=$1 source name options job jobs=()
  shift
  objects=()
  for source in "$root"/core_c/src/*/*.c; do
    name=$(basename "$source" .c)
    if [ "$name" = tiles_tmpl ]; then continue; fi # no engine has tiles
    case $name in
      kernels_tmpl) options=("${kernel_flags[@]}" -DSF_ISA_WASM128) ;;
      kv | layer | neuron_cache | passes | session) options=("${books_flags[@]}") ;;
      *) options=("${rest_flags[@]}") ;;
    esac
    "$@" "${core_flags[@]}" "${options[@]}" -c "$source" -o "$directory/$name.o" &
    jobs+=($!)
    objects+=("$directory/$name.o")
    while [ "$(jobs -r | wc -l)" -ge 4 ]; do wait -n; done
  done
  for job in "${jobs[@]}"; do wait "$job"; done
}

# core_functions HEADER: the functions of a header of the core, one a line.
core_functions() { sed -n 's/^SF_API .*[ *]\(sf_[a-z0-9_]*\)(.*/\1/p' "$root/core_c/include/$1"; }
