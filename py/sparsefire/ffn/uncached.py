"""Reads of a file that leave nothing in the system's page cache, from several threads."""

from __future__ import annotations

import contextlib
import errno
import importlib
import mmap
import os
import threading
import weakref
from pathlib import Path

import numpy as np

_ALIGNMENT = 4096  # of places, lengths and memory in direct reads; no file system asks for more
_AT_ONCE = 4 << 20  # bytes of a direct read, which each thread that reads has memory for
_buffers = threading.local()


class UncachedFile:
    """A file that is read past the page cache, so that who reads it keeps no second copy of what
    he has: by direct reads (Linux) or without caching (macOS). Where a file system has no direct
    reads, what was read is dropped from the page cache. Elsewhere, as on Windows, `supported` is
    False. Several threads may read. `OSError` if the file cannot be opened."""

    supported = hasattr(os, "preadv")

    def __init__(self, path: Path) -> None:
        self._plain = os.open(path, os.O_RDONLY)
        self._direct = _open_directly(path)
        with contextlib.suppress(ImportError, AttributeError, OSError):
            fcntl = importlib.import_module("fcntl")
            fcntl.fcntl(self._plain, fcntl.F_NOCACHE, 1)
        descriptors = [each for each in (self._direct, self._plain) if each is not None]
        self._finalizer = weakref.finalize(self, _close, descriptors)

    @property
    def is_direct(self) -> bool:
        """Whether the file system has direct reads."""
        return self._direct is not None

    def read(self, offset: int, out: memoryview) -> int:
        """Fills ``out`` from byte ``offset``; how many bytes there were. `OSError`."""
        done = self._read_directly(offset, out)
        return done + self._read_plainly(offset + done, out[done:])

    def _read_directly(self, offset: int, out: memoryview) -> int:
        """Reads to the file's end, or to where the file system refuses direct reads."""
        buffer, done = _buffer(), 0
        while self._direct is not None and done < len(out):
            before = (offset + done) % _ALIGNMENT
            whole = -(-(before + len(out) - done) // _ALIGNMENT) * _ALIGNMENT
            try:
                count = os.preadv(self._direct, [buffer[:whole]], offset + done - before)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break
            got = min(count - before, len(out) - done)
            if got <= 0:
                break
            target = np.frombuffer(out, np.uint8)[done : done + got]
            np.copyto(target, np.frombuffer(buffer, np.uint8)[before : before + got])
            done += got
            if count % _ALIGNMENT:
                break
        return done

    def _read_plainly(self, offset: int, out: memoryview) -> int:
        done = 0
        while done < len(out):
            count = os.preadv(self._plain, [out[done:]], offset + done)
            if count == 0:
                break
            done += count
        if done and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._plain, offset, done, os.POSIX_FADV_DONTNEED)
        return done

    def close(self) -> None:
        """Closes the file. Closing twice is allowed."""
        self._finalizer()


def _buffer() -> memoryview:
    """Aligned memory of this thread."""
    if not hasattr(_buffers, "memory"):
        _buffers.memory = memoryview(mmap.mmap(-1, _AT_ONCE))
    found: memoryview = _buffers.memory
    return found


def _open_directly(path: Path) -> int | None:
    """A descriptor for direct reads, or None if the file system refuses it, or refuses to read."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if os.preadv(descriptor, [_buffer()[:_ALIGNMENT]], 0) > 0:
            return descriptor
    os.close(descriptor)
    return None


def _close(descriptors: list[int]) -> None:
    for each in descriptors:
        os.close(each)
