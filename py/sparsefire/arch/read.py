"""Tensors of a model file as the core takes them: matrices in its memory, vectors as float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Core, Memory
from ..errors import ModelFileError, NotFiniteError
from ..gguf.reader import GgufFile
from ..weights.formats import WeightFormat, weight_format
from ..weights.matrix import Matrix
from ..weights.quantized import dequantize_rows, quantize_rows
from .tensors import FFN_BIASES, check_format

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


def read_matrix(core: Core, file: GgufFile, name: str) -> Matrix:
    """A matrix of the file as it is stored. `ModelFileError` when it is missing or no matrix,
    `UnsupportedError` when the core does not compute on its format."""
    info = file.tensor(name)
    if len(info.shape) != 2 or max(info.shape) >= 1 << 31:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a matrix was expected"
        )
    check_format(file, info)
    return Matrix(core, upload_tensor(core, file, name), info.format, *info.shape)


def read_vector(file: GgufFile, name: str) -> FloatArray:
    """A vector of plain numbers as float32; `ModelFileError` when it is missing or no vector,
    `UnsupportedError` for another format, `NotFiniteError` when it holds NaN or infinity."""
    info = file.tensor(name)
    if len(info.shape) != 1:
        raise ModelFileError(
            f"{file.name}: tensor {name!r} has shape {info.shape}; a vector was expected"
        )
    check_format(file, info)
    data = file.tensor_data(name)
    if info.format == "bf16":  # the upper half of a float32
        values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        stored = np.float32 if info.format == "f32" else np.float16
        values = data.view(stored).astype(np.float32)
    if not np.isfinite(values).all():
        raise NotFiniteError(damaged(file, name))
    return values


def read_biases(file: GgufFile, layer: int) -> dict[str, FloatArray]:
    """Those of "gate_bias", "up_bias" and "down_bias" that a feed-forward layer has."""
    return {
        f"{name.removeprefix('ffn_')}_bias": read_vector(file, f"blk.{layer}.{name}.bias")
        for name in FFN_BIASES
        if f"blk.{layer}.{name}.bias" in file.tensors
    }


def format_by_neuron(format: str, d: int) -> WeightFormat:
    """What a down matrix is packed in when it gets one row of d numbers a neuron. Plain numbers
    stay what they are; the blocks of other formats lie along the other axis, so they are packed
    anew: in Q8_0, which is fine enough for all of them, or F16 where its blocks do not divide d."""
    stored = weight_format(format)
    return stored if stored.block == 1 else weight_format("q8_0" if d % 32 == 0 else "f16")


def rows_by_neuron(
    core: Core, file: GgufFile, name: str
) -> tuple[npt.NDArray[np.uint8], WeightFormat, tuple[int, int]]:
    """A down matrix (d, hidden) with one row a neuron: packed rows, their format (see
    `format_by_neuron`), and the shape (hidden, d)."""
    d, hidden = file.tensors[name].shape
    stored = weight_format(file.tensors[name].format)
    kind = format_by_neuron(stored.name, d)
    packed = file.tensor_data(name).reshape(d, -1)
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
    return rows, kind, (hidden, d)


def read_floats(core: Core, file: GgufFile, name: str) -> FloatArray:
    """A matrix of the file as float32 (rows, columns)."""
    info = file.tensors[name]
    packed = file.tensor_data(name).reshape(info.shape[0], -1)
    return dequantize_rows(packed, info.format, info.shape[1], core)


def damaged(file: GgufFile, name: str) -> str:
    """The message for a tensor that holds NaN or infinity."""
    return f"{file.name}: tensor {name!r} holds NaN or infinity; the model is damaged"
