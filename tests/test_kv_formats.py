"""The formats in which sessions keep keys and values: memory, results, and what is refused."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

import tiny_model
from model_variants import variant_path
from sparsefire.cli import main
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError
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
    with load(host_core, "f32", "f32") as model:
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


def test_saved_sessions_are_converted(host_core: Core) -> None:
    wanted, saved = {}, {}
    for name in FORMATS:
        with load(host_core, name, name) as model:
            session = model.new_session(CONTEXT)
            session.feed(IDS, "exact")
            saved[name] = session.save()
            wanted[name] = session.step(7).copy()
    with load(host_core) as model:
        session = model.new_session(CONTEXT)
        for name, (_, bound) in FORMATS.items():
            session.restore(saved[name])
            assert session.tokens == IDS
            found = session.step(7)
            most = np.abs(wanted[name]).max()
            assert np.abs(found - wanted[name]).max() <= max(bound, 2e-3) * most, name
            # Heads of 16 are no whole blocks of Q8_0, and are kept in F16.
            assert np.array_equal(found, wanted["f16"]) == (name != "f32")
    with load(host_core, "f32", "f32") as model:  # which holds the halves as they are
        session = model.new_session(CONTEXT)
        session.restore(saved["f16"])
        again = session.save()
        assert len(again) > len(saved["f16"])
    with load(host_core) as model:
        session = model.new_session(CONTEXT)
        session.restore(again)
        assert session.save() == saved["f16"]


@pytest.mark.parametrize("named", ["f32", "f32 f16 f16", "f32 q4_0", "", None, 3, ["f32", "f32"]])
def test_saved_sessions_of_no_known_formats(named: object) -> None:
    with Model.load(path()) as model:
        session = model.new_session(CONTEXT)
        session.feed(IDS[:3], "exact")
        packed = session.save()
        size = struct.unpack_from("<I", packed, 12)[0]
        header = json.loads(packed[16 : 16 + size])
        assert header["model"]["keys and values"] == "f16 f16"
        header["model"]["keys and values"] = named
        written = json.dumps(header).encode()
        rest = struct.pack("<I", len(written)) + written + packed[16 + size :]
        changed = packed[:8] + struct.pack("<I", zlib.crc32(rest)) + rest
        with pytest.raises(ArgumentError, match="keys and values"):
            session.restore(changed)


@pytest.mark.parametrize("factor", [1e3, 1e7])
def test_large_values(factor: float, host_core: Core, tmp_path: Path) -> None:
    """The model's output does not depend on the factor. Values beyond the range of halves are kept
    as its largest, which can be seen, and the text goes on."""
    tiny = tiny_model.Tiny(context=CONTEXT)
    factors = {"attn_v": factor, "attn_output": 1 / factor}
    scaled = {
        name: values * np.float32(factors[name.split(".")[2]])
        for name, values in tiny_model.weights(tiny).items()
        if name.split(".")[-2] in factors
    }
    written = tiny_model.write(tmp_path / "large.gguf", tiny, tensors=scaled)
    with Model.load(written, core=host_core, k_format="f32", v_format="f32") as model:
        wanted = model.logits(IDS[:20])
    with Model.load(written, core=host_core) as model:
        found = model.logits(IDS[:20])
        assert np.isfinite(model.new_session(CONTEXT).feed(IDS[:20], "exact")).all()
    off = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert off < 2e-3 if factor == 1e3 else off > 0.1


def test_what_is_refused(host_core: Core) -> None:
    for name in ("q4_0", "F16", "", 1):
        with pytest.raises(ArgumentError, match="v_format"):
            load(host_core, "f32", name)  # type: ignore[arg-type]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for option in ((), ("--k-format", "f32"), ("--k-format", "f32", "--v-format", "f32")):
        assert main(["inspect", str(path()), "--json", *option]) == 0
        found.append(json.loads(capsys.readouterr().out)["memory"]["key_value_cache"])
    assert found[1] == found[0] * 3 / 2
    assert found[2] == found[0] * 2
