"""Runs the benchmarks' Python in Pyodide, in node, with this installation of sparsefire."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import sparsefire
from sparsefire.page.fetch import NumpyMissingError, cache_directory, ensure_pyodide

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = "/packages"


def run_in_pyodide(code: str, folders: Mapping[str, Path]) -> str:
    """The value of the last expression, a str. folders: of this machine, by their places there;
    `sparsefire` and `bench` can be imported. Ends the program with a sentence if node is missing or
    the code fails."""
    node = shutil.which("node")
    if node is None:
        sys.exit("node is not installed: apt-get install nodejs")
    try:
        home = ensure_pyodide()
    except NumpyMissingError:
        script = _ROOT / "scripts" / "fetch_numpy_for_pyodide.py"
        command = [sys.executable, str(script), str(cache_directory())]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        home = ensure_pyodide()
    package = Path(sparsefire.__file__).parent
    own = {f"{_PACKAGES}/sparsefire": package, f"{_PACKAGES}/bench": _ROOT / "bench"}
    mounts = [f"{folder.resolve()}={place}" for place, folder in {**own, **folders}.items()]
    found = f"import site; site.addsitedir({_PACKAGES!r})\n{code}"
    script = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(
        [node, str(script), str(home), found, *mounts], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"Pyodide ended with status {done.returncode}")
    return done.stdout.rstrip("\n")
