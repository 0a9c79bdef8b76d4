"""Calibrated predictors: what is reported is checked in float64 on samples never seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefire as sf
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import (
    ArgumentError,
    CalibrationError,
    ModelFileError,
    NotFiniteError,
    ShapeError,
)
from sparsefire.fit import thresholds
from sparsefire.fit.lowrank import Descent, Factors, operating_point, reduced_rank, refine
from sparsefire.fit.mass import MassTable
from sparsefire.lm.opening import default_model

Doubles = npt.NDArray[np.float64]

D, HIDDEN = 64, 160


@dataclass(frozen=True)
class Problem:
    """A gated ReLU layer whose gates few directions of the input decide."""

    ffn: sf.SparseFfn
    gate: Doubles
    bias: Doubles
    samples: Doubles
    fresh: Doubles

    def activations(self, x: Doubles) -> Doubles:
        return np.maximum(x @ self.gate.T + self.bias, 0)


def make_problem(activation: str = "relu", seed: int = 0) -> Problem:
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((D, D)) * np.geomspace(1, 0.02, D)[:, None]
    gate, up = random.standard_normal((2, HIDDEN, D))
    down = random.standard_normal((D, HIDDEN))
    samples, fresh = (random.standard_normal((n, D)) @ mixing for n in (1500, 600))
    bias = -1.3 * (samples @ gate.T).std(axis=0)
    ffn = sf.SparseFfn(up, down, activation, gate=gate, gate_bias=bias)
    return Problem(ffn, gate.astype(np.float32).astype(np.float64), bias, samples, fresh)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem()


def mass_recall(activations: Doubles, chosen: list[npt.NDArray[Any]]) -> float:
    kept = sum(row[ids].sum() for row, ids in zip(activations, chosen, strict=True))
    return float(kept / activations.sum())


def share(chosen: list[npt.NDArray[Any]]) -> float:
    return float(np.mean([len(ids) for ids in chosen]) / HIDDEN)


@pytest.mark.parametrize("relu_between", [False, True])
@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_it_keeps_the_mass_that_it_was_asked_to(
    format: str, relu_between: bool, problem: Problem
) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 32, format=format, relu_between=relu_between)
    report = predictor.calibrate(problem.ffn, problem.samples, recall=0.98)
    chosen = predictor.predict(problem.fresh)
    activations = problem.activations(problem.fresh)
    found = mass_recall(activations, chosen)
    assert report.recall_mass >= 0.98
    assert found > 0.965
    assert abs(share(chosen) - report.selected_share) < 0.03
    assert report.active_share == pytest.approx((activations > 0).mean(), abs=0.02)
    # Far better than chance, for which the share kept would be the share selected.
    assert report.selected_share < (0.6 if relu_between else 0.35)
    active = activations > 0
    hits = sum(row[ids].sum() for row, ids in zip(active, chosen, strict=True))
    assert report.recall_neurons == pytest.approx(hits / active.sum(), abs=0.05)
    assert report.precision == pytest.approx(hits / sum(map(len, chosen)), abs=0.08)
    wanted = problem.ffn.forward_dense(problem.fresh)
    y = problem.ffn.forward(problem.fresh, predictor)
    assert np.linalg.norm(y - wanted) < 0.15 * np.linalg.norm(wanted)


def test_blocks_and_half_floats_lose_nothing_that_matters() -> None:
    random = np.random.default_rng(3)
    gate, up = random.standard_normal((2, 96, 64))
    ffn = sf.SparseFfn(up, gate.T, gate=gate, gate_bias=np.full(96, -9.0))
    samples = random.standard_normal((900, 64))
    shares = {}
    for format in ("f32", "f16", "q8_0"):
        predictor = sf.LowRankPredictor(64, 96, 32, format=format)
        shares[format] = predictor.calibrate(ffn, samples).selected_share
        assert predictor.format == format
    assert shares["f16"] == pytest.approx(shares["f32"], rel=0.02)
    assert shares["q8_0"] == pytest.approx(shares["f32"], rel=0.05)


def test_the_same_from_observed_activations(problem: Problem) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 24)
    report = predictor.calibrate(problem.samples, problem.activations(problem.samples))
    assert report.recall_mass >= 0.99
    assert report.recall_output is None
    assert report.predictor_share is None
    chosen = predictor.predict(problem.fresh)
    assert mass_recall(problem.activations(problem.fresh), chosen) > 0.97
    assert share(chosen) < 0.5


@pytest.mark.parametrize(
    ("sparsity", "count"),
    [
        (sf.SparsityConfig.with_top_k(12), 12),
        (sf.SparsityConfig.with_target_sparsity(0.9), 16),
    ],
)
def test_a_given_number_of_neurons(
    sparsity: sf.SparsityConfig, count: int, problem: Problem
) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 24, sparsity)
    untrained = mass_recall(
        problem.activations(problem.fresh), list(predictor.predict(problem.fresh))
    )
    report = predictor.calibrate(problem.ffn, problem.samples)
    chosen = predictor.predict(problem.fresh)
    assert {len(ids) for ids in chosen} == {count}
    assert report.selected_share == pytest.approx(count / HIDDEN)
    activations = problem.activations(problem.fresh)
    found = mass_recall(activations, chosen)
    best = np.sort(activations, axis=1)[:, -count:].sum() / activations.sum()
    assert found > 0.8 * best
    assert found > 3 * untrained
    assert report.recall_mass == pytest.approx(found, abs=0.05)


def test_a_threshold_is_where_the_scores_begin(problem: Problem) -> None:
    low = sf.LowRankPredictor(D, HIDDEN, 16)
    high = sf.LowRankPredictor(D, HIDDEN, 16, sf.SparsityConfig.with_threshold(2.5))
    for predictor in (low, high):
        predictor.calibrate(problem.ffn, problem.samples)
    moved = high.scores(problem.fresh) - low.scores(problem.fresh)
    assert np.allclose(moved, 2.5, atol=1e-3)
    limited = sf.SparsityConfig.with_threshold(0.0, minimum=9, maximum=11)
    bounded = sf.LowRankPredictor(D, HIDDEN, 16, limited)
    report = bounded.calibrate(problem.ffn, problem.samples)
    assert {len(ids) for ids in bounded.predict(problem.fresh)} <= {9, 10, 11}
    assert 9 / HIDDEN <= report.selected_share <= 11 / HIDDEN


def test_activations_without_zeros_are_chosen_by_size() -> None:
    problem = make_problem("silu")
    predictor = sf.LowRankPredictor(D, HIDDEN, 24)
    report = predictor.calibrate(problem.ffn, problem.samples, recall=0.95)
    assert report.recall_mass >= 0.95
    assert report.selected_share < 0.8
    wanted = problem.ffn.forward_dense(problem.fresh)
    y = problem.ffn.forward(problem.fresh, predictor)
    assert np.linalg.norm(y - wanted) < 0.25 * np.linalg.norm(wanted)


def test_an_ungated_layer() -> None:
    random = np.random.default_rng(1)
    w1, w2 = random.standard_normal((90, 20)), random.standard_normal((20, 90))
    ffn = sf.SparseFfn(w1, w2, "relu2", b1=np.full(90, -6.0))
    predictor = sf.LowRankPredictor(20, 90, 16)
    report = predictor.calibrate(ffn, random.standard_normal((800, 20)))
    assert report.recall_mass >= 0.99
    assert report.recall_output is not None
    assert report.selected_share < 0.5


def test_calibrating_an_attached_predictor_anew(problem: Problem) -> None:
    """The layer must not go on with what the predictor was in the core before."""
    predictor = sf.LowRankPredictor(D, HIDDEN, 24)
    layer = make_problem().ffn
    layer.set_predictor(predictor)
    before = layer.forward(problem.fresh)
    predictor.calibrate(layer, problem.samples)
    after = layer.forward(problem.fresh)
    wanted = layer.forward_dense(problem.fresh)
    assert np.linalg.norm(after - wanted) < 0.2 * np.linalg.norm(before - wanted)
    same = layer.forward_sparse(problem.fresh, predictor.predict(problem.fresh))
    assert np.array_equal(after, same)


def test_calibration_is_repeatable(problem: Problem) -> None:
    predictors = [sf.LowRankPredictor(D, HIDDEN, 8, seed=5) for _ in range(2)]
    reports = [each.calibrate(problem.ffn, problem.samples) for each in predictors]
    assert reports[0] == reports[1]
    for one, other in zip(*(each.predict(problem.fresh) for each in predictors), strict=True):
        assert np.array_equal(one, other)


def test_saved_and_loaded(problem: Problem, tmp_path: Path, host_core: Core) -> None:
    sparsity = sf.SparsityConfig.with_threshold(0.5, minimum=3, maximum=70)
    predictor = sf.LowRankPredictor(D, HIDDEN, 16, sparsity, format="f16")
    predictor.calibrate(make_problem().ffn, problem.samples)
    predictor.set_rule(sparsity, hot=2)
    path = tmp_path / "predictor.gguf"
    predictor.save(path)
    loaded = sf.LowRankPredictor.load(path)
    assert loaded.sparsity == sparsity
    assert (loaded.rank, loaded.format, loaded.hot, loaded.calibrated) == (16, "f16", 2, True)
    assert np.array_equal(loaded.scores(problem.fresh), predictor.scores(problem.fresh))
    whole = path.read_bytes()
    for length in (0, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            sf.LowRankPredictor.load(path)
    with pytest.raises(ModelFileError, match="predictor"):
        sf.LowRankPredictor.load(default_model())


def test_predictions_agree_on_every_host(problem: Problem, core: Core) -> None:
    """The scores of one calibrated predictor, within rounding, wherever it runs."""
    from sparsefire.weights.matrix import Matrix

    predictor = sf.LowRankPredictor(D, HIDDEN, 16, core=hosts.open_core("native"))
    predictor.calibrate(problem.ffn, problem.samples)
    p, q, bias = predictor.matrices
    here = sf.LowRankPredictor.from_matrices(
        core,
        Matrix.from_array(p.dequantize(), "f32", core),
        Matrix.from_array(q.dequantize(), "f32", core),
        bias,
    )
    wanted = problem.fresh @ p.dequantize().T.astype(np.float64) @ q.dequantize().T + bias
    assert np.abs(here.scores(problem.fresh) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.ones((30, D)), CalibrationError, "30 samples"),
        (np.ones((200, D)), CalibrationError, "identical"),
        (np.ones((200, D + 1)), ShapeError, "samples"),
        (np.ones(D), ShapeError, "samples"),
        (np.full((200, D), np.nan), NotFiniteError, "samples"),
        (np.full((200, D), "x"), ArgumentError, "samples"),
    ],
)
def test_bad_samples(samples: Any, error: type[Exception], message: str, problem: Problem) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 8)
    before = predictor.scores(problem.fresh)
    with pytest.raises(error, match=message):
        predictor.calibrate(problem.ffn, samples)
    assert np.array_equal(predictor.scores(problem.fresh), before)
    assert not predictor.calibrated


def test_bad_arguments(problem: Problem) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 8)
    samples = problem.samples
    with pytest.raises(ShapeError, match="activations"):
        predictor.calibrate(samples, np.ones((len(samples), HIDDEN + 1)))
    with pytest.raises(NotFiniteError, match="activations"):
        predictor.calibrate(samples, np.full((len(samples), HIDDEN), np.inf))
    with pytest.raises(CalibrationError, match="active"):
        predictor.calibrate(samples, np.zeros((len(samples), HIDDEN)))
    with pytest.raises(ArgumentError, match="recall"):
        predictor.calibrate(problem.ffn, samples, recall=1.0)
    with pytest.raises(ShapeError, match="predictor"):
        sf.LowRankPredictor(D, HIDDEN + 1, 8).calibrate(problem.ffn, samples)
    for sizes in ((0, 4, 2), (4, 0, 2), (4, 4, 0)):
        with pytest.raises(ArgumentError):
            sf.LowRankPredictor(*sizes)


# -- the parts of fitting --------------------------------------------------------------------------


def random_mass(random: np.random.Generator, n: int, hidden: int) -> Doubles:
    mass = random.exponential(size=(n, hidden))
    return np.where(random.random((n, hidden)) < 0.2, mass, 0.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_mass_tables_are_their_matrices(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, hidden = int(random.integers(2, 30)), int(random.integers(1, 20))
    dense = random_mass(random, n, hidden)
    dense[0, 0] = 1.0
    other = dense**2
    cut = int(random.integers(1, n))
    pieces = [
        (dense[part].astype(np.float32), other[part].astype(np.float32))
        for part in (slice(cut), slice(cut, None))
    ]
    table = MassTable.from_pieces(pieces)
    scaled = np.zeros((2, n, hidden))
    scaled[:, table.tokens, table.neurons] = table.kinds
    for found, wanted in zip(scaled, (dense, other), strict=True):
        assert np.allclose(found, wanted * n / wanted.sum(), rtol=1e-5)
    assert table.active_share == pytest.approx((dense > 0).mean())
    assert np.allclose(table.frequency, (dense > 0).mean(axis=0))
    rows = np.sort(random.choice(n, cut, replace=False))
    flat = np.zeros(cut * hidden)
    position, value = table.of_tokens(rows)
    flat[position] = value
    assert np.allclose(flat.reshape(cut, hidden), scaled.mean(axis=0)[rows])
    head = table.head(cut)
    both = head.followed_by(head)
    assert both.total == pytest.approx(2 * scaled.mean(axis=0)[:cut].sum(), rel=1e-5)
    assert both.recall(np.ones(both.entries, bool)) == pytest.approx(1)


def test_the_smallest_masses_are_dropped() -> None:
    random = np.random.default_rng(0)
    dense = random.exponential(size=(300, 40)).astype(np.float32) ** 3
    table = MassTable.from_pieces([(dense,)], drop=0.05)
    kept = table.kinds.sum(dtype=np.float64) / table.total
    assert 0.945 < kept < 0.9505
    assert table.recall(np.ones(table.entries, bool))[0] == pytest.approx(kept)
    least = np.sort(dense.reshape(-1))[::-1][: table.entries]
    assert least.sum() / dense.sum() == pytest.approx(kept, rel=1e-4)


def brute_force(scores: Doubles, mass: Doubles, worth: float) -> float:
    """The most worth · mass − selections of one neuron by any threshold."""
    order = np.argsort(-scores)
    values = worth * np.cumsum(mass[order]) - np.arange(1, len(scores) + 1)
    return max(0.0, float(values.max()))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), worth=st.floats(0.1, 100))
def test_thresholds_of_neurons_are_the_best_there_are(seed: int, worth: float) -> None:
    random = np.random.default_rng(seed)
    n, hidden, d = 60, 9, 5
    x = random.standard_normal((n, d)).astype(np.float32)
    dense = random_mass(random, n, hidden)
    dense[0, 0] = 1.0
    mass = MassTable.from_pieces([(dense.astype(np.float32),)])
    weights = random.standard_normal((hidden, d)).astype(np.float32)
    factors = Factors(np.eye(d, dtype=np.float32), weights, np.zeros(hidden, np.float32))
    curves = thresholds.neuron_curves(factors, x, mass)
    found = curves.thresholds(worth)
    scores = factors.scores(x)
    table = np.zeros((n, hidden))
    table[mass.tokens, mass.neurons] = mass.values
    for neuron in range(hidden):
        chosen = scores[:, neuron] > found[neuron]
        value = worth * table[chosen, neuron].sum() - chosen.sum()
        wanted = brute_force(scores[:, neuron].astype(np.float64), table[:, neuron], worth)
        assert value == pytest.approx(wanted, abs=1e-3 * (1 + wanted))


def test_the_operating_point_is_the_least_selection() -> None:
    random = np.random.default_rng(0)
    dense = random_mass(random, 400, 30)
    mass = MassTable.from_pieces([(dense.astype(np.float32),)])
    scores = (dense + random.standard_normal(dense.shape)).astype(np.float32)
    point = operating_point(scores, mass, 0.9)
    order = np.argsort(-scores, axis=None)
    captured = np.cumsum(dense.reshape(-1)[order]) / dense.sum()
    wanted = (np.searchsorted(captured, 0.9) + 1) / dense.size
    assert point.selected_share == pytest.approx(wanted, abs=2 / dense.size)
    assert (dense * (scores > point.threshold)).sum() / dense.sum() >= 0.9 - 1e-6


@pytest.mark.parametrize("relu", [False, True])
def test_descent_selects_less_than_the_closed_form(relu: bool) -> None:
    """On inputs made of few features at a time, as in trained networks. (For Gaussian inputs the
    closed form is hard to beat.)"""
    random = np.random.default_rng(0)
    features = random.standard_normal((120, 64)) / 8
    gate = features[random.integers(0, 120, 160)] + 0.006 * random.standard_normal((160, 64))
    strengths = random.exponential(size=(6000, 120)) * (random.random((6000, 120)) < 0.03)
    x = (strengths @ features).astype(np.float32)
    bias = -1.8 * (x @ gate.T).std(axis=0)
    parts = x[:4000], x[4000:5000], x[5000:]
    fit, tune, fresh = (
        MassTable.from_pieces([(np.maximum(each @ gate.T + bias, 0).astype(np.float32),)])
        for each in parts
    )
    start = reduced_rank(parts[0], gate.astype(np.float32), bias, 8)
    if relu:
        start = start.with_relu()
    found = refine(start, parts[0], fit, parts[1], tune, 0.99, Descent())
    assert found.rank == start.rank
    before, after = (
        operating_point(each.scores(parts[2]), fresh, 0.99).selected_share
        for each in (start, found)
    )
    assert after < 0.85 * before


def test_a_relu_between_begins_with_the_same_scores() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((50, 12)).astype(np.float32)
    factors = Factors(
        *(random.standard_normal(shape).astype(np.float32) for shape in ((4, 12), (9, 4), (9,)))
    )
    assert np.allclose(factors.with_relu().scores(x), factors.scores(x), atol=1e-4)
    assert np.allclose(factors.resized(7).scores(x), factors.scores(x), atol=1e-5)
    assert factors.resized(2).rank == 2
    assert np.allclose(factors.balanced(x).scores(x), factors.scores(x), atol=1e-4)
