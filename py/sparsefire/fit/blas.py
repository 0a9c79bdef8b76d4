"""Threads of fits, and of numpy's own matrix multiplication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ..core.hosts import available_cores

_MOST_WORKERS = 4  # each needs memory for the scores of its layer
_Result = TypeVar("_Result")


@contextmanager
def one_blas_thread() -> Iterator[bool]:
    """Within it numpy multiplies matrices on one thread. The many small products of a fit are
    faster so, and far faster on a busy machine, where the threads of a product wait for each
    other. Yields False, and changes nothing, when threadpoolctl is not installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield False
        return
    with threadpool_limits(1, user_api="blas"):
        yield True


def in_parallel(fit: Callable[[int], _Result], numbers: Sequence[int]) -> list[_Result]:
    """What ``fit`` returns for each number, several at a time where numpy leaves the cores free."""
    with one_blas_thread() as alone:
        workers = min(len(numbers), available_cores(), _MOST_WORKERS) if alone else 1
        if workers <= 1:
            return [fit(number) for number in numbers]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(fit, numbers))
