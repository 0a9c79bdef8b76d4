"""Compiles the Python sources of the page to bytecode, which more than halves its start-up time.

Pyodide ships Python's standard library as sources, which a page would compile at every visit. Only
the same version of Python can compile them, so Pyodide does it once, in node. Without node the page
uses the sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from .._files import write_bytes
from .fetch import PYODIDE_VERSION, Progress

_SCRIPT = Path(__file__).resolve().parent / "compile_python.mjs"
_TIMEOUT = 300  # seconds
_UNUSED_DAYS = 30  # after which an archive is deleted


def compile_archives(
    archives: Mapping[str, bytes], home: Path, progress: Progress | None = None
) -> dict[str, Path]:
    """Compiles the Python sources in archives.

    archives: the bytes of each archive (zip or wheel) by its name.
    home: the directory of Pyodide; results are cached next to it and deleted after 30 days
      without use.

    Returns the path of the compiled archive by name, or {} when node cannot compile them.
    """
    directory = home.parent / f"compiled-{PYODIDE_VERSION}"
    compiled = {name: directory / f"{_key(data)}.zip" for name, data in archives.items()}
    missing = {name: path for name, path in compiled.items() if not path.exists()}
    node = shutil.which("node")
    if missing and node is None:
        return {}
    if missing and node is not None:
        if progress is not None:
            progress("compiling Python for the page (once)", 0, 0)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            if not _compile(node, home, archives, missing, Path(temporary)):
                return {}
    with contextlib.suppress(OSError):  # the cache is read-only
        _prune(compiled.values(), home.parent)
    return compiled


def _prune(used: Iterable[Path], cache: Path) -> None:
    """Deletes compiled archives that were not used for 30 days; marks `used` as used now."""
    for path in used:
        os.utime(path)
    oldest = time.time() - _UNUSED_DAYS * 86400
    for path in cache.glob("compiled-*/*.zip"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def _key(data: bytes) -> str:
    return hashlib.sha256(_SCRIPT.read_bytes() + data).hexdigest()[:20]


def _compile(
    node: str,
    home: Path,
    archives: Mapping[str, bytes],
    targets: Mapping[str, Path],
    directory: Path,
) -> bool:
    """Compiles the archives named in `targets`; returns False when node cannot."""
    command = [node, str(_SCRIPT), str(home)]
    for index, name in enumerate(targets):
        source = directory / f"{index}-source.zip"
        write_bytes(source, archives[name])
        command += [str(source), str(directory / f"{index}.zip")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return False
    for index, path in enumerate(targets.values()):
        (directory / f"{index}.zip").replace(path)
    return True
