"""Compiled Python for the page, so that it starts in less than half the time.

Pyodide comes with Python's library as sources, which a page would compile at every visit. Only its
own version of Python can make what it loads without compiling, so Pyodide does it, in node, once;
without node the page works all the same.
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

from .fetch import PYODIDE_VERSION, Progress

_SCRIPT = Path(__file__).resolve().parent / "compile_python.mjs"
_SECONDS = 300
_KEPT_DAYS = 30  # since a page was last made of an archive


def compile_archives(
    archives: Mapping[str, bytes], home: Path, progress: Progress | None = None
) -> dict[str, Path]:
    """For each archive (zip or wheel) by its name the path of one with compiled Python in place of
    the sources; {} where there is no node that could do it. Results are kept beside ``home``, the
    directory of Pyodide; those that no page was made of for a while, as of older versions, go."""
    kept = home.parent / f"compiled-{PYODIDE_VERSION}"
    made = {name: kept / f"{_key(data)}.zip" for name, data in archives.items()}
    wanted = {name: path for name, path in made.items() if not path.exists()}
    node = shutil.which("node")
    if wanted and node is None:
        return {}
    if wanted and node is not None:
        if progress is not None:
            progress("compiling Python for the page, once", 0, 0)
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as directory:
            if not _compile(node, home, archives, wanted, Path(directory)):
                return {}
    with contextlib.suppress(OSError):  # a cache that cannot be written
        _prune(made.values(), home.parent)
    return made


def _prune(used: Iterable[Path], cache: Path) -> None:
    """Deletes compiled archives that were not used for long; `used` are used now."""
    for path in used:
        os.utime(path)
    oldest = time.time() - _KEPT_DAYS * 86400
    for path in cache.glob("compiled-*/*.zip"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def _key(data: bytes) -> str:
    return hashlib.sha256(_SCRIPT.read_bytes() + data).hexdigest()[:20]


def _compile(
    node: str,
    home: Path,
    archives: Mapping[str, bytes],
    wanted: Mapping[str, Path],
    directory: Path,
) -> bool:
    """Makes those archives; False when node cannot."""
    command = [node, str(_SCRIPT), str(home)]
    for index, name in enumerate(wanted):
        source = directory / f"{index}-source.zip"
        source.write_bytes(archives[name])
        command += [str(source), str(directory / f"{index}.zip")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return False
    for index, path in enumerate(wanted.values()):
        (directory / f"{index}.zip").replace(path)
    return True
