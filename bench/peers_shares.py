"""Sparse against dense over active shares and batch sizes: sparse must never lose."""

from __future__ import annotations

from collections.abc import Iterator

from layers import passes, predicted_layer, random_layer
from rows import Row
from sparsefire.core import hosts
from timing import interleave

SHAPE, RANK = (2048, 5632), 128
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCHES = (1, 4, 16)


def rows() -> Iterator[Row]:
    """Exact mode and the predicted one, one thread, a layer larger than the caches."""
    core = hosts.open_core("native", threads=1)
    for format in ("f32", "q8_0"):
        for share in SHARES:
            layers = {
                "exact": random_layer(core, *SHAPE, format, share),
                "sparse": predicted_layer(core, *SHAPE, format, share, RANK)[0],
            }
            for mode, layer in layers.items():
                for n in BATCHES:
                    runs = {each: passes(layer, n, each) for each in (mode, "dense")}
                    runs["again"] = passes(layer, n, mode, seed=3)
                    times = interleave(runs, 1.5)
                    what = (
                        f"{SHAPE[0]}×{SHAPE[1]} {format}, {mode}, {share:.0%} active, {n} at a time"
                    )
                    yield Row.compare(
                        "shares", what, 0.97, times[mode], times["again"], times["dense"], "dense"
                    )
