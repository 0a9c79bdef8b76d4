"""Files of this machine and of object stores, which fsspec reads and writes (extra "batch")."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from .._files import write_bytes
from ..errors import ArgumentError, BackendError, ModelFileError

_BLOCK = 1 << 23  # bytes of a read
_TRIES = 3  # of each
_MARKS = ("ETag", "Last-Modified")  # in an HTTP server's answer, which fsspec's key leaves out


def is_url(path: str) -> bool:
    """Whether a path names another file system than this machine's."""
    return "://" in path and not path.startswith("file://")


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Errors: `BackendError` (fsspec, or what it
    needs for this kind of URL, is not installed), `ArgumentError` (no such kind)."""
    try:
        import fsspec
    except ImportError as error:
        raise BackendError(f"{url}: URLs need fsspec: pip install 'sparsefire[batch]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise BackendError(f"{url}: {error}") from error
    except ValueError as error:
        raise ArgumentError(f"{url}: {error}") from error
    return system, path


class Folder:
    """A folder, a path of this machine or a URL, whose files appear complete or not at all."""

    def __init__(self, place: str) -> None:
        self.place = place.removeprefix("file://").rstrip("/") or "/"
        self._system: Any = None
        self._path = self.place
        if is_url(place):
            self._system, self._path = open_url(self.place)

    def make(self) -> None:
        """Makes it, where it is not there."""
        if self._system is None:
            Path(self._path).mkdir(parents=True, exist_ok=True)
        else:
            self._system.makedirs(self._path, exist_ok=True)

    def names(self) -> list[str]:
        """The names of its files, sorted."""
        if self._system is None:
            folder = Path(self._path)
            return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        if not self._system.exists(self._path):
            return []
        self._system.invalidate_cache()
        found = self._system.ls(self._path, detail=False)
        return sorted(PurePosixPath(each).name for each in found)

    def read(self, name: str) -> bytes:
        """All of a file."""
        if self._system is None:
            return (Path(self._path) / name).read_bytes()
        return bytes(self._system.cat_file(f"{self._path}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in one step, in place of one that is there. Errors: OSError."""
        if self._system is None:
            write_bytes(Path(self._path) / name, data)
        else:
            self._system.pipe_file(f"{self._path}/{name}", data)

    def holds(self, path: str) -> bool:
        """Whether a file lies in it."""
        if self._system is None:
            inner = path.removeprefix("file://")
            return not is_url(path) and Path(inner).resolve().parent == Path(self._path).resolve()
        return is_url(path) and open_url(path)[1].rpartition("/")[0] == self._path

    def remove(self, name: str) -> None:
        """Removes a file."""
        if self._system is None:
            (Path(self._path) / name).unlink(missing_ok=True)
        else:
            self._system.rm_file(f"{self._path}/{name}")


def expanded(pattern: str) -> list[str]:
    """The files that a path, a URL or a pattern with `*` names, sorted, and of a folder all that
    it holds; except, in patterns and folders, those with a name that starts with "." or "_", which
    programs keep for themselves. `ArgumentError` if there are none."""
    if is_url(pattern):
        names = _expanded_url(pattern)
    else:
        path = Path(pattern.removeprefix("file://"))
        if path.is_file():
            return [str(path)]
        path = path / "*" if path.is_dir() else path
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        names = [str(each) for each in found if each.is_file()]
    names = [each for each in names if PurePosixPath(each).name[0] not in "._"]
    if not names:
        raise ArgumentError(f"{pattern}: there is no such file")
    return sorted(names)


def _expanded_url(pattern: str) -> list[str]:
    system, inner = open_url(pattern)
    try:
        inner = f"{inner.rstrip('/')}/*" if system.isdir(inner) else inner
        files = [each for each in system.glob(inner) if system.isfile(each)]
    except Exception as error:  # each file system has its own
        raise BackendError(f"{pattern}: {error!r}") from error
    return [str(system.unstrip_protocol(each)) for each in files]


@contextmanager
def opened_file(path: str) -> Iterator[Any]:
    """A file, opened to read bytes."""
    if is_url(path):
        system, inner = open_url(path)
        with system.open(inner, "rb") as file:
            yield file
    else:
        with Path(path.removeprefix("file://")).open("rb") as file:
            yield file


def cache_folder() -> Path:
    """Where files of URLs are kept: SPARSEFIRE_CACHE, or the user's cache folder."""
    chosen = os.environ.get("SPARSEFIRE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparsefire"


def version_of(url: str) -> tuple[int, str]:
    """The size of a URL's file in bytes, and what tells it from others that are or were under that
    name. Errors: `ModelFileError` (no such file, a server that does not say how large it is), those
    of `open_url`."""
    system, path = open_url(url)
    try:
        info = system.info(path)
        key = system.ukey(path)
    except FileNotFoundError as error:
        reason = error.__cause__ or error
        raise ModelFileError(f"{url}: there is no such file ({reason})") from error
    except Exception as error:  # each file system has its own
        raise ModelFileError(f"{url}: cannot be read: {error!r}") from error
    size = info.get("size")
    if size is None:
        raise ModelFileError(f"{url}: its server does not say how large it is")
    marks = [str(info[name]) for name in _MARKS if name in info]
    return int(size), " ".join([url, str(size), str(key), *marks])


def local_path(source: str) -> Path:
    """The path of a file, and of a URL that of its copy on this machine: copied once, by whichever
    process comes first, going on where an interrupted copy ended. A URL may end with
    `#sha256=HEX`, which is checked.

    Errors: those of `version_of`, `ModelFileError` (another checksum, a server that fails again and
    again), OSError.
    """
    if not is_url(source):
        return Path(source.removeprefix("file://"))
    url, _, wanted = source.partition("#sha256=")
    size, version = version_of(url)
    system, path = open_url(url)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{hashlib.sha256(version.encode()).hexdigest()[:16]}-{PurePosixPath(path).name}"
    target = folder / name
    with _locked(folder / f"{name}.lock"):
        if not target.exists():
            part = folder / f"{name}.part"
            _copy(system, path, part, size)
            if wanted and _sha256(part) != wanted.lower():
                part.unlink()
                raise ModelFileError(f"{url}: its SHA-256 is not {wanted}")
            part.replace(target)
    return target


def _copy(system: Any, path: str, part: Path, size: int) -> None:
    """Copies what `part` does not hold yet."""
    done = part.stat().st_size if part.exists() else 0
    with part.open("r+b" if 0 < done <= size else "wb") as file:
        done = file.seek(0, os.SEEK_END)
        while done < size:
            done += file.write(_block(system, path, done, size))
        file.flush()
        os.fsync(file.fileno())


def _block(system: Any, path: str, start: int, size: int) -> bytes:
    """Bytes of a file from `start` on, read with another try where a connection breaks."""
    end, tried = min(start + _BLOCK, size), 0
    while True:
        tried += 1
        try:
            block = bytes(system.cat_file(path, start=start, end=end))
            break
        except Exception as error:  # each file system has its own
            if tried == _TRIES:
                raise ModelFileError(
                    f"{path}: failed after {start} of {size} bytes: {error}"
                ) from error
    if len(block) > end - start and len(block) == size:
        block = block[start:]  # a server without ranges has sent it all
    if not 0 < len(block) <= size - start:
        raise ModelFileError(f"{path}: ends after {start + len(block)} of {size} bytes")
    return block


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with its process."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        elif sys.platform != "emscripten":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
