"""The predicted sparse layer against our own dense one: how much of the limit is reached."""

from __future__ import annotations

from collections.abc import Iterator

from sparsefire.core import hosts

from ..lib.command import Effort
from ..lib.layers import LARGE, MIDDLE, SMALL, passes, predicted_layer
from ..lib.rows import Row
from ..lib.timing import interleave, ratio

ACTIVE, RANK = 0.1, 128

FORMATS = {LARGE: ("f32", "f16", "q8_0", "q4_0"), MIDDLE: ("f32", "q8_0"), SMALL: ("f32", "q8_0")}


def rows(effort: Effort) -> Iterator[Row]:
    """Each shape and format, 1 and 2 threads, 10 % active, rank 128, natively."""
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        for shape in effort.some(tuple(FORMATS)):
            d, hidden = effort.shape(shape)
            for format in FORMATS[shape]:
                layer, limit = predicted_layer(core, d, hidden, format, ACTIVE, RANK)
                runs = {mode: passes(layer, 1, mode) for mode in ("sparse", "dense")}
                # Other inputs, and so other neurons, than those that have just been in use.
                runs["again"] = passes(layer, 1, "sparse", seed=3)
                times = interleave(runs, effort.seconds(5.0))
                speedup = ratio(times["dense"], times["sparse"])
                what = (
                    f"{d}×{hidden} {format}, {threads} thread{'s' if threads > 1 else ''}: "
                    f"efficiency ({speedup:.2f}× of {limit:.2f}×)"
                )
                yield Row(
                    "sparse",
                    what,
                    speedup / limit,
                    times["sparse"],
                    times["dense"],
                    "dense",
                    ratio(times["again"], times["sparse"]),
                )
