"""I2_S, the format of Microsoft's BitNet files (tensor type 36), read as TQ2_0.

The weights -1, 0 and 1 of a matrix are numbers 0, 1 and 2 of two bits, row after row: 32 bytes hold
128 of them, byte k columns k, 32 + k, 64 + k and 96 + k from its upper bits on. One scale, a
float32, follows the last of these bytes, and 28 unused bytes follow it. TQ2_0 has the same bytes
but begins with the lower bits, and a scale for each 256 weights. Described in
https://github.com/microsoft/BitNet (`quantize_i2_s` of src/ggml-bitnet-mad.cpp, for x86).
"""

from __future__ import annotations

import numpy as np

from ..errors import ModelFileError
from .source import ByteArray

CODE, NAME = 36, "i2_s"
READ_AS = "tq2_0"
BLOCK, BLOCK_BYTES = 256, 66  # of TQ2_0
STORED_BYTES = BLOCK // 4  # of as many weights
_TAIL_BYTES = 32

_BYTES = np.arange(256, dtype=np.uint8)
# Each byte with its four fields in the other order.
_TURNED = _BYTES << 6 | (_BYTES & 12) << 2 | (_BYTES & 48) >> 2 | _BYTES >> 6


def file_bytes(weights: int) -> int:
    """Bytes of a tensor in a file."""
    return weights // 4 + _TAIL_BYTES


def as_tq2_0(stored: ByteArray, scale: np.float32) -> ByteArray:
    """The TQ2_0 blocks of stored bytes, a multiple of 64, without the scale. It is rounded to half
    precision, in which bfloat16 scales of common size are exact."""
    blocks = np.empty((stored.size // STORED_BYTES, BLOCK_BYTES), np.uint8)
    blocks[:, :STORED_BYTES] = _TURNED[stored.reshape(-1, STORED_BYTES)]
    blocks[:, STORED_BYTES:] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks.reshape(-1)


def read_scale(after: ByteArray, what: str) -> np.float32:
    """The scale in the bytes after the weights; `ModelFileError`, which names ``what``, if half
    precision cannot hold it to a 2,000th."""
    scale = after[:4].view(np.float32)[0]
    with np.errstate(over="ignore"):
        rounded = np.float32(np.float16(scale))
    if not (scale > 0 and abs(rounded - scale) <= 2.0**-11 * scale):
        raise ModelFileError(f"{what}: the scale {scale:g} of I2_S weights is out of range")
    return np.float32(scale)
