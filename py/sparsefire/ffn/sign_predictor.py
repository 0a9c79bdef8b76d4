"""A predictor that needs no calibration: it compares signs."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .._options import checked, instance, number, refuse
from ..core.core import Core
from ..errors import ArgumentError, ModelFileError
from ..gguf.reader import GgufFile
from ..gguf.writer import TensorData, Writable
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights
from .layer import SparseFfn
from .predictor import CorePredictor, InCorePredictor
from .sparsity import SparsityConfig

_SIGNS = "predictor_signs"


class SignPredictor(InCorePredictor, kind="signs"):
    """Predicts active neurons from only the signs of the weights and of the input (SparseInfer;
    Shin et al. 2024): a neuron whose products gate_ij · x_j are mostly positive is expected to
    fire.

    Scores are ``alpha`` · (number of products ≥ 0) - (number of products < 0), with zeros counted
    as positive. By default neurons with a score above 0 are selected. ``alpha`` trades recall
    against sparsity: a larger one selects more neurons and misses fewer. ``sparsity`` replaces the
    default rule; the first ``hot`` neurons are always selected.

    ``gate``: the matrix (hidden, input) whose products pass through the activation, as an array,
    `QuantizedWeights`, a `Matrix`, or a `SparseFfn`, whose gate (w1 if it has none) is used. Biases
    are ignored. One bit per weight is stored, and the matrix is not needed afterwards.

    Errors: `ShapeError`, `ArgumentError` (invalid ``alpha`` or ``hot``).
    """

    @checked(alpha=number, core=instance(Core))
    def __init__(
        self,
        gate: Matrix | SparseFfn | QuantizedWeights | npt.ArrayLike,
        alpha: float = 1.0,
        *,
        sparsity: SparsityConfig | None = None,
        hot: int = 0,
        core: Core | None = None,
    ) -> None:
        if not math.isfinite(alpha):
            refuse(alpha, "alpha", "a finite number")
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
        """The weight of a product ≥ 0 relative to one < 0."""
        return self._alpha

    def _signs(self) -> npt.NDArray[np.uint32]:
        """The signs (hidden, words): bit j of a row is 1 if its column j is negative."""
        words = -(-self.input_dim // 32)
        signs = np.empty((self.hidden_dim, words), np.uint32)
        written = self.core.out(signs), signs.nbytes
        self.core.check("sf_predictor_signs", self.handle, *written, what="the packed signs")
        return signs

    def _stored(self) -> tuple[dict[str, Any], dict[str, Writable]]:
        keys = {"alpha": self.alpha, "input_length": self.input_dim}
        signs = self._signs()
        return keys, {_SIGNS: TensorData("i32", signs.shape, signs.view(np.uint8))}

    @classmethod
    def _restored(
        cls, core: Core, file: GgufFile, keys: dict[str, Any], options: dict[str, Any]
    ) -> Self:
        info, columns = file.tensor(_SIGNS), int(keys["input_length"])
        words = -(-columns // 32)
        if info.format != "i32" or info.shape[1:] != (words,) or columns < 1:
            raise ModelFileError(
                f"{file.name}: tensor {_SIGNS!r} is {info.format} {info.shape}; the signs of "
                f"{columns} inputs are i32 (neurons, {words})"
            )
        signs = file.tensor_data(_SIGNS).view(np.uint32).reshape(info.shape)
        return cls(_gate(signs, columns), float(keys["alpha"]), core=core, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        signs = self._signs()
        return _unpickled, (signs, self.input_dim, self.alpha, self.sparsity, self.hot)

    def __repr__(self) -> str:
        return (
            f"SignPredictor({self.input_dim}→{self.hidden_dim}, alpha {self.alpha:g}, "
            f"{self.nbytes:,} bytes)"
        )


def _gate(signs: npt.NDArray[np.uint32], columns: int) -> npt.NDArray[np.int8]:
    """A matrix (hidden, columns) of 1 and -1 with these signs."""
    bits = np.unpackbits(signs.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    return 1 - 2 * bits[:, :columns].astype(np.int8)


def _unpickled(
    signs: npt.NDArray[np.uint32], columns: int, alpha: float, sparsity: SparsityConfig, hot: int
) -> SignPredictor:
    """A pickled predictor, in the current core."""
    return SignPredictor(_gate(signs, columns), alpha, sparsity=sparsity, hot=hot)
