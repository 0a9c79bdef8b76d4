"""Models against an independent float64 forward pass, on every host and instruction set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsefire as sf
import tiny_model
from conftest import missing
from model_variants import IDS, PLAIN, VARIANTS, greedy, modes, reference_logits, variant_path
from reference import Reference, relative_error
from sparsefire.core.core import Core
from sparsefire.core.hosts import open_core
from sparsefire.errors import (
    ArgumentError,
    ContextFullError,
    ModelFileError,
)
from sparsefire.gguf import reader as gguf_module
from sparsefire.lm import opening
from sparsefire.lm import session as session_module
from sparsefire.lm.model import Model
from sparsefire.weights.quantized import dequantize_rows


@pytest.fixture
def tiny() -> Iterator[Model]:
    """A calibrated model on the default core."""
    with Model.load(variant_path("calibrated")) as model:
        yield model


def bits(logits: np.ndarray) -> bytes:
    return logits.tobytes()


PYODIDE_RUN = """
import sparsefire as sf
with sf.Model.load("/tmp/tiny.gguf", k_format="f32", v_format="f32") as model:
    result = {{}}
    for mode in {modes}:
        logits = model.logits({ids}, mode=mode)
        result[mode] = [model.stats.backend, logits.tolist()]
        "".join(model.generate({prompt!r}, {n}, mode=mode, temperature=0))
        result[mode].append(model.stats.token_ids)
result
"""


# -- logits ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float_keys")
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_reference(name: str, core: Core) -> None:
    path = variant_path(name)
    # Weights in blocks meet inputs rounded to 16 bits, which shows in rows of only 64 weights.
    formats = {VARIANTS[name].format, VARIANTS[name].down_format}
    tolerance = 1e-5 if formats <= set(PLAIN) else 2e-4
    with Model.load(path, core=core) as model:
        for mode in modes(VARIANTS[name]):
            wanted = reference_logits(path, mode == "sparse")
            logits = model.logits(IDS, mode=mode)
            assert logits.shape == (len(IDS), VARIANTS[name].vocab)
            assert logits.dtype == np.float32
            assert len(wanted) > 5
            assert relative_error(logits[: len(wanted)], wanted) < tolerance, mode


def test_the_reference_can_tell_models_apart() -> None:
    """Otherwise agreement would mean nothing."""
    plain = reference_logits(variant_path("f32"), False)
    for name in ("rope factors", "linear scaling", "llama, windows", "llama, attention biases"):
        # The same weights, one key or tensor more.
        assert relative_error(reference_logits(variant_path(name), False), plain) > 1e-3
    for one, other in (
        ("gemma2", "gemma2, low caps"),
        ("gemma3, stretched", "gemma3, in one piece"),
        ("bitnet", "bitnet, no norms"),
        ("yarn", "yarn, short"),
    ):
        logits = [reference_logits(variant_path(name), False) for name in (one, other)]
        assert relative_error(*logits) > 1e-3
    calibrated = variant_path("calibrated")
    sparse, dense = (reference_logits(calibrated, flag) for flag in (True, False))
    assert relative_error(sparse, dense[: len(sparse)]) > 1e-3


def embedded_model() -> Path:
    try:
        return opening.default_model()
    except ModelFileError as error:
        missing(str(error))


@pytest.mark.usefixtures("float_keys")
def test_embedded_model_equals_the_reference(core: Core) -> None:
    path = embedded_model()
    with Model.load(path, core=core) as model:
        ids = model.tokenize("The people of the United States, and of every nation, ")
        wanted = _embedded_reference(path, tuple(ids))
        for mode in ("dense", "exact"):
            assert relative_error(model.logits(ids, mode=mode), wanted) < 1e-4


PROMPT = "The people of"


@cache
def embedded_greedy(path: Path, mode: str) -> list[int]:
    """What the embedded model makes on the default core."""
    with Model.load(path) as model:
        return greedy(model, PROMPT, 48, mode=mode)


def embedded_modes(path: Path) -> list[str]:
    with Model.load(path) as model:
        return ["dense", "exact", "sparse"] if model.config.calibrated else ["dense", "exact"]


def test_embedded_model_makes_the_same_text_everywhere(core: Core) -> None:
    path = embedded_model()
    with Model.load(path, core=core) as model:
        for mode in embedded_modes(path):
            assert greedy(model, PROMPT, 48, mode=mode) == embedded_greedy(path, mode)


@pytest.mark.pyodide
def test_embedded_model_makes_the_same_text_in_pyodide(pyodide: Any) -> None:
    path = embedded_model()
    pyodide.write("/tmp/tiny.gguf", path.read_bytes())
    results = pyodide.run(
        PYODIDE_RUN.format(modes=embedded_modes(path), ids=[1], prompt=PROMPT, n=48)
    )
    for mode in embedded_modes(path):
        assert results[mode][2] == embedded_greedy(path, mode)


@cache
def _embedded_reference(path: Path, ids: tuple[int, ...]) -> Any:
    return Reference(path).logits(list(ids))


@pytest.mark.parametrize(
    "name",
    ["calibrated", "calibrated q8_0", "silu", "f16", "gemma2", "gemma3", "nemotron", "bitnet"],
)
def test_batches_do_not_change_a_bit(name: str, core: Core) -> None:
    """A prompt at once, token by token, and in uneven parts; decoding it gives nearly the same."""
    tiny = VARIANTS[name]
    path = variant_path(name, context=150)
    ids = np.random.default_rng(2).integers(0, tiny.vocab, 131).astype(np.int32)
    with Model.load(path, core=core) as model:
        for mode in modes(tiny):
            at_once = model.logits(ids, mode=mode)
            session = model.new_session(131)
            session.rewind(0, mode)
            one_by_one = np.empty_like(at_once)
            for i in range(len(ids)):
                session.evaluate(ids[i : i + 1], one_by_one[i : i + 1])
            assert bits(one_by_one) == bits(at_once), mode
            session.rewind(0, mode)
            decoded = np.array([session.step(int(token)).copy() for token in ids])
            np.testing.assert_allclose(decoded, at_once, rtol=0, atol=1e-3 * np.abs(at_once).max())
            uneven = np.empty_like(at_once)
            session.rewind(0, mode)
            for start, end in ((0, 1), (1, 34), (34, 66), (66, 131)):
                session.evaluate(ids[start:end], uneven[start:end])
            assert bits(uneven) == bits(at_once), mode


@pytest.mark.parametrize(
    "name", ["calibrated", "calibrated q8_0", "silu q8_0", "odd sizes", "gemma3", "bitnet"]
)
def test_threads_do_not_change_a_bit(name: str) -> None:
    results: dict[str, set[bytes]] = {}
    for threads in (1, 2, 3, 8):
        core = open_core("native", threads=threads)
        assert core.threads == threads
        with Model.load(variant_path(name), core=core) as model:
            for mode in modes(VARIANTS[name]):
                results.setdefault(mode, set()).add(bits(model.logits(IDS, mode=mode)))
    assert {mode: len(found) for mode, found in results.items()} == dict.fromkeys(results, 1)


@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "q8_0", "silu", "gemma2"])
def test_greedy_tokens_are_the_same_everywhere(name: str, core: Core) -> None:
    path = variant_path(name)
    with Model.load(path, core=core) as model, Model.load(path) as other:
        for mode in modes(VARIANTS[name]):
            for each in (model, other):
                "".join(each.generate([5, 6, 7], 40, mode=mode, temperature=0))
            assert model.stats.token_ids == other.stats.token_ids, mode
            assert model.stats.backend == core.host
            assert model.stats.isa == core.isa


@pytest.mark.usefixtures("float_keys")
@pytest.mark.pyodide
@pytest.mark.parametrize("name", ["calibrated", "calibrated q8_0", "silu", "gemma3", "nemotron"])
def test_pyodide_equals_native(name: str, pyodide: Any) -> None:
    path = variant_path(name)
    pyodide.write("/tmp/tiny.gguf", path.read_bytes())
    results = pyodide.run(
        PYODIDE_RUN.format(modes=modes(VARIANTS[name]), ids=IDS, prompt=[5, 6, 7], n=40)
    )
    with Model.load(path) as model:
        for mode in modes(VARIANTS[name]):
            backend, logits, token_ids = results[mode]
            assert backend == "pyodide"
            assert token_ids == greedy(model, [5, 6, 7], 40, mode=mode)
            wanted = reference_logits(path, mode == "sparse")
            assert relative_error(np.array(logits)[: len(wanted)], wanted) < 2e-4


def test_exact_equals_dense() -> None:
    with Model.load(variant_path("calibrated")) as model:
        dense, exact = (model.logits(IDS, mode=mode) for mode in ("dense", "exact"))
    assert relative_error(exact, dense.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("kind", ["path", "bytes", "stream"])
def test_every_source_gives_the_same_model(kind: str) -> None:
    path = variant_path("calibrated")
    source: Any = {
        "path": path,
        "bytes": path.read_bytes(),
        "stream": io.BytesIO(path.read_bytes()),
    }
    with Model.load(path) as model, Model.load(source[kind]) as other:
        assert bits(model.logits(IDS)) == bits(other.logits(IDS))


def test_tensors_reach_the_core_in_pieces(host_core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file that is read, no piece is larger than it must be."""
    path = variant_path("calibrated q8_0")
    monkeypatch.setattr(gguf_module, "_PIECE_BYTES", 1000)
    largest = 0

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal largest
            if self.tell() > 16384:  # past the header
                largest = max(largest, size or 0)
            return super().read(size)

    with Model.load(path) as model, Model.load(Watched(path.read_bytes()), core=host_core) as other:
        assert relative_error(other.logits(IDS), model.logits(IDS).astype(np.float64)) < 1e-4
    assert largest == 1000


def test_logits_of_few_tokens(tiny: Model) -> None:
    assert tiny.logits([]).shape == (0, 270)
    assert bits(tiny.logits(IDS[:1])) == bits(tiny.logits(IDS)[:1])
    assert bits(tiny.logits(np.array(IDS, np.uint16))) == bits(tiny.logits(IDS))


@pytest.mark.usefixtures("float_keys")
def test_activation_is_the_users_then_the_files_then_the_architectures() -> None:
    plain, named = variant_path("silu"), variant_path("f32")
    for path, given_name, used in (
        (plain, None, "silu"),
        (named, None, "relu"),
        (named, "gelu_pytorch_tanh", "gelu_tanh"),
        (plain, "relu", "relu"),
    ):
        with Model.load(path, activation=given_name) as model:
            assert model.config.activation == used
            wanted = Reference(path, activation=used).logits(IDS)
            assert relative_error(model.logits(IDS), wanted) < 1e-5


@pytest.mark.usefixtures("float_keys")
def test_fatrelu(tmp_path: Path) -> None:
    keys = {"llama.hidden_activation_threshold": 0.0}
    path = tiny_model.write(tmp_path / "a.gguf", activation="fatrelu", keys=keys)
    with Model.load(path) as model:
        wanted = Reference(path, activation="relu").logits(IDS)
        assert relative_error(model.logits(IDS), wanted) < 1e-5
    path = tiny_model.write(tmp_path / "b.gguf", activation="fatrelu")
    with pytest.raises(ModelFileError, match="hidden_activation_threshold' is missing"):
        Model.load(path)


def test_ffn_inputs(tiny: Model) -> None:
    """What is recorded, sent through the first layer, must select as many neurons as the run."""
    ids = np.random.default_rng(3).integers(0, 270, 48)
    for count in (1, 48):
        inputs = tiny.ffn_inputs(ids[:count], mode="sparse")
        assert inputs.shape == (count, 2, 64)
        tiny.logits(ids[:count], mode="sparse")
        for layer, ffn in enumerate(tiny.ffns):
            ffn.forward(np.ascontiguousarray(inputs[:, layer]), mode="sparse")
            share = ffn.counts.active.sum() / (count * 96)
            assert share == pytest.approx(tiny.stats.active_share.layers[layer])
    with pytest.raises(ContextFullError, match=r"1 … 48 tokens, got 0"):
        tiny.ffn_inputs([])
    # Recording has ended: a longer run would not fit in the buffer.
    assert len(tiny.logits(ids)) == 48


def test_watched_neurons(tiny: Model) -> None:
    """What is counted must be the neurons whose gate, computed here in float64, is positive."""
    ids = np.random.default_rng(4).integers(0, 270, 20)
    inputs = tiny.ffn_inputs(ids, mode="exact").astype(np.float64)
    expected = np.zeros((2, 96), int)
    for layer in range(2):
        bundle = dequantize_rows(
            tiny.file.tensor_data(f"blk.{layer}.ffn_bundle.weight").reshape(96, -1),
            tiny.file.tensors[f"blk.{layer}.ffn_bundle.weight"].format,
            3 * 64,
            tiny.core,
        )
        expected[layer] = (inputs[:, layer] @ bundle[:, :64].astype(np.float64).T > 0).sum(axis=0)
    session = tiny.new_session(48)
    activity = session.watch()
    for mode in ("exact", "dense"):
        session.rewind(0, mode)
        session.evaluate(ids.astype(np.int32))
        np.testing.assert_array_equal(activity.take(), expected)
        assert not activity.take().any()
    session.reset_counts()
    session.rewind(0, "sparse")
    session.evaluate(ids.astype(np.int32))
    counts = activity.take()
    assert (counts[0] <= expected[0]).all()  # later layers see what the first one left out
    np.testing.assert_array_equal(counts.sum(axis=1), session.active)
    activity.close()
    activity.close()
    session.evaluate(ids.astype(np.int32))


def test_hidden_states(host_core: Core) -> None:
    """The embedding is also the output matrix, so it makes logits of them."""
    path = variant_path("calibrated", context=150)
    embedding = Reference(path).weights["token_embd.weight"]
    ids = np.random.default_rng(3).integers(0, 270, 70)
    with Model.load(path, core=host_core) as model:
        for mode in ("dense", "sparse"):
            states = model.hidden_states(ids, mode=mode)
            assert states.shape == (70, 64)
            assert relative_error(states @ embedding.T, model.logits(ids, mode=mode)) < 1e-5
        assert model.hidden_states([]).shape == (0, 64)
        with pytest.raises(ContextFullError, match="at most 150 tokens, got 151"):
            model.hidden_states([1] * 151)


def test_counts_are_of_every_token(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core's own counters are 32 bits wide, and read only when they are asked for or full."""
    session = tiny.new_session(48)
    totals = []
    for most in (1 << 30, 3 * 96):
        monkeypatch.setattr(session_module, "_MOST_COUNTED", most)
        session.rewind(0, "sparse")
        session.reset_counts()
        for token in IDS:
            session.step(token)
        totals.append((session.selected.tolist(), session.active.tolist()))
        assert session.active.tolist() == totals[-1][1]
    assert totals[0] == totals[1]
    assert 0 < totals[0][1][0] < totals[0][0][0] < 96 * len(IDS)
    session.close()
    assert session.selected.tolist() == totals[0][0]


# -- closing, and where models come from -------------------------------------------------------


def test_closed() -> None:
    model = Model.load(variant_path("f32"))
    assert "llama" in repr(model)
    model.close()
    model.close()
    for use in (model.logits, model.generate, model.perplexity):
        with pytest.raises(ArgumentError, match="closed"):
            use([1, 2])


def test_default_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = variant_path("f32")
    monkeypatch.setenv("SPARSEFIRE_MODEL", str(path))
    with sf.Model.load() as model:
        assert model.file.name == str(path)
    monkeypatch.delenv("SPARSEFIRE_MODEL")
    monkeypatch.setattr(opening, "_EMBEDDED", tmp_path)
    with pytest.raises(ModelFileError, match="no model comes with this installation"):
        sf.Model.load()
