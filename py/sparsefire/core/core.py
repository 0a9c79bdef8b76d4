"""The C core as the rest of the package sees it, and the only place that chooses where it runs.

A `Core` is one loaded copy of the C core with one open context. Its methods are the same on every
host; a pointer is an int in the host's address space. The hosts are `_host_native`,
`_host_wasmtime` and `_host_pyodide`.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ArgumentError,
    BackendError,
    SparsefireError,
    UnsupportedError,
    error_of_status,
)

__all__ = [
    "Argument",
    "Backend",
    "Core",
    "Memory",
    "Transient",
    "backend",
    "get_core",
    "use_backend",
]

BACKENDS = ("native", "wasmtime", "pyodide")

_SIMD = {
    "avx512": "AVX-512, 512 bits",
    "avx2": "AVX2 and FMA, 256 bits",
    "sse41": "SSE4.1, 128 bits",
    "neon": "NEON, 128 bits",
    "relaxed128": "WebAssembly relaxed SIMD, 128 bits",
    "wasm128": "WebAssembly SIMD, 128 bits",
    "scalar": "none",
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
        """Gives the memory back. Closing twice is allowed."""

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
        # Made here, since arguments are used again; it also keeps the array. Empty ones have none.
        self.data = array.data.cast("B") if self.nbytes else None


Argument: TypeAlias = SupportsIndex | float | NDArray[Any] | Transient | None


class Core(ABC):
    """One copy of the C core with an open context. Calls take a lock, so threads may share it."""

    host: str
    pointer_dtype: type[np.unsignedinteger[Any]]
    isa: str
    threads: int
    context: int
    note: str = ""  # why there are not more threads, or not the fastest instructions

    def __init__(self, isa: str | None = None) -> None:
        """isa: the instruction set that `_open_context` will be asked for, None for the best."""
        self._lock = threading.RLock()
        # Handles of collected objects, closed before the next call: a finaliser may run in the
        # middle of another call or in another thread, so it only notes what is to be closed.
        self._released: deque[tuple[str, int]] = deque()
        self.context = 0

    # -- what a host supplies ----------------------------------------------------------------------

    @abstractmethod
    def _invoke(self, name: str, args: tuple[Argument, ...]) -> int:
        """Calls the C function `name`; `None` stands for NULL. A void result is 0."""

    @abstractmethod
    def _text(self, name: str, args: tuple[Argument, ...]) -> str | None:
        """Calls a C function that returns a string or NULL."""

    @abstractmethod
    def memory(self, nbytes: int) -> Memory:
        """New core memory, aligned to 64 bytes, owned by the object. Raises `CoreMemoryError`."""

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
        """Gives a buffer of ``nbytes`` bytes for each of the addresses, which a function such as
        `sf_cache_bundles` gave. What is in the buffers when the context ends, by an error too, is
        in the core then. No other call may be made meanwhile."""

    # -- the same everywhere -----------------------------------------------------------------------

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
        """As `call`; a negative result raises the `SparsefireError` of that status, its message led
        by `what`."""
        result = self.call(name, *args)
        if result < 0:
            raise self.error(result, what or name)
        return result

    def error(self, status: int, what: str) -> SparsefireError:
        """The error that a negative status stands for, its message led by ``what``."""
        return error_of_status(status, f"{what}: {self.text('sf_status_text', status)}")

    def open(self, name: str, *args: Argument, what: str = "") -> int:
        """Calls `name(out, *args)` and returns the handle that it opened. Errors as `check`."""
        handle = np.zeros(1, self.pointer_dtype)
        self.check(name, self.out(handle), *args, what=what)
        return int(handle[0])

    def own(self, owner: object, close: str, handle: int) -> weakref.finalize[Any, Any]:
        """Has the C function `close` called with `handle` once `owner` is collected.

        Calling the returned finaliser does it early; a second time does nothing. `owner` must keep
        references to whatever the handle borrows.
        """
        finalizer = weakref.finalize(owner, self._released.append, (close, handle))
        finalizer.atexit = False  # the process gives everything back
        return finalizer

    def _close_released(self) -> None:
        while self._released:
            name, handle = self._released.popleft()
            self._invoke(name, (handle,))

    def _open_context(self, isa: str | None, threads: int) -> None:
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
        """Which faster instructions can be asked for by name, or why there are none; "" when the
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


@dataclass(frozen=True)
class Backend:
    """Where the core runs: `name` ("native", "wasmtime" or "pyodide"), `isa` (the instruction set's
    short name), `threads`, `simd` (the vector unit in words), the core's `version`, and a `note`
    when this is less than the machine might give: why there is one thread only, say."""

    name: str
    isa: str
    threads: int
    simd: str
    version: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.isa}, {count_of(self.threads, 'thread')}"


_cores: dict[tuple[str, str | None, int | None], Core] = {}
_current: Core | None = None
_opening = threading.Lock()


def get_core() -> Core:
    """The core that new objects are made in: the last `use_backend`, else what the environment
    says."""
    if _current is None:
        use_backend(os.environ.get("SPARSEFIRE_BACKEND") or "auto")
        assert _current is not None
    return _current


def use_backend(
    name: str = "auto", *, isa: str | None = None, threads: int | None = None
) -> Backend:
    """Chooses where the core runs, for every object made from now on, and returns what was chosen.

    name: "native" (the compiled extension), "wasmtime" (the WebAssembly module in wasmtime),
      "pyodide" (the same in a browser or node), or "auto": the fastest one that is there.
    isa: instruction set by name ("avx512", "avx2", "sse41", "neon", "relaxed128", "wasm128",
      "scalar"); default the environment variable SPARSEFIRE_ISA, else the best one of this machine.
    threads: 1 or more; default SPARSEFIRE_THREADS, else every core that this process may use.
      wasmtime uses 1; Pyodide 1, or what `enable_threads` has started.

    Objects made earlier stay where they are. Raises `BackendError` when the host is missing (with
    the command that repairs it), `UnsupportedError` for an instruction set, `ArgumentError` for a
    name or number without a meaning.
    """
    global _current
    if name == "npu":
        raise BackendError(
            "the core drives no NPU, and none was found by a provider: sparsefire.devices() lists "
            "what this machine offers; use_backend('auto') runs on the processor"
        )
    if name not in (*BACKENDS, "auto"):
        raise ArgumentError(f"unknown backend {name!r}; choose one of: auto, {', '.join(BACKENDS)}")
    isa = isa or os.environ.get("SPARSEFIRE_ISA") or None
    threads = threads_wanted(threads)
    _current = _any_core(isa, threads) if name == "auto" else open_core(name, isa, threads)
    return backend()


def backend() -> Backend:
    """Where the core runs now."""
    core = get_core()
    version = core.text("sf_version") or ""
    simd = _SIMD.get(core.isa, core.isa)
    return Backend(core.host, core.isa, core.threads, simd, version, core.note)


def open_core(name: str, isa: str | None = None, threads: int | None = None) -> Core:
    """The one core of that host, instruction set and number of threads, made when first asked for.

    It does not become the current one. Errors as `use_backend`.
    """
    with _opening:
        core = _cores.get((name, isa, threads))
        if core is None:
            core = _host_class(name)(isa)
            core._open_context(isa, threads or (available_cores() if name == "native" else 1))
            _cores[name, isa, threads] = core
        return core


def threads_wanted(threads: int | None) -> int | None:
    source = "threads"
    value: Any = threads
    if value is None:
        source = "SPARSEFIRE_THREADS"
        value = os.environ.get(source) or None
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 1024:
        raise ArgumentError(f"{source} must be a whole number from 1 to 1024, not {value!r}")
    return number


def available_cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _host_class(name: str) -> type[Any]:
    if name == "native":
        from .native import NativeCore

        return NativeCore
    if name == "wasmtime":
        from .wasmtime import WasmtimeCore

        return WasmtimeCore
    from .pyodide import PyodideCore

    return PyodideCore


def _any_core(isa: str | None, threads: int | None) -> Core:
    """A core on the first host that is there; one that refuses (an unknown ISA, say) is there."""
    missing: list[str] = []
    for name in ("native", "pyodide") if sys.platform == "emscripten" else ("native", "wasmtime"):
        try:
            return open_core(name, isa, threads)
        except BackendError as error:
            missing.append(f"{name}: {error}")
    raise BackendError("no host for the core is installed. " + "; ".join(missing))
