"""Types of GGUF files: how tensors are packed, and of what type metadata values are, by GGUF's
numbers (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ArgumentError
from ..weights.formats import FORMATS


class TensorFormat(NamedTuple):
    """How weights are packed: `block_bytes` for every `block` weights of a row."""

    name: str
    block: int
    block_bytes: int


# By GGUF's number: the formats that the core computes on, and those that are only recognised.
TENSOR_FORMATS: dict[int, TensorFormat] = {
    each.code: TensorFormat(each.name, each.block, each.block_bytes) for each in FORMATS.values()
} | {
    9: TensorFormat("q8_1", 32, 36),
    15: TensorFormat("q8_k", 256, 292),
    24: TensorFormat("i8", 1, 1),
    25: TensorFormat("i16", 1, 2),
    26: TensorFormat("i32", 1, 4),
    27: TensorFormat("i64", 1, 8),
    28: TensorFormat("f64", 1, 8),
    41: TensorFormat("q1_0", 128, 18),
}

# Metadata value types: number in the file → (name, struct code). Strings and arrays have no code.
VALUE_TYPES: dict[int, tuple[str, str]] = {
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    7: ("bool", "B"),
    8: ("string", ""),
    9: ("array", ""),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
STRING, ARRAY = 8, 9


class ValueType(NamedTuple):
    """Type of a metadata value: "u8" … "f64", "bool", "string", or "array" of `element`."""

    name: str
    element: str | None = None


class TypedValue(NamedTuple):
    """A metadata value with its type in a file."""

    value: Any
    type: ValueType


def packed_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this shape in the format of that name."""
    packing = _format_named(name)
    if not shape or shape[-1] % packing.block:
        raise ArgumentError(f"shape {shape} cannot be packed in {packing.name}")
    return math.prod(shape) // packing.block * packing.block_bytes


def format_code(name: str) -> int:
    """GGUF's number of a tensor format, by name."""
    wanted = _format_named(name)
    return next(code for code, each in TENSOR_FORMATS.items() if each is wanted)


def _format_named(name: str) -> TensorFormat:
    for each in TENSOR_FORMATS.values():
        if each.name.lower() == name.lower():
            return each
    raise ArgumentError(f"unknown tensor format {name!r}")


def value_type_codes() -> Mapping[str, int]:
    """GGUF's number of each metadata value type, by name."""
    return {name: code for code, (name, _) in VALUE_TYPES.items()}
