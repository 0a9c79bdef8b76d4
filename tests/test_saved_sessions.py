"""Sessions that are saved and restored, and what is no saved session of the model."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixture_models
import moe_model
import recurrent_models
import sparsefire as sf
import tiny_model
from mixture_models import VOCAB
from pyodide_harness import PyodideRuntime
from sparsefire.core.core import Core
from sparsefire.core.hosts import open_core
from sparsefire.lm.session import Session

TOKENS = [(37 * i + 11) % VOCAB for i in range(80)]  # more than a block of keys


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    found = {name: recurrent_models.write(folder / name, name) for name in ("lfm2moe", "qwen3next")}
    for name in ("gpt-oss", "deepseek2", "llama4"):  # windows, latent attention, chunks
        found[name] = mixture_models.write(folder / name, name)
    found["tiny"] = tiny_model.write(folder / "tiny", context=128)
    found["experts"] = moe_model.write(folder / "experts", "Q8_0")
    return found


@pytest.mark.parametrize(
    "name", ["tiny", "gpt-oss", "deepseek2", "llama4", "lfm2moe", "qwen3next", "experts"]
)
def test_a_saved_session_goes_on_where_it_was(
    name: str, paths: dict[str, Path], host_core: Core, tmp_path: Path
) -> None:
    budget = 60_000 if name == "experts" else None
    length = 70 if name == "tiny" else 12
    with sf.Model.load(paths[name], neuron_budget=budget) as model:
        mode, session = model.config.default_mode, model.new_session(80)
        session.feed(TOKENS[:length], mode)
        (tmp_path / "session").write_bytes(session.save())
        wanted = [session.step(token).copy() for token in TOKENS[length : length + 6]]
        with sf.Model.load(paths[name], neuron_budget=budget) as another:
            for each in (session, model.new_session(80), another.new_session(76)):
                each.restore((tmp_path / "session").read_bytes())
                assert each.tokens == TOKENS[:length]
                found = [each.step(token).copy() for token in TOKENS[length : length + 6]]
                np.testing.assert_array_equal(found, wanted)


def test_a_session_goes_on_in_webassembly(paths: dict[str, Path]) -> None:
    with (
        sf.Model.load(paths["qwen3next"]) as model,
        sf.Model.load(paths["qwen3next"], core=open_core("wasmtime")) as other,
    ):
        first, second = model.new_session(20), other.new_session(20)
        first.feed(TOKENS[:9], "dense")
        second.restore(first.save())
        wanted = first.step(TOKENS[9])
        np.testing.assert_allclose(second.step(TOKENS[9]), wanted, rtol=1e-4, atol=1e-4)


def test_an_empty_session(paths: dict[str, Path]) -> None:
    for name in ("tiny", "qwen3next"):
        with sf.Model.load(paths[name]) as model:
            session, other = model.new_session(20), model.new_session(20)
            other.feed(TOKENS[:9], "dense")
            wanted = other.save()
            other.restore(session.save())
            assert other.tokens == []
            assert other.feed(TOKENS[:9], "dense").any()
            assert other.save() == wanted


def test_what_was_truncated_is_not_saved(paths: dict[str, Path]) -> None:
    with sf.Model.load(paths["tiny"]) as model:
        session, other = model.new_session(80), model.new_session(80)
        session.feed(TOKENS[:20], "exact")
        session.rewind(10, "exact")
        other.feed(TOKENS[:10], "exact")
        assert session.save() == other.save()


def test_sessions_of_other_models(paths: dict[str, Path], tmp_path: Path) -> None:
    def saved(path: Path, **options: Any) -> bytes:
        with sf.Model.load(path, **options) as model:
            session = model.new_session(20)
            session.feed(TOKENS[:5], "dense")
            return bytes(session.save())

    others = {
        "architecture": paths["qwen3next"],
        "layers 3, not 2": tiny_model.write(tmp_path / "layers", layers=3),
        "weights": tiny_model.write(tmp_path / "seed", seed=5),
    }
    with sf.Model.load(tiny_model.write(tmp_path / "one")) as model:
        session = model.new_session(20)
        session.feed(TOKENS[:3], "dense")
        for message, path in others.items():
            with pytest.raises(sf.ShapeError, match=f"of another model: {message}"):
                session.restore(saved(path))
        with pytest.raises(sf.ContextFullError, match="has 5 tokens; the context holds 4"):
            model.new_session(4).restore(saved(tmp_path / "one"))
        assert session.tokens == TOKENS[:3]
        session.restore(saved(tmp_path / "one"))
        parts = tiny_model.split(tmp_path / "one", tmp_path, 2)
        session.restore(saved(parts[0]))
        assert session.tokens == TOKENS[:5]


@pytest.fixture(scope="module")
def session(paths: dict[str, Path]) -> Iterator[Session]:
    with sf.Model.load(paths["lfm2moe"]) as model:
        found = model.new_session(20)
        found.feed(TOKENS[:7], "dense")
        yield found


def sealed(packed: bytearray) -> bytearray:
    """With the checksum that is right, as whoever makes such bytes on purpose can write it."""
    if len(packed) >= 12:
        struct.pack_into("<I", packed, 8, zlib.crc32(packed[12:]))
    return packed


def refused(session: Session, data: object) -> None:
    """Restoring the data succeeds or is an error that changes nothing, and the session works."""
    before = session.save()
    try:
        session.restore(data)  # type: ignore[arg-type]
    except sf.SparsefireError:
        assert session.save() == before
    with contextlib.suppress(sf.NotFiniteError):  # from huge values
        session.step(1)
    session.restore(before)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_sessions(session: Session, data: st.DataObject) -> None:
    packed = bytearray(session.save())
    header = 16 + struct.unpack_from("<I", packed, 12)[0]
    kind = data.draw(st.sampled_from(["cut", "flip", "more", "noise"]))
    if kind == "cut":
        del packed[data.draw(st.integers(0, len(packed) - 1)) :]
    elif kind == "more":
        packed += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "noise":
        packed = bytearray(data.draw(st.binary(max_size=200)))
    else:
        anywhere = st.integers(0, len(packed) - 1) | st.integers(0, header + 40)
        for place in data.draw(st.sets(anywhere, min_size=1, max_size=5)):
            packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(sf.ArgumentError, match="saved session"):
        session.restore(packed)
    refused(session, sealed(packed))
    if kind != "noise":
        packed[:8] = b"sf-sess1"[: len(packed)]
        refused(session, sealed(packed))


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", value) for value in (-1, 6, 8, 1 << 31, 1 << 70, 1.5, True, None, "7", [7], 10**30)]
    + [("mode", value) for value in ("", "other", "DENSE", None, 3, [], "\x1b[2J" * 99)]
    + [("model", value) for value in (None, [], {}, {"architecture": []}, "lfm2moe")],
)
def test_headers_that_say_something_else(session: Session, key: str, value: object) -> None:
    packed = session.save()
    size = struct.unpack_from("<I", packed, 12)[0]
    header = json.loads(packed[16 : 16 + size])
    header[key] = value
    written = json.dumps(header).encode()
    changed = packed[:12] + struct.pack("<I", len(written)) + written + packed[16 + size :]
    with pytest.raises((sf.ArgumentError, sf.ShapeError), match="session") as caught:
        session.restore(sealed(changed))
    assert "\x1b" not in str(caught.value)
    for text in (b"[" * 60_000, b"{}", b"\xff", b"1" * 60_000):
        changed = packed[:12] + struct.pack("<I", len(text)) + text + packed[16 + size :]
        with pytest.raises(sf.ArgumentError, match="header"):
            session.restore(sealed(changed))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(session: Session, value: float) -> None:
    packed = session.save()
    packed[-4:] = struct.pack("<f", value)
    with pytest.raises(sf.NotFiniteError):
        session.restore(sealed(packed))
    assert session.tokens == TOKENS[:7]


@pytest.mark.parametrize("data", [None, 3, "text", [1], np.zeros(3, object), b"", b"sf-sess1"])
def test_what_is_no_session(session: Session, data: Any) -> None:
    with pytest.raises(sf.ArgumentError, match="saved session"):
        session.restore(data)


CODE = """
import sparsefire as sf
with sf.Model.load("/tmp/model.gguf") as model:
    session, other = model.new_session(20), model.new_session(20)
    session.feed([1, 2, 3, 4], "dense")
    other.restore(session.save())
    same = bool((session.step(5) == other.step(5)).all())
    damaged = session.save()
    damaged[-1] ^= 255
    try:
        other.restore(damaged)
    except sf.ArgumentError as error:
        same = same and "damaged" in str(error)
same
"""


@pytest.mark.pyodide
def test_in_pyodide(pyodide_node: PyodideRuntime, paths: dict[str, Path]) -> None:
    pyodide_node.write("/tmp/model.gguf", paths["qwen3next"].read_bytes())
    assert pyodide_node.run(CODE) is True
