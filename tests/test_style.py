"""The linters, with the settings of pyproject.toml and .clang-format."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from conftest import ROOT, missing

C_FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("core_c", "py/ext", "tests/c")
    for path in (ROOT / folder).rglob("*.[ch]")
)

LINTERS = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy",),
    "import-linter": ("lint-imports", "--no-cache"),
    "clang-format": ("clang-format", "--dry-run", "-Werror", *C_FILES),
}


@pytest.mark.parametrize("linter", LINTERS)
def test_style(linter: str) -> None:
    command = LINTERS[linter]
    if not shutil.which(command[0]):
        missing(f"{command[0]} is not installed; scripts/test.sh installs it")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
