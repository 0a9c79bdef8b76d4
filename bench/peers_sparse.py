"""The predicted sparse layer against our own dense one: how much of the limit is reached."""

from __future__ import annotations

from collections.abc import Iterator

from rows import Row
from sparsefire import _core
from sparsefire.bench import bench_ffn

# Shape → format → the efficiency aimed at.
TARGETS = {
    (4096, 11008): {"f32": 0.9, "f16": 0.9, "q8_0": 0.85, "q4_0": 0.8},
    (2048, 5632): {"f32": 0.8, "q8_0": 0.8},
    (576, 1536): {"f32": 0.7, "q8_0": 0.7},
}


def rows() -> Iterator[Row]:
    """Each shape and format, 1 and 2 threads, 10 % active, rank 128, natively."""
    for threads in (1, 2):
        core = _core.open_core("native", threads=threads)
        for (d, hidden), formats in TARGETS.items():
            for format, target in formats.items():
                rank = min(128, d // 4)
                report = bench_ffn(
                    d, hidden, gated=True, format=format, active=0.1, rank=rank, core=core
                )
                what = (
                    f"{d}×{hidden} {format}, {threads} thread{'s' if threads > 1 else ''}: "
                    f"efficiency ({report.speedup:.2f}× of {report.limit:.2f}×)"
                )
                yield Row("sparse", what, report.efficiency, target)
