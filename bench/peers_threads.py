"""What a second thread brings, and what handing out work costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rows import Row
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix
from timing import Times, interleave, ratio

_CALLS = 20


def rows() -> Iterator[Row]:
    """Two threads against one: many vectors (arithmetic), one vector (memory), and a product so
    small that handing it out dominates."""
    cores = [hosts.open_core("native", threads=threads) for threads in (1, 2)]
    random = np.random.default_rng(0)
    for what, shape, n, target in (
        ("64 vectors, 2048×2048 f32 (arithmetic)", (2048, 2048), 64, 1.6),
        ("1 vector, 11008×4096 f32 (memory)", (11008, 4096), 1, 1.0),
    ):
        times = _multiply(cores, random.standard_normal(shape, np.float32), n)
        value = ratio(times["1"], times["2"])
        noise = ratio(times["again"], times["2"])
        yield Row("threads", what, value, target, times["2"], times["1"], "1 thread", noise)
    # Just large enough to be divided. Of one thread's work half is left to each of two; what else
    # two take, but for the call, which is as long without a vector, is the hand-over.
    times = _calls(cores, random.standard_normal((128, 512), np.float32))
    call = times["call"].median
    cost = times["2"].median - call - (times["1"].median - call) / 2
    noise = ratio(times["again"], times["2"])
    yield Row(
        "threads",
        "fork-join, µs",
        1e6 * cost,
        5.0,
        times["2"],
        times["1"],
        "1 thread",
        noise,
        at_most=True,
    )


def _calls(cores: list[Core], values: np.ndarray) -> dict[str, Times]:
    """The core's own call, without what Python's `Matrix.multiply` adds."""
    x = np.random.default_rng(1).standard_normal(values.shape[1], np.float32)
    out = np.empty(len(values), np.float32)
    matrices = [Matrix.from_array(values, core=core) for core in cores]

    def product(which: int, n: int) -> None:
        core, matrix = cores[which], matrices[which]
        for _ in range(_CALLS):
            core.call("sf_matrix_multiply", core.context, matrix.handle, x, n, out)

    runs = {
        "1": lambda _i: product(0, 1),
        "2": lambda _i: product(1, 1),
        "again": lambda _i: product(1, 1),
        "call": lambda _i: product(1, 0),
    }
    each = interleave(runs, 3.0, 2000)
    return {name: Times(tuple(t / _CALLS for t in times.seconds)) for name, times in each.items()}


def _multiply(cores: list[Core], values: np.ndarray, n: int) -> dict[str, Times]:
    x = np.random.default_rng(1).standard_normal((n, values.shape[1]), np.float32)
    out = np.empty((n, len(values)), np.float32)
    matrices = [Matrix.from_array(values, core=core) for core in cores]
    return interleave(
        {
            "1": lambda _i: matrices[0].multiply(x, out=out),
            "2": lambda _i: matrices[1].multiply(x, out=out),
            "again": lambda _i: matrices[1].multiply(x, out=out),
        },
        3.0,
        2000,
    )
