"""Exact mode, which needs no predictor, against our own dense layer."""

from __future__ import annotations

from collections.abc import Iterator

from sparsefire.core import hosts

from ..lib.command import Effort
from ..lib.layers import LARGE, firing_layer, passes
from ..lib.rows import Row
from ..lib.timing import interleave, ratio

ACTIVE = 0.1


def rows(effort: Effort) -> Iterator[Row]:
    """Two formats, 1 and 2 threads."""
    d, hidden = effort.shape(LARGE)
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        for format in ("f32", "q8_0"):
            layer = firing_layer(core, d, hidden, format, ACTIVE)
            runs = {mode: passes(layer, 1, mode) for mode in ("exact", "dense")}
            runs["again"] = passes(layer, 1, "exact", seed=3)
            times = interleave(runs, effort.seconds(6.0))
            limit = 1 / (1 / 3 + 2 * ACTIVE / 3)
            speedup = ratio(times["dense"], times["exact"])
            what = (
                f"{d}×{hidden} {format}, {threads} thread{'s' if threads > 1 else ''}: efficiency "
                f"({speedup:.2f}× of {limit:.2f}×)"
            )
            noise = ratio(times["again"], times["exact"])
            value = speedup / limit
            yield Row("exact", what, value, times["exact"], times["dense"], "dense", noise)
