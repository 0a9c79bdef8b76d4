"""The predicted sparse layer against our own dense one: how much of the limit is reached."""

from __future__ import annotations

from collections.abc import Iterator

from layers import passes, predicted_layer
from rows import Row
from sparsefire.core import hosts
from timing import interleave, ratio

ACTIVE, RANK = 0.1, 128

# Shape → format → the efficiency aimed at.
TARGETS = {
    (4096, 11008): {"f32": 0.9, "f16": 0.9, "q8_0": 0.85, "q4_0": 0.8},
    (2048, 5632): {"f32": 0.8, "q8_0": 0.8},
    (576, 1536): {"f32": 0.7, "q8_0": 0.7},
}


def rows() -> Iterator[Row]:
    """Each shape and format, 1 and 2 threads, 10 % active, rank 128, natively."""
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        for (d, hidden), formats in TARGETS.items():
            for format, target in formats.items():
                layer, limit = predicted_layer(core, d, hidden, format, ACTIVE, RANK)
                runs = {mode: passes(layer, 1, mode) for mode in ("sparse", "dense")}
                # Other inputs, and so other neurons, than those that have just been in use.
                runs["again"] = passes(layer, 1, "sparse", seed=3)
                times = interleave(runs, 5.0)
                speedup = ratio(times["dense"], times["sparse"])
                what = (
                    f"{d}×{hidden} {format}, {threads} thread{'s' if threads > 1 else ''}: "
                    f"efficiency ({speedup:.2f}× of {limit:.2f}×)"
                )
                yield Row(
                    "sparse",
                    what,
                    speedup / limit,
                    target,
                    times["sparse"],
                    times["dense"],
                    "dense",
                    ratio(times["again"], times["sparse"]),
                )
