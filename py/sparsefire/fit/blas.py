"""Threads of numpy's own matrix multiplication."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
