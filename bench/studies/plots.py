"""The two plots of docs/results.md: speed against sparsity on each host, and a roofline.

    python -m bench.studies.plots speed      # docs/images/speed-against-sparsity.png
    python -m bench.studies.plots roofline   # docs/images/roofline.png

Needs matplotlib; the curve of Pyodide also needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefire.bench.ffn import bench_ffn
from sparsefire.core import hosts
from sparsefire.lm.opening import default_model
from sparsefire.weights.formats import weight_format
from sparsefire.weights.matrix import Matrix

from ..browser.site import python_page
from ..lib.command import run_program
from ..lib.layers import MIDDLE
from ..lib.peer_files import ROOT, peer
from ..lib.timing import interleave

IMAGES = ROOT / "docs" / "images"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SPEED_FORMATS = ("f32", "q8_0", "q4_0")
ROOFLINE_FORMATS = ("f32", "f16", "q8_0", "q4_0", "q4_k")
ROOFLINE_SHAPE, BATCHES = (5632, 2048), (1, 4, 16, 64)

FloatArray = npt.NDArray[np.float32]
Curve = list[tuple[float, float, float]]  # active share, speed-up, limit


def speed() -> Path:
    """Speed-up over dense against the active share, predictor included."""
    curves = {
        "native, 1 thread": _local("native"),
        "wasmtime": _local("wasmtime"),
        "Pyodide in Chromium": _pyodide(),
    }
    figure, axes = _pyplot().subplots(1, len(curves), figsize=(13, 4.2), sharey=True)
    for axis, (host, by_format) in zip(axes, curves.items(), strict=True):
        for format, curve in by_format.items():
            shares, speeds, limits = np.array(curve).T
            (line,) = axis.plot(100 * shares, speeds, "o-", label=format)
            axis.plot(100 * shares, limits, ":", color=line.get_color(), alpha=0.7)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(title=host, xlabel="active neurons, %", xscale="log", yscale="log")
        axis.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
        axis.set_yticks([1, 2, 5, 10, 20], ["1×", "2×", "5×", "10×", "20×"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("speed over dense (dotted: limit 1/(a+ρ))")
    axes[0].legend()
    return _save(figure, "speed-against-sparsity.png")


def _local(host: str) -> dict[str, Curve]:
    core = hosts.open_core(host, threads=1)
    curves: dict[str, Curve] = {}
    for format in SPEED_FORMATS:
        curves[format] = []
        for share in SHARES:
            report = bench_ffn(
                *MIDDLE,
                gated=True,
                format=format,
                active=share,
                repeats=21,
                core=core,
            )
            curves[format].append((share, report.speedup, report.limit))
            print(f"{host} {format} {share:.0%}: {report.speedup:.2f}×", file=sys.stderr)
    return curves


def _pyodide() -> dict[str, Curve]:
    """The same under Pyodide."""
    code = f"""
import json
from sparsefire.bench.ffn import bench_ffn
curves = {{}}
for format in {SPEED_FORMATS!r}:
    curves[format] = []
    for share in {SHARES!r}:
        report = bench_ffn(*{MIDDLE!r}, gated=True, format=format, active=share, repeats=15)
        curves[format].append((share, report.speedup, report.limit))
json.dumps(curves)
"""
    with python_page(default_model()) as python:
        curves: dict[str, Curve] = json.loads(python(code))
    return curves


def roofline() -> Path:
    """Products with 1 to 64 vectors, against what memory and arithmetic allow on one thread."""
    limits, pyplot = peer("threadpoolctl"), _pyplot()
    core = hosts.open_core("native", threads=1)
    random = np.random.default_rng(0)
    values = random.standard_normal(ROOFLINE_SHAPE, np.float32)
    rows, columns = ROOFLINE_SHAPE
    runs: dict[str, Callable[[int], object]] = {}
    square = random.standard_normal((1024, 1024), np.float32)
    big = random.standard_normal(64 << 20, np.float32)  # 256 MiB
    runs["sgemm"] = lambda _i: square @ square
    runs["read"] = lambda _i: np.dot(big, big)
    for format in ROOFLINE_FORMATS:
        matrix = Matrix.from_array(values, format, core)
        for n in BATCHES:
            x = random.standard_normal((n, columns), np.float32)
            out = np.empty((n, rows), np.float32)
            runs[f"{format} {n}"] = _product(matrix, x, out)
    with limits.threadpool_limits(1, user_api="blas"):
        times = interleave(runs, 40.0, 60)
    peak = 2 * 1024**3 / times["sgemm"].median / 1e9
    bandwidth = big.nbytes / times["read"].median / 1e9
    figure, axis = pyplot.subplots(figsize=(7.5, 5))
    intensity = np.geomspace(0.3, 300, 50)
    roof = np.minimum(peak, bandwidth * intensity)
    axis.plot(intensity, roof, "k-", linewidth=1)
    axis.text(0.35, bandwidth * 0.42, f"memory {bandwidth:.0f} GB/s", rotation=38)
    axis.text(60, peak * 1.05, f"F32 arithmetic {peak:.0f} GFLOP/s (OpenBLAS)", ha="center")
    for format in ROOFLINE_FORMATS:
        row_bytes = weight_format(format).row_bytes(columns)
        points = [
            (2 * n * columns / row_bytes, 2e-9 * n * rows * columns / times[f"{format} {n}"].median)
            for n in BATCHES
        ]
        axis.plot(*np.array(points).T, "o-", label=format, markersize=5)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="operations for each byte of weights (1, 4, 16 and 64 vectors)",
        ylabel="GFLOP/s",
        title=f"{rows}×{columns}, {core.isa}, 1 thread",
    )
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return _save(figure, "roofline.png")


def _product(matrix: Matrix, x: FloatArray, out: FloatArray) -> Callable[[int], object]:
    return lambda _i: matrix.multiply(x, out=out)


def _pyplot() -> Any:
    peer("matplotlib").use("Agg")
    return peer("matplotlib.pyplot")


def _save(figure: Any, name: str) -> Path:
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / name
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Makes the plot that the command line names."""
    plots = {"speed": speed, "roofline": roofline}
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.plots", description="The plots of docs/results.md."
    )
    parser.add_argument("plot", choices=plots)
    print(plots[parser.parse_args().plot]())


if __name__ == "__main__":
    run_program(main)
