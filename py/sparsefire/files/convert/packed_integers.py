"""Matrices of whole numbers with a scale and a zero point for each group of inputs, as GPTQ
(Frantar et al. 2022) and AWQ (Lin et al. 2023) checkpoints have them.

A weight is scale · (q - zero), with q of 4 or 8 bits. Q4_0 holds that where every zero point is 8,
Q5_0 holds it for others (-16 … 15), and Q8_0 for 8 bits: so only bytes move, and no weight is
rounded. 32-bit words hold neighbours, the first one in the lowest bits: of `qweight` along the
inputs in GPTQ, (inputs / 8, outputs), along the outputs in AWQ, (inputs, outputs / 8), where they
are in another order; of `qzeros` along the outputs. `scales` is (groups, outputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._arrays import FloatArray
from ...errors import ModelFileError, UnsupportedError
from ...weights.quantized import ByteArray, dequantize_rows
from .parts import Part, Parts
from .safetensors import StoredTensor

_BLOCK = 32  # weights of a block of the formats
_PIECE = 1 << 20  # weights that are unpacked at a time
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output of each field of a word
_WORDS = "qweight"
_OWN = (_WORDS, "qzeros", "scales", "g_idx")
_PLAIN = "convert the checkpoint as it was before it was quantised"


class PackedConfig:
    """What `quantization_config` says of such matrices; `used` is False where it says nothing."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        given = values.get("quantization_config")
        given = given if isinstance(given, Mapping) else {}
        self._path = path
        self._awq = given.get("quant_method") == "awq"
        self.used = self._awq or given.get("quant_method") == "gptq"
        if not self.used:
            return
        self._bits = given.get("bits", given.get("w_bit"))
        self._group = given.get("group_size", given.get("q_group_size", -1))
        if self._bits not in ((4,) if self._awq else (4, 8)):
            raise self._refused("bits", self._bits, "are 4, or 8 of GPTQ")
        whole = isinstance(self._group, int) and (self._group == -1 or self._group > 0)
        if not whole or (self._group > 0 and self._group % _BLOCK):
            raise self._refused("group_size", self._group, f"are -1 and multiples of {_BLOCK}")
        version = str(given.get("version", "gemm")).lower()
        if self._awq and version != "gemm":
            raise self._refused("version", version, "is gemm")
        self._offset = int(not self._awq and given.get("checkpoint_format", "gptq") == "gptq")

    def _refused(self, name: str, value: object, known: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._path}: 'quantization_config.{name}' is {value!r}; supported {known}. {_PLAIN}"
        )

    def parts(self, tensors: Mapping[str, StoredTensor]) -> tuple[Parts, dict[str, StoredTensor]]:
        """The matrices under the names that they would have unpacked, and the other tensors.

        Errors: `ModelFileError` (a part is missing or has another shape), `UnsupportedError`
        (groups that are not runs of inputs, or scales that are no half floats)."""
        names = [name for name in tensors if name.rpartition(".")[2] == _WORDS]
        found: Parts = {}
        own: set[str] = set()
        for name in names:
            prefix = name.removesuffix(_WORDS)
            found[f"{prefix}weight"] = self._part(prefix, tensors)
            own |= {f"{prefix}{each}" for each in _OWN}
        return found, {name: each for name, each in tensors.items() if name not in own}

    def _part(self, prefix: str, tensors: Mapping[str, StoredTensor]) -> Part:
        words, zeros, scales = (self._tensor(prefix + each, tensors) for each in _OWN[:3])
        fields = 32 // self._bits
        rows, columns = words.shape
        rows, columns = (rows, columns * fields) if self._awq else (rows * fields, columns)
        group = rows if self._group == -1 else self._group
        groups = rows // group
        if rows % group or group % _BLOCK or columns % fields:
            raise ModelFileError(
                f"{self._path.parent}: {words.name!r} has {rows} inputs and {columns} outputs, "
                f"which do not suit groups of {group}"
            )
        if scales.shape != (groups, columns) or zeros.shape != (groups, columns // fields):
            raise ModelFileError(
                f"{self._path.parent}: the zero points and scales of {words.name!r} have shapes "
                f"{zeros.shape} and {scales.shape}, which do not suit {groups} groups"
            )
        self._check_order(tensors.get(f"{prefix}g_idx"), group)
        fields_of = self._ordered(_unpacked(_integers(zeros), self._bits))
        points = fields_of.astype(np.int16) + np.int16(self._offset)  # (groups, outputs)
        halves = scales.floats().astype(np.float16)
        if not (halves.astype(np.float32) == scales.floats()).all():
            raise UnsupportedError(
                f"{self._path.parent}: {scales.name!r} holds scales that half floats do not hold, "
                f"which Q4_0 needs; {_PLAIN}"
            )
        kind = _format(points, self._bits)
        packed = partial(self._packed, words, points, halves, group, kind)
        shape = columns, rows
        return Part(words.name, shape, kind, partial(_floats, packed, kind, shape), packed)

    def _tensor(self, name: str, tensors: Mapping[str, StoredTensor]) -> StoredTensor:
        found = tensors.get(name)
        kinds = ("I32",) if not name.endswith("scales") else ("F16", "BF16", "F32")
        if found is None or found.dtype not in kinds or len(found.shape) != 2:
            raise ModelFileError(
                f"{self._path.parent}: {name!r} is missing, or is no matrix of {kinds[0]}"
            )
        return found

    def _check_order(self, places: StoredTensor | None, group: int) -> None:
        """The groups of inputs are runs of them, as blocks are."""
        if places is None:
            return
        found = _integers(places)
        if (found != np.arange(found.size) // group).any():
            raise UnsupportedError(
                f"{self._path.parent}: {places.name!r} puts inputs into groups in another order "
                f"('desc_act'), which blocks cannot hold; {_PLAIN}"
            )

    def _ordered(self, fields: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Fields (rows, outputs) of AWQ in the order of the outputs."""
        if not self._awq:
            return fields
        ordered = np.empty_like(fields).reshape(len(fields), -1, 8)
        ordered[:, :, _AWQ_ORDER] = fields.reshape(len(fields), -1, 8)
        return ordered.reshape(fields.shape)

    def _packed(
        self,
        words: StoredTensor,
        points: npt.NDArray[np.int16],
        scales: npt.NDArray[np.float16],
        group: int,
        kind: str,
    ) -> ByteArray:
        """The blocks of all outputs, each those of all inputs. Some outputs at a time, so that
        their whole numbers take little memory."""
        integers, fields = _integers(words), 32 // self._bits
        inputs, outputs = len(points) * group, points.shape[1]
        step = max(_PIECE // inputs // fields, 1) * fields
        pieces = []
        for first in range(0, outputs, step):
            span = slice(first, first + step)
            if self._awq:
                some = integers[:, first // fields : (first + step) // fields]
                quants = self._ordered(_unpacked(some, self._bits)).T
            else:
                quants = _unpacked(np.ascontiguousarray(integers[:, span].T), self._bits)
            each = np.repeat(points[:, span].T, group // _BLOCK, axis=1)[..., None]
            found = quants.reshape(len(quants), -1, _BLOCK).astype(np.int16) - each
            spread = np.repeat(scales[:, span].T, group // _BLOCK, axis=1)
            pieces.append(_blocks(found.astype(np.int8), spread, kind))
        return np.concatenate(pieces)


def _integers(tensor: StoredTensor) -> npt.NDArray[np.uint32]:
    return tensor.data.view("<u4").reshape(tensor.shape)


def _unpacked(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """The fields (rows, n · 32 / bits) of words (rows, n)."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return raw
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), -1)


def _format(points: npt.NDArray[np.int16], bits: int) -> str:
    """The format that holds quants less these zero points."""
    middle = 1 << (bits - 1)
    if bits == 8:
        if (points != middle).any():
            raise UnsupportedError(
                f"weights of 8 bits with zero points other than {middle} are not supported; "
                + _PLAIN
            )
        return "q8_0"
    return "q4_0" if (points == middle).all() else "q5_0"


def _blocks(quants: npt.NDArray[np.int8], scales: npt.NDArray[np.float16], kind: str) -> ByteArray:
    """Blocks of quants (rows, blocks, 32) and scales (rows, blocks)."""
    parts = [scales[..., None].view(np.uint8)]
    if kind == "q8_0":
        parts.append(quants.view(np.uint8))
    else:
        fields = (quants + (8 if kind == "q4_0" else 16)).astype(np.uint8)
        if kind == "q5_0":
            parts.append(np.packbits(fields >> 4, axis=-1, bitorder="little"))
        half = _BLOCK // 2
        low, high = fields[..., :half] & np.uint8(15), fields[..., half:] & np.uint8(15)
        parts.append((low | high << np.uint8(4)).astype(np.uint8))
    return np.concatenate(parts, axis=-1).reshape(-1)


def _floats(packed: partial[ByteArray], kind: str, shape: tuple[int, int]) -> FloatArray:
    return dequantize_rows(packed().reshape(shape[0], -1), kind, shape[1])
