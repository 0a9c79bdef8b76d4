"""The documentation: the API reference builds without a warning, every public name is described,
and links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sparsefire as sf
from conftest import ROOT, missing
from sparsefire.core.core import Core

SCRIPT = ROOT / "scripts" / "build_docs.sh"
MODULES = re.findall(r"[a-z_.]+", SCRIPT.read_text().split("for module in")[1].split(";")[0])


def test_the_api_reference_builds_without_a_warning(tmp_path: Path) -> None:
    if find_spec("pdoc") is None:
        missing("pdoc is not installed; pip install 'sparsefire[docs]'")
    path = os.pathsep.join(filter(None, (str(ROOT / "py"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path}
    command = [str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    page = (tmp_path / "sparsefire.html").read_text(encoding="utf-8")
    for name in sf.__all__:
        assert f'id="{name}"' in page, name
    pages = (tmp_path / "sparsefire").rglob("*.html")
    names = [
        ".".join(each.relative_to(tmp_path / "sparsefire").with_suffix("").parts) for each in pages
    ]
    assert sorted(names) == sorted(MODULES)


def public_members(owner: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What a reader of the reference sees of a class or module: functions, classes, properties."""
    for key, value in vars(owner).items():
        described = inspect.isfunction(value) or inspect.isclass(value)
        described |= isinstance(value, (property, classmethod, staticmethod))
        elsewhere = inspect.ismodule(owner) and value.__module__ != name if described else True
        if not key.startswith("_") and not elsewhere:
            yield f"{name}.{key}", value


def test_every_public_name_is_described() -> None:
    found = [(name, getattr(sf, name)) for name in sf.__all__ if name != "__version__"]
    for module in (importlib.import_module(f"sparsefire.{each}") for each in MODULES):
        assert module.__doc__, module.__name__
        found += public_members(module, module.__name__)
    classes = [(name, value) for name, value in found if inspect.isclass(value)]
    for name, value in classes:
        found += public_members(value, name)
    assert len(found) > 200
    silent = [name for name, value in found if not (inspect.getdoc(value) or "").strip()]
    # A dataclass without a docstring gets its signature as one.
    silent += [name for name, value in classes if value.__doc__.startswith(f"{value.__name__}(")]
    assert silent == []


def test_the_toolkit_page_runs(
    host_core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks of Python, one after the other, as a reader would type them in."""
    page = (ROOT / "docs" / "toolkit.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, scope)
    assert scope["report"].recall_mass > 0.98
    assert scope["cache"].stats.hits > 0


DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target
