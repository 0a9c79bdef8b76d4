"""Saved sessions: what a session keeps of its tokens, with the tokens and what the model was."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._options import KV_FORMATS
from .._shown import shown_value
from ..arch.config import ModelConfig
from ..arch.screen import fingerprint
from ..errors import ArgumentError, ShapeError
from ..ffn.forward import MODES
from ..gguf.reader import GgufFile

# A saved session is _HEAD, the header as JSON, the tokens as int32, a byte for each of them that
# says what evaluated it (`MARKS`), and the core's bytes; numbers are little-endian. The checksum is
# of all that follows it.
_MAGIC = b"sf-sess1"
_HEAD = struct.Struct("<8sII")  # magic, checksum, bytes of the header
_TOKEN = 5  # bytes of a token, with its mark
_LONGEST_HEADER = 1 << 16
_KEPT = "keys and values"  # in the header, their formats
MARKS = 3  # see session.py


class Saved(NamedTuple):
    """The parts of a saved session. The core's bytes may still be those of other shapes."""

    tokens: list[int]
    marks: bytes
    mode: str
    kv_formats: tuple[str, str]
    state: npt.NDArray[np.uint8]


def description(file: GgufFile, config: ModelConfig) -> dict[str, str | int]:
    """What tells a model from others: its sizes and its `fingerprint`. `ModelFileError` if the file
    cannot be read any more."""
    return {
        "architecture": str(file.metadata.get("general.architecture")),
        "activation": config.activation.name,
        "layers": config.layers,
        "width": config.d,
        "vocabulary": config.vocab,
        "weights": fingerprint(file),
    }


def pack(
    model: Mapping[str, str | int],
    kv_formats: tuple[str, str],
    tokens: list[int],
    marks: bytearray,
    mode: str,
    state: int,
) -> bytearray:
    """A saved session with room for ``state`` bytes of the core at its end; `seal` completes it."""
    of = {**model, _KEPT: " ".join(kv_formats)}
    header = json.dumps({"model": of, "mode": mode, "tokens": len(tokens)}).encode()
    size = _HEAD.size + len(header) + _TOKEN * len(tokens)
    packed = bytearray(size + state)
    packed[_HEAD.size : size] = header + np.array(tokens, "<i4").tobytes() + marks
    _HEAD.pack_into(packed, 0, _MAGIC, 0, len(header))
    return packed


def seal(packed: bytearray) -> None:
    """Writes the checksum."""
    checksum = zlib.crc32(memoryview(packed)[12:])
    struct.pack_into("<I", packed, 8, checksum)


def unpack(data: object, model: Mapping[str, str | int], vocab: int) -> Saved:
    """The parts of a saved session.

    Errors: `ArgumentError` (no saved session, or a damaged one), `ShapeError` (another model).
    """
    whole = _as_bytes(data)
    if whole.size < _HEAD.size or whole[:8].tobytes() != _MAGIC:
        raise ArgumentError("this is no saved session: its first bytes are others")
    _, checksum, header_bytes = _HEAD.unpack(whole[: _HEAD.size].tobytes())
    if checksum != zlib.crc32(whole[12:].data):
        raise ArgumentError("the saved session is damaged: its checksum is another one")
    rest = whole[_HEAD.size :]
    if header_bytes > min(_LONGEST_HEADER, rest.size):
        raise _damaged("its header is too long")
    try:
        header: Any = json.loads(rest[:header_bytes].tobytes())
        of, mode, count = header["model"], header["mode"], header["tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged("its header cannot be read") from None
    _check_model(of, model)
    k_format, v_format = _formats(of.get(_KEPT))
    if not isinstance(mode, str) or (mode not in MODES and (mode or count != 0)):
        raise _damaged(f"its mode is {shown_value(mode)}")
    if type(count) is not int or not 0 <= count <= (rest.size - header_bytes) // _TOKEN:
        raise _damaged(f"it cannot have {shown_value(count)} tokens")
    tokens = rest[header_bytes:][: 4 * count].view("<i4")
    if ((tokens < 0) | (tokens >= vocab)).any():
        raise _damaged(f"its tokens are not all below {vocab}")
    marks = rest[header_bytes + 4 * count :][:count]
    if (marks >= MARKS).any():
        raise _damaged("it does not say what evaluated its tokens")
    state = rest[header_bytes + _TOKEN * count :]
    return Saved(tokens.tolist(), marks.tobytes(), mode, (k_format, v_format), state)


def _formats(found: object) -> list[str]:
    """Those of keys and of values."""
    names = found.split(" ") if isinstance(found, str) else []
    if len(names) != 2 or not set(names) <= set(KV_FORMATS):
        raise _damaged(f"its keys and values are {shown_value(found)}")
    return names


def _as_bytes(data: object) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(memoryview(data).cast("B"), np.uint8)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ArgumentError(
            f"expected the bytes of a saved session, got {type(data).__name__}"
        ) from None


def _damaged(reason: str) -> ArgumentError:
    return ArgumentError(f"the saved session is damaged: {reason}")


def _check_model(found: object, model: Mapping[str, str | int]) -> None:
    if not isinstance(found, dict):
        raise _damaged("its header cannot be read")
    for key, value in model.items():
        if found.get(key) != value:
            raise ShapeError(
                f"the saved session is of another model: {key} {shown_value(found.get(key))}, not "
                f"{shown_value(value)}"
            )
