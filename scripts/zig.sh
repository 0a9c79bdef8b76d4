# Compilers for other systems, for the scripts that source this: clang with the C libraries of Linux, Windows and macOS,
# in PyPI's package ziglang. `root` is the project's directory; tools.sh is sourced.

# zig_environment DIRECTORY PACKAGE…: a virtual environment with ziglang, CMake, Ninja and the packages, kept in
# DIRECTORY; sets `tools`, where its programs are, and `zig`.
zig_environment() {
  local directory=$1
  shift
  tools=$directory/bin
  [ -x "$tools/python" ] || "$(find_python)" -m venv "$directory"
  "$tools/python" -m pip install --quiet --disable-pip-version-check ziglang cmake ninja "$@"
  zig=$("$tools/python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')/zig
}

# zig_compiler TARGET DIRECTORY: writes cc, ar and ranlib for TARGET into DIRECTORY. Zig's cache, where it keeps the C
# libraries that it has built, is beside the environment.
zig_compiler() {
  local target=$1 directory=$2 name
  mkdir -p "$directory"
  for name in cc ar ranlib; do
    {
      echo '#!/bin/sh'
      echo "ZIG_GLOBAL_CACHE_DIR='$tools/../zig-cache' ZIG_LOCAL_CACHE_DIR='$tools/../zig-cache' \\"
      printf "exec '%s' %s" "$zig" "$name"
      if [ "$name" = cc ]; then printf ' -target %s' "$target"; fi
      echo ' "$@"'
    } >"$directory/$name"
    chmod +x "$directory/$name"
  done
}
