"""The C core as the rest of the package sees it.

A `Core` is one loaded copy of the C core with one open context. Its methods are the same on every
host; a pointer is an int in the host's address space. `native`, `wasmtime` and `pyodide` are the
hosts, and `hosts` chooses among them.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AbstractContextManager
from typing import Any, Self, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..errors import ArgumentError, SparsefireError, UnsupportedError
from .enums import Status

# The core's errors as exceptions.
EXCEPTIONS: dict[int, type[SparsefireError]] = {
    Status.ERROR_ARGUMENT: errors.ArgumentError,
    Status.ERROR_SHAPE: errors.ShapeError,
    Status.ERROR_FORMAT: errors.FormatError,
    Status.ERROR_MEMORY: errors.CoreMemoryError,
    Status.ERROR_UNSUPPORTED: errors.UnsupportedError,
    Status.ERROR_NOT_FINITE: errors.NotFiniteError,
    Status.ERROR_INCOMPLETE: errors.ModelFileError,
    Status.ERROR_CONTEXT_FULL: errors.ContextFullError,
    Status.ERROR_NOT_RESIDENT: errors.NotResidentError,
}


def count_of(number: int, noun: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Memory(ABC):
    """`nbytes` bytes of core memory at address `ptr`, aligned to 64 when from `Core.memory`.

    Freed by `close()` or when the object is collected. Usable as a pointer argument of `Core.call`.
    """

    ptr: int
    nbytes: int
    closed: bool = False

    def __index__(self) -> int:
        return self.ptr

    def write(self, array: Any, offset: int = 0) -> None:
        """Copies the bytes of a C-contiguous array or buffer to byte `offset`."""
        source = memoryview(array)
        self._check_range(offset, source.nbytes)
        if source.nbytes:
            self._write(offset, source)

    def read(self, out: NDArray[Any], offset: int = 0) -> None:
        """Fills the C-contiguous array `out` from byte `offset`."""
        target = out.data
        self._check_range(offset, target.nbytes)
        if target.nbytes:
            self._read(offset, target)

    def _check_range(self, offset: int, nbytes: int) -> None:
        if self.closed:
            raise ArgumentError("this core memory was closed")
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ArgumentError(
                f"bytes {offset} to {offset + nbytes} are outside a core memory "
                f"of {self.nbytes} bytes"
            )

    @abstractmethod
    def _write(self, offset: int, source: memoryview) -> None: ...

    @abstractmethod
    def _read(self, offset: int, target: memoryview) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Frees the memory. Closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transient:
    """An array that is copied into core memory for one call, and copied back after it when `out` is
    true."""

    __slots__ = ("data", "nbytes", "out")

    def __init__(self, array: NDArray[Any], out: bool) -> None:
        self.nbytes = array.nbytes
        self.out = out
        # Created once, because arguments are reused; it also keeps the array alive. Empty arrays
        # have none.
        self.data = array.data.cast("B") if self.nbytes else None


Argument: TypeAlias = SupportsIndex | float | NDArray[Any] | Transient | None


class Core(ABC):
    """One copy of the C core with an open context. Calls take a lock, so threads may share it."""

    host: str
    pointer_dtype: type[np.unsignedinteger[Any]]
    isa: str
    threads: int
    context: int
    shares_buffers: bool  # whether `upload` uses a buffer where it is, instead of a copy
    note: str = ""  # why there are not more threads, or not the fastest instructions

    def __init__(self, isa: str | None = None) -> None:
        """isa: the instruction set that `open_context` will be asked for, None for the best."""
        self._lock = threading.RLock()
        # Handles of collected objects, closed before the next call: a finaliser may run in the
        # middle of another call or in another thread, so it only notes what is to be closed.
        self._released: deque[tuple[str, int]] = deque()
        self.context = 0

    # -- implemented by a host ---------------------------------------------------------------------

    @abstractmethod
    def _invoke(self, name: str, args: tuple[Argument, ...]) -> int:
        """Calls the C function `name`; `None` stands for NULL. A void result is 0."""

    @abstractmethod
    def _text(self, name: str, args: tuple[Argument, ...]) -> str | None:
        """Calls a C function that returns a string or NULL."""

    @abstractmethod
    def memory(self, nbytes: int) -> Memory:
        """New core memory, aligned to 64 bytes, owned by the object. Raises `CoreMemoryError`."""

    def memory_bytes(self) -> int:
        """Size of the core's own memory, which grows and never shrinks; 0 on the native host, where
        it is part of the process."""
        return 0

    @abstractmethod
    def upload(self, buffer: Any) -> Memory:
        """Core memory that holds the bytes of a C-contiguous array, mmap or other buffer.

        On the native host it is the buffer itself, kept alive and not copied; in WebAssembly it is
        a copy.
        """

    @abstractmethod
    def inp(self, array: NDArray[Any]) -> Argument:
        """A C-contiguous array as a pointer argument that one call reads."""

    @abstractmethod
    def out(self, array: NDArray[Any]) -> Argument:
        """A C-contiguous array as a pointer argument that one call writes."""

    @abstractmethod
    def writing(
        self, addresses: list[int], nbytes: int
    ) -> AbstractContextManager[list[memoryview]]:
        """Context manager that yields a buffer of ``nbytes`` bytes for each address, as returned by
        functions such as `sf_cache_bundles`. When the context exits, also by an error, the contents
        of the buffers are in the core's memory."""

    # -- common to all hosts -----------------------------------------------------------------------

    def call(self, name: str, *args: Argument) -> int:
        """Calls the C function `name` and returns its result: signed, or an address or a size."""
        with self._lock:
            if self._released:
                self._close_released()
            try:
                return self._invoke(name, args)
            except OverflowError as error:
                raise ArgumentError(f"{name}: {error}") from None

    def text(self, name: str, *args: Argument) -> str | None:
        """Calls a C function that returns a string; None for NULL."""
        with self._lock:
            try:
                return self._text(name, args)
            except OverflowError as error:
                raise ArgumentError(f"{name}: {error}") from None

    def check(self, name: str, *args: Argument, what: str = "") -> int:
        """Like `call`, but a negative result raises the `SparsefireError` of that status, with a
        message that begins with `what`."""
        result = self.call(name, *args)
        if result < 0:
            raise self.error(result, what or name)
        return result

    def error(self, status: int, what: str) -> SparsefireError:
        """The error for a negative status, with a message that begins with ``what``."""
        error = EXCEPTIONS.get(status, SparsefireError)
        return error(f"{what}: {self.text('sf_status_text', status)}")

    def open(self, name: str, *args: Argument, what: str = "") -> int:
        """Calls `name(out, *args)` and returns the opened handle. Errors as `check`."""
        handle = np.zeros(1, self.pointer_dtype)
        self.check(name, self.out(handle), *args, what=what)
        return int(handle[0])

    def own(self, owner: object, close: str, handle: int) -> weakref.finalize[Any, Any]:
        """Registers the C function `close` to be called with `handle` when `owner` is collected.

        Calling the returned finaliser does it early; a second call does nothing. `owner` must keep
        references to everything that the handle borrows.
        """
        finalizer = weakref.finalize(owner, self._released.append, (close, handle))
        finalizer.atexit = False  # the process frees everything
        return finalizer

    def _close_released(self) -> None:
        while self._released:
            name, handle = self._released.popleft()
            self._invoke(name, (handle,))

    def open_context(self, isa: str | None, threads: int) -> None:
        """Opens the context with the named instruction set (None: the best one)."""
        index = -1 if isa is None else self._isa_index(isa)
        self.context = self.open(
            "sf_context_open", index, threads, what=f"opening the {self.host} core"
        )
        self.own(self, "sf_context_close", self.context)
        self.isa = self.isas()[self.call("sf_context_isa", self.context)]
        self.threads = self.call("sf_context_threads", self.context)

    def isas(self) -> list[str]:
        """Names of the instruction sets compiled in, best first."""
        return [str(self.text("sf_isa_name", i)) for i in range(self.call("sf_isa_count"))]

    def supported_isas(self) -> list[str]:
        """Names of the instruction sets that this machine can run, best first."""
        return [name for i, name in enumerate(self.isas()) if self.call("sf_isa_supported", i)]

    def faster(self) -> str:
        """Which faster instructions can be requested by name, or why there are none; "" if the
        best ones are in use."""
        return ""

    def _isa_index(self, isa: str) -> int:
        supported = self.supported_isas()
        if isa not in supported:
            raise UnsupportedError(
                f"the {self.host} core cannot use the instruction set {isa!r} on this machine; "
                f"it can use: {', '.join(supported)}"
            )
        return self.isas().index(isa)

    def __repr__(self) -> str:
        return f"<Core {self.host}, {self.isa}, {count_of(self.threads, 'thread')}>"
