"""Benchmarks of neuron caches: the cost of a layer whose weights do not fit into memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray, IntArray
from .._progress import Progress
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ArgumentError
from ..ffn.cache import POLICIES, NeuronCache
from ..ffn.cached import CachedFfn
from ..ffn.layer import SparseFfn
from . import CACHE_EXPONENT, CACHE_REPEATS
from .ffn import random_layer
from .report import Report


@dataclass(frozen=True, kw_only=True)
class CacheBench(Report):
    """A neuron cache with one policy against the same layer in memory, one vector at a time.

    ``memory_ms`` and ``cached_ms`` are medians over ``repeats``; ``hit_rate``, and ``misses`` and
    ``bytes_read`` per vector, are means over them. ``identical``: every result equals that of the
    layer in memory bit for bit.
    """

    shape: str
    gated: bool
    format: str
    policy: str
    pinned: float
    budget_bytes: int
    layer_bytes: int
    active_share: float
    exponent: float
    memory_ms: float
    cached_ms: float
    slowdown: float
    hit_rate: float
    misses: float
    bytes_read: float
    identical: bool


def power_law(hidden: int, active: float, exponent: float) -> npt.NDArray[np.float64]:
    """How often each of ``hidden`` neurons fires, the most active first: min(1, c / rank^exponent),
    with c such that the mean is ``active``."""
    weights = np.arange(1, hidden + 1) ** -exponent
    low, high = 0.0, 1 / float(weights[-1])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if np.minimum(1, middle * weights).mean() < active else (low, middle)
        )
    return np.asarray(np.minimum(1, high * weights), np.float64)


def bench_cache(
    d: int,
    hidden: int,
    *,
    gated: bool = True,
    format: str = "q8_0",
    active: float = 0.1,
    budget: float = 0.4,
    policies: Sequence[str] = tuple(POLICIES),
    pinned: float = 0.5,
    exponent: float = CACHE_EXPONENT,
    repeats: int = CACHE_REPEATS,
    seed: int = 0,
    core: Core | None = None,
    progress: Progress | None = None,
) -> list[CacheBench]:
    """Times a layer with random weights in memory and, alternating with it, behind neuron caches
    that hold the share ``budget`` of its bytes, one for each of ``policies``.

    The active neurons are drawn independently for each vector, with frequencies of a `power_law`.
    The caches do not know which neurons are frequent. ``repeats`` vectors warm the caches up, then
    each chooses its hot set (`NeuronCache.reclassify`) of the share ``pinned``, and ``repeats``
    more are timed. The file is in the directory for temporary files, so reads come from the page
    cache rather than from a disk.

    Errors: `ArgumentError`, `FormatError` (sizes not a multiple of the format's block).
    """
    if d < 1 or hidden < 2 or repeats < 1:
        raise ArgumentError(f"shape {d}x{hidden} and repeats {repeats} are too small")
    if not 0 < active <= 1 or not 0 < budget <= 1:
        raise ArgumentError(f"active {active} and budget {budget} must be above 0, at most 1")
    core = core or get_core()
    random = np.random.default_rng(seed)
    ffn = random_layer(core, random, d, hidden, gated, format)
    often = random.permutation(power_law(hidden, active, exponent))
    caches = [NeuronCache(hot_fraction=budget, policy=each, pinned=pinned) for each in policies]

    def report(done: int) -> None:
        if progress is not None:
            progress(f"{done} of {2 * repeats} repetitions", done / (2 * repeats))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.gguf"
        ffn.save_bundles(path)
        layers = [CachedFfn.open(path, cache, core=core) for cache in caches]
        try:
            race = _Race(ffn, layers, random, often)
            race.run(repeats, report)
            for cache in caches:
                cache.reclassify()
            race.forget()
            race.run(repeats, lambda done: report(repeats + done))
            return [race.result(index, exponent) for index in range(len(layers))]
        finally:
            for layer in layers:
                layer.close()


class _Race:
    """One layer in memory and the same behind several caches, on the same vectors."""

    def __init__(
        self,
        ffn: SparseFfn,
        layers: list[CachedFfn],
        random: np.random.Generator,
        often: npt.NDArray[np.float64],
    ) -> None:
        self.ffn, self.layers, self.random, self.often = ffn, layers, random, often
        self.forget()

    def forget(self) -> None:
        """Resets the counts."""
        self.times: list[list[float]] = [[] for _ in range(len(self.layers) + 1)]
        self.identical = [True] * len(self.layers)
        self.active: list[int] = []
        self.before = [layer.cache.stats for layer in self.layers]

    def run(self, repeats: int, report: Callable[[int], None]) -> None:
        """Every layer computes ``repeats`` vectors, alternating."""
        for index in range(repeats):
            x = self.random.standard_normal(self.ffn.d_in, np.float32)
            fires = self.random.random(len(self.often)) < self.often
            ids = np.asarray(np.flatnonzero(fires), np.int32)
            self.active.append(len(ids))
            wanted = self._timed(0, self.ffn, x, ids)
            for place in np.roll(np.arange(len(self.layers)), index).tolist():
                y = self._timed(place + 1, self.layers[place], x, ids)
                self.identical[place] &= np.array_equal(y, wanted)
            report(index + 1)

    def _timed(self, row: int, layer: SparseFfn | CachedFfn, x: FloatArray, ids: IntArray) -> Any:
        began = time.perf_counter()
        y = layer.forward_sparse(x, ids)
        self.times[row].append(time.perf_counter() - began)
        return y

    def result(self, index: int, exponent: float) -> CacheBench:
        """The measurements of one cache."""
        ffn, layer, before = self.ffn, self.layers[index], self.before[index]
        cache, after, repeats = layer.cache, layer.cache.stats, len(self.active)
        hits, misses = after.hits - before.hits, after.misses - before.misses
        memory, cached = (1000 * statistics.median(self.times[row]) for row in (0, index + 1))
        return CacheBench(
            shape=f"{ffn.d_in}x{ffn.hidden}",
            gated=ffn.gated,
            format=ffn.format,
            policy=cache.policy,
            pinned=cache.pinned,
            budget_bytes=cache.slots * (layer.nbytes // layer.hidden),
            layer_bytes=layer.nbytes,
            active_share=statistics.fmean(self.active) / ffn.hidden,
            exponent=exponent,
            memory_ms=memory,
            cached_ms=cached,
            slowdown=cached / memory,
            hit_rate=hits / max(hits + misses, 1),
            misses=misses / repeats,
            bytes_read=(after.bytes_read - before.bytes_read) / repeats,
            identical=self.identical[index],
            backend=ffn.core.host,
            isa=ffn.core.isa,
            threads=ffn.core.threads,
            repeats=repeats,
        )
