"""Products of large matrices of a fit: numpy's, or the core's where numpy has no BLAS."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from .._arrays import FloatArray
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights

# Pyodide's numpy multiplies in plain loops, which take many times as long.
BLAS = sys.platform != "emscripten"

_BLOCK_FLOATS = 4 << 20  # of a factor that are in the core at once
_LEAST_EIGENVALUE = 1e-3  # of a matrix of cosines in single precision, whose inverse root is used


def times(x: FloatArray, rows: FloatArray) -> FloatArray:
    """x · rowsᵀ, float32 (n, m), of x (n, d) and rows (m, d)."""
    if BLAS:
        return np.asarray(x @ rows.T, np.float32)
    found = np.empty((len(x), len(rows)), np.float32)
    for some in _blocks(len(rows), rows.shape[1]):
        part = np.ascontiguousarray(rows[some], np.float32)
        matrix = Matrix.from_array(QuantizedWeights(part.view(np.uint8), "f32", part.shape))
        for each in _blocks(len(x), x.shape[1]):
            found[each, some] = matrix.multiply(x[each])
    return found


def across(a: FloatArray, b: FloatArray) -> FloatArray:
    """aᵀ · b, float32 (m, k), of a (n, m) and b (n, k), where n is large."""
    if BLAS:
        return np.asarray(a.T @ b, np.float32)
    found = np.zeros((a.shape[1], b.shape[1]), np.float32)
    for some in _blocks(len(a), a.shape[1] + b.shape[1]):
        found += times(a[some].T, b[some].T)
    return found


def orthonormal(columns: FloatArray) -> FloatArray:
    """An orthonormal basis (n, k) of columns (n, k), where n is large and k is small. Numpy's own,
    in double precision, takes longer, and is for columns that nearly depend."""
    found = _cholesky_qr(columns)
    if found is None:
        found, _ = np.linalg.qr(columns)
    return np.asarray(found, np.float32)


def _cholesky_qr(columns: FloatArray) -> FloatArray | None:
    """The basis by Cholesky QR, twice (Yamamoto et al. 2015), whose work is products; None if the
    columns are too nearly dependent for it."""
    sizes = np.sqrt(np.square(columns).sum(axis=0))
    if not sizes.all():
        return None
    found: FloatArray = columns / sizes
    for _ in range(2):
        gram = across(found, found).astype(np.float64)
        values, vectors = np.linalg.eigh(gram)
        if values[0] < _LEAST_EIGENVALUE:
            return None
        found = times(found, (vectors / np.sqrt(values) @ vectors.T).astype(np.float32))
    return found


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of rows of a (count, width) array, one after the other."""
    step = max(1, _BLOCK_FLOATS // width)
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))
