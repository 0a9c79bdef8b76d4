"""The C tests: each program of tests/c, built and run in several ways."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from c_builds import BUILDS, Build, build
from conftest import missing

# The first test of a kind waits until it is built, and others are built at the same time.
pytestmark = pytest.mark.timeout(1500)


@pytest.mark.parametrize(
    ("kind", "program"),
    [
        pytest.param(kind, program, id=f"{kind.name}-{program}")
        for kind in BUILDS
        for program in kind.programs
    ],
)
def test_c(kind: Build, program: str) -> None:
    for tool in ("cmake", *kind.needs):
        if not shutil.which(tool):
            missing(f"{tool} is not installed; ./scripts/test.sh installs it")
    built = build(kind)
    if isinstance(built, str):
        pytest.fail(f"the C tests do not build:\n{built}", pytrace=False)
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        [*kind.runner, str(built / f"test_{program}{kind.suffix}")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


def test_the_installed_library_serves_other_projects() -> None:
    """Builds and runs core_c/example.c with either library, by find_package and by pkg-config."""
    for tool in ("cmake", "ctest", "gcc", "pkg-config"):
        if not shutil.which(tool):
            missing(f"{tool} is not installed; ./scripts/test.sh installs it")
    built = build(BUILDS[0])
    if isinstance(built, str):
        pytest.fail(f"the C tests do not build:\n{built}", pytrace=False)
    command = ["ctest", "--test-dir", str(built.parent), "-R", "^install$", "--no-tests=error"]
    done = subprocess.run([*command, "--output-on-failure"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
