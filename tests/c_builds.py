"""Builds of the C core and its tests: compilers, sanitizers, other processors, WebAssembly."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conftest import ROOT
from shared import locked

PROGRAMS = tuple(
    sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests/c").glob("test_*.c"))
)


@dataclass(frozen=True)
class Build:
    """One way to build and run the C tests."""

    name: str
    needs: tuple[str, ...]
    options: tuple[str, ...]
    runner: tuple[str, ...] = ()
    configurer: tuple[str, ...] = ()
    suffix: str = ""
    programs: tuple[str, ...] = PROGRAMS


# The kernels compile in half the time. As they are shipped, with -O3, gcc's build tests them here,
# and the Python tests on every host.
QUICK = "-DCMAKE_C_FLAGS_RELEASE=-O1"
# Compiled as the extension is, whose objects a compiler cache gives again.
AS_EXTENSION = ("-DCMAKE_POSITION_INDEPENDENT_CODE=ON", "-DCMAKE_C_VISIBILITY_PRESET=hidden")
# The programs in which several threads compute. They share data in the same places with every
# instruction set, so that one is enough.
THREADED = ("core", "experts", "memory", "model", "neurons")
ONE_ISA = "-DSPARSEFIRE_WITHOUT=scalar;avx2;avx2_vnni;avx512;avx512_vnni"

BUILDS = (
    Build(
        "gcc",
        ("gcc",),
        (
            "-DCMAKE_C_COMPILER=gcc",
            "-DSPARSEFIRE_SHARED=ON",  # for the test of the installed library
            *AS_EXTENSION,
        ),
    ),
    Build(
        "memory-sanitized",
        ("gcc",),
        (
            "-DCMAKE_C_COMPILER=gcc",
            "-DSPARSEFIRE_SANITIZE=ON",
            "-DCMAKE_C_FLAGS=-g",
            "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",  # for an extension module, see sanitized.py
        ),
    ),
    Build(
        "thread-sanitized",
        ("clang",),
        (
            "-DCMAKE_C_COMPILER=clang",
            "-DCMAKE_C_FLAGS=-fsanitize=thread -g",
            QUICK,
            ONE_ISA,
        ),
        programs=THREADED,
    ),
    Build(
        "aarch64",
        ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
        (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
            QUICK,
        ),
        ("qemu-aarch64",),
    ),
    Build(
        "wasm",
        ("emcmake", "node"),
        # One file, since an old Emscripten looks for the second in a way that fails in a new node.
        ("-DCMAKE_EXE_LINKER_FLAGS=-sSINGLE_FILE",),
        ("node",),
        ("emcmake",),
        ".js",
    ),
)


@cache
def build(kind: Build) -> Path | str:
    """The directory of the built programs, or what the build printed when it failed."""
    with locked(f"c-{kind.name}") as directory:
        return _build(kind, directory)


def _build(kind: Build, directory: Path) -> Path | str:
    configure = [
        *(
            *kind.configurer,
            "cmake",
            "-S",
            str(ROOT / "core_c"),
            "-B",
            str(directory),
            "-DCMAKE_BUILD_TYPE=Release",
        ),
        *("-DSPARSEFIRE_TESTS=ON", "-DSPARSEFIRE_WERROR=ON", *kind.options),
    ]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    targets = [f"test_{program}" for program in kind.programs]
    if kind.programs == PROGRAMS:
        targets = ["all"]
    compilation = ["cmake", "--build", str(directory), "--parallel", "--target", *targets]
    for command in (configure, compilation):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return directory / "tests"
