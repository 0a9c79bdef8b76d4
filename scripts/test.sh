#!/usr/bin/env bash
# Sets up everything that the tests need, and runs all of them; arguments go to pytest. A tool or browser that cannot be
# had fails its tests instead of skipping them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/tools.sh"

need_tool clang clang
need_tool pkg-config pkg-config
need_tool clang-format clang-format
need_tool clang-19 clang-19
need_tool wasm-ld-19 lld-19
need_tool aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
need_tool qemu-aarch64 qemu-user
need_tool npm npm
need_tool ccache ccache
command -v google-chrome >/dev/null || need_tool chromium-headless-shell chromium-headless-shell
command -v firefox >/dev/null || need_tool firefox-esr firefox-esr
need_tool WebKitWebDriver webkit2gtk-driver
need_tool Xvfb xvfb
install_missing
need_file "$(clang -print-resource-dir)/lib/linux/libclang_rt.tsan-$(uname -m).a" \
  "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev" # clang's thread sanitizer
install_missing
# The tests build packages and C tests of what setup compiles, now into a cache and with the same flags.
export CMAKE_ARGS=-DSPARSEFIRE_WERROR=ON
export CMAKE_C_COMPILER_LAUNCHER=ccache CCACHE_DIR="$root/.cache/ccache" CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=1
[ -d "$CCACHE_DIR" ] || rm -rf "$root/build/python"
"$root/scripts/setup.sh" wasmtime,calibrate,test,dev

cd "$root"
export PATH="$root/.venv/bin:$PATH"
workers=$(($(nproc) + 1)) # some tests wait, for browsers and servers
if [ "$workers" -gt 8 ]; then workers=8; fi
# What hangs ends with a summary: each test has its time (pyproject.toml), and so has the whole run.
SPARSEFIRE_CI=1 exec python -m pytest --numprocesses "$workers" --dist loadgroup --no-loadscope-reorder \
  --session-timeout 3000 "$@"
