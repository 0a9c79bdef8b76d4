"""The command line with standard streams that are closed, absent, or that nobody reads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_variants import variant_path
from sparsefire.cli import main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell's redirections")


def run(arguments: str, redirections: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m sparsefire {arguments} {redirections}"
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def model() -> Path:
    return variant_path("calibrated")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("inspect '{}'", 0), ("inspect '{}' --json", 0), ("inspect no-such-file", 1), ("--help", 0)],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_output(model: Path, arguments: str, status: int, closed: str) -> None:
    """What would be printed there goes nowhere, and the status is that of the work."""
    found = run(arguments.format(model), closed)
    assert found.returncode == status, found
    assert "Traceback" not in found.stderr
    assert found.stderr.count("\n") <= 1


@pytest.mark.parametrize("arguments", ["inspect '{}'", "inspect '{}' --metadata", "--help"])
def test_a_reader_that_is_gone(model: Path, arguments: str) -> None:
    found = run(arguments.format(model), "| true")
    assert found.stderr == ""


def test_errors_that_nobody_reads() -> None:
    found = run("inspect no-such-file", "2>&1 >/dev/null | true")
    assert (found.stdout, found.stderr) == ("", "")


def test_closed_input(model: Path) -> None:
    found = run(f"perplexity -m '{model}' --text -", "<&-")
    assert found.returncode == 2
    assert found.stderr == "sparsefire: error: -: standard input is closed\n"
    found = run(f"generate -m '{model}' -n 1 ab --temp 0", "<&-")
    assert found.returncode == 0, found


@pytest.mark.parametrize("closed", [True, False])
def test_streams_of_a_program_without_them(
    model: Path, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under pythonw, or in a program that closed its own."""
    stream = None
    if closed:
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["inspect", str(model)]) == 0
    assert main(["inspect", "no-such-file"]) == 1
    assert sys.stdout is stream
    assert sys.stderr is stream
