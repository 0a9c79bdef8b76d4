"""Ownership of a handle of the core."""

from __future__ import annotations

import weakref

from ._core import Core


def _close(core: Core, close_function: str, handle: int) -> None:
    core.call(close_function, handle)


class CoreObject:
    """Owns one handle of the core and gives it back exactly once: on `close`, when the object is
    collected, or when Python ends. A subclass keeps references to all that its handle borrows."""

    core: Core
    handle: int

    def __init__(self, core: Core, handle: int, close_function: str) -> None:
        self.core = core
        self.handle = handle
        self._finalizer = weakref.finalize(self, _close, core, close_function, handle)

    def close(self) -> None:
        """Gives the handle back now. The object cannot be used afterwards; closing twice is
        allowed."""
        self._finalizer()
        self.handle = 0
