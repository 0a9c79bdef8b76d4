"""What a second thread brings, and what handing out work costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix

from ..lib.command import Effort
from ..lib.layers import LARGE
from ..lib.rows import Row
from ..lib.timing import Times, interleave, ratio

_CALLS = 20


def rows(effort: Effort) -> Iterator[Row]:
    """Two threads against one: many vectors (arithmetic), one vector (memory), and a product so
    small that handing it out dominates."""
    cores = [hosts.open_core("native", threads=threads) for threads in (1, 2)]
    random = np.random.default_rng(0)
    for kind, full, n in (("arithmetic", (2048, 2048), 64), ("memory", LARGE, 1)):
        columns, rows = effort.shape(full)
        times = _multiply(cores, random.standard_normal((rows, columns), np.float32), n, effort)
        what = f"{rows}×{columns} f32, {n} vector{'s' if n > 1 else ''} ({kind})"
        yield Row.compare("threads", what, times, "2 threads", "1 thread")
    # Just large enough to be divided. Of one thread's work half is left to each of two; what else
    # two take, but for the call, which is as long without a vector, is the hand-over.
    times = _calls(cores, random.standard_normal((128, 512), np.float32), effort)
    call = times["call"].median
    cost = times["2 threads"].median - call - (times["1 thread"].median - call) / 2
    two, one = times["2 threads"], times["1 thread"]
    noise = ratio(times["again"], two)
    yield Row("threads", "fork-join, µs", 1e6 * cost, two, one, "1 thread", noise)


def _calls(cores: list[Core], values: np.ndarray, effort: Effort) -> dict[str, Times]:
    """The core's own call, without what Python's `Matrix.multiply` adds."""
    x = np.random.default_rng(1).standard_normal(values.shape[1], np.float32)
    out = np.empty(len(values), np.float32)
    matrices = [Matrix.from_array(values, core=core) for core in cores]

    def product(which: int, n: int) -> None:
        core, matrix = cores[which], matrices[which]
        for _ in range(_CALLS):
            core.call("sf_matrix_multiply", core.context, matrix.handle, x, n, out)

    runs = {
        "1 thread": lambda _i: product(0, 1),
        "2 threads": lambda _i: product(1, 1),
        "again": lambda _i: product(1, 1),
        "call": lambda _i: product(1, 0),
    }
    each = interleave(runs, effort.seconds(3.0), 2000)
    return {name: Times(tuple(t / _CALLS for t in times.seconds)) for name, times in each.items()}


def _multiply(cores: list[Core], values: np.ndarray, n: int, effort: Effort) -> dict[str, Times]:
    x = np.random.default_rng(1).standard_normal((n, values.shape[1]), np.float32)
    out = np.empty((n, len(values)), np.float32)
    matrices = [Matrix.from_array(values, core=core) for core in cores]
    return interleave(
        {
            "1 thread": lambda _i: matrices[0].multiply(x, out=out),
            "2 threads": lambda _i: matrices[1].multiply(x, out=out),
            "again": lambda _i: matrices[1].multiply(x, out=out),
        },
        effort.seconds(3.0),
        2000,
    )
