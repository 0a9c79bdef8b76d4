"""Threads for the core in Pyodide, where starting them is asynchronous."""

from __future__ import annotations

import os
import sys

from .._options import checked, text, whole
from ..errors import BackendError
from .hosts import (
    Backend,
    add_core,
    backend,
    get_core,
    has_core,
    open_core,
    threads_wanted,
    use_backend,
)

__all__ = ["enable_threads"]

DEFAULT_THREADS_LIMIT = 8  # beyond, helpers mostly wait for memory


@checked(threads=whole, isa=text, helper_url=text)
async def enable_threads(
    threads: int | None = None, *, isa: str | None = None, helper_url: str | None = None
) -> Backend:
    """Gives the core several threads, makes it the current one and returns the result.

        await sparsefire.enable_threads()

    In Pyodide, workers start only while Python waits for JavaScript's event loop, hence the
    coroutine. Await it once, before creating models and layers: existing ones stay on their core.
    It needs a cross-origin isolated page, or node. If threads are not available, the core stays
    as it is, and `backend().note` says why. On other hosts this is
    `use_backend(threads=threads, isa=isa)`.

    threads: 1 or more, including the calling one; default SPARSEFIRE_THREADS, or else the number of
      hardware threads, at most 8.
    isa: as in `use_backend`.
    helper_url: where the page serves the package's core/helper.js, for pages whose content security
      policy forbids workers from blob: addresses.

    Raises `ArgumentError` for an invalid number, `UnsupportedError` for an instruction set.
    """
    platform: str = sys.platform
    if platform != "emscripten":
        return use_backend(isa=isa, threads=threads)
    from .pyodide import PyodideCore, processors, threads_missing

    wanted = threads_wanted(threads) or min(await processors(), DEFAULT_THREADS_LIMIT)
    isa = isa or os.environ.get("SPARSEFIRE_ISA") or None
    if wanted == 1:
        return use_backend("pyodide", isa=isa, threads=1)
    if not has_core("pyodide", isa, wanted):
        reason = threads_missing()
        if not reason:
            try:
                core = PyodideCore(isa, threads=wanted)
                await core.start_helpers(wanted - 1, helper_url)
                core.open_context(isa, wanted)
                add_core(core, isa, wanted)
            except BackendError as error:
                reason = f"one thread, since {error}"
        if reason:
            get_core().note = reason
            return backend()
    add_core(open_core("pyodide", isa, wanted), isa, None)
    return use_backend("pyodide", isa=isa, threads=wanted)
