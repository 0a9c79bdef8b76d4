"""Arguments without a meaning: an error that names the argument, and never a silent guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sparsefire as sf

D, HIDDEN = 32, 40
W1, W2 = np.ones((HIDDEN, D)), np.ones((D, HIDDEN))
X = np.ones((3, D))
NAN = np.where(np.eye(HIDDEN, D) > 0, np.nan, 1.0)
NIBBLES = np.zeros(D // 2, np.uint8)


def layer(**options: Any) -> sf.SparseFfn:
    return sf.SparseFfn(options.pop("w1", W1), options.pop("w2", W2), **options)


def int4(packed: Any) -> sf.QuantizedWeights:
    return sf.QuantizedWeights.int4(packed, [1.0], [8], 32, (1, D))


CASES: dict[str, Callable[[], object]] = {
    r"w1: NaN": lambda: layer(w1=NAN),
    r"w2: NaN": lambda: layer(w2=NAN.T),
    r"gate: NaN": lambda: layer(gate=NAN),
    r"parameter: .* got -1": lambda: layer(activation="fatrelu", parameter=-1),
    r"parameter: .* got nan": lambda: layer(activation="fatrelu", parameter=float("nan")),
    r"predictor: expected an object with predict": lambda: layer().forward(X, 3),  # type: ignore[arg-type]
    r"active: expected 3 id lists, got 5": lambda: layer().forward_sparse(X, 5),
    r"packed: expected bytes, 0": lambda: int4(NIBBLES + np.int32(256)),
    r"packed: expected bytes, got dtype float": lambda: int4(NIBBLES * 1.0),
    r"scale must be a number, got 'a'": lambda: sf.QuantizedWeights.int8([[1]], "a"),  # type: ignore[arg-type]
    r"row must be .* got 1\.5": lambda: sf.QuantizedWeights.from_f32(W1).dequantize_row(1.5),  # type: ignore[arg-type]
    r"rank must be 1 or more, a whole": lambda: sf.LowRankPredictor(D, HIDDEN, 2.5),  # type: ignore[arg-type]
    r"sparsity: expected a SparsityConfig": lambda: sf.LowRankPredictor(D, HIDDEN, 2, 50),  # type: ignore[arg-type]
    r"alpha must be a number": lambda: sf.SignPredictor(W1, "a"),  # type: ignore[arg-type]
    r"top_k must be .* got 2\.5": lambda: sf.SparsityConfig.with_top_k(2.5),  # type: ignore[arg-type]
    r"top_k must be .* got True": lambda: sf.SparsityConfig.with_top_k(True),
    r"threshold must be a number": lambda: sf.SparsityConfig.with_threshold("a"),  # type: ignore[arg-type]
    r"target_sparsity must be": lambda: sf.SparsityConfig.with_target_sparsity("a"),  # type: ignore[arg-type]
    r"minimum must be .* got 2\.5": lambda: sf.SparsityConfig.with_top_k(3, minimum=2.5),  # type: ignore[arg-type]
    r"budget_bytes must be .* got 1\.5": lambda: sf.NeuronCache(budget_bytes=1.5),  # type: ignore[arg-type]
    r"hot_fraction must be": lambda: sf.NeuronCache(hot_fraction="a"),  # type: ignore[arg-type]
    r"window must be .* got 2\.5": lambda: sf.NeuronCache(
        hot_fraction=0.5,
        policy="window",
        window=2.5,  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_the_argument_is_named(message: str) -> None:
    with pytest.raises((sf.ArgumentError, sf.ShapeError), match=message):
        CASES[message]()


def test_numbers_of_numpy_are_numbers() -> None:
    config = sf.SparsityConfig.with_top_k(np.int64(3), minimum=np.int32(1), maximum=np.int16(4))
    assert config.select(np.arange(9.0)).tolist() == [6, 7, 8]  # type: ignore[union-attr]
    threshold = sf.SparsityConfig.with_threshold(np.float32(6.5))  # type: ignore[arg-type]
    assert threshold.select(np.arange(9.0)).tolist() == [7, 8]  # type: ignore[union-attr]
    assert sf.NeuronCache(budget_bytes=np.int64(10)).budget_bytes == 10  # type: ignore[arg-type]


def test_an_npu_is_refused_with_the_reason() -> None:
    with pytest.raises(sf.BackendError, match="does not support NPUs"):
        sf.use_backend("npu")
    assert "the core uses no NPU" in str(sf.devices())
