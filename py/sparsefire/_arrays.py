"""Checked conversion of numpy arguments to the core's types, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError, ShapeError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

_FLOAT32 = np.dtype(np.float32)  # numpy's one object of this dtype in native byte order


def real_array(value: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    """``value`` as a float32 C-contiguous array of the same shape, without a copy if it is one.

    Integers and bools are accepted; complex numbers, strings and objects are an `ArgumentError`.
    """
    array = np.asarray(value)
    if array.dtype is _FLOAT32 and array.flags.c_contiguous:
        return array
    if array.dtype.kind not in "fiub":
        raise ArgumentError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def matrix(value: npt.ArrayLike, name: str, meaning: str) -> FloatArray:
    """``value`` as a 2-D float32 array with at least one row and column, else `ShapeError`.
    ``meaning`` names the expected shape, as in ``"(hidden, input)"``."""
    array = real_array(value, name)
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"{name}: expected shape {meaning}, got {array.shape}")
    return array


def vector(value: npt.ArrayLike, count: int, name: str) -> FloatArray:
    """``value`` as a float32 vector of ``count`` elements, else `ShapeError`."""
    array = real_array(value, name)
    if array.shape != (count,):
        raise ShapeError(f"{name}: expected shape ({count},), got {array.shape}")
    return array


def vectors(x: npt.ArrayLike, d: int, name: str = "x") -> tuple[FloatArray, bool]:
    """``x`` (d,) or (n, d) as float32 (n, d), and whether it was a single vector."""
    array = real_array(x, name)
    shape = array.shape
    if shape == (d,):
        return array[None], True
    if len(shape) != 2 or shape[1] != d:
        raise ShapeError(f"{name}: expected shape ({d},) or (n, {d}), got {shape}")
    return array, False


class Result:
    """The destination of (n, d) results: a new float32 array, or the caller's ``out``.

    ``buffer`` is the float32 C-contiguous (n, d) array to fill, and `finish` returns the result
    in the caller's shape; ``out`` may have any float dtype and strides, and may overlap ``x``, the
    input that results are computed from.
    """

    def __init__(
        self,
        n: int,
        d: int,
        single: bool,
        out: npt.NDArray[np.floating] | None,
        x: FloatArray | None = None,
    ) -> None:
        shape = (d,) if single else (n, d)
        direct = False
        if out is not None:
            if not isinstance(out, np.ndarray) or out.dtype.kind != "f":
                raise ArgumentError("out: expected a numpy array of a float dtype")
            if out.shape != shape:
                raise ShapeError(f"out: expected shape {shape}, got {out.shape}")
            if not out.flags.writeable:
                raise ArgumentError("out: the array is read-only")
            # Results must not be written over inputs that are still to be read.
            direct = (
                out.dtype is _FLOAT32
                and out.flags.c_contiguous
                and (x is None or not np.may_share_memory(out, x))
            )
        self._result = out if out is not None and direct else np.empty(shape, np.float32)
        self._out = self._result if out is None else out
        self.buffer: FloatArray = self._result[None] if single else self._result

    def finish(self) -> npt.NDArray[np.floating]:
        """The filled array: ``out`` when it was given."""
        if self._out is not self._result:
            self._out[...] = self._result
        return self._out


def active_ids(active: npt.ArrayLike, hidden: int, name: str = "active") -> IntArray:
    """Neuron ids, in any order and with repetitions, or a boolean mask (hidden,), as ascending
    unique int32 ids. An id outside 0 … hidden-1 is an `ArgumentError`."""
    array = np.asarray(active)
    if array.dtype == np.bool_:
        if array.shape != (hidden,):
            raise ShapeError(f"{name}: a mask must have shape ({hidden},), got {array.shape}")
        return np.flatnonzero(array).astype(np.int32)
    if array.ndim != 1:
        raise ShapeError(f"{name}: expected a 1-D list of neuron ids, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: neuron ids must be integers, got dtype {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= hidden:
        wrong = low if low < 0 else high
        raise ArgumentError(f"{name}: neuron id {wrong} is outside 0 … {hidden - 1}")
    ids = np.ascontiguousarray(array, dtype=np.int32)
    if ids.size > 1 and not np.all(ids[1:] > ids[:-1]):
        ids = np.unique(ids)
    return ids
