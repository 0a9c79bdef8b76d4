"""Matrices of BitNet checkpoints: weights of -1, 0 and 1 times a scale.

`quantization_config` of config.json says how they are stored, as in transformers'
`integrations/bitnet.py`. Packed ("offline"): a byte holds four weights of a column, in rows that
are a quarter of the matrix apart, as 0, 1 and 2 from the lowest two bits on, and `weight_scale`
beside it is the scale, or of the class "bitlinear" its inverse. From master weights ("online"): the
scale is their mean magnitude.

These models were trained with inputs of matrices rounded to 8 bits a token. That rounding is noise
to which they are robust, not part of what they compute: it is left out here, where inputs keep 15
bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._arrays import FloatArray
from ...errors import ModelFileError, UnsupportedError
from .parts import Part, Parts, stored
from .safetensors import StoredTensor

TERNARY = "tq2_0"  # the format in which nothing else is stored

_SCALE = ".weight_scale"
_LEAST_SCALE = 1e-5
TERNARY_ONLY = ("tq1_0", "tq2_0")  # formats that hold no other weights well
_EXACT = (*TERNARY_ONLY, "f16", "bf16", "f32")  # formats that hold -1, 0 and 1


def _unpacked(stored: StoredTensor) -> FloatArray:
    """The weights -1, 0 and 1 of packed ones, float32."""
    packed = stored.data.reshape(stored.shape)
    fields = [packed >> shift & 3 for shift in (0, 2, 4, 6)]
    return np.concatenate(fields).astype(np.float32) - 1


def _rounded(stored: StoredTensor, scale: np.float32) -> FloatArray:
    """The same of master weights."""
    values: FloatArray = np.clip(np.rint(stored.floats() * (1 / scale)), -1, 1)
    return values


def ternary_kind(format: str, columns: int) -> str:
    """The format of a ternary matrix where others get ``format``: one that holds it exactly."""
    kind = format if format in _EXACT else TERNARY
    return "f16" if columns % 256 and kind.startswith("tq") else kind


class TernaryConfig:
    """What `quantization_config` says; without one, nothing is ternary."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self._path = path
        given = values.get("quantization_config") or {}
        if not isinstance(given, Mapping):
            raise ModelFileError(f"{path}: 'quantization_config' is not a JSON object")
        method = given.get("quant_method")
        self.used = method == "bitnet"
        self._inverse = given.get("linear_class", "bitlinear") == "bitlinear"
        self._online = given.get("quantization_mode", "offline") == "online"
        self._others = tuple(given.get("modules_to_not_convert") or ())
        if given.get("use_rms_norm"):
            raise UnsupportedError(
                f"{path}: 'quantization_config.use_rms_norm' (a norm before each matrix) is not "
                "supported"
            )

    def parts(self, tensors: Mapping[str, StoredTensor]) -> Parts:
        """The checkpoint's tensors, each ternary one in the format `TERNARY` with its scale beside
        it, named ".scale". `ModelFileError` when one that is packed has no scale."""
        found: Parts = {}
        for name, tensor in tensors.items():
            if self.used and name.endswith(_SCALE):
                continue
            packed = tensor.dtype in ("U8", "I32")
            if packed and (not self.used or tensor.dtype != "U8" or len(tensor.shape) != 2):
                raise UnsupportedError(
                    f"{self._path}: tensor {name!r} is {tensor.dtype}, and 'quantization_config' "
                    "does not say that it is packed as in BitNet; convert the checkpoint as it was "
                    "before it was quantised"
                )
            if packed:
                rows, columns = tensor.shape
                scale = self._stored_scale(name, tensors)
                part = Part(name, (4 * rows, columns), TERNARY, partial(_unpacked, tensor))
            elif self.used and self._online and self._is_linear(name):
                magnitude = np.abs(tensor.floats()).mean(dtype=np.float64)
                scale = np.float32(max(magnitude, _LEAST_SCALE))
                part = Part(name, tensor.shape, TERNARY, partial(_rounded, tensor, scale))
            else:
                found[name] = stored(tensor)
                continue
            found[name] = part
            found[f"{name.removesuffix('.weight')}.scale"] = _number(name, scale)
        return found

    def _is_linear(self, name: str) -> bool:
        """Whether it is a matrix of a block, which its class would make ternary."""
        module = name.removesuffix(".weight")
        return module.endswith("_proj") and not any(each in module for each in self._others)

    def _stored_scale(self, name: str, tensors: Mapping[str, StoredTensor]) -> np.float32:
        beside = f"{name.removesuffix('.weight')}{_SCALE}"
        values = tensors[beside].floats().ravel() if beside in tensors else np.empty(0)
        if values.size != 1 or not np.isfinite(values[0]) or values[0] <= 0:
            raise ModelFileError(
                f"{self._path.parent}: tensor {name!r} is packed, but {beside!r} is not one "
                "positive number"
            )
        return np.float32(1 / values[0] if self._inverse else values[0])


def _number(name: str, value: np.float32) -> Part:
    """A tensor of one number, for the tensor of that name."""
    return Part(name, (1,), "f32", lambda: np.array([value], np.float32))
