"""Making objects again from what they are pickled as: numpy arrays, in the current core.

So an object may be unpickled, or copied by the module `copy`, on another host than its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..core.core import get_core
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights
from .layer import SparseFfn, bundle
from .predictor import InCorePredictor, LowRankPredictor
from .sign_predictor import SignPredictor
from .sparsity import SparsityConfig


def matrix(weights: QuantizedWeights) -> Matrix:
    """A matrix of its weights."""
    return Matrix.from_array(weights)


def low_rank_predictor(
    p: QuantizedWeights,
    q: QuantizedWeights,
    bias: _arrays.FloatArray,
    options: dict[str, Any],
    state: dict[str, Any],
) -> LowRankPredictor:
    """A low-rank predictor; ``options`` as of `LowRankPredictor.from_matrices`."""
    core = get_core()
    found = LowRankPredictor.from_matrices(
        core, Matrix.from_array(p, core=core), Matrix.from_array(q, core=core), bias, **options
    )
    found.__dict__.update(state)
    return found


def sign_predictor(
    signs: npt.NDArray[np.uint32], columns: int, alpha: float, sparsity: SparsityConfig, hot: int
) -> SignPredictor:
    """A sign predictor of its packed signs (hidden, words), bit j of a row its column j."""
    bits = np.unpackbits(signs.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    gate = 1 - 2 * bits[:, :columns].astype(np.int8)
    return SignPredictor(gate, alpha, sparsity=sparsity, hot=hot)


def ffn(
    weights: tuple[QuantizedWeights | None, QuantizedWeights, QuantizedWeights],
    biases: tuple[_arrays.FloatArray | None, ...],
    extras: tuple[bool, _arrays.FloatArray | None, float, QuantizedWeights | None],
    options: dict[str, Any],
    cutoffs: dict[str, float],
    predictor: InCorePredictor | None,
) -> SparseFfn:
    """A layer; ``options`` as of `SparseFfn.from_matrices`."""
    core = get_core()
    gate, up, down = weights
    if options["down_layout"] == "neuron":
        parts = [each for each in weights if each is not None]
        views = bundle(core, parts)
        matrices = (views[0] if gate else None, views[-2], views[-1])
    else:
        first = Matrix.from_array(gate, core=core) if gate else None
        matrices = (first, Matrix.from_array(up, core=core), Matrix.from_array(down, core=core))
    gate_bias, up_bias, down_bias = biases
    layer = SparseFfn.from_matrices(
        core,
        *matrices,
        gate_bias=gate_bias,
        up_bias=up_bias,
        down_bias=down_bias,
        predictor=predictor,
        **options,
    )
    both_active, sub_norm, epsilon, second_down = extras
    if both_active:
        layer.set_both_active(True)
    layer.set_sub_norm(sub_norm, epsilon)
    if second_down is not None:
        layer.set_second_down(Matrix.from_array(second_down, core=core))
    for on, cutoff in cutoffs.items():
        layer.set_cutoff(cutoff, on)
    return layer
