"""Tensors of a model file as the core takes them: matrices in its memory, vectors as float32."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Core, Memory
from ..errors import ModelFileError, NotFiniteError
from ..gguf.i2_s import scale_name
from ..gguf.reader import GgufFile
from ..weights.formats import WeightFormat, weight_format
from ..weights.matrix import Matrix
from ..weights.quantized import dequantize_rows, quantize_rows
from .plan import ExpertLayer, FfnLayer
from .tensors import check_format, check_vector_format, ffn_matrices, ffn_tensor

_TILE = 1 << 20  # weights that are transposed at a time, so that they stay in cache


def upload_tensor(core: Core, file: GgufFile, name: str) -> Memory:
    """Core memory with the bytes of a tensor. The native core uses a mapped file as it is; from a
    file that is read, and into a core with memory of its own, the bytes go piece by piece."""
    if file.mapped:
        return core.upload(file.tensor_data(name))
    memory = core.memory(file.tensor(name).nbytes)
    for offset, piece in file.tensor_pieces(name):
        memory.write(piece, offset)
    return memory


def upload_integers(core: Core, file: GgufFile, name: str) -> Memory:
    """Core memory with the integers of a tensor as F32, which holds those below 2^24 exactly."""
    return core.upload(np.frombuffer(file.tensor_data(name), "<i4").astype(np.float32))


def read_matrix(core: Core, file: GgufFile, name: str) -> Matrix:
    """A matrix of the file as it is stored; matrices of one shape below each other, in a tensor of
    three dimensions, are one. `ModelFileError` when it is missing or no matrix, `UnsupportedError`
    when the core does not compute on its format."""
    info = file.tensor(name)
    rows = math.prod(info.shape[:-1])
    if len(info.shape) not in (2, 3) or max(rows, info.shape[-1]) >= 1 << 31:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a matrix was expected"
        )
    check_format(file, info)
    matrix = Matrix(core, upload_tensor(core, file, name), info.format, rows, info.shape[-1])
    return matrix.set_scale(read_scale(file, name))


def read_scale(file: GgufFile, matrix: str) -> float:
    """What all weights of a matrix are multiplied by: the number in a tensor of its own, as
    llama.cpp's files have it, or 1. The matrices of experts may have one each, see
    `read_expert_scales`."""
    name = scale_name(matrix)
    scales = read_vector(file, name) if name in file.tensors else np.ones(1, np.float32)
    return float(scales[0]) if scales.size == 1 else 1.0


def read_expert_scales(file: GgufFile, layer: ExpertLayer) -> list[FloatArray | None]:
    """What the weights of each expert's gate, up and down are multiplied by, (experts,) each, or
    None where the file says nothing."""
    names = [scale_name(name or "") for name in (layer.gate, layer.up, layer.down)]
    return [read_vector(file, name) if name in file.tensors else None for name in names]


def read_vector(file: GgufFile, name: str, dimensions: int = 1) -> FloatArray:
    """Plain numbers as a float32 vector, from a tensor of so many dimensions. `ModelFileError` when
    it is missing or has others, `UnsupportedError` for another format, `NotFiniteError` when it
    holds NaN or infinity."""
    info = file.tensor(name)
    if len(info.shape) != dimensions:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a vector was expected"
        )
    check_vector_format(file, info)
    data = file.tensor_data(name)
    if info.format == "bf16":  # the upper half of a float32
        values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        stored = np.float32 if info.format == "f32" else np.float16
        values = data.view(stored).astype(np.float32)
    if not np.isfinite(values).all():
        raise NotFiniteError(damaged(file, name))
    return values


def read_biases(file: GgufFile, layer: FfnLayer) -> dict[str, FloatArray]:
    """Those of "gate_bias", "up_bias" and "down_bias" that a feed-forward layer has."""
    if not layer.biases:
        return {}
    names = {part: ffn_tensor(layer, part, "bias") for part in ffn_matrices(layer)}
    return {
        f"{part.removeprefix('ffn_')}_bias": read_vector(file, name)
        for part, name in names.items()
        if name in file.tensors
    }


def format_by_neuron(file: GgufFile, name: str) -> WeightFormat:
    """What a down matrix (…, d, hidden) is packed in when it gets one row of d numbers a neuron.
    Plain numbers stay what they are; the blocks of other formats lie along the other axis, so they
    are packed anew: in Q8_0, which is fine enough for all of them, or F16 where its blocks do not
    divide d. Weights of -1, 0 and 1 times the same scale stay such, and so exact. All but for the
    matrix's own scale (see `read_scale`)."""
    info = file.tensors[name]
    stored, d = weight_format(info.format), info.shape[-2]
    if stored.block == 1:
        return stored
    ternary = stored.name in ("tq1_0", "tq2_0") and d % stored.block == 0
    if ternary and (info.stored or _has_one_scale(file.tensor_data(name), stored)):
        return weight_format("tq2_0")
    return weight_format("q8_0" if d % 32 == 0 else "f16")


def _has_one_scale(packed: npt.NDArray[np.uint8], kind: WeightFormat) -> bool:
    """Whether the blocks, which end with their scales, half floats, all have the same."""
    scales = packed.reshape(-1, kind.block_bytes)[:, -2:]
    return bool((scales == scales[0]).all())


def rows_by_neuron(
    core: Core, file: GgufFile, name: str, expert: int | None = None
) -> tuple[npt.NDArray[np.uint8], WeightFormat, tuple[int, int]]:
    """A down matrix (d, hidden), that of one of several experts if so asked, with one row a neuron:
    packed rows, their format (see `format_by_neuron`), and the shape (hidden, d)."""
    *_, d, hidden = file.tensors[name].shape
    stored = weight_format(file.tensors[name].format)
    kind = format_by_neuron(file, name)
    packed = file.tensor_data(name).reshape(-1, d, stored.row_bytes(hidden))[expert or 0]
    return transposed(core, file, name, packed, kind), kind, (hidden, d)


def transposed(
    core: Core, file: GgufFile, name: str, packed: npt.NDArray[np.uint8], kind: WeightFormat
) -> npt.NDArray[np.uint8]:
    """Packed rows of ``kind``, one a neuron, of a down matrix, or that of one expert, whose packed
    rows as the file has them are given: (d, row bytes)."""
    *_, d, hidden = file.tensors[name].shape
    stored = weight_format(file.tensors[name].format)
    rows = np.empty((hidden, kind.row_bytes(d)), np.uint8)
    what = f"{file.name}: tensor {name!r}"
    step = max(_TILE // d // stored.block, 1) * stored.block
    for first in range(0, hidden, step):
        last = min(first + step, hidden)
        span = slice(*(each // stored.block * stored.block_bytes for each in (first, last)))
        tile = np.ascontiguousarray(packed[:, span])
        values = dequantize_rows(tile, stored, last - first, core)
        if not np.isfinite(values).all():
            raise NotFiniteError(damaged(file, name))
        rows[first:last] = quantize_rows(values.T, kind, core, what)
    return rows


def read_floats(core: Core, file: GgufFile, name: str) -> FloatArray:
    """A matrix of the file as float32 (rows, columns), but for its own scale."""
    info = file.tensors[name]
    packed = file.tensor_data(name).reshape(info.shape[0], -1)
    return dequantize_rows(packed, info.format, info.shape[1], core)


def damaged(file: GgufFile, name: str) -> str:
    """The message for a tensor that holds NaN or infinity."""
    return f"{file.name}: tensor {name!r} holds NaN or infinity; the model is damaged"
