"""Reading GGUF model files: the header, and each tensor's bytes on demand.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2
and 3 are read, little-endian. Nothing in a file is believed: every count, length and offset is
checked against the file's size before it is used. `write_gguf` in `gguf_write` is the other way.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError, ModelFileError, UnsupportedError

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
ByteArray: TypeAlias = npt.NDArray[np.uint8]

_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_STRINGS = 1 << 24  # in one array
_MAX_NAME_BYTES = (1 << 16) - 1
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_WINDOW_BYTES = 1 << 20  # of the header, read at a time where the file is not mapped

_DAMAGED = "the file is cut off or damaged; download or copy it again"


class TensorFormat(NamedTuple):
    """How weights are packed: `block_bytes` for every `block` weights of a row."""

    name: str
    block: int
    block_bytes: int


TENSOR_FORMATS: dict[int, TensorFormat] = {
    0: TensorFormat("f32", 1, 4),
    1: TensorFormat("f16", 1, 2),
    2: TensorFormat("q4_0", 32, 18),
    3: TensorFormat("q4_1", 32, 20),
    6: TensorFormat("q5_0", 32, 22),
    7: TensorFormat("q5_1", 32, 24),
    8: TensorFormat("q8_0", 32, 34),
    9: TensorFormat("q8_1", 32, 36),
    10: TensorFormat("q2_k", 256, 84),
    11: TensorFormat("q3_k", 256, 110),
    12: TensorFormat("q4_k", 256, 144),
    13: TensorFormat("q5_k", 256, 176),
    14: TensorFormat("q6_k", 256, 210),
    15: TensorFormat("q8_k", 256, 292),
    16: TensorFormat("iq2_xxs", 256, 66),
    17: TensorFormat("iq2_xs", 256, 74),
    18: TensorFormat("iq3_xxs", 256, 98),
    19: TensorFormat("iq1_s", 256, 50),
    20: TensorFormat("iq4_nl", 32, 18),
    21: TensorFormat("iq3_s", 256, 110),
    22: TensorFormat("iq2_s", 256, 82),
    23: TensorFormat("iq4_xs", 256, 136),
    24: TensorFormat("i8", 1, 1),
    25: TensorFormat("i16", 1, 2),
    26: TensorFormat("i32", 1, 4),
    27: TensorFormat("i64", 1, 8),
    28: TensorFormat("f64", 1, 8),
    29: TensorFormat("iq1_m", 256, 56),
    30: TensorFormat("bf16", 1, 2),
    34: TensorFormat("tq1_0", 256, 54),
    35: TensorFormat("tq2_0", 256, 66),
    39: TensorFormat("mxfp4", 32, 17),
    40: TensorFormat("nvfp4", 64, 36),
    41: TensorFormat("q1_0", 128, 18),
}

# Metadata value types: number in the file → (name, struct code). Strings and arrays have no code.
VALUE_TYPES: dict[int, tuple[str, str]] = {
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    7: ("bool", "B"),
    8: ("string", ""),
    9: ("array", ""),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
_STRING, _ARRAY = 8, 9


class ValueType(NamedTuple):
    """Type of a metadata value: "u8" … "f64", "bool", "string", or "array" of `element`."""

    name: str
    element: str | None = None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file. `shape` is numpy's order, so a matrix's is (rows, columns); `offset`
    counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int


class _Bytes:
    """A file whose bytes are in memory, or mapped into it."""

    def __init__(self, data: ByteArray) -> None:
        self._data = data
        self.size = data.nbytes
        self.window_bytes = max(1, data.nbytes)

    def read(self, offset: int, nbytes: int) -> ByteArray:
        """A view of `nbytes` bytes from `offset`, which are inside the file."""
        return self._data[offset : offset + nbytes]

    def close(self) -> None:
        """Lets go of the bytes; views of them stay valid."""
        self._data = np.empty(0, np.uint8)


class _Stream:
    """A seekable binary file object, of which only what is asked for is read."""

    window_bytes = _WINDOW_BYTES

    def __init__(self, stream: BinaryIO, name: str, owned: bool = False) -> None:
        self._stream = stream
        self._name = name
        self._owned = owned
        self.size = stream.seek(0, os.SEEK_END)

    def read(self, offset: int, nbytes: int) -> ByteArray:
        """A copy of `nbytes` bytes from `offset`."""
        self._stream.seek(offset)
        parts, left = [], nbytes
        while left > 0:
            part = self._stream.read(left)
            if not part:
                raise ModelFileError(
                    f"{self._name}: {left} of the {nbytes} bytes at byte {offset} cannot be read; "
                    "the file has become shorter since it was opened"
                )
            parts.append(part)
            left -= len(part)
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def close(self) -> None:
        """Closes the stream, unless it is the caller's."""
        if self._owned:
            self._stream.close()


def _open_source(source: Source) -> tuple[str, _Bytes | _Stream]:
    """A name for messages, and the bytes."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return str(path), _open_path(path)
        except OSError as error:
            raise ModelFileError(f"{path}: {error.strerror or error}") from None
    if isinstance(source, (bytes, bytearray, memoryview, np.ndarray)):
        try:
            view = memoryview(source).cast("B")
        except TypeError:
            raise ArgumentError("a model in memory must be contiguous bytes") from None
        return "the model in memory", _Bytes(np.frombuffer(view, np.uint8))
    if hasattr(source, "read") and hasattr(source, "seek"):
        name = str(getattr(source, "name", "the model's stream"))
        return name, _Stream(source, name)
    raise ArgumentError(
        f"a model is given as a path, bytes or a binary file, not as {type(source).__name__}"
    )


def _open_path(path: Path) -> _Bytes | _Stream:
    if sys.platform == "emscripten":  # there, mapping a file copies it
        return _Stream(path.open("rb"), str(path), owned=True)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return _Bytes(np.empty(0, np.uint8))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Bytes(np.frombuffer(mapped, np.uint8))


class _Cursor:
    """Reads the header from front to back; `where` says in messages what is being read."""

    def __init__(self, source: _Bytes | _Stream, name: str) -> None:
        self._source = source
        self._name = name
        self._window = memoryview(b"")
        self._start = 0  # where in the file the window begins
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
        """Makes the window hold the next `nbytes` bytes."""
        if self._at + nbytes <= len(self._window):
            return
        if nbytes > self.left:
            self.fail(f"{nbytes} bytes are wanted but {self.left} are left; {_DAMAGED}")
        self._start, self._at = self.position, 0
        wanted = min(max(nbytes, self._source.window_bytes), self._source.size - self._start)
        self._window = self._source.read(self._start, wanted).data

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
            self.fail(f"a name that is not UTF-8; {_DAMAGED}")

    def _take(self, nbytes: int) -> bytes:
        self._need(nbytes)
        raw = bytes(self._window[self._at : self._at + nbytes])
        self._at += nbytes
        return raw

    def strings(self, count: int) -> list[str]:
        """The next `count` strings. Bytes that are not UTF-8 become lone surrogates, so that
        encoding with "surrogateescape" gives them back."""
        if count > _MAX_STRINGS or 8 * count > self.left:
            self.fail(f"a count of {count} strings in the {self.left} bytes left; {_DAMAGED}")
        length_at = struct.Struct("<Q").unpack_from
        strings: list[str] = []
        for _ in range(count):
            # A vocabulary has hundreds of thousands of strings, so this loop avoids calls.
            if self._at + 8 > len(self._window):
                self._need(8)
            (length,) = length_at(self._window, self._at)
            self._at += 8
            if self._at + length > len(self._window):
                self._need(length)
            end = self._at + length
            strings.append(str(self._window[self._at : end], "utf-8", "surrogateescape"))
            self._at = end
        return strings

    def numbers(self, count: int, code: str) -> npt.NDArray[Any]:
        """The next `count` numbers as a new array."""
        dtype = np.dtype(f"<{np.dtype(code).str[1:]}") if code else np.dtype(np.uint8)
        if count * dtype.itemsize > self.left:
            self.fail(f"an array of {count} numbers in the {self.left} bytes left; {_DAMAGED}")
        nbytes = count * dtype.itemsize
        self._need(nbytes)
        array = np.frombuffer(self._window[self._at : self._at + nbytes], dtype).copy()
        self._at += nbytes
        return array

    def value(self) -> tuple[ValueType, Any]:
        """The next metadata value, led by its type."""
        code = self.number("I")
        if code == _ARRAY:
            return self._array()
        name, format_code = self._value_type(code)
        if code == _STRING:
            return ValueType(name), self.strings(1)[0]
        number = self.number(format_code)
        return ValueType(name), bool(number) if name == "bool" else number

    def _value_type(self, code: int) -> tuple[str, str]:
        if code not in VALUE_TYPES:
            self.fail(f"value type {code}, which GGUF does not define; {_DAMAGED}")
        return VALUE_TYPES[code]

    def _array(self) -> tuple[ValueType, Any]:
        code = self.number("I")
        element, format_code = self._value_type(code)
        count = self.number("Q")
        kind = ValueType("array", element)
        if code == _ARRAY:
            self.fail("an array of arrays, which is not supported")
        if code == _STRING:
            return kind, self.strings(count)
        array = self.numbers(count, format_code)
        return kind, array != 0 if element == "bool" else array

    def tensor(self) -> tuple[TensorInfo, int]:
        """The next tensor's description, its offset counted from the start of the tensor data,
        and the same offset's position in the file (for messages)."""
        self.where = "tensor table"
        name = self.name()
        self.where = f"tensor {name!r}"
        count = self.number("I")
        if not 1 <= count <= _MAX_DIMENSIONS:
            self.fail(f"{count} dimensions; 1 to {_MAX_DIMENSIONS} are possible. {_DAMAGED}")
        shape = tuple(self.number("Q") for _ in range(count))[::-1]
        code = self.number("I")
        at = self.position
        offset = self.number("Q")
        if code not in TENSOR_FORMATS:
            self.fail(
                f"weight format number {code} is unknown; the file is damaged, or newer than "
                "this version of sparsefire"
            )
        packing = TENSOR_FORMATS[code]
        if 0 in shape:
            self.fail(f"shape {shape} has a zero; {_DAMAGED}")
        if shape[-1] % packing.block:
            self.fail(
                f"rows of {shape[-1]} weights do not divide into {packing.name.upper()}'s "
                f"blocks of {packing.block}; {_DAMAGED}"
            )
        weights = 1
        for size in shape:
            weights *= size
        nbytes = weights // packing.block * packing.block_bytes
        return TensorInfo(name, shape, packing.name, offset, nbytes), at


class GgufFile:
    """An open GGUF file.

    `name` is how messages call it, `version` 2 or 3, `metadata` maps keys to values (numbers,
    bools, strings, lists of strings, numpy arrays of numbers), `metadata_types` to their
    `ValueType`, and `tensors` names to `TensorInfo`. All are in the file's order. A file opened
    by its path is mapped, not read.
    """

    def __init__(self, source: Source) -> None:
        self.name, self._source = _open_source(source)
        self.metadata: dict[str, Any] = {}
        self.metadata_types: dict[str, ValueType] = {}
        self.tensors: dict[str, TensorInfo] = {}
        cursor = _Cursor(self._source, self.name)
        tensors, keys = self._read_counts(cursor)
        self._read_metadata(cursor, keys)
        self.alignment = self._checked_alignment()
        self._read_tensors(cursor, tensors)

    @classmethod
    def open(cls, source: Source) -> GgufFile:
        """Opens a path, a buffer of bytes or a seekable binary file, and reads the header.

        Errors: `ModelFileError` (missing, cut off or damaged; the message names the place),
        `UnsupportedError` (big-endian, version 1), `ArgumentError`.
        """
        return cls(source)

    def _read_counts(self, cursor: _Cursor) -> tuple[int, int]:
        """Checks magic and version; returns the counts of tensors and of metadata keys."""
        self._check_magic()
        cursor.number("I")
        self.version: int = cursor.number("I")
        if self.version and not self.version & 0xFFFF:
            raise UnsupportedError(
                f"{self.name}: the file is big-endian; convert it to little-endian, for example "
                "with `gguf-convert-endian FILE little` from the gguf package"
            )
        if self.version not in (2, 3):
            raise UnsupportedError(
                f"{self.name}: GGUF version {self.version} is not supported; versions 2 and 3 are"
            )
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        # A key takes at least 13 bytes (length, type, one byte), a tensor 32.
        for what, count, most, least_bytes in (
            ("tensors", tensors, _MAX_TENSORS, 32),
            ("metadata keys", keys, _MAX_KEYS, 13),
        ):
            if count > most or count * least_bytes > cursor.left:
                cursor.fail(f"a count of {count} {what} in {cursor.left} bytes; {_DAMAGED}")
        return tensors, keys

    def _check_magic(self) -> None:
        start = bytes(self._source.read(0, min(self._source.size, 24)))
        if start[:4] == b"GGUF":
            return
        if not start:
            raise ModelFileError(f"{self.name}: the file is empty; download or copy it again")
        if start.startswith(b"version https://git-lfs"):
            raise ModelFileError(
                f"{self.name}: a Git LFS pointer, not the model itself; run `git lfs pull`"
            )
        if b"GGUF".startswith(start):
            raise ModelFileError(f"{self.name}: {len(start)} bytes long; {_DAMAGED}")
        raise ModelFileError(
            f"{self.name}: not a GGUF file: it starts with {start[:4]!r}, not with b'GGUF'"
        )

    def _read_metadata(self, cursor: _Cursor, count: int) -> None:
        for index in range(count):
            cursor.where = f"metadata key {index + 1} of {count}"
            key = cursor.name()
            cursor.where = f"key {key!r}"
            if key in self.metadata:
                cursor.fail(f"the key occurs twice; {_DAMAGED}")
            self.metadata_types[key], self.metadata[key] = cursor.value()

    def _checked_alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        whole = isinstance(alignment, int) and not isinstance(alignment, bool)
        if not whole or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise ModelFileError(
                f"{self.name}: key 'general.alignment': {alignment!r} is not a power of two "
                f"up to {_MAX_ALIGNMENT}; {_DAMAGED}"
            )
        return int(alignment)

    def _read_tensors(self, cursor: _Cursor, count: int) -> None:
        described = []
        for _ in range(count):
            info, at = cursor.tensor()
            if info.offset % self.alignment:
                cursor.fail(
                    f"offset {info.offset} is not a multiple of {self.alignment}; {_DAMAGED}"
                )
            if info.name in self.tensors:
                cursor.fail(f"the name occurs twice; {_DAMAGED}")
            self.tensors[info.name] = info
            described.append((info, at))
        start = -(-cursor.position // self.alignment) * self.alignment
        for info, at in described:
            offset = start + info.offset
            if offset + info.nbytes > self._source.size:
                raise ModelFileError(
                    f"{self.name}: tensor {info.name!r} (offset at byte {at}): its {info.nbytes} "
                    f"bytes at byte {offset} go past the end of the file, which has "
                    f"{self._source.size} bytes; {_DAMAGED}"
                )
            self.tensors[info.name] = TensorInfo(
                info.name, info.shape, info.format, offset, info.nbytes
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._source.size

    def tensor(self, name: str) -> TensorInfo:
        """The description of a tensor; `ModelFileError` when the file has none of that name."""
        if name not in self.tensors:
            raise ModelFileError(f"{self.name}: tensor {name!r} is missing")
        return self.tensors[name]

    def tensor_data(self, name: str) -> ByteArray:
        """The packed bytes of a tensor, uint8 (nbytes,), read-only: a view of the mapped file or
        of the given buffer, or, for a file object, a copy read now."""
        info = self.tensor(name)
        data = self._source.read(info.offset, info.nbytes)
        data.flags.writeable = False
        return data

    def close(self) -> None:
        """Closes the file. Tensor data that was handed out stays valid."""
        self._source.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def typed_metadata(self) -> dict[str, TypedValue]:
        """The metadata with its types, as `write_gguf` takes it."""
        return {
            key: TypedValue(value, self.metadata_types[key]) for key, value in self.metadata.items()
        }

    def __repr__(self) -> str:
        return (
            f"GgufFile({self.name!r}, {len(self.metadata)} keys, {len(self.tensors)} tensors, "
            f"{self.nbytes:,} bytes)"
        )


class TypedValue(NamedTuple):
    """A metadata value with the type that it has, or is to have, in a file."""

    value: Any
    type: ValueType


def packed_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this shape in the format of that name."""
    packing = _format_named(name)
    weights = 1
    for size in shape:
        weights *= size
    if not shape or shape[-1] % packing.block:
        raise ArgumentError(f"shape {shape} cannot be packed in {packing.name}")
    return weights // packing.block * packing.block_bytes


def format_code(name: str) -> int:
    """GGUF's number of a tensor format, by name."""
    wanted = _format_named(name)
    return next(code for code, each in TENSOR_FORMATS.items() if each is wanted)


def _format_named(name: str) -> TensorFormat:
    for each in TENSOR_FORMATS.values():
        if each.name.lower() == name.lower():
            return each
    raise ArgumentError(f"unknown tensor format {name!r}")


def value_type_codes() -> Mapping[str, int]:
    """GGUF's number of each metadata value type, by name."""
    return {name: code for code, (name, _) in VALUE_TYPES.items()}
