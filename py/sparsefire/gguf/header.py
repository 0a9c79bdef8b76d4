"""Reading the header of a GGUF file in order. Every count, length and offset is checked against the
file's size before it is used."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError, UnsupportedError
from . import i2_s
from .source import Bytes, Stream
from .types import ARRAY, STRING, TENSOR_FORMATS, VALUE_TYPES, ValueType, format_code

DAMAGED = "the file is cut off or damaged; download or copy it again"

_MAX_STRINGS = 1 << 24  # in one array
_MAX_NAME_BYTES = (1 << 16) - 1
_MAX_DIMENSIONS = 4
_WINDOW_BYTES = 1 << 20  # of the header, buffered at a time
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file. `shape` is in numpy's order, (rows, columns) for a matrix; `offset` is
    from the start of the file, or of file `part` (from 0) of a split model. `format` and `nbytes`
    are those of the data as it is read; `stored` names the file's format if that is another."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int
    part: int = 0
    stored: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        weights = math.prod(self.shape)
        return i2_s.file_bytes(weights) if self.stored == i2_s.NAME else self.nbytes


class Cursor:
    """Reads the header sequentially; `where` describes the current field for messages."""

    def __init__(self, source: Bytes | Stream, name: str) -> None:
        self._source = source
        self._name = name
        self._window = b""
        self._start = 0  # file offset of the window
        self._at = 0  # index in the window
        self.where = "header"

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return self._source.size - self.position

    def fail(self, problem: str) -> NoReturn:
        """Raises the `ModelFileError` that names the file, the place and the problem."""
        raise ModelFileError(f"{self._name}: {self.where} (at byte {self.position}): {problem}")

    def _need(self, nbytes: int) -> None:
        """Ensures that the window contains the next `nbytes` bytes."""
        if self._at + nbytes <= len(self._window):
            return
        if nbytes > self.left:
            self.fail(f"{nbytes} bytes are wanted but {self.left} are left; {DAMAGED}")
        self._start, self._at = self.position, 0
        wanted = min(max(nbytes, _WINDOW_BYTES), self._source.size - self._start)
        self._window = self._source.read(self._start, wanted).tobytes()

    def number(self, code: str) -> Any:
        """The next number; `code` as in `struct`."""
        size = struct.calcsize(f"<{code}")
        self._need(size)
        (value,) = struct.unpack_from(f"<{code}", self._window, self._at)
        self._at += size
        return value

    def name(self) -> str:
        """A key or a tensor's name."""
        length = self.number("Q")
        if length > _MAX_NAME_BYTES:
            self.fail(f"a name of {length} bytes; names have at most {_MAX_NAME_BYTES}")
        raw = self._take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"a name that is not UTF-8; {DAMAGED}")

    def _take(self, nbytes: int) -> bytes:
        self._need(nbytes)
        raw = self._window[self._at : self._at + nbytes]
        self._at += nbytes
        return raw

    def strings(self, count: int) -> list[str]:
        """The next `count` strings. Bytes that are not UTF-8 become lone surrogates, so that
        encoding with "surrogateescape" gives them back."""
        if count > _MAX_STRINGS or 8 * count > self.left:
            self.fail(f"a count of {count} strings in the {self.left} bytes left; {DAMAGED}")
        strings: list[str] = []
        while len(strings) < count:
            self._strings_in_window(count - len(strings), strings)
            if len(strings) < count:  # the next one is not wholly in the window
                self._need(8)
                (length,) = _LENGTH.unpack_from(self._window, self._at)
                if 8 + length > self.left:
                    self._take(8)
                    self._need(length)  # which fails
                self._need(8 + length)
        return strings

    def _strings_in_window(self, count: int, strings: list[str]) -> None:
        """Appends up to `count` strings. A vocabulary has hundreds of thousands of them, so this
        loop has few steps."""
        window, at = self._window, self._at
        size = len(window)
        length_at, append = _LENGTH.unpack_from, strings.append
        for _ in range(count):
            begin = at + 8
            if begin > size:
                break
            end = begin + length_at(window, at)[0]
            if end > size:
                break
            append(window[begin:end].decode("utf-8", "surrogateescape"))
            at = end
        self._at = at

    def numbers(self, count: int, code: str) -> npt.NDArray[Any]:
        """The next `count` numbers as a new array."""
        dtype = np.dtype(f"<{np.dtype(code).str[1:]}") if code else np.dtype(np.uint8)
        if count * dtype.itemsize > self.left:
            self.fail(f"an array of {count} numbers in the {self.left} bytes left; {DAMAGED}")
        nbytes = count * dtype.itemsize
        self._need(nbytes)
        array = np.frombuffer(self._window[self._at : self._at + nbytes], dtype).copy()
        self._at += nbytes
        return array

    def value(self) -> tuple[ValueType, Any]:
        """The type and value of the next metadata entry."""
        code = self.number("I")
        if code == ARRAY:
            return self._array()
        name, format_code = self._value_type(code)
        if code == STRING:
            return ValueType(name), self.strings(1)[0]
        number = self.number(format_code)
        return ValueType(name), bool(number) if name == "bool" else number

    def _value_type(self, code: int) -> tuple[str, str]:
        if code not in VALUE_TYPES:
            self.fail(f"value type {code}, which GGUF does not define; {DAMAGED}")
        return VALUE_TYPES[code]

    def _array(self) -> tuple[ValueType, Any]:
        code = self.number("I")
        element, format_code = self._value_type(code)
        count = self.number("Q")
        kind = ValueType("array", element)
        if code == ARRAY:
            self.fail("an array of arrays, which is not supported")
        if code == STRING:
            return kind, self.strings(count)
        array = self.numbers(count, format_code)
        return kind, array != 0 if element == "bool" else array

    def tensor(self) -> tuple[TensorInfo, int]:
        """The next tensor's description, with the offset relative to the start of the tensor data,
        and the position of that field in the file (for messages)."""
        self.where = "tensor table"
        name = self.name()
        self.where = f"tensor {name!r}"
        count = self.number("I")
        if not 1 <= count <= _MAX_DIMENSIONS:
            self.fail(f"{count} dimensions; 1 to {_MAX_DIMENSIONS} are possible. {DAMAGED}")
        shape = tuple(self.number("Q") for _ in range(count))[::-1]
        code = self.number("I")
        at = self.position
        offset = self.number("Q")
        stored = i2_s.NAME if code == i2_s.CODE else None
        if stored and (count != 2 or shape[-1] % i2_s.BLOCK):
            raise UnsupportedError(
                f"{self._name}: {self.where}: shape {shape} in I2_S; matrices whose columns are a "
                f"multiple of {i2_s.BLOCK} are supported"
            )
        code = format_code(i2_s.READ_AS) if stored else code
        if code not in TENSOR_FORMATS:
            self.fail(
                f"weight format number {code} is unknown; the file is damaged, or newer than "
                "this version of sparsefire"
            )
        packing = TENSOR_FORMATS[code]
        if 0 in shape:
            self.fail(f"shape {shape} has a zero; {DAMAGED}")
        if shape[-1] % packing.block:
            self.fail(
                f"rows of {shape[-1]} weights do not divide into {packing.name.upper()}'s "
                f"blocks of {packing.block}; {DAMAGED}"
            )
        nbytes = math.prod(shape) // packing.block * packing.block_bytes
        return TensorInfo(name, shape, packing.name, offset, nbytes, stored=stored), at
