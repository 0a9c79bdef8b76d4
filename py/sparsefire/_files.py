"""Writing files: what an output may replace, and how it does, in one step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from .errors import ArgumentError

# What ends a program without an exception, so that no `finally` runs.
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_unfinished: list[Path] = []  # files and folders that such a signal removes


def check_output(target: Path, inputs: Iterable[Path] = (), *, force: bool = True) -> None:
    """Checks that a file may be written to ``target``, which is best known before minutes of work.
    ``inputs`` are the files that the new one is made from, and are never replaced, under whatever
    name; another file that exists is replaced only with ``force``. Errors: `ArgumentError`."""
    if target.is_dir():
        raise ArgumentError(f"{target}: is a directory; give the name of a file")
    if target.exists():
        if any(each.exists() and each.samefile(target) for each in inputs):
            raise ArgumentError(f"{target}: the output is the input; give the output another name")
        if not target.is_file():
            raise ArgumentError(f"{target}: is no ordinary file; give the output another name")
        if not force:
            raise ArgumentError(f"{target}: the file exists; --force (force=True) replaces it")
    parent = target.resolve().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ArgumentError(
            f"{target}: cannot be written; its directory must exist and allow new files"
        )


@contextmanager
def replaced(target: Path, inputs: Iterable[Path] = (), *, force: bool = True) -> Iterator[Path]:
    """Gives the path of a new file beside ``target``, and moves what was written there to
    ``target`` when the context ends; after an error, or a signal that ends the program, neither
    file is left or changed. A link stays, and the file that it names is replaced. The caller
    flushes its file to disk (`os.fsync`) before the context ends. Errors as `check_output`."""
    inputs = tuple(inputs)
    check_output(target, inputs, force=force)
    final = target.resolve()
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with _removed_at_signals(part):
            yield part
            check_output(target, inputs, force=force)  # others may have made it meanwhile
            with named_errors(target):
                part.replace(final)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def named_errors(target: Path) -> Iterator[None]:
    """Lets an OSError of writing, such as that of a full disk, name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error


@contextmanager
def scratch(beside: Path | None = None) -> Iterator[Path]:
    """Gives a new folder, beside a file or by default among the system's temporary ones, which is
    removed when the context ends, or a signal ends the program."""
    parent = None if beside is None else beside.resolve().parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=".sparsefire-") as name:
        folder = Path(name)
        with _removed_at_signals(folder):
            yield folder


@contextmanager
def _removed_at_signals(part: Path) -> Iterator[None]:
    """Removes a file or folder if a signal ends the program that its caller does not handle. Python
    delivers signals to the main thread only: elsewhere this does so while the main thread does."""
    ours: list[signal.Signals] = []
    _unfinished.append(part)
    if threading.current_thread() is threading.main_thread():
        for each in _ENDINGS:
            if signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, _end)
                ours.append(each)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
        _unfinished.remove(part)


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends the program as the signal does, without what is unfinished."""
    for each in _unfinished:
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def write_json(target: Path, value: object, inputs: Iterable[Path] = ()) -> None:
    """Writes a JSON file in one step. Errors as `replaced`, and OSError."""
    write_bytes(target, f"{json.dumps(value)}\n".encode(), inputs)


def write_bytes(
    target: Path, data: bytes, inputs: Iterable[Path] = (), *, force: bool = True
) -> None:
    """Writes a file in one step. Errors as `replaced`, and OSError, which names the file."""
    with (
        replaced(target, inputs, force=force) as part,
        named_errors(target),
        part.open("wb") as file,
    ):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
