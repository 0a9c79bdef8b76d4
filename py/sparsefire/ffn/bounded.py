"""Copies of a matrix in fewer bits, whose products are known to be near those of the matrix: where
the largest of them must be is proved by reading the copy and a few rows of the matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..arch.screen import COPY_BLOCK
from ..core.core import Core
from ..weights.formats import weight_format
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights, dequantize_rows
from .predictor import CorePredictor

FORMAT = "q4_0"  # of the copy

# What products of either may be wrong by, over the norms of weights and inputs: at most what
# rounding both to bfloat16 gives, 2^-9 each, and twice that.
_ROUNDING = 2.0**-7
_ROWS_AT_ONCE = 4096


class CoreBounded(CorePredictor):
    """A copy of a matrix (hidden, d) in the core: scores = copy · x, each with a bound of how far
    it is from the matrix's product (see `sf_predictor_open_bounded`)."""

    def __init__(self, core: Core, copy: Matrix, bounds: Matrix) -> None:
        given = core.context, copy.handle, bounds.handle
        what = f"a copy of a matrix {copy.shape}"
        handle = core.open("sf_predictor_open_bounded", *given, what=what)
        super().__init__(
            core, handle, copy.columns, copy.rows, copy.nbytes + bounds.nbytes, None, 0
        )
        self.copy, self.bounds = copy, bounds

    @classmethod
    def of(cls, matrix: Matrix) -> CoreBounded:
        """Of a matrix for which `sparsefire.arch.screen.can_copy`. Takes some seconds for a
        gigabyte of weights."""
        core, columns = matrix.core, matrix.columns
        packed, bounds = [], []
        for first in range(0, matrix.rows, _ROWS_AT_ONCE):
            stored = matrix.packed(first, min(first + _ROWS_AT_ONCE, matrix.rows))
            weights = dequantize_rows(stored, weight_format(matrix.format), columns, core)
            weights *= np.float32(matrix.scale)
            copy = QuantizedWeights.quantize(weights, FORMAT, core)
            packed.append(copy.packed)
            bounds.append(_bounds(weights, copy.dequantize(core)))
        shape = matrix.shape
        whole = QuantizedWeights(np.concatenate(packed), FORMAT, shape)
        errors = np.concatenate(bounds).view(np.uint8)
        of_parts = QuantizedWeights(errors, "f16", (matrix.rows, columns // COPY_BLOCK))
        return cls(
            core, Matrix.from_array(whole, core=core), Matrix.from_array(of_parts, core=core)
        )


def _bounds(weights: FloatArray, copy: FloatArray) -> npt.NDArray[np.float16]:
    """How far products of the parts of rows may be from each other for a part of an input of norm
    1: float16 (rows, parts), rounded up."""
    rows, columns = weights.shape
    parts = rows, columns // COPY_BLOCK, COPY_BLOCK

    def norms(values: FloatArray) -> FloatArray:
        squares = np.square(values.reshape(parts), dtype=np.float64).sum(axis=2)
        return np.asarray(np.sqrt(squares), np.float32)

    exact = norms(weights - copy) + np.float32(_ROUNDING) * np.maximum(norms(weights), norms(copy))
    rounded = exact.astype(np.float16)
    above = np.nextafter(rounded, np.float16(np.inf))
    return np.where(rounded < exact, above, rounded).astype(np.float16)
