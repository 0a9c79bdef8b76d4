"""A predictor that needs no calibration: it compares signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.core import Core
from ..errors import ArgumentError
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights
from .layer import SparseFfn
from .predictor import CorePredictor, InCorePredictor
from .sparsity import SparsityConfig


class SignPredictor(InCorePredictor):
    """Predicts active neurons from the signs of the weights and of the input alone (SparseInfer;
    Shin et al. 2024): a neuron whose products gate_ij · x_j are mostly positive will fire.

    Its scores are ``alpha`` · (number of products ≥ 0) - (number of products < 0), a zero taken as
    positive, and by default the neurons whose score is above 0 are chosen. So ``alpha`` is the one
    thing to tune: a larger one chooses more neurons and misses fewer. ``sparsity`` replaces that
    rule; the first ``hot`` neurons are always chosen.

    ``gate``: the matrix (hidden, input) whose products pass through the activation, as an array,
    `QuantizedWeights` or `Matrix`, or a `SparseFfn`, of which it is the gate, or without a gate
    w1. Biases are not looked at. One bit a weight is kept, and the matrix is not needed
    afterwards.

    Errors: `ShapeError`, `ArgumentError` (``alpha`` or ``hot`` without a meaning).
    """

    def __init__(
        self,
        gate: Matrix | SparseFfn | QuantizedWeights | npt.ArrayLike,
        alpha: float = 1.0,
        *,
        sparsity: SparsityConfig | None = None,
        hot: int = 0,
        core: Core | None = None,
    ) -> None:
        if not isinstance(alpha, (int, float, np.number)) or not math.isfinite(alpha):
            raise ArgumentError(f"alpha must be a finite number, got {alpha!r}")
        alpha = float(alpha)
        if isinstance(gate, SparseFfn):
            gate = gate.matrices[0] or gate.matrices[1]
        matrix = gate if isinstance(gate, Matrix) else Matrix.from_array(gate, core=core)
        if core is not None and core is not matrix.core:
            raise ArgumentError(f"gate: the matrix is in {matrix.core!r}, not in {core!r}")
        self._alpha = alpha
        handle = matrix.core.open(
            "sf_predictor_open_sign",
            matrix.core.context,
            matrix.handle,
            alpha,
            what=f"sign predictor for gate {matrix.shape}",
        )
        nbytes = matrix.rows * -(-matrix.columns // 32) * 4
        self._core_predictor = CorePredictor(
            matrix.core, handle, matrix.columns, matrix.rows, nbytes, sparsity, hot
        )

    @property
    def alpha(self) -> float:
        """The weight of a product ≥ 0 beside one < 0."""
        return self._alpha

    def __reduce__(self) -> tuple[Any, ...]:
        from . import pickled as _pickled

        words = -(-self.input_dim // 32)
        signs = np.empty((self.hidden_dim, words), np.uint32)
        written = self.core.out(signs), signs.nbytes
        self.core.check("sf_predictor_signs", self.handle, *written, what="the packed signs")
        return _pickled.sign_predictor, (signs, self.input_dim, self.alpha, self.sparsity, self.hot)

    def __repr__(self) -> str:
        return (
            f"SignPredictor({self.input_dim}→{self.hidden_dim}, alpha {self.alpha:g}, "
            f"{self.nbytes:,} bytes)"
        )
