"""The golden vectors (tests/golden/README.md): the same data checks the core on every host."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from pyodide_harness import PyodideRuntime
from sparsefire.core.core import Core

GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))

import make_greedy  # noqa: E402
import make_vectors  # noqa: E402
import vectors  # noqa: E402

DATA = (GOLDEN / "vectors.bin").read_bytes()
GREEDY = json.loads((GOLDEN / "greedy.json").read_text(encoding="utf-8"))
COUNTS = {"layers": 41, "low rank": 15, "signs": 3, "selections": 105}


def test_vectors(core: Core) -> None:
    assert vectors.check(DATA) == COUNTS


def test_greedy_tokens(core: Core) -> None:
    assert make_greedy.make() == GREEDY


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: one weight, one expected score, one id."""
    found = vectors.records(DATA)
    for kind, part in ((1, "y"), (1, "y_ids"), (2, "scores"), (2, "ids"), (3, "scores")):
        record = next(each for each in found if each["kind"] == kind)
        changed = record | {part: [row + 1 for row in record[part]]}
        vectors.CHECKS[kind](record, "")
        with pytest.raises(AssertionError):
            vectors.CHECKS[kind](changed, "")
    selection = next(each for each in found if each["kind"] == 4 and len(each["ids"]))
    with pytest.raises(AssertionError):
        vectors.check_selection(selection | {"ids": selection["ids"][1:]}, "")


def test_the_data_is_what_the_generator_writes() -> None:
    made = make_vectors.make()
    assert len(made) == len(DATA) < 300_000
    for found, wanted in zip(vectors.records(made), vectors.records(DATA), strict=True):
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert _same(value, wanted[name]), name


def _same(one: Any, other: Any) -> bool:
    """Bit for bit, but for float64, which other libraries round differently."""
    if isinstance(one, np.ndarray) and one.dtype == np.float64:
        return np.allclose(one, other, rtol=1e-12, atol=1e-13)
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes()
    if isinstance(one, list):
        return all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if hasattr(one, "packed"):
        return repr(one) == repr(other) and one.packed.tobytes() == other.packed.tobytes()
    return bool(one == other)


@pytest.mark.pyodide
def test_in_pyodide(pyodide: PyodideRuntime) -> None:
    for name in ("vectors.py", "vectors.bin", "make_greedy.py"):
        pyodide.write(f"/tmp/{name}", (GOLDEN / name).read_bytes())
    code = """
import sys
sys.path.insert(0, "/tmp")
import make_greedy, vectors
with open("/tmp/vectors.bin", "rb") as file:
    counts = vectors.check(file.read())
[counts, make_greedy.make(12)]
"""
    counts, tokens = pyodide.run(code)
    assert counts == COUNTS
    for prompt, modes in GREEDY.items():
        for mode, ids in modes.items():
            assert tokens[prompt][mode] == ids[:12], (prompt, mode)


def test_nothing_else_is_kept_here() -> None:
    kept = {each.name for each in GOLDEN.iterdir() if each.name != "__pycache__"}
    scripts = {Path(module.__file__ or "").name for module in (make_greedy, make_vectors, vectors)}
    # Converted checkpoints have a test of their own, which does without their torch.
    checkpoints = {"make_checkpoints.py", "checkpoints.json"}
    assert kept == scripts | checkpoints | {"README.md", "vectors.bin", "greedy.json"}
