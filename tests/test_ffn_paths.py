"""Every way in which a layer can be computed gives the same bits: lists or whole matrices, one
vector or several, any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sparsefire as sf
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, FormatError
from sparsefire.ffn.low_rank import LowRankPredictor
from sparsefire.weights.costs import set_costs
from sparsefire.weights.formats import WRITTEN_FORMATS

# Every list as it is; nearly everything at once; what several vectors want together; in between.
COSTS = ((1e-6, 1e6), (1e6, 1e-6), (1.0, 0.2), (1.2, 0.6))
DEFAULT = (1.1, 0.4)

Floats = npt.NDArray[np.floating]


@pytest.fixture
def costs(core: Core) -> Iterator[Core]:
    yield core
    for format in WRITTEN_FORMATS:
        set_costs(format, *DEFAULT)


def make(
    format: str, gated: bool, activation: str, d: int = 64, hidden: int = 150, seed: int = 0
) -> tuple[sf.SparseFfn, LowRankPredictor]:
    """A layer, and a predictor whose scores differ from neuron to neuron and vector to vector."""
    random = np.random.default_rng(seed)
    gate, up = random.standard_normal((2, hidden, d)) / np.sqrt(d)
    ffn = sf.SparseFfn(
        up,
        random.standard_normal((96, hidden)),
        activation,
        gate=gate if gated else None,
        b1=random.standard_normal(hidden) / 4,
        b2=random.standard_normal(96),
        gate_bias=random.standard_normal(hidden) / 4 if gated else None,
        format=format,
    )
    return ffn, LowRankPredictor(d, hidden, 16, seed=seed, format="f32")


def run(ffn: sf.SparseFfn, x: Floats, mode: str) -> tuple[Floats, list[int], list[int]]:
    y = ffn.forward(x, mode=mode)
    return y, ffn.counts.selected.tolist(), ffn.counts.active.tolist()


def one_by_one(ffn: sf.SparseFfn, x: Floats, mode: str) -> tuple[Floats, list[int], list[int]]:
    found: tuple[list[Floats], list[int], list[int]] = ([], [], [])
    for each in x:
        for whole, part in zip(found, run(ffn, each[None], mode), strict=True):
            whole.extend(part)  # type: ignore[arg-type]
    return np.array(found[0]), found[1], found[2]


def assert_same(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    assert found[0].tobytes() == wanted[0].tobytes()
    assert found[1:] == wanted[1:]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_every_way_gives_the_same_bits(format: str, gated: bool, costs: Core) -> None:
    random = np.random.default_rng(1)
    for activation, cutoffs in (("relu", (0, 0)), ("silu", (0.2, 0.1)), ("silu", (0, 0.3))):
        ffn, predictor = make(format, gated, activation)
        ffn.set_cutoff(cutoffs[0], "gate")
        ffn.set_cutoff(cutoffs[1], "product")
        x = random.standard_normal((33, 64)).astype(np.float32)
        for count in (0, 1, 9, 75, 140, 150, None):
            mode = "exact" if count is None else "sparse"
            if count is not None:
                predictor.set_rule(sf.SparsityConfig.with_top_k(count))
                ffn.set_predictor(predictor)
            set_costs(format, *COSTS[0])
            wanted = one_by_one(ffn, x, mode)
            for each in COSTS:
                set_costs(format, *each)
                for n in (2, 7, 33):
                    part = tuple(whole[:n] for whole in wanted)
                    assert_same(run(ffn, x[:n], mode), part)


@pytest.mark.parametrize("format", ["f32", "q8_0"])
def test_threads_change_nothing(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 2, 3):
        core = hosts.open_core("native", None, threads)
        monkeypatch.setattr(hosts, "_current", core)
        ffn, predictor = make(format, True, "relu", 256, 900)
        ffn.set_predictor(predictor)
        x = np.random.default_rng(2).standard_normal((33, 256))
        results = []
        for costs in (*COSTS, DEFAULT):
            set_costs(format, *costs)
            for count in (90, 500, 890):
                predictor.set_rule(sf.SparsityConfig.with_top_k(count))
                results += [
                    run(ffn, x[:n], mode) for n in (1, 9, 33) for mode in ("exact", "sparse")
                ]
        found.append(results)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("format", ["f32", "q8_0"])
def test_exact_is_dense(format: str, gated: bool, costs: Core) -> None:
    """Neurons that are left out would have added exact zeros, in the same order."""
    for activation in ("relu", "relu2", "silu", "identity"):
        ffn, _ = make(format, gated, activation)
        x = np.random.default_rng(3).standard_normal((9, 64))
        wanted = ffn.forward(x, mode="dense")
        for each in COSTS:
            set_costs(format, *each)
            assert np.array_equal(ffn.forward(x, mode="exact"), wanted)
            assert np.array_equal(ffn.forward(x[4], mode="exact"), wanted[4])


@pytest.mark.parametrize("gated", [True, False])
def test_cutoffs_by_their_definition(gated: bool, core: Core) -> None:
    ffn, _ = make("f32", gated, "silu")
    (gate, up, down), (gate_bias, up_bias, down_bias) = ffn.matrices, ffn.biases
    assert up_bias is not None
    assert down_bias is not None
    x = np.random.default_rng(4).standard_normal((5, 64))
    raised = x @ up.dequantize().T.astype(np.float64) + up_bias
    first = raised
    if gate is not None and gate_bias is not None:
        first = x @ gate.dequantize().T.astype(np.float64) + gate_bias
    activated = first / (1 + np.exp(-first))
    product = activated * raised if gated else activated
    for by_gate, by_product in ((0.0, 0.1), (0.15, 0.0), (0.1, 0.2), (5.0, 0.0), (0.0, 50.0)):
        ffn.set_cutoff(by_gate)
        ffn.set_cutoff(by_product, "product")
        assert (ffn.cutoff, ffn.product_cutoff) == (by_gate, by_product)
        kept = (np.abs(activated) > by_gate) & (np.abs(product) > by_product)
        wanted = np.where(kept, product, 0) @ down.dequantize() + down_bias
        assert np.allclose(ffn.forward(x), wanted, atol=1e-4)
        assert ffn.counts.active.tolist() == kept.sum(axis=1).tolist()
        assert ffn.counts.selected.tolist() == [150] * 5
        ids = np.arange(0, 150, 2)
        some = np.where(kept, product, 0)[0, ids] @ down.dequantize()[ids] + down_bias
        assert np.allclose(ffn.forward_sparse(x[0], ids), some, atol=1e-4)


def test_bad_costs(host_core: Core) -> None:
    for bad in ((0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(ArgumentError, match="costs"):
            set_costs("f32", *bad)
    with pytest.raises(FormatError):
        set_costs("f33", 1.0, 1.0)
