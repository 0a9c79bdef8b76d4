"""Sparse against dense over active shares and batch sizes: sparse must never lose."""

from __future__ import annotations

from collections.abc import Iterator

from layers import passes, random_layer
from rows import Row
from sparsefire import _core
from timing import interleave, ratio

SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCHES = (1, 4, 16)


def rows() -> Iterator[Row]:
    """Exact mode, one thread, a layer larger than the caches."""
    core = _core.open_core("native", threads=1)
    for format in ("f32", "q8_0"):
        for share in SHARES:
            layer = random_layer(core, 2048, 5632, format, share)
            for n in BATCHES:
                modes = ("exact", "dense")
                times = interleave({mode: passes(layer, n, mode) for mode in modes}, 2.0)
                value = ratio(times["dense"], times["exact"])
                what = f"2048×5632 {format}, {share:.0%} active, {n} at a time"
                yield Row("shares", what, value, 0.97, times["exact"], times["dense"], "dense")
