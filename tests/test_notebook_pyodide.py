"""The lines that the documentation gives to notebooks and PyScript, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, missing
from pyodide_harness import build_wheel, chromium_runtime
from shared import locked
from sparsefire.lm.model import Model

pytestmark = pytest.mark.pyodide

# Pyodide's full distribution has these; the package on npm does not.
INSTALLER = ("micropip==0.9.0", "packaging==24.2")
ADDRESS = "https://example.org/"


def snippet() -> str:
    """The block of the page on WebAssembly that installs with micropip."""
    page = (ROOT / "docs" / "guide" / "wasm.md").read_text(encoding="utf-8")
    (found,) = [
        each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "micropip" in each
    ]
    return found


def fetch_installer(directory: Path) -> list[Path]:
    """micropip and what it needs, as wheels in `directory`; kept in the project's cache."""
    with locked("micropip") as cache:
        if len(list(cache.glob("*.whl"))) < len(INSTALLER):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--dest", str(cache), "--python-version", "3.12"]
            subprocess.run([*command, "--only-binary", ":all:", *INSTALLER], check=True)
    return [Path(shutil.copy(wheel, directory)) for wheel in sorted(cache.glob("*.whl"))]


def test_the_documented_lines_make_a_text(tmp_path: Path) -> None:
    code = snippet()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 5
    try:
        wheel = Path(shutil.copy(build_wheel(ROOT), tmp_path))
        micropip, packaging = fetch_installer(tmp_path)
        with chromium_runtime(ROOT, packaging) as runtime:
            origin = runtime.run("import js; js.location.origin")
            installer = f"{origin}/wheel/{micropip.name}"
            runtime.run(f"import pyodide_js; await pyodide_js.loadPackage('{installer}'); 0")
            address = re.search(re.escape(ADDRESS) + r"\S+?\.whl", code)
            assert address, "the documented lines have an address to put one's own in place of"
            code = code.replace(address[0], f"{origin}/wheel/{wheel.name}")
            made = runtime.run(
                "import io, contextlib\nout = io.StringIO()\n"
                f"with contextlib.redirect_stdout(out):\n{indented(code)}\nout.getvalue()"
            )
    except FileNotFoundError as error:
        missing(str(error))
    assert made == "".join(Model.load().generate("The people of", max_tokens=40, temperature=0))


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())
