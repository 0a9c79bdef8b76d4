"""The core as a compiled extension: it shares this process's memory, so arrays are passed without
copies."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, BackendError, CoreMemoryError
from .core import Argument, Core, Memory

try:
    from . import _native
except ImportError as error:
    raise BackendError(
        f"the native extension is not built for this Python ({error}); run `pip install .` in the "
        "project's directory, with a C compiler installed"
    ) from None

_ALIGNMENT = 64


class NativeMemory(Memory):
    """Bytes of a numpy array, which owns them or shares a caller's buffer."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array
        self.ptr = array.__array_interface__["data"][0]
        self.nbytes = array.nbytes

    def _write(self, offset: int, source: memoryview) -> None:
        if not self._array.flags.writeable:
            raise ArgumentError("this core memory shares a read-only buffer")
        self._array[offset : offset + source.nbytes] = np.frombuffer(source, np.uint8)

    def _read(self, offset: int, target: memoryview) -> None:
        np.frombuffer(target, np.uint8)[:] = self._array[offset : offset + target.nbytes]

    def close(self) -> None:
        self._array = np.empty(0, np.uint8)
        self.ptr = self.nbytes = 0
        self.closed = True


class NativeCore(Core):
    """The core in this process."""

    host = "native"
    shares_buffers = True
    pointer_dtype = np.uintp

    def __init__(self, isa: str | None = None) -> None:
        super().__init__(isa)
        self._functions: Mapping[str, Any] = vars(_native)
        if sys.platform == "emscripten":
            self.note = (
                "one thread, since the extension shares Python's memory; "
                "`await sparsefire.enable_threads()` changes to the backend 'pyodide'"
            )

    def _invoke(self, name: str, args: tuple[Argument, ...]) -> int:
        result: int = self._functions[name](*args)
        return result

    def _text(self, name: str, args: tuple[Argument, ...]) -> str | None:
        text: str | None = self._functions[name](*args)
        return text

    def memory(self, nbytes: int) -> Memory:
        try:
            block = np.empty(max(nbytes, 1) + _ALIGNMENT - 1, np.uint8)
        except (MemoryError, ValueError):  # ValueError: larger than the address space
            raise CoreMemoryError(f"no {nbytes} bytes of memory are free") from None
        start = -block.__array_interface__["data"][0] % _ALIGNMENT
        return NativeMemory(block[start : start + nbytes])

    def upload(self, buffer: Any) -> Memory:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise ArgumentError("only C-contiguous buffers can be uploaded")
        return NativeMemory(np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8))

    def inp(self, array: NDArray[Any]) -> Argument:
        return array

    def out(self, array: NDArray[Any]) -> Argument:
        return array

    @contextmanager
    def writing(self, addresses: list[int], nbytes: int) -> Iterator[list[memoryview]]:
        place = (ctypes.c_uint8 * nbytes).from_address
        yield [memoryview(place(address)) for address in addresses]
