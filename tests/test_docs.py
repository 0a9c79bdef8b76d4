"""The documentation: references are those of the code, examples run, commands, links and paths
exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sparsefire as sf
from conftest import ROOT, missing
from sparsefire.cli import build_parser, main
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
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "guide" / "toolkit.md", "python"):
        exec(block, scope)
    assert scope["report"].recall_mass > 0.98
    assert scope["cache"].stats.hits > 0


DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("bench", "core_c")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
everywhere = pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a language in a document."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks of Python, as a reader would type them in."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(block, scope)
    assert scope["logits"].shape[1] == 2048
    assert scope["y"].shape == (512,)


def test_the_session_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what is shown there, but for speeds and the machine."""
    (session,) = blocks(ROOT / "README.md", "console")
    command, text, summary = session.splitlines()
    assert main(shlex.split(command)[2:]) == 0
    found_text, found_summary = capsys.readouterr().out.splitlines()
    assert found_text == text
    computed = r"24 tokens; .* of neurons computed \(.* of gates\)"
    assert re.search(computed, found_summary)
    assert re.search(computed, summary)


def test_the_inspection_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what is shown there, but for the folder of the file."""
    shown = re.search(r"```\n…/(.*?)```", (ROOT / "docs/guide/models.md").read_text("utf-8"), re.S)
    assert shown
    assert main(["inspect", "-"]) == 0
    assert capsys.readouterr().out.endswith(shown[1])


@everywhere
def test_commands_can_be_parsed(document: Path) -> None:
    """Every `sparsefire …` of a block, with options and arguments that the parser knows."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    lines += re.findall(r"^    (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    if document.name == "cli.md":
        lines = []  # usages, with names for values
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in re.findall(r"(?:^|; do )(sparsefire [^;\n]*)", joined, re.MULTILINE):
        arguments = shlex.split(line.replace("--$mode", "--exact"), comments=True)[1:]
        build_parser().parse_args(arguments)


@everywhere
def test_programs_exist(document: Path) -> None:
    """Those of this repository that a command names."""
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:python|node|pytest) ((?:\.\./)*[\w/]+\.(?:py|mjs))", text):
        assert (ROOT / name.replace("../", "")).exists(), name
    for name in re.findall(r"python -m (bench[\w.]*)", text):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@everywhere
def test_python_blocks_compile(document: Path) -> None:
    for block in blocks(document, "python"):
        compile(block, document.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@everywhere
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)", prose(document)):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file), target


@everywhere
def test_tables_are_whole(document: Path) -> None:
    """A row belongs to a table: an empty line in between would cut it off."""
    for paragraph in re.split(r"\n\s*\n", prose(document)):
        rows = [line for line in paragraph.splitlines() if re.match(r"\|[ -]", line)]
        if rows:
            assert re.fullmatch(r"[|\s:-]+", rows[1] if len(rows) > 1 else ""), rows[0]
            widths = {len(re.sub(r"\\\||`[^`]*`", "", row).split("|")) for row in rows}
            assert len(widths) == 1, rows[0]


def test_every_document_can_be_reached() -> None:
    """By links, from the README."""
    found, wanted = {ROOT / "README.md"}, [ROOT / "README.md"]
    while wanted:
        document = wanted.pop()
        for target in re.findall(r"\]\(([^)#\s]+\.md)", document.read_text(encoding="utf-8")):
            path = (document.parent / target).resolve()
            if "://" not in target and path not in found:
                found.add(path)
                wanted.append(path)
    assert set(DOCUMENTS) <= found


def test_the_paths_of_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = [each for each in re.findall(r"`([\w./]+)`", page) if "/" in each or "." in each]
    paths = [each for each in paths if "/" in each or (ROOT / each.split(".")[0]).exists()]
    assert len(paths) > 30
    assert [each for each in paths if "/" in each and not (ROOT / each).exists()] == []


@pytest.mark.parametrize("page", ["cli", "models"])
def test_generated_pages_are_current(page: str, tmp_path: Path) -> None:
    """`python scripts/make_…_reference.py` makes them again after a change."""
    path, script = tmp_path / "made.md", ROOT / "scripts" / f"make_{page}_reference.py"
    command = [sys.executable, str(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    committed = ROOT / "docs" / "reference" / f"{page}.md"
    assert path.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="for Debian and Ubuntu")
def test_the_readme_names_the_commands_that_are_run_on_a_bare_system() -> None:
    command = [str(ROOT / "scripts" / "fresh.sh"), "--list"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    setup, tests = found.splitlines()
    assert setup.startswith("scripts/setup.sh && ")
    assert tests == "scripts/test.sh"
