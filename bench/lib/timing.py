"""Timing in turns, so that what else the machine does slows all sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_FEWEST = 7


@dataclass(frozen=True)
class Times:
    """Seconds of one thing, in each repetition."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the repetitions were faster."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the repetitions were faster than the first, a quarter slower than the
        second."""
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return first, third


def interleave(
    runs: Mapping[str, Callable[[int], object]],
    seconds: float = 4.0,
    most: int = 400,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Times]:
    """Times each of ``runs``, called with the number of the repetition, in turn, for about
    ``seconds`` in all. Who begins changes from repetition to repetition. One repetition before
    the first warms up. ``before`` is called with the name of each run, untimed."""
    names = list(runs)
    began = time.perf_counter()
    for name in names:
        runs[name](0)
    spent = max(time.perf_counter() - began, 1e-6)
    repeats = int(min(max(seconds / spent, _FEWEST), most))
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(1, repeats + 1):
        for name in names:
            before(name)
            began = time.perf_counter()
            runs[name](index)
            times[name].append(time.perf_counter() - began)
        names = names[1:] + names[:1]
    return {name: Times(tuple(times[name])) for name in runs}


def ratio(slow: Times, fast: Times) -> float:
    """How many times as fast ``fast`` is as ``slow``, by their medians."""
    return slow.median / fast.median
