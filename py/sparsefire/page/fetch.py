"""Downloads Pyodide and its build of numpy once, and caches them.

Pyodide comes from its package on npm. That package has no numpy, but its lock file names the wheel
of Pyodide's distribution and the wheel's digest; the wheel comes from the distribution's CDN, or
from a file that the user has.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .._files import named_errors, write_bytes
from ..errors import BackendError

PYODIDE_VERSION = "0.27.7"
PYODIDE_SHA256 = "89d5d952675eb08e11286e52c7238f1248ce71726e896db9703e73bef23dc343"
_REGISTRY = "https://registry.npmjs.org"
_CDN = "https://cdn.jsdelivr.net/pyodide/v{version}/full"
_LOCK_FILE = "pyodide-lock.json"
_TIMEOUT = 30  # seconds

# The files of the npm package that a page needs.
RUNTIME_FILES = (
    "pyodide.mjs",
    "pyodide.asm.js",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    _LOCK_FILE,
)

# Called with a description of the step, the bytes done and the bytes in total (0: unknown).
Progress = Callable[[str, int, int], object]


class NumpyMissingError(BackendError):
    """Pyodide is in the cache, but its build of numpy could not be downloaded."""


def cache_directory() -> Path:
    """The directory for downloads: SPARSEFIRE_CACHE, or the user's cache directory."""
    chosen = os.environ.get("SPARSEFIRE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sparsefire"


def ensure_pyodide(
    cache: Path | None = None, progress: Progress | None = None, numpy: Path | None = None
) -> Path:
    """The directory that holds Pyodide and the wheel of numpy, downloaded on the first call.

    cache: the directory for downloads, by default `cache_directory()`.
    progress: called with each step.
    numpy: a wheel to use instead of downloading it; its digest must match the lock file.

    Raises `BackendError`, which names the remedy, when Pyodide cannot be downloaded, and its
    subclass `NumpyMissingError` when only numpy cannot.
    """
    tell = progress or (lambda what, done, size: None)
    home = (cache or cache_directory()) / f"pyodide-{PYODIDE_VERSION}"
    home.mkdir(parents=True, exist_ok=True)
    if not all((home / name).exists() for name in RUNTIME_FILES):
        try:
            fetch_runtime(PYODIDE_VERSION, PYODIDE_SHA256, home, tell)
        except OSError as error:
            raise BackendError(
                f"Pyodide {PYODIDE_VERSION} could not be downloaded ({error}). The page needs it "
                f"once: run the command again with a connection to npm, or put the files of the "
                f"npm package pyodide into {home}"
            ) from None
    if numpy is not None:
        install_numpy(home, numpy)
    elif not numpy_wheel(home).exists():
        _fetch_numpy(home, tell)
    return home


def fetch_runtime(version: str, sha256: str, home: Path, tell: Progress) -> None:
    """Downloads the npm package of a version of Pyodide and puts its files into `home`."""
    with tempfile.TemporaryDirectory(dir=home) as directory:
        tarball = _fetch_tarball(version, Path(directory), tell)
        check_digest(tarball, sha256)
        _unpack(tarball, home)


def _fetch_tarball(version: str, directory: Path, tell: Progress) -> Path:
    """Downloads the npm package, with npm where it is installed, since that knows the user's
    registry."""
    what = f"downloading Pyodide {version}"
    target = directory / f"pyodide-{version}.tgz"
    npm = shutil.which("npm")
    if npm:
        tell(f"{what} with npm", 0, 0)
        command = [npm, "pack", "--silent", f"pyodide@{version}"]
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False)
        if done.returncode == 0 and target.exists():
            return target
    registry = os.environ.get("NPM_CONFIG_REGISTRY", _REGISTRY).rstrip("/")
    _download(f"{registry}/pyodide/-/{target.name}", target, what, tell)
    return target


def _download(url: str, target: Path, what: str, tell: Progress) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as out:
            size = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while block := answer.read(1 << 16):
                with named_errors(target):
                    out.write(block)
                done += len(block)
                tell(what, done, size)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error.reason}") from None


def _unpack(tarball: Path, home: Path) -> None:
    """Extracts the files of the npm package, without its directories."""
    with tarfile.open(tarball) as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member) if member.isfile() else None
            if source is not None:
                write_bytes(home / Path(member.name).name, source.read())


# ---- numpy ---------------------------------------------------------------------------------------


def numpy_wheel(home: Path) -> Path:
    """The path of numpy's wheel in the directory of Pyodide, whether or not it exists."""
    return home / _numpy_in_lock_file(home)["file_name"]


def _numpy_in_lock_file(home: Path) -> dict[str, str]:
    """The entry of numpy in Pyodide's lock file, with "file_name" and "sha256"."""
    entry: dict[str, str] = json.loads((home / _LOCK_FILE).read_bytes())["packages"]["numpy"]
    return entry


def install_numpy(home: Path, wheel: Path) -> None:
    """Copies a wheel of numpy into the directory of Pyodide. Raises `BackendError` unless it is the
    one that Pyodide's lock file names."""
    entry = _numpy_in_lock_file(home)
    try:
        check_digest(wheel, entry["sha256"])
        partial = home / f"{wheel.name}.part"
        shutil.copyfile(wheel, partial)
        partial.replace(home / entry["file_name"])
    except OSError as error:
        raise BackendError(
            f"{wheel} is not {entry['file_name']} of Pyodide {PYODIDE_VERSION}: {error}"
        ) from None


def _fetch_numpy(home: Path, tell: Progress) -> None:
    """Downloads the wheel of numpy from the CDN of Pyodide's distribution."""
    name = numpy_wheel(home).name
    url = f"{_CDN.format(version=PYODIDE_VERSION)}/{name}"
    with tempfile.TemporaryDirectory(dir=home) as directory:
        wheel = Path(directory) / name
        try:
            _download(url, wheel, "downloading numpy for Pyodide", tell)
        except OSError as error:
            raise NumpyMissingError(
                f"numpy for Pyodide could not be downloaded ({error}). The page needs it once: run "
                f"the command again with a connection to that server, or give the file with "
                f"--numpy-wheel; in a source tree, scripts/fetch_numpy_for_pyodide.py gets the "
                f"same file from PyPI"
            ) from None
        install_numpy(home, wheel)


def check_digest(path: Path, sha256: str) -> None:
    """Raises `OSError` when a file does not have the expected SHA-256 digest."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise OSError(f"{path.name} has the SHA-256 {found}, not {sha256}")
