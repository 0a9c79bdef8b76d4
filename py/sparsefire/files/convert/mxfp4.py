"""Matrices that a checkpoint holds in MXFP4 (Open Compute Project 2023), as gpt-oss is published:
beside NAME_blocks, bytes (…, rows, groups, 16), are their scales NAME_scales (…, rows, groups).

A group is 32 weights of a row, each one of 16 values times the group's power of two. A byte holds
neighbours, the first one in its low half; in GGUF's blocks it holds two that are 16 apart. So only
bytes change: no weight is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._arrays import FloatArray
from ...errors import ModelFileError
from ...weights.quantized import ByteArray, dequantize_rows
from .parts import Part, Parts
from .safetensors import StoredTensor

_BLOCKS, _SCALES = "_blocks", "_scales"
_GROUP = 32  # weights
_LARGEST_SCALE = 252  # 6 · 2^(252 - 127) is finite in F32, and 255 stands for NaN


def is_mxfp4(values: Mapping[str, Any]) -> bool:
    """Whether `quantization_config` of config.json says that there are such matrices."""
    given = values.get("quantization_config")
    return isinstance(given, Mapping) and given.get("quant_method") == "mxfp4"


def mxfp4_parts(tensors: Mapping[str, StoredTensor], folder: Path) -> Parts:
    """The matrices, (…, rows, columns), under the names of their blocks. `ModelFileError` for one
    without scales, of odd shapes, or with a weight that is not finite."""
    found: Parts = {}
    for name, blocks in tensors.items():
        if not name.endswith(_BLOCKS):
            continue
        scales = tensors.get(name.removesuffix(_BLOCKS) + _SCALES)
        if (
            scales is None
            or (blocks.dtype, scales.dtype) != ("U8", "U8")
            or len(blocks.shape) < 3
            or blocks.shape != (*scales.shape, _GROUP // 2)
        ):
            raise ModelFileError(
                f"{folder}: {name!r} is not the blocks of a matrix in MXFP4 with scales beside it"
            )
        if scales.data.size and scales.data.max() > _LARGEST_SCALE:
            raise ModelFileError(
                f"{folder}: {scales.name!r} holds NaN, or scales too large for F32"
            )
        shape = *scales.shape[:-1], _GROUP * scales.shape[-1]
        floats, packed = partial(_floats, blocks, scales, shape), partial(_packed, blocks, scales)
        found[name] = Part(name, shape, "mxfp4", floats, packed)
    return found


def others(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors that are neither blocks nor scales of such matrices."""
    whole = {name.removesuffix(_BLOCKS) for name in tensors if name.endswith(_BLOCKS)}
    own = {f"{name}{suffix}" for name in whole for suffix in (_BLOCKS, _SCALES)}
    return {name: tensor for name, tensor in tensors.items() if name not in own}


def _packed(blocks: StoredTensor, scales: StoredTensor) -> ByteArray:
    """GGUF's blocks: the scale, and bytes that hold weights i and i + 16."""
    data = blocks.data.reshape(-1, _GROUP // 2)
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(-1, _GROUP)
    found = np.empty((len(halves), 1 + _GROUP // 2), np.uint8)
    found[:, 0] = scales.data
    found[:, 1:] = halves[:, : _GROUP // 2] | halves[:, _GROUP // 2 :] << 4
    return found.reshape(-1)


def _floats(blocks: StoredTensor, scales: StoredTensor, shape: tuple[int, ...]) -> FloatArray:
    packed = _packed(blocks, scales).reshape(scales.data.size, -1)
    return dequantize_rows(packed, "mxfp4", _GROUP).reshape(shape)
