"""Tensors on their way from a checkpoint to a file: as they are stored there, or made of others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._arrays import FloatArray
from ...errors import ModelFileError
from ...weights.quantized import ByteArray
from .safetensors import StoredTensor

_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Part:
    """A tensor of the new file. `name` is the checkpoint's, for messages; `format` keeps every bit;
    `packed` gives its bytes in that format, if they are there, and `floats` its values. Those of a
    `plain` one are numbers rather than a matrix, and stay F32."""

    name: str
    shape: tuple[int, ...]
    format: str
    floats: Callable[[], FloatArray]
    packed: Callable[[], ByteArray] | None = None
    plain: bool = False

    def made(
        self,
        make: Callable[[FloatArray], FloatArray],
        shape: tuple[int, ...] | None = None,
        *,
        plain: bool = False,
    ) -> Part:
        """The tensor that a function makes of this one, of this shape or the same."""

        def floats() -> FloatArray:
            return make(self.floats())

        return Part(self.name, shape or self.shape, self.format, floats, plain=plain)

    def moved(self, move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Part:
        """The tensor with its rows moved by a function, which gets the values or the packed rows,
        (rows, …)."""

        def floats() -> FloatArray:
            return move(self.floats())

        def packed() -> ByteArray:
            assert self.packed is not None
            return move(self.packed().reshape(self.shape[0], -1)).reshape(-1)

        moved = None if self.packed is None else packed
        return Part(self.name, self.shape, self.format, floats, moved, self.plain)


Parts = dict[str, Part]


def stored(tensor: StoredTensor) -> Part:
    """A tensor as it is in the checkpoint."""
    packed = None if tensor.dtype in ("F64", "F8_E4M3") else lambda: tensor.data
    return Part(tensor.name, tensor.shape, tensor.format, tensor.floats, packed)


def stack_experts(parts: Mapping[str, Part], count: int) -> Parts:
    """The same with one tensor, (count, …), in the place of those that each expert has."""
    stacks: dict[str, dict[int, Part]] = {}
    found: Parts = {}
    for name, part in parts.items():
        match = _EXPERT.fullmatch(name)
        if match is None:
            found[name] = part
        else:
            whole = f"{match[1]}.{match[3]}"
            stacks.setdefault(whole, {})[int(match[2])] = part
    for name, each in stacks.items():
        found[name] = _stacked(name, each, count)
    return found


def _stacked(name: str, parts: Mapping[int, Part], count: int) -> Part:
    if sorted(parts) != list(range(count)):
        raise ModelFileError(
            f"the tensors of {len(parts)} experts are there for {name!r}, but config.json says "
            f"that there are {count}"
        )
    ordered = [parts[expert] for expert in range(count)]
    first = ordered[0]
    for each in ordered:
        if each.shape != first.shape:
            raise ModelFileError(f"{each.name!r} has shape {each.shape}, not {first.shape}")
    alike = all(each.packed and each.format == first.format for each in ordered)
    return Part(
        first.name,
        (count, *first.shape),
        first.format if alike else "f32",
        lambda: np.stack([each.floats() for each in ordered]),
        (lambda: np.concatenate([each.packed() for each in ordered if each.packed]))
        if alike
        else None,
    )
