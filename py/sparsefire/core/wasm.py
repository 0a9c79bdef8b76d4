"""The common part of the two WebAssembly hosts: a core with its own memory, separate from Python's.

Array arguments are copied into a scratch block of core memory for the call, and written ones are
copied back after it. A host adds three primitives: run an export, and copy bytes in and out.
"""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, BackendError, CoreMemoryError, UnsupportedError
from .core import Argument, Core, Memory, Transient

__all__ = ["WasmCore", "WasmMemory", "choose_module", "module_bytes", "relaxed_missing"]

_MODULES = Path(__file__).parent.parent / "wasm"

# Functions whose result is an address or a size; every other result is a signed int32.
UNSIGNED_RESULTS = frozenset(
    {"sf_alloc", "sf_format_row_bytes", "sf_matrix_column_bytes", "sf_session_saved_bytes"}
)

_ALIGNMENT = 64
_SCRATCH_KEPT = 1 << 23  # a scratch block up to this size is kept between calls
_COPY_CHUNK = 1 << 24  # uploads are split, so that a mapped file is not paged in as a whole
_FLOAT32_MAX = 3.4028234663852886e38


def module_bytes(name: str = "sparsefire_core") -> bytes:
    """The bytes of a WebAssembly module of the core. Raises `BackendError` if it was not built."""
    path = _MODULES / f"{name}.wasm"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BackendError(
            f"the WebAssembly module is not built ({path} is missing); run ./build_wasm.sh in "
            "the project's directory, then `pip install .`"
        ) from None


def choose_module(isa: str | None, threads: bool, runs: Callable[[bytes], bool]) -> str:
    """The name of the module with the instruction set. Raises `BackendError` if it was not built,
    `UnsupportedError` if the engine cannot run it.

    isa: None for strict SIMD, which gives the same results everywhere. runs: whether the engine can
    run a module.
    """
    suffix = "_threads" if threads else ""
    if isa != "relaxed128":
        return f"sparsefire_core{suffix}"
    reason = relaxed_missing(runs, suffix)
    if reason:
        raise UnsupportedError(f"the instruction set 'relaxed128' cannot be used: {reason}")
    return f"sparsefire_core_relaxed{suffix}"


def relaxed_missing(runs: Callable[[bytes], bool], suffix: str = "") -> str:
    """Why relaxed SIMD is not available; "" if it is."""
    try:
        module = module_bytes(f"sparsefire_core_relaxed{suffix}")
    except BackendError:
        return (
            "this package was built without the module for relaxed SIMD; "
            "scripts/build_wasm_modules.sh makes it"
        )
    return "" if runs(module) else "this engine has no relaxed SIMD"


def as_bytes(buffer: Any) -> memoryview:
    """A non-empty C-contiguous buffer as a flat view of its bytes."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise ArgumentError("only C-contiguous buffers can be copied to or from the core")
    return view.cast("B")


class WasmMemory(Memory):
    """A block allocated by `sf_alloc`."""

    def __init__(self, core: WasmCore, ptr: int, nbytes: int) -> None:
        self._core = core
        self.ptr = ptr
        self.nbytes = nbytes
        self._finalizer = core.own(self, "sf_free", ptr)

    def _write(self, offset: int, source: memoryview) -> None:
        view = as_bytes(source)
        for start in range(0, len(view), _COPY_CHUNK):
            with self._core._lock:
                self._core._copy_in(self.ptr + offset + start, view[start : start + _COPY_CHUNK])

    def _read(self, offset: int, target: memoryview) -> None:
        with self._core._lock:
            self._core._copy_out(self.ptr + offset, as_bytes(target))

    def close(self) -> None:
        self._finalizer()
        self.ptr = self.nbytes = 0
        self.closed = True


class WasmCore(Core):
    """A core in a WebAssembly instance with its own memory."""

    pointer_dtype = np.uint32
    shares_buffers = False

    def __init__(self, isa: str | None = None) -> None:
        super().__init__(isa)
        self._scratch = self._scratch_end = 0

    @staticmethod
    @abstractmethod
    def _runs(module: bytes) -> bool:
        """Whether the engine can run a module with relaxed SIMD."""

    @abstractmethod
    def _run(self, name: str, numbers: list[int | float]) -> int:
        """Runs an export. Integers are in -2³¹ … 2³²-1, of which the lower 32 bits are passed; the
        result is signed, 0 for void."""

    @abstractmethod
    def _copy_in(self, address: int, source: memoryview) -> None:
        """Copies bytes, at least one, into core memory."""

    @abstractmethod
    def _copy_out(self, address: int, target: memoryview) -> None:
        """Copies bytes, at least one, out of core memory."""

    def faster(self) -> str:
        if self.isa == "relaxed128":
            return ""
        reason = relaxed_missing(self._runs)
        return reason or "isa='relaxed128' is faster with 8- and 4-bit weights, and less exact"

    def _invoke(self, name: str, args: tuple[Argument, ...]) -> int:
        return self._run_at(self._scratch, self._scratch_end, name, args)

    def _run_at(self, begin: int, end: int, name: str, args: tuple[Argument, ...]) -> int:
        """Runs an export with its arrays in the core memory from `begin` to `end`, or in a larger
        block if they do not fit. Every call comes through here, hence the order of the tests."""
        numbers: list[int | float] = []
        written: list[tuple[int, memoryview]] | None = None
        for arg in args:
            kind = type(arg)
            if kind is int:
                if not -0x80000000 <= arg <= 0xFFFFFFFF:  # type: ignore[operator]
                    raise OverflowError(f"{arg} does not fit in 32 bits")
                numbers.append(arg)  # type: ignore[arg-type]
            elif arg is None:
                numbers.append(0)
            elif kind is Transient:
                data: memoryview | None = arg.data  # type: ignore[union-attr]
                numbers.append(begin)
                if data is not None:
                    at = begin
                    begin += (arg.nbytes + _ALIGNMENT - 1) & -_ALIGNMENT  # type: ignore[union-attr]
                    if begin > end:
                        return self._run_with_room(name, args)
                    if not arg.out:  # type: ignore[union-attr]
                        self._copy_in(at, data)
                    elif written is None:
                        written = [(at, data)]
                    else:
                        written.append((at, data))
            elif kind is WasmMemory:
                numbers.append(arg.ptr)  # type: ignore[union-attr]
            else:
                numbers.append(_number(arg))
        result = self._run(name, numbers)
        if written is not None:
            for at, data in written:
                self._copy_out(at, data)
        return result & 0xFFFFFFFF if name in UNSIGNED_RESULTS else result

    def _run_with_room(self, name: str, args: tuple[Argument, ...]) -> int:
        """Runs an export with its arrays in a larger block: a new scratch block, which is kept, or
        one for this call when it would be very large."""
        need = 0
        for arg in args:
            if type(arg) is Transient:
                need += -(-arg.nbytes // _ALIGNMENT) * _ALIGNMENT
        if need <= _SCRATCH_KEPT:
            self._grow_scratch(need)
            return self._run_at(self._scratch, self._scratch_end, name, args)
        block = self._alloc(need)
        try:
            return self._run_at(block, block + need, name, args)
        finally:
            self._run("sf_free", [block])

    def _alloc(self, nbytes: int) -> int:
        address = self._run("sf_alloc", [max(nbytes, 1)]) & 0xFFFFFFFF if nbytes < 1 << 32 else 0
        if address == 0:
            raise CoreMemoryError(
                f"the {self.host} core cannot allocate {nbytes} bytes; a WebAssembly core is "
                "limited to 4 GB, the native one is not"
            )
        return address

    def _grow_scratch(self, need: int) -> None:
        if self._scratch:
            self._run("sf_free", [self._scratch])
            self._scratch = self._scratch_end = 0
        size = max(1 << 16, 1 << (need - 1).bit_length())
        self._scratch = self._alloc(size)
        self._scratch_end = self._scratch + size

    def _text(self, name: str, args: tuple[Argument, ...]) -> str | None:
        address = self._invoke(name, args) & 0xFFFFFFFF
        if address == 0:
            return None
        found = bytearray()
        piece = bytearray(32)
        while b"\0" not in found:
            self._copy_out(address, memoryview(piece))
            found += piece
            address += len(piece)
        return found[: found.index(0)].decode()

    def memory(self, nbytes: int) -> Memory:
        with self._lock:
            self._close_released()
            return WasmMemory(self, self._alloc(nbytes), nbytes)

    def upload(self, buffer: Any) -> Memory:
        view = memoryview(buffer)
        memory = self.memory(view.nbytes)
        memory.write(view)
        return memory

    @contextmanager
    def writing(self, addresses: list[int], nbytes: int) -> Iterator[list[memoryview]]:
        blocks = [memoryview(bytearray(nbytes)) for _ in addresses]
        try:
            yield blocks
        finally:
            with self._lock:
                for address, block in zip(addresses, blocks, strict=True):
                    self._copy_in(address, block)

    def inp(self, array: NDArray[Any]) -> Argument:
        return Transient(array, False)

    def out(self, array: NDArray[Any]) -> Argument:
        return Transient(array, True)


def _number(arg: Argument) -> int | float:
    """A scalar argument. Raises `OverflowError` for what does not fit in 32 bits."""
    if arg is None:
        return 0
    if isinstance(arg, float):
        if math.isfinite(arg) and abs(arg) > _FLOAT32_MAX:
            raise OverflowError("number too large for a 32-bit float")
        return arg
    if isinstance(arg, np.floating):
        return _number(float(arg))
    if isinstance(arg, (np.ndarray, Transient)):
        raise TypeError("pass arrays through Core.inp or Core.out")
    number = operator.index(arg)
    if not -0x80000000 <= number <= 0xFFFFFFFF:
        raise OverflowError(f"{number} does not fit in 32 bits")
    return number
