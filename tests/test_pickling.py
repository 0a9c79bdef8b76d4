"""Layers, predictors, weights and profiles that are pickled or copied come back as they were, on
another host too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsefire as sf
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.formats import WRITTEN_FORMATS
from sparsefire.weights.matrix import Matrix

D, HIDDEN = 256, 96

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def layer(format: str, **options: Any) -> sf.SparseFfn:
    random = np.random.default_rng(0)
    gate, up = random.standard_normal((2, HIDDEN, D))
    return sf.SparseFfn(
        up,
        random.standard_normal((D, HIDDEN)),
        gate=gate if options.pop("gated", True) else None,
        b1=random.standard_normal(HIDDEN),
        b2=random.standard_normal(D),
        format=format,
        **options,
    )


X = np.random.default_rng(1).standard_normal((3, D))


def assert_same(found: sf.SparseFfn, wanted: sf.SparseFfn) -> None:
    assert repr(found) == repr(wanted)
    assert (found.cutoff, found.product_cutoff) == (wanted.cutoff, wanted.product_cutoff)
    for mode in ("dense", "exact", None):
        assert np.array_equal(found.forward(X, mode=mode), wanted.forward(X, mode=mode))
    assert np.array_equal(found.counts.active, wanted.counts.active)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_layers(format: str, gated: bool, way: str, host_core: Core) -> None:
    ffn = layer(format, activation="fatrelu", gated=gated, parameter=0.25)
    ffn.set_cutoff(0.5)
    ffn.set_cutoff(0.75, on="product")
    assert_same(WAYS[way](ffn), ffn)
    predictor = sf.LowRankPredictor(D, HIDDEN, 32, sf.SparsityConfig.with_top_k(9), seed=4)
    ffn.set_predictor(predictor)
    found = WAYS[way](ffn)
    assert_same(found, ffn)
    assert (found.predictor is predictor) == (way == "copy")
    assert found.counts.selected.tolist() == [9, 9, 9]


def test_layers_of_mixed_formats_and_of_models(host_core: Core) -> None:
    random = np.random.default_rng(2)
    shapes = {"up": (HIDDEN, D), "down": (D, HIDDEN)}
    up, down = (random.standard_normal(shape) for shape in shapes.values())
    ffn = sf.SparseFfn.from_matrices(
        host_core,
        None,
        Matrix.from_array(up, "q8_0"),
        Matrix.from_array(down, "f16"),
        activation="silu",
        down_layout="output",
    )
    found = pickle.loads(pickle.dumps(ffn))
    assert (found.format, found.down_layout) == ("mixed", "output")
    assert np.array_equal(found.forward(X), ffn.forward(X))
    with sf.Model.load() as model:
        whole = model.ffns[1]
        x = X[:, : whole.d_in]
        found, wanted = pickle.loads(pickle.dumps(whole)), whole.forward(x)
    assert np.array_equal(found.forward(x), wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_weights_and_matrices(format: str, way: str, core: Core) -> None:
    values = np.random.default_rng(3).standard_normal((7, D))
    weights = sf.QuantizedWeights.quantize(values, format)
    found = WAYS[way](weights)
    assert repr(found) == repr(weights)
    assert np.array_equal(found.packed, weights.packed)
    matrix = Matrix.from_array(weights)
    again = WAYS[way](matrix)
    assert repr(again) == repr(matrix)
    assert np.array_equal(again.multiply(X), matrix.multiply(X))


@pytest.mark.parametrize("way", WAYS)
def test_predictors(way: str, core: Core) -> None:
    sparsity = sf.SparsityConfig.with_threshold(0.25, minimum=3, maximum=40)
    low_rank = sf.LowRankPredictor(D, HIDDEN, 32, sparsity, format="q8_0", relu_between=True)
    low_rank.set_rule(sparsity, hot=5)
    gate = np.random.default_rng(4).standard_normal((HIDDEN, D - 3))
    sign = sf.SignPredictor(gate, 1.125, sparsity=sf.SparsityConfig.with_top_k(11), hot=2)
    predictors: list[Any] = [low_rank, sign]
    for predictor in predictors:
        found = WAYS[way](predictor)
        assert repr(found) == repr(predictor)
        assert found.sparsity == predictor.sparsity
        assert found.hot == predictor.hot
        x = X[:, : predictor.input_dim]
        assert np.array_equal(found.scores(x), predictor.scores(x))
        for one, other in zip(found.predict(x), predictor.predict(x), strict=True):
            assert np.array_equal(one, other)
    assert not WAYS[way](low_rank).calibrated


def test_from_one_host_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import open_test_core

    cores = [open_test_core(name) for name in ("native-scalar", "wasmtime-wasm128")]
    results = []
    monkeypatch.setattr(hosts, "_current", cores[0])
    ffn = layer("q8_0")
    ffn.set_predictor(sf.SignPredictor(ffn))
    pickled = pickle.dumps(ffn)
    for core in cores:
        monkeypatch.setattr(hosts, "_current", core)
        found = pickle.loads(pickled)
        assert found.core is found.predictor.core is core
        results.append(found.forward(X))
    assert np.array_equal(*results)  # these two compute the same bits


def test_caches_take_their_profile_along(tmp_path: Path, host_core: Core) -> None:
    path = tmp_path / "layer.gguf"
    layer("f32").save_bundles(path)
    cache = sf.NeuronCache(hot_fraction=0.25, policy="window", window=9, pinned=1.0)
    with sf.CachedFfn.open(path, cache) as cached:
        cached.forward_sparse(X, [range(40, 60)] * 3)
        uses = cache.uses
        copied = pickle.loads(pickle.dumps(cache))
        with pytest.raises(TypeError, match=r"CachedFfn\.open"):
            pickle.dumps(cached)
    assert repr(copied) == "NeuronCache(hot_fraction 0.25, window 9)"
    with sf.CachedFfn.open(path, copied):
        assert np.array_equal(copied.uses, uses)
        assert set(copied.hot) <= set(range(40, 60))
        assert len(copied.hot) == 20
    other = layer("f32", activation="silu")
    matrices = [each for each in other.matrices if each is not None]
    half = sf.SparseFfn(
        matrices[1].dequantize()[:48], matrices[2].dequantize()[:48].T, "silu", format="f32"
    )
    half.save_bundles(path)
    once_more = copy.copy(copied)
    with sf.CachedFfn.open(path, once_more):  # a layer of another size: the profile is not its own
        assert not once_more.uses.any()


def test_reports_and_rules(host_core: Core) -> None:
    predictor = sf.LowRankPredictor(D, HIDDEN, 8)
    report = predictor.calibrate(layer("f32"), np.random.default_rng(5).standard_normal((90, D)))
    for value in (report, predictor.sparsity, sf.backend(), sf.ActivationType("gelu")):
        assert pickle.loads(pickle.dumps(value)) == value
    assert pickle.loads(pickle.dumps(predictor)).calibrated


def test_what_only_the_core_holds_cannot_be_pickled(host_core: Core) -> None:
    with pytest.raises(TypeError, match="CoreLowRank"):
        pickle.dumps(sf.LowRankPredictor(8, 8, 2).in_core)
