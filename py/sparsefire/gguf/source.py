"""The sources of a model file's bytes: memory, a mapped file, or a file object."""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, ModelFileError

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
ByteArray: TypeAlias = npt.NDArray[np.uint8]


class Watch:
    """Notices that an open file changes: its size, or the time at which it was last written. A
    file that takes over its name is another file, and of no concern."""

    def __init__(self, name: str, file: Any) -> None:
        """``file``: of any kind; one without a file of the system behind it is not watched."""
        self._name = name
        try:
            self._descriptor = file.fileno()
            self._state: tuple[int, int] | None = self._now()
        except (AttributeError, OSError, ValueError):
            self._state = None

    def _now(self) -> tuple[int, int]:
        now = os.fstat(self._descriptor)
        return now.st_size, now.st_mtime_ns

    def check(self) -> None:
        """Raises `ModelFileError` if the file changed since this object was made."""
        if self._state is not None and self._now() != self._state:
            raise ModelFileError(
                f"{self._name}: the file was changed while it is in use; load it again. A new "
                "version is best written beside the old one and then renamed; or load the model "
                "with mapped=False (--no-mmap), which reads it once"
            )


class Bytes:
    """A file whose bytes are in memory, or mapped into it from ``file``, which is closed with
    this object."""

    mapped = True

    def __init__(self, data: ByteArray, name: str = "", file: BinaryIO | None = None) -> None:
        self._data = data
        self.size = data.nbytes
        self._watch = Watch(name, file)
        self._finalizer = None if file is None else weakref.finalize(self, file.close)

    def read(self, offset: int, nbytes: int) -> ByteArray:
        """A view of `nbytes` bytes from `offset`, which must be inside the file."""
        return self._data[offset : offset + nbytes]

    def check_unchanged(self) -> None:
        """Raises `ModelFileError` if the mapped file changed since it was opened."""
        self._watch.check()

    def close(self) -> None:
        """Releases the bytes; views of them stay valid, and are no longer watched."""
        self._data = np.empty(0, np.uint8)
        self._watch = Watch("", None)
        if self._finalizer is not None:
            self._finalizer()


class Stream:
    """A seekable binary file object, read on demand."""

    mapped = False

    def __init__(self, stream: BinaryIO, name: str, owned: bool = False) -> None:
        self._stream = stream
        self._name = name
        self._owned = owned
        self.size = stream.seek(0, os.SEEK_END)
        self._watch = Watch(name, stream)  # after seeking, which writes what is in a buffer

    def read(self, offset: int, nbytes: int) -> ByteArray:
        """A copy of `nbytes` bytes from `offset`. `ModelFileError` if they cannot be read, or the
        file changed since it was opened."""
        self._stream.seek(offset)
        parts, left = [], nbytes
        while left > 0:
            part = self._stream.read(left)
            if not part:
                raise ModelFileError(
                    f"{self._name}: {left} of the {nbytes} bytes at byte {offset} cannot be read; "
                    "the file was truncated after it was opened"
                )
            parts.append(part)
            left -= len(part)
        self._watch.check()
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def check_unchanged(self) -> None:
        """Raises `ModelFileError` if the stream's file changed since it was opened."""
        self._watch.check()

    def close(self) -> None:
        """Closes the stream, unless it belongs to the caller."""
        if self._owned:
            self._stream.close()


def open_source(source: Source, mapped: bool) -> tuple[str, Bytes | Stream]:
    """A name for messages, and the bytes."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return str(path), _open_path(path, mapped)
        except OSError as error:
            raise ModelFileError(f"{path}: {error.strerror or error}") from None
    if isinstance(source, (bytes, bytearray, memoryview, np.ndarray)):
        try:
            view = memoryview(source).cast("B")
        except TypeError:
            raise ArgumentError("a model in memory must be contiguous bytes") from None
        return "the model in memory", Bytes(np.frombuffer(view, np.uint8))
    if hasattr(source, "read") and hasattr(source, "seek"):
        name = str(getattr(source, "name", "the model's stream"))
        return name, Stream(source, name)
    raise ArgumentError(
        f"a model is given as a path, bytes or a binary file, not as {type(source).__name__}"
    )


def _open_path(path: Path, mapped: bool) -> Bytes | Stream:
    if sys.platform == "emscripten" or not mapped:  # emscripten copies a file to map it
        return Stream(path.open("rb"), str(path), owned=True)
    file = path.open("rb", buffering=0)
    try:
        if os.fstat(file.fileno()).st_size == 0:
            return Bytes(np.empty(0, np.uint8), str(path), file)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Bytes(np.frombuffer(mapping, np.uint8), str(path), file)
    except BaseException:
        file.close()
        raise
