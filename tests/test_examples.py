"""The examples run, and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from conftest import ROOT, missing
from sparsefire.weights.formats import WRITTEN_FORMATS


def run(name: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def cells(output: str, first: str) -> list[str]:
    """The columns of the line that begins with `first`."""
    return next(line for line in output.splitlines() if line.startswith(first)).split()


def test_basic_inference() -> None:
    output = run("basic_inference.py")
    assert cells(output, "dense")[1:4] == ["100.0%", "100.0%", "0.0e+00"]
    assert float(cells(output, "exact")[3]) < 1e-4
    predicted = cells(output, "predicted")
    assert float(predicted[1].rstrip("%")) < 50
    assert float(predicted[3]) < 0.2
    assert float(cells(output, "last neurons")[4]) > 0.3
    # What the text says comes from the table.
    words = " ".join(output.split())
    kept = float(predicted[2].rstrip("%")) / float(cells(output, "exact")[2].rstrip("%"))
    assert (
        abs(float(words.split("bytes, finds ")[1].split("%")[0]) / 100 - kept) < 0.08
    )  # of rounded shares
    missed = float(words.split("error of ")[1].split("%")[0]) / 100
    assert abs(missed - float(predicted[3])) < 0.002
    assert "5.3% of the layer's bytes" in words


def test_calibration(tmp_path: Path) -> None:
    if find_spec("matplotlib") is None:
        missing("matplotlib is not installed; pip install 'sparsefire[examples]'")
    png = tmp_path / "curves.png"
    arguments = ["--tokens", "1500", "--ranks", "32", "--png", str(png)]
    # Where making its cache of fonts takes long, matplotlib says so on standard error.
    environment = {"MPLCONFIGDIR": str(tmp_path)}
    command = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    output = run("calibration.py", *arguments, **environment)
    rank = cells(output, "rank 32")
    assert float(rank[5].rstrip("%")) > 90  # recall
    assert float(rank[3].rstrip("%")) < 60  # selected
    signs = [line.split() for line in output.splitlines() if line.startswith("signs")]
    recalls = [float(line[6].rstrip("%")) for line in signs]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 95
    assert png.read_bytes().startswith(b"\x89PNG")


def test_quantization() -> None:
    output = run("quantization.py")
    assert float(cells(output, "f32")[3]) == 0
    assert 0 < float(cells(output, "f16")[3]) < 1e-3
    assert float(cells(output, "q8_0")[1]) == 8.5
    assert "4-bit" in output
    assert all(len(cells(output, f"{name} ")) == 7 for name in WRITTEN_FORMATS)
    words = " ".join(output.split())
    before, after = (
        float(words.split(f" {word}")[0].split()[-1]) for word in ("before,", "after,")
    )
    ratio = float(words.split("that is ")[1].split()[0])
    assert abs(ratio - after / before) < 0.02


def test_benchmarks() -> None:
    output = run("benchmarks.py", "--shape", "64x128", "--repeats", "2")
    assert output.count("50.0% active") == 2  # a line for each host
    for host in ("native", "wasmtime"):
        assert f"{host}, " in output
