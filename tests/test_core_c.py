"""The C tests: each program of tests/c, built and run in several ways."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from conftest import ROOT, missing

PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "c").glob("test_*.c"))


@dataclass(frozen=True)
class Build:
    """One way to build and run the C tests."""

    name: str
    needs: tuple[str, ...]
    options: tuple[str, ...]
    runner: tuple[str, ...] = ()
    configurer: tuple[str, ...] = ()
    suffix: str = ""


BUILDS = (
    Build("gcc", ("gcc",), ("-DCMAKE_C_COMPILER=gcc",)),
    Build("clang", ("clang",), ("-DCMAKE_C_COMPILER=clang",)),
    Build(
        "memory-sanitized",
        ("gcc",),
        ("-DCMAKE_C_COMPILER=gcc", "-DSPARSEFIRE_SANITIZE=ON", "-DCMAKE_C_FLAGS=-g"),
    ),
    Build(
        "thread-sanitized",
        ("gcc",),
        ("-DCMAKE_C_COMPILER=gcc", "-DCMAKE_C_FLAGS=-fsanitize=thread -g"),
    ),
    Build(
        "aarch64",
        ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
        (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
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
    directory = ROOT / ".cache" / "c-tests" / kind.name
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
    for command in (configure, ["cmake", "--build", str(directory), "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return directory / "tests"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", BUILDS, ids=lambda kind: kind.name)
def test_c(kind: Build, program: str) -> None:
    for tool in ("cmake", *kind.needs):
        if not shutil.which(tool):
            missing(f"{tool} is not installed; ./scripts/test.sh installs it")
    built = build(kind)
    if isinstance(built, str):
        pytest.fail(f"the C tests do not build:\n{built}", pytrace=False)
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        [*kind.runner, str(built / (program + kind.suffix))],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
