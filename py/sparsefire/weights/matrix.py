"""A weight matrix in the core's memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..core.core import Core, Memory
from ..core.handle import CoreObject
from ..core.hosts import get_core
from ..errors import UnsupportedError
from .formats import WeightFormat, weight_format
from .quantized import QuantizedWeights, dequantize_rows

_READ_BYTES = 8 << 20


class Matrix(CoreObject):
    """A view of (rows, columns) weights in core memory, kept as they are packed.

    Row i starts ``offset + i * row_stride`` bytes into ``memory``; a ``row_stride`` of 0 means
    packed rows. The view keeps ``memory`` alive. Errors: `FormatError`, `ShapeError` (the rows
    do not fit in the memory).
    """

    def __init__(
        self,
        core: Core,
        memory: Memory,
        format: str | WeightFormat,
        rows: int,
        columns: int,
        offset: int = 0,
        row_stride: int = 0,
    ) -> None:
        kind = weight_format(format)
        self._row_bytes = kind.row_bytes(columns)
        handle = core.open(
            "sf_matrix_open",
            memory.ptr + offset,
            max(0, memory.nbytes - offset),
            kind.code,
            rows,
            columns,
            row_stride,
            what=f"matrix ({rows}, {columns}) {kind.name} in {memory.nbytes} bytes",
        )
        super().__init__(core, handle, "sf_matrix_close")
        self._memory = memory
        self._format = kind
        self._offset = offset
        self._row_stride = row_stride or self._row_bytes
        self._scale = 1.0
        self.rows = rows
        self.columns = columns

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike | QuantizedWeights,
        format: str = "f32",
        core: Core | None = None,
    ) -> Matrix:
        """Quantises ``array`` (rows, columns) to ``format`` and copies it to core memory.
        `QuantizedWeights` are used without conversion."""
        core = core or get_core()
        if not isinstance(array, QuantizedWeights):
            array = QuantizedWeights.quantize(array, format, core)
        memory = core.upload(array.packed)
        return cls(core, memory, array.format, *array.shape)

    def parts(self, count: int) -> list[Matrix]:
        """Views of ``count`` equal parts of the rows, from the top."""
        rows, stride = self.rows // count, self._row_stride
        return [
            Matrix(
                self.core,
                self._memory,
                self._format,
                rows,
                self.columns,
                self._offset + part * rows * stride,
                stride,
            ).set_scale(self._scale)
            for part in range(count)
        ]

    def halves(self) -> tuple[Matrix, Matrix]:
        """Views of the upper half of the rows, and of the lower one."""
        upper, lower = self.parts(2)
        return upper, lower

    @property
    def format(self) -> str:
        """Name of the weight format."""
        return self._format.name

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return (self.rows, self.columns)

    @property
    def scale(self) -> float:
        """What all weights are multiplied by; 1 unless it was set."""
        return self._scale

    def set_scale(self, scale: float) -> Matrix:
        """Multiplies all weights by a finite number, rounded to float32, in place of that of
        before. Only before a layer or model uses the matrix."""
        if scale != self._scale:
            self.core.check("sf_matrix_set_scale", self.handle, scale, what=f"scale of {self!r}")
            self._scale = float(np.float32(scale))
        return self

    @property
    def column_bytes(self) -> int:
        """Bytes of the copy in column order, 0 without one."""
        return self.core.call("sf_matrix_column_bytes", self.handle)

    def add_columns(self, what: str = "input sparsity") -> Matrix:
        """Makes a copy of the weights in column order beside them, for `multiply_above`. Only
        before a layer or model uses the matrix, or between its evaluations. Errors:
        `UnsupportedError` (a format other than q4_0, a core in WebAssembly; the message begins
        with ``what``),
        `CoreMemoryError`."""
        if self.format != "q4_0":
            raise UnsupportedError(
                f"{what}: only weights in q4_0 have a column order, and these are in "
                f"{self.format}; `sparsefire quantize IN.gguf OUT.gguf q4_0` writes a model in q4_0"
            )
        if self.core.host != "native":
            raise UnsupportedError(
                f"{what}: only the native core has columns, not {self.core.host}; "
                "multiply all inputs there"
            )
        self.core.check("sf_matrix_add_columns", self.handle, what=f"columns of {self!r}")
        return self

    def multiply_above(self, x: npt.ArrayLike, limit: float) -> tuple[npt.NDArray[np.float32], int]:
        """matrix · x, float32 (rows,), for x (columns,) without the inputs of a magnitude below
        ``limit``, and how many inputs that leaves, which are rounded to 8 bits with a scale for
        each 32. Reads only their columns. Errors: `UnsupportedError` (no columns, see
        `add_columns`), `NotFiniteError`, `ArgumentError` (a limit below 0)."""
        values = _arrays.vector(x, self.columns, "x")
        out = np.empty(self.rows, np.float32)
        arguments = self.core.inp(values), limit, self.core.out(out)
        what = f"multiplying by columns of {self!r}"
        count = self.core.check(
            "sf_matrix_multiply_above", self.core.context, self.handle, *arguments, what=what
        )
        return out, count

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, without the gaps between strided rows."""
        return self.rows * self._row_bytes

    def multiply(
        self, x: npt.ArrayLike, out: npt.NDArray[np.floating] | None = None
    ) -> npt.NDArray[np.floating]:
        """x · matrixᵀ: (rows,) for x (columns,), (n, rows) for x (n, columns); float32, or
        written to ``out``. NaN or infinity in ``x`` raises `NotFiniteError`."""
        values, single = _arrays.vectors(x, self.columns)
        result = _arrays.Result(len(values), self.rows, single, out, values)
        if len(values):
            self.core.check(
                "sf_matrix_multiply",
                self.core.context,
                self.handle,
                self.core.inp(values),
                len(values),
                self.core.out(result.buffer),
                what=f"multiplying by {self!r}",
            )
        return result.finish()

    def packed(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """A copy of the packed rows ``start`` … ``stop`` - 1, uint8 (rows, row bytes)."""
        stop = self.rows if stop is None else stop
        rows = np.empty((stop - start, self._row_bytes), np.uint8)
        step = max(1, _READ_BYTES // self._row_stride)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            # The last row may be shorter than a whole stride.
            span = (last - first - 1) * self._row_stride + self._row_bytes
            run = np.empty(span, np.uint8)
            self._memory.read(run, self._offset + first * self._row_stride)
            shape, strides = (last - first, self._row_bytes), (self._row_stride, 1)
            rows[first - start : last - start] = np.lib.stride_tricks.as_strided(
                run, shape, strides
            )
        return rows

    def weights(self) -> QuantizedWeights:
        """A copy of the weights, packed as they are, without the scale."""
        return QuantizedWeights(self.packed(), self._format, self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.weights(), self._scale)

    def dequantize(self) -> _arrays.FloatArray:
        """The weights as float32 (rows, columns)."""
        values = dequantize_rows(self.packed(), self._format, self.columns, self.core)
        return values if self._scale == 1 else values * np.float32(self._scale)

    def __repr__(self) -> str:
        return f"Matrix({self.rows}×{self.columns} {self.format}, {self.nbytes:,} bytes)"


def _unpickled(weights: QuantizedWeights, scale: float) -> Matrix:
    """A pickled matrix, in the current core."""
    return Matrix.from_array(weights).set_scale(scale)


def bundle_views(
    core: Core,
    memory: Memory,
    rows: int,
    parts: Sequence[tuple[str | WeightFormat, int]],
) -> list[Matrix]:
    """The matrices of a bundle, in which row i of each is followed by row i of the next: one matrix
    of ``rows`` rows for each format and number of columns. Errors as `Matrix`."""
    widths = [weight_format(kind).row_bytes(columns) for kind, columns in parts]
    offsets = accumulate(widths, initial=0)
    return [
        Matrix(core, memory, kind, rows, columns, offset, sum(widths))
        for (kind, columns), offset in zip(parts, offsets, strict=False)
    ]
