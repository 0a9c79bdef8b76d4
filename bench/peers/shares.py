"""Sparse against dense over active shares and batch sizes: sparse must never lose."""

from __future__ import annotations

from collections.abc import Iterator

from sparsefire.core import hosts

from ..lib.command import Effort
from ..lib.layers import MIDDLE, firing_layer, passes, predicted_layer
from ..lib.rows import Row
from ..lib.timing import interleave

RANK = 128
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCHES = (1, 4, 16)


def rows(effort: Effort) -> Iterator[Row]:
    """Exact mode and the predicted one, one thread, a layer larger than the caches."""
    core = hosts.open_core("native", threads=1)
    d, hidden = effort.shape(MIDDLE)
    for format in ("f32", "q8_0"):
        for share in effort.some(SHARES):
            layers = {
                "exact": firing_layer(core, d, hidden, format, share),
                "sparse": predicted_layer(core, d, hidden, format, share, RANK)[0],
            }
            for mode, layer in layers.items():
                for n in BATCHES:
                    runs = {each: passes(layer, n, each) for each in (mode, "dense")}
                    runs["again"] = passes(layer, n, mode, seed=3)
                    times = interleave(runs, effort.seconds(1.5))
                    what = f"{d}×{hidden} {format}, {mode}, {share:.0%} active, {n} at a time"
                    yield Row.compare("shares", what, times, mode, "dense")
