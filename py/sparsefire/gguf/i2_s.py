"""I2_S, the format of Microsoft's BitNet files (tensor type 36), read as TQ2_0 and a scale.

The weights -1, 0 and 1 of a matrix are numbers 0, 1 and 2 of two bits, row after row: 32 bytes hold
128 of them, byte k columns k, 32 + k, 64 + k and 96 + k from its upper bits on. One scale, a
float32, follows the last of these bytes, and 28 unused bytes follow it. TQ2_0 has the same bytes
but begins with the lower bits, and a scale for each 256 weights, which is 1 here: the float32 is
read as a tensor of its own, in the way of llama.cpp's files (see `scale_name`). Described in
https://github.com/microsoft/BitNet (`quantize_i2_s` of src/ggml-bitnet-mad.cpp, for x86).
"""

from __future__ import annotations

import numpy as np

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


def scale_name(matrix: str) -> str:
    """The name of the tensor, of one number, by which all weights of a matrix are multiplied."""
    return f"{matrix.removesuffix('.weight')}.scale"


def as_tq2_0(stored: ByteArray) -> ByteArray:
    """The TQ2_0 blocks, of scale 1, of stored bytes, a multiple of 64, without the scale."""
    blocks = np.empty((stored.size // STORED_BYTES, BLOCK_BYTES), np.uint8)
    blocks[:, :STORED_BYTES] = _TURNED[stored.reshape(-1, STORED_BYTES)]
    blocks[:, STORED_BYTES:] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
    return blocks.reshape(-1)
