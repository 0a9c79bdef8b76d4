"""The sign-bit predictor against a count of signs in numpy, and inside a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefire as sf
from sparsefire.core.core import Core
from sparsefire.errors import ModelFileError
from sparsefire.ffn.predictor import Predictor
from sparsefire.weights.matrix import Matrix

SIZES = [(1, 1), (7, 31), (33, 32), (64, 65), (130, 200)]  # hidden, input


def reference_scores(gate: np.ndarray, x: np.ndarray, alpha: float) -> np.ndarray:
    """Scores (n, hidden) of x (n, input), by comparing one pair of signs after the other."""
    negative = ((gate < 0)[None] != (x < 0)[:, None]).sum(axis=2)
    return alpha * (gate.shape[1] - negative) - negative


def weights(hidden: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gate = random.standard_normal((hidden, d)).astype(np.float32)
    x = random.standard_normal((5, d)).astype(np.float32)
    gate[0, : d // 2] = 0
    x[1, : d // 3] = 0
    x[2, 0] = -0.0
    return gate, x


@pytest.mark.parametrize(("hidden", "d"), SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0, 1.5])
def test_scores_count_signs(core: Core, hidden: int, d: int, alpha: float) -> None:
    gate, x = weights(hidden, d)
    predictor = sf.SignPredictor(gate, alpha)
    expected = reference_scores(gate, x, alpha)
    np.testing.assert_allclose(predictor.scores(x), expected, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(predictor.scores(x[0]), expected[0], rtol=1e-6, atol=1e-4)
    if alpha != 1.5:  # these alphas make exact scores, so that no rounding can flip a choice
        for ids, scores in zip(predictor.predict(x), expected, strict=True):
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, np.flatnonzero(scores > 0))


@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_every_form_of_gate_gives_the_same_predictor(core: Core, format: str) -> None:
    random = np.random.default_rng(1)
    gate, up = random.standard_normal((2, 50, 64))
    down = random.standard_normal((9, 50)) if format == "f32" else random.standard_normal((32, 50))
    packed = sf.QuantizedWeights.quantize(gate, format)
    x = random.standard_normal((4, 64))
    expected = reference_scores(packed.dequantize(), x.astype(np.float32), 1.0)
    gated = sf.SparseFfn(up, down, gate=gate, format=format)
    plain = sf.SparseFfn(gate, down, format=format)
    for form in (packed, Matrix.from_array(packed), packed.dequantize(), gated, plain):
        np.testing.assert_array_equal(sf.SignPredictor(form).scores(x), expected)


def test_it_needs_nothing_of_the_gate_afterwards(core: Core) -> None:
    gate, x = weights(40, 70)
    matrix = Matrix.from_array(gate)
    predictor = sf.SignPredictor(matrix)
    matrix.close()
    del matrix
    core.upload(np.full(40 * 70, -1, np.float32))
    np.testing.assert_array_equal(predictor.scores(x), reference_scores(gate, x, 1.0))


def test_rules_and_the_hot_prefix(core: Core) -> None:
    gate, x = weights(90, 40)
    scores = reference_scores(gate, x, 1.0)
    predictor = sf.SignPredictor(gate, sparsity=sf.SparsityConfig.with_top_k(12), hot=5)
    assert predictor.hot == 5
    for ids, each in zip(predictor.predict(x), scores, strict=True):
        cold = 5 + np.sort(np.argsort(-each[5:], kind="stable")[:7])
        np.testing.assert_array_equal(ids, [*range(5), *cold])
    predictor.set_rule(sf.SparsityConfig.with_threshold(4.0))
    assert predictor.sparsity.threshold == 4.0
    for ids, each in zip(predictor.predict(x), scores, strict=True):
        np.testing.assert_array_equal(ids, np.flatnonzero(each > 4))
    predictor.set_rule(sf.SparsityConfig.with_top_k(0))
    assert predictor.predict(x[0]).size == 0


@settings(max_examples=40)
@given(
    hidden=st.integers(1, 80),
    d=st.integers(1, 100),
    low=st.floats(0, 1.5),
    more=st.floats(0, 1.5),
    seed=st.integers(0, 999),
)
def test_a_larger_alpha_never_drops_a_neuron(
    hidden: int, d: int, low: float, more: float, seed: int
) -> None:
    gate, x = weights(hidden, d, seed)
    few, many = sf.SignPredictor(gate, low), sf.SignPredictor(gate, low + more)
    for fewer, most in zip(few.predict(x), many.predict(x), strict=True):
        assert set(fewer) <= set(most)


@pytest.mark.parametrize("gated", [False, True])
def test_a_layer_runs_it_inside_the_core(core: Core, gated: bool) -> None:
    random = np.random.default_rng(2)
    up, gate = random.standard_normal((2, 96, 48))
    ffn = sf.SparseFfn(
        up, random.standard_normal((20, 96)), gate=gate if gated else None, b2=np.ones(20)
    )
    x = random.standard_normal((6, 48))
    predictor = sf.SignPredictor(ffn, 0.9)
    y = ffn.forward(x, predictor)
    chosen = predictor.predict(x)
    np.testing.assert_array_equal(ffn.counts.selected, [len(ids) for ids in chosen])
    assert (ffn.counts.active < ffn.counts.selected).any()  # the core checked each gate
    np.testing.assert_array_equal(y, ffn.forward_sparse(x, chosen))
    assert ffn.predictor is None
    ffn.set_predictor(predictor)
    np.testing.assert_array_equal(ffn.forward(x), y)
    ffn.set_predictor(sf.LowRankPredictor(48, 96, 4))
    np.testing.assert_array_equal(ffn.forward(x, predictor), y)


def test_it_finds_most_of_what_matters() -> None:
    """Of normal weights and inputs, sum and sign count correlate by 2/π. So the chosen half holds
    (1 + 2/π)/2 = 82 % of the activation, a little less since ties are not chosen."""
    random = np.random.default_rng(3)
    gate = random.standard_normal((2000, 256))
    x = random.standard_normal((20, 256))
    predictor = sf.SignPredictor(gate)
    activation = np.maximum(x @ gate.T, 0)
    chosen = predictor.predict(x)
    held = [row[ids].sum() / row.sum() for row, ids in zip(activation, chosen, strict=True)]
    assert 0.45 < np.mean([len(ids) for ids in chosen]) / 2000 < 0.5
    assert 0.77 < np.mean(held) < 0.83


def test_errors() -> None:
    gate, x = weights(40, 70)
    for alpha in (np.nan, np.inf):
        with pytest.raises(sf.ArgumentError, match="alpha"):
            sf.SignPredictor(gate, alpha)
    with pytest.raises(sf.ArgumentError, match="hot: expected 0 … 40"):
        sf.SignPredictor(gate, hot=41)
    with pytest.raises(sf.ShapeError, match="rows, columns"):
        sf.SignPredictor(gate[0])
    predictor = sf.SignPredictor(gate)
    with pytest.raises(sf.ShapeError, match=r"\(70,\) or \(n, 70\)"):
        predictor.predict(x[:, :-1])
    with pytest.raises(sf.NotFiniteError):
        predictor.predict(np.full(70, np.nan))
    with pytest.raises(sf.ShapeError, match="70 inputs and 39 neurons"):
        sf.SparseFfn(gate[:39], np.ones((3, 39))).forward(x, predictor)


def test_predictor_and_layer_must_share_a_core() -> None:
    from sparsefire.core import hosts

    gate, x = weights(8, 8)
    here = sf.SparseFfn(gate, np.ones((3, 8)), core=hosts.open_core("native", "scalar", 1))
    there = sf.SignPredictor(gate, core=hosts.open_core("native", None, 1))
    with pytest.raises(sf.ArgumentError, match="the same backend"):
        here.forward(x, there)


def test_it_tells_what_it_is() -> None:
    predictor = sf.SignPredictor(np.ones((50, 33)), 1.25)
    assert isinstance(predictor, Predictor)
    assert (predictor.input_dim, predictor.hidden_dim, predictor.alpha) == (33, 50, 1.25)
    assert predictor.nbytes == 50 * 2 * 4
    assert repr(predictor) == "SignPredictor(33→50, alpha 1.25, 400 bytes)"


@pytest.mark.parametrize("columns", [1, 31, 32, 70])
def test_saved_and_loaded(columns: int, tmp_path: Path, host_core: Core) -> None:
    random = np.random.default_rng(columns)
    gate, x = random.standard_normal((40, columns)), random.standard_normal((5, columns))
    sparsity = sf.SparsityConfig.with_top_k(7)
    predictor = sf.SignPredictor(gate, 1.25, sparsity=sparsity, hot=3)
    path = tmp_path / "predictor.gguf"
    predictor.save(path)
    loaded = sf.SignPredictor.load(path)
    assert (loaded.alpha, loaded.hot, loaded.sparsity) == (1.25, 3, sparsity)
    assert np.array_equal(loaded.scores(x), predictor.scores(x))
    with pytest.raises(ModelFileError, match=r"kind 'signs'.*SignPredictor\.load"):
        sf.LowRankPredictor.load(path)


def test_a_damaged_file_is_refused(tmp_path: Path, host_core: Core) -> None:
    path = tmp_path / "predictor.gguf"
    sf.SignPredictor(np.ones((4, 40))).save(path)
    data = path.read_bytes()
    key = b"sparsefire-predictor.input_length"
    at = data.index(key) + len(key) + 4
    for columns in (0, 96, 2**31 - 1):
        path.write_bytes(data[:at] + columns.to_bytes(4, "little") + data[at + 4 :])
        with pytest.raises(ModelFileError, match="predictor_signs"):
            sf.SignPredictor.load(path)
