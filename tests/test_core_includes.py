"""The folders of the C core include only those below them, without a circle."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import ROOT

SOURCE = ROOT / "core_c" / "src"
ORDER = ("base", "formats", "simd", "kernels", "matrix", "ffn", "model")


def includes() -> dict[str, list[str]]:
    """The files of the core, and of each the core's own files that it includes."""
    found = {}
    for path in sorted(SOURCE.rglob("*.[ch]")):
        text = path.read_text(encoding="utf-8")
        names = re.findall(r'^\s*#\s*include "([^"]+)"', text, re.MULTILINE)
        found[path.relative_to(SOURCE).as_posix()] = [
            name for name in names if not name.startswith("sparsefire")
        ]
    return found


def test_every_include_names_its_folder() -> None:
    files = includes()
    assert {Path(name).parent.as_posix() for name in files} == set(ORDER)
    for name, included in files.items():
        assert set(included) <= set(files), name


def test_folders_include_only_those_below_them() -> None:
    upward = [
        f"{name} includes {other}"
        for name, included in includes().items()
        for other in included
        if ORDER.index(other.split("/")[0]) > ORDER.index(name.split("/")[0])
    ]
    assert not upward


def test_no_file_includes_itself_by_way_of_others() -> None:
    # A module is its header and its source file.
    graph: dict[str, set[str]] = {}
    for name, included in includes().items():
        module = name.rsplit(".", 1)[0]
        others = {other.rsplit(".", 1)[0] for other in included}
        graph.setdefault(module, set()).update(others - {module})
    assert list(TopologicalSorter(graph).static_order())
