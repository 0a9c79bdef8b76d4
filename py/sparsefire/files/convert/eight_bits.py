"""Matrices of 8-bit floats, F8_E4M3, with a scale for each block of rows and columns beside them:
`NAME.weight_scale_inv`, as DeepSeek-V3 and the FP8 models of Qwen 3 are published.

"keep" makes them BF16, as the publishers' own conversion does: 8-bit floats have 4 bits, and a
product with a scale is rounded to 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._arrays import FloatArray
from ...errors import ModelFileError, UnsupportedError
from .parts import Part, Parts
from .safetensors import StoredTensor

_SCALE = "_scale_inv"


def scaled_parts(
    tensors: Mapping[str, StoredTensor], values: Mapping[str, Any], path: Path
) -> tuple[Parts, dict[str, StoredTensor]]:
    """The matrices of 8-bit floats that have scales, and the other tensors. `ModelFileError` for
    scales of another shape than `quantization_config` says."""
    given = values.get("quantization_config")
    given = given if isinstance(given, Mapping) else {}
    if given.get("quant_method") != "fp8":
        return {}, dict(tensors)
    block = given.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(_is_size(x) for x in block):
        raise UnsupportedError(
            f"{path}: 'quantization_config.weight_block_size' is {block!r}; blocks of rows and "
            "columns are supported, such as [128, 128]. Convert the checkpoint as it was before it "
            "was quantised"
        )
    found: Parts = {}
    own: set[str] = set()
    for name, tensor in tensors.items():
        if tensor.dtype != "F8_E4M3" or f"{name}{_SCALE}" not in tensors:
            continue
        scales = tensors[f"{name}{_SCALE}"]
        wanted = tuple(-(-size // each) for size, each in zip(tensor.shape, block, strict=False))
        if len(tensor.shape) != 2 or scales.shape != wanted:
            raise ModelFileError(
                f"{path.parent}: {scales.name!r} has shape {scales.shape}, expected {wanted}"
            )
        floats = partial(_floats, tensor, scales, (block[0], block[1]))
        found[name] = Part(name, tensor.shape, "bf16", floats)
        own |= {name, scales.name}
    return found, {name: each for name, each in tensors.items() if name not in own}


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _floats(tensor: StoredTensor, scales: StoredTensor, block: tuple[int, int]) -> FloatArray:
    values, (rows, columns) = tensor.floats(), tensor.shape
    wide = np.repeat(scales.floats(), block[1], axis=1)[:, :columns]
    for first in range(0, rows, block[0]):
        values[first : first + block[0]] *= wide[first // block[0]]
    return values
