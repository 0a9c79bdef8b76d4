"""Weights in the block formats that the core computes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._options import checked, instance, number, whole
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ArgumentError, NotFiniteError, ShapeError
from .formats import WeightFormat, format_name, weight_format, written_format

ByteArray = npt.NDArray[np.uint8]

# Rows are passed to the core in chunks of about this size, so that a host that copies its
# arguments (wasm) needs little scratch memory.
_PIECE_BYTES = 4 << 20

# Weights up to this are in the range of every format: half floats, of which the scales of blocks
# are made, reach 65,504, and a block's minimum is one.
_SAFE = 32768.0


def quantize_rows(
    values: npt.ArrayLike,
    format: str | WeightFormat,
    core: Core | None = None,
    what: str = "weights",
) -> ByteArray:
    """Packs ``values`` (rows, columns) into uint8 (rows, row bytes).

    Rounds as GGUF's reference implementation does. For the formats with blocks of 256 and
    IQ4_NL, whose scales it leaves open, it searches for those with the least squared error.

    Errors, which name ``what``: `ArgumentError` (NaN or infinity), `NotFiniteError` (a weight that
    the format cannot hold), `ShapeError`, `FormatError`.
    """
    core = core or get_core()
    kind = written_format(format)
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"{what}: expected shape (rows, columns), got {array.shape}")
    rows, columns = array.shape
    row_bytes = kind.row_bytes(columns)
    packed = np.empty((rows, row_bytes), np.uint8)
    step = max(1, _PIECE_BYTES // (4 * columns))
    for start in range(0, rows, step):
        given = array[start : start + step]
        with np.errstate(over="ignore"):  # checked below
            piece = _arrays.real_array(given, what)
        most = max(piece.max(), -piece.min())
        if not np.isfinite(most):
            if np.isfinite(given).all():
                raise _too_large(given, "f32", what)
            raise ArgumentError(
                f"{what}: NaN or infinity in rows {start} … {start + len(piece) - 1}"
            )
        target = packed[start : start + step]
        _quantize(core, kind, piece, target)
        if most > _SAFE and not _in_range(core, kind, piece, target):
            raise _too_large(piece, kind.name, what)
    return packed


def _quantize(core: Core, kind: WeightFormat, values: _arrays.FloatArray, out: ByteArray) -> None:
    """Packs values (rows, columns) into ``out`` (rows, row bytes)."""
    core.check(
        "sf_quantize",
        kind.code,
        core.inp(values),
        *values.shape,
        core.out(out),
        out.nbytes,
        what=f"quantising {values.shape} weights to {kind.name}",
    )


def _in_range(
    core: Core, kind: WeightFormat, values: _arrays.FloatArray, packed: ByteArray
) -> bool:
    """Whether the format holds values as large as these. Formats round in proportion, so ``packed``
    must be the packed values divided by a power of two, times it, but for about a step. Scales that
    are too large for half floats are infinite, or cut off."""
    shift = int(np.frexp(np.abs(values).max())[1])
    small = np.empty_like(packed)
    _quantize(core, kind, np.ldexp(values, -shift), small)
    columns = values.shape[1]
    stored = dequantize_rows(packed, kind, columns, core)
    with np.errstate(invalid="ignore"):
        scaled = np.ldexp(stored, -shift) - dequantize_rows(small, kind, columns, core)
    return bool((np.abs(scaled) < 2.0**-kind.bits_per_weight).all())  # false for NaN


def _too_large(values: npt.NDArray[Any], format: str, what: str) -> NotFiniteError:
    """The error for the largest of the values."""
    largest = values.flat[np.abs(values).argmax()]
    wider = "" if format == "f32" else "; F32 holds it"
    return NotFiniteError(
        f"{what}: the weight {largest:g} is too large for {format.upper()}{wider}"
    )


def dequantize_rows(
    packed: ByteArray, format: str | WeightFormat, columns: int, core: Core | None = None
) -> _arrays.FloatArray:
    """Floats (rows, columns) of packed uint8 (rows, row bytes); the rows may be strided."""
    core = core or get_core()
    kind = weight_format(format)
    row_bytes = kind.row_bytes(columns)
    if packed.ndim != 2 or packed.shape[1] != row_bytes or packed.dtype != np.uint8:
        raise ShapeError(
            f"packed weights: expected uint8 (rows, {row_bytes}) for {columns} columns of "
            f"{kind.name}, got {packed.dtype} {packed.shape}"
        )
    rows = len(packed)
    values = np.empty((rows, columns), np.float32)
    step = max(1, _PIECE_BYTES // (4 * columns))
    for start in range(0, rows, step):
        piece = np.ascontiguousarray(packed[start : start + step])
        core.check(
            "sf_dequantize",
            kind.code,
            core.inp(piece),
            piece.nbytes,
            len(piece),
            columns,
            core.out(values[start : start + step]),
            what=f"dequantising ({rows}, {columns}) {kind.name} weights",
        )
    return values


def _sizes(shape: Sequence[int]) -> tuple[int, int]:
    """A shape as (rows, columns), else `ArgumentError` or `ShapeError`."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ShapeError(f"shape: expected (rows, columns), got {shape!r}")
    rows, columns = (whole(each, "shape") for each in shape)
    if min(rows, columns) < 1:
        raise ShapeError(f"shape: expected (rows, columns), at least 1 of each, got {shape!r}")
    return rows, columns


@dataclass(frozen=True)
class QuantizationError:
    """How far quantised weights are from the originals."""

    max_abs: float  # largest |difference|
    rms: float  # root mean square difference
    relative: float  # ‖difference‖ / ‖original‖, 0 when both are zero


class QuantizedWeights:
    """A matrix (rows, columns) of weights packed in a format that the core computes on.

    `packed` is uint8 (rows, row bytes): for block formats, GGUF's own layout, bit for bit.
    """

    def __init__(self, packed: ByteArray, format: str | WeightFormat, shape: Sequence[int]) -> None:
        kind = weight_format(format)
        rows, columns = _sizes(shape)
        data = np.ascontiguousarray(packed).view(np.uint8).reshape(-1)
        expected = rows * kind.row_bytes(columns)
        if data.size != expected:
            raise ShapeError(
                f"packed: {rows} × {columns} weights in {kind.name} are {expected} bytes, "
                f"got {data.size}"
            )
        self._packed: ByteArray = data.reshape(rows, -1)
        self._format = kind
        self._shape = (rows, columns)

    @classmethod
    def from_f32(cls, values: npt.ArrayLike) -> QuantizedWeights:
        """Keeps ``values`` (rows, columns) as float32."""
        return cls.quantize(values, "f32")

    @classmethod
    @checked(format=format_name, core=instance(Core))
    def quantize(
        cls, values: npt.ArrayLike, format: str = "q8_0", core: Core | None = None
    ) -> QuantizedWeights:
        """Packs ``values`` (rows, columns), of any real dtype and strides.

        Errors: `FormatError` (unknown format, columns not a multiple of the block),
        `ShapeError`, `ArgumentError` (NaN or infinity), `NotFiniteError` (a weight that the format
        cannot hold).
        """
        array = np.asarray(values)
        return cls(quantize_rows(array, format, core), format, array.shape)

    @classmethod
    @checked(scale=number, zero_point=whole, format=format_name, core=instance(Core))
    def int8(
        cls,
        data: npt.ArrayLike,
        scale: float,
        zero_point: int = 0,
        format: str | None = None,
        core: Core | None = None,
    ) -> QuantizedWeights:
        """From 8-bit integers (rows, columns) that stand for (data − zero_point) · scale.

        They are stored in ``format``, by default Q8_0 if the columns are a multiple of its block
        size, or else F16. Q8_0 keeps integers that are within -128 … 127 after subtracting the zero
        point; only ``scale`` is then rounded, to half precision (1 in 2,048).
        """
        values = np.asarray(data)
        if values.dtype.kind not in "iu" or values.ndim != 2 or not values.size:
            raise ShapeError(
                f"data: expected integers (rows, columns), got {values.dtype} {values.shape}"
            )
        if values.min() < -128 or values.max() > 255:
            raise ArgumentError("data: the integers do not fit in 8 bits")
        steps = values.astype(np.int32) - zero_point
        scales = np.full(values.shape[0], scale, np.float32)
        return cls._affine(steps, scales, values.shape[1], format, core)

    @classmethod
    @checked(group_size=whole, format=format_name, core=instance(Core))
    def int4(
        cls,
        packed: npt.ArrayLike,
        scales: npt.ArrayLike,
        zero_points: npt.ArrayLike,
        group_size: int,
        shape: Sequence[int],
        format: str | None = None,
        core: Core | None = None,
    ) -> QuantizedWeights:
        """From 4-bit integers 0 … 15 that stand for (q − zero_points[g]) · scales[g].

        Weight i of the matrix of shape ``shape`` (rows, columns), counted row by row, is the low
        half of byte i // 2 of ``packed`` (uint8) if i is even, the high half if it is odd, and
        belongs to group g = i // group_size. Stored as by `int8`: exactly in Q8_0, except for the
        rounding of the scales, if the group size is a multiple of 32. The same holds for Q4_1,
        which takes 5 bits per weight instead of 8.5 and rounds scales · zero_points too."""
        rows, columns = _sizes(shape)
        if group_size < 1:
            raise ShapeError(f"group_size must be positive, got {group_size}")
        count = rows * columns
        groups = -(-count // group_size)
        given = np.asarray(packed)
        if given.dtype.kind not in "iu":
            raise ArgumentError(f"packed: expected bytes, got dtype {given.dtype}")
        if given.size and not (given.min() >= 0 and given.max() <= 255):
            raise ArgumentError("packed: expected bytes, 0 … 255")
        data = np.ascontiguousarray(given, np.uint8).reshape(-1)
        if data.size != (count + 1) // 2:
            raise ShapeError(
                f"packed: {count} weights take {(count + 1) // 2} bytes, got {data.size}"
            )
        scale = _arrays.vector(scales, groups, "scales")
        zero = _arrays.vector(zero_points, groups, "zero_points")
        q = np.stack((data & 15, data >> 4), axis=1).reshape(-1)[:count]
        group = np.arange(count) // group_size
        if str(format).lower() == "q4_1" and group_size % 32 == 0 and columns % 32 == 0:
            return cls._q4_1(q.reshape(-1, 32), scale[group[::32]], zero[group[::32]], shape)
        if np.array_equal(zero, np.round(zero)) and group_size % 32 == 0 and columns % 32 == 0:
            steps = q.astype(np.int32) - zero.astype(np.int32)[group]
            block_scales = scale[group[::32]]
            return cls._affine(steps.reshape(rows, columns), block_scales, 32, format, core)
        values = (q - zero[group]) * scale[group]
        kind = format or ("q8_0" if columns % 32 == 0 else "f16")
        return cls.quantize(values.reshape(rows, columns), kind, core)

    @classmethod
    def _q4_1(
        cls,
        q: npt.NDArray[np.uint8],
        scales: _arrays.FloatArray,
        zeros: _arrays.FloatArray,
        shape: Sequence[int],
    ) -> QuantizedWeights:
        """From integers 0 … 15 (blocks, 32) that stand for (q − zeros) · scales (blocks)."""
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.stack((scales, -scales * zeros), axis=1).astype(np.float16)
        if not np.isfinite(ends).all():
            raise ArgumentError(
                "scales: they and scales · zero_points must be finite in half floats"
            )
        halves = q[:, :16] | q[:, 16:] << 4
        return cls(np.concatenate((ends.view(np.uint8), halves), axis=1), "q4_1", shape)

    @classmethod
    def _affine(
        cls,
        steps: npt.NDArray[np.int32],
        scales: _arrays.FloatArray,
        run: int,
        format: str | None,
        core: Core | None,
    ) -> QuantizedWeights:
        """From steps (rows, columns), each run of ``run`` of which has one of ``scales``."""
        if not np.isfinite(scales).all():
            raise ArgumentError("scales must be finite numbers")
        rows, columns = steps.shape
        whole = columns % 32 == 0
        kind = format or ("q8_0" if whole else "f16")
        half = scales.astype(np.float16)
        kept = np.abs(half - scales) <= np.abs(scales) * 2.0**-10
        in_bytes = steps.min() >= -128 and steps.max() <= 127
        if kind == "q8_0" and whole and in_bytes and kept.all():
            blocks = steps.reshape(-1, 32).astype(np.int8)
            per_block = np.repeat(half, run // 32).reshape(-1, 1)
            packed = np.concatenate((per_block.view(np.uint8), blocks.view(np.uint8)), axis=1)
            return cls(packed, kind, (rows, columns))
        values = steps.reshape(-1, run) * scales[:, None]
        return cls.quantize(values.reshape(rows, columns), kind, core)

    @property
    def format(self) -> str:
        """Name of the format, as in ``"q8_0"``."""
        return self._format.name

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return int(self._packed.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.nbytes / (self._shape[0] * self._shape[1])

    @property
    def packed(self) -> ByteArray:
        """The packed bytes, uint8 (rows, row bytes)."""
        return self._packed

    @checked(core=instance(Core))
    def dequantize(self, core: Core | None = None) -> _arrays.FloatArray:
        """The weights as float32 (rows, columns)."""
        return dequantize_rows(self._packed, self._format, self._shape[1], core)

    @checked(row=whole, core=instance(Core))
    def dequantize_row(self, row: int, core: Core | None = None) -> _arrays.FloatArray:
        """Row ``row`` as float32 (columns,); a negative ``row`` counts from the end."""
        rows, columns = self._shape
        if not -rows <= row < rows:
            raise ArgumentError(f"row {row} is outside the {rows} rows")
        row %= rows
        values = dequantize_rows(self._packed[row : row + 1], self._format, columns, core)
        return values.reshape(columns)

    @checked(format=format_name)
    def transpose(self, format: str | None = None) -> QuantizedWeights:
        """The transposed matrix, requantised to ``format`` (default: the same).

        F32, F16 and BF16 are transposed exactly. A block format rounds again, because its blocks
        now run along the other axis: the new error is about as large as the existing one, so
        together they are about √2 times as large (for normally distributed weights 9 % becomes 12 %
        in Q4_0, 0.5 % becomes 0.8 % in Q8_0). Where that matters, transpose to "q8_0" or "f16".
        """
        return QuantizedWeights.quantize(self.dequantize().T, format or self.format)

    def error(self, original: npt.ArrayLike) -> QuantizationError:
        """The error against ``original`` (rows, columns), computed in float64."""
        reference = np.asarray(original, dtype=np.float64)
        if reference.shape != self._shape:
            raise ShapeError(f"original: expected shape {self._shape}, got {reference.shape}")
        difference = self.dequantize() - reference
        norm = float(np.linalg.norm(reference))
        distance = float(np.linalg.norm(difference))
        return QuantizationError(
            max_abs=float(np.abs(difference).max()),
            rms=float(np.sqrt(np.mean(difference**2))),
            relative=distance / norm if norm else (0.0 if distance == 0 else float("inf")),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return QuantizedWeights, (self._packed, self.format, self._shape)

    def __repr__(self) -> str:
        rows, columns = self._shape
        return f"QuantizedWeights({rows}×{columns} {self.format}, {self.nbytes:,} bytes)"
