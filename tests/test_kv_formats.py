"""The formats in which sessions keep keys and values: memory, results, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model_variants import variant_path
from sparsefire.cli import main
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, ShapeError
from sparsefire.files.inspect import inspect_file
from sparsefire.lm.model import Model

CONTEXT = 150
IDS = np.random.default_rng(5).integers(5, 260, 120).tolist()
# Bytes of a number, and how far logits may be off: halves are rounded to 11 bits, bytes to 8.
FORMATS = {"f32": (4.0, 0.0), "f16": (2.0, 2e-3), "q8_0": (34 / 32, 4e-2)}


def path() -> Path:
    return variant_path("calibrated q8_0", context=CONTEXT)


def load(core: Core, k_format: str | None = None, v_format: str | None = None) -> Model:
    return Model.load(path(), core=core, k_format=k_format, v_format=v_format)


def test_results_and_memory(host_core: Core) -> None:
    saved = {}
    with load(host_core) as model:
        expected = model.evaluate([(model.new_session(CONTEXT), IDS)], phase="prompt")
        dim = model.config.head_dim
        assert model.config.kv_width % dim == 0
    for name, (size, bound) in FORMATS.items():
        with load(host_core, name, name) as model:
            session = model.new_session(CONTEXT)
            found = model.evaluate([(session, IDS)], phase="prompt")
            assert np.abs(found - expected).max() <= bound * np.abs(expected).max(), name
            if name != "f32":
                assert not np.array_equal(found, expected), "the test would not see the format"
            saved[name] = session.save()
            kept = size if name != "q8_0" or dim % 32 == 0 else 2
            numbers = 2 * model.config.layers * model.config.kv_width * len(IDS)
            assert inspect_file(path(), context=len(IDS), k_format=name, v_format=name).memory
            memory = inspect_file(path(), context=len(IDS), k_format=name, v_format=name).memory
            assert memory is not None
            assert memory.key_value_cache == kept * numbers
            other = model.new_session(CONTEXT)
            other.restore(saved[name])
            assert np.array_equal(other.step(7), session.step(7))
    with load(host_core, "f32", "f16") as model:
        session = model.new_session(CONTEXT)
        for data in saved.values():
            with pytest.raises(ShapeError, match="keys and values"):
                session.restore(data)


def test_what_is_refused(host_core: Core) -> None:
    for name in ("q4_0", "F16", "", 1):
        with pytest.raises(ArgumentError, match="v_format"):
            load(host_core, "f32", name)  # type: ignore[arg-type]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for option in ((), ("--k-format", "f16"), ("--k-format", "f16", "--v-format", "f16")):
        assert main(["inspect", str(path()), "--json", *option]) == 0
        found.append(json.loads(capsys.readouterr().out)["memory"]["key_value_cache"])
    assert found[1] == found[0] * 3 / 4
    assert found[2] == found[0] / 2
