"""Reads of a file that leave nothing in the system's page cache, from several threads."""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_ALIGNMENT = 4096  # of places, lengths and memory in direct reads; no file system asks for more


class UncachedFile:
    """A file that is read past the page cache, so that who reads it keeps no second copy of what
    he has: by direct reads (Linux) or without caching (macOS). Where a file system has no direct
    reads, what was read is dropped from the page cache. Elsewhere, as on Windows, `supported` is
    False. Several threads may read."""

    supported = hasattr(os, "preadv")

    def __init__(self, path: Path) -> None:
        self._descriptor = _opened(path)
        self._direct = self._descriptor is not None and _reads_directly(self._descriptor)
        self._plain = os.open(path, os.O_RDONLY)
        with contextlib.suppress(ImportError, AttributeError, OSError):
            fcntl = importlib.import_module("fcntl")
            fcntl.fcntl(self._plain, fcntl.F_NOCACHE, 1)
        self._buffers = threading.local()
        descriptors = [each for each in (self._descriptor, self._plain) if each is not None]
        self._finalizer = weakref.finalize(self, _close, descriptors)

    def read(self, offset: int, out: memoryview) -> int:
        """Fills ``out`` from byte ``offset``; how many bytes there were. `OSError`."""
        if not self._direct:
            done = sum(self._pieces(self._plain, offset, out))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._plain, offset, len(out), os.POSIX_FADV_DONTNEED)
            return done
        assert self._descriptor is not None
        before = offset % _ALIGNMENT
        whole = -(-(before + len(out)) // _ALIGNMENT) * _ALIGNMENT
        buffer = self._buffer(whole)
        done = sum(self._pieces(self._descriptor, offset - before, buffer)) - before
        done = max(0, min(done, len(out)))
        target = np.frombuffer(out, np.uint8)[:done]
        np.copyto(target, np.frombuffer(buffer, np.uint8)[before : before + done])
        return done

    @staticmethod
    def _pieces(descriptor: int, offset: int, out: memoryview) -> Iterator[int]:
        """Reads until ``out`` is full or the file ends; yields how many bytes each time."""
        done = 0
        while done < len(out):
            count = os.preadv(descriptor, [out[done:]], offset + done)
            yield count
            done += count
            if count == 0 or done % _ALIGNMENT:
                break

    def _buffer(self, nbytes: int) -> memoryview:
        """Aligned memory of this thread."""
        found: memoryview | None = getattr(self._buffers, "memory", None)
        if found is None or len(found) < nbytes:
            found = self._buffers.memory = memoryview(mmap.mmap(-1, nbytes))
        return found[:nbytes]

    def close(self) -> None:
        """Closes the file. Closing twice is allowed."""
        self._finalizer()


def _opened(path: Path) -> int | None:
    """A descriptor that reads past the page cache, or None."""
    if hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_DIRECT)
    return None


def _reads_directly(descriptor: int) -> bool:
    """Whether a file system that opened a file for direct reads also does them."""
    with contextlib.suppress(OSError):
        return os.preadv(descriptor, [mmap.mmap(-1, _ALIGNMENT)], 0) > 0
    return False


def _close(descriptors: list[int]) -> None:
    for each in descriptors:
        os.close(each)
