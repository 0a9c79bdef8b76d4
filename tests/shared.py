"""What the processes of one run of pytest share, so that each thing is fetched or built once: under
pytest-xdist several run tests at a time."""

from __future__ import annotations

import atexit
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock

CACHE = Path(__file__).resolve().parent.parent / ".cache"  # downloads, kept from run to run

_RUN = "SPARSEFIRE_TEST_RUN"  # the variable that names the directory of this run


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """The cache's entry of that name, for one process at a time."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        yield CACHE / name


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
    with tarfile.open(archive) as opened:
        opened.extractall(folder, **safely)


@cache
def run_directory() -> Path:
    """The directory of this run. The first process that asks makes it, and removes it at its end;
    those that it starts find it in their environment."""
    if _RUN not in os.environ:
        directory = tempfile.TemporaryDirectory(prefix="sparsefire-tests-")
        atexit.register(directory.cleanup)
        os.environ[_RUN] = directory.name
    return Path(os.environ[_RUN])


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A directory of this run that `make` fills, in the first process that asks for it."""
    directory = run_directory() / name
    complete = directory.with_suffix(".complete")
    with FileLock(directory.with_suffix(".lock")):
        if not complete.exists():
            directory.mkdir(exist_ok=True)
            make(directory)
            complete.touch()
    return directory
