"""The weight formats: one row each, from which every other table of formats is derived."""

from __future__ import annotations

from dataclasses import dataclass

from .._options import refuse, text
from ..errors import FormatError


@dataclass(frozen=True)
class WeightFormat:
    """A weight format: its numbers in GGUF, how a row is packed, and where it is used.

    code: GGUF's tensor type.
    block: weights in a block; the columns of a matrix are a multiple of it.
    block_bytes: bytes of a block.
    file_type: GGUF's `general.file_type` of a file whose matrices are mostly in this format.
    fallbacks: formats of about as many bits, in order, for a matrix whose columns are not a
      multiple of the block size. The last one takes any number of columns.
    of_calibration: whether `sparsefire calibrate` converts models to this format.
    written: whether weights are quantised to this format, or it is only read and computed on. What
      it stores well depends on how much each weight matters, which GGUF's own tools measure.
    """

    name: str
    code: int
    block: int
    block_bytes: int
    file_type: int
    fallbacks: tuple[str, ...] = ("f16",)
    of_calibration: bool = False
    written: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of a packed row of ``columns`` weights; `FormatError` if ``columns`` is not a
        multiple of the block size."""
        if columns < 1 or columns % self.block:
            smaller = ", or q8_0" if self.block > 32 and columns % 32 == 0 else ""
            raise FormatError(
                f"{self.name} packs rows in blocks of {self.block} weights, so {columns} columns "
                f"do not fit: use f16 or f32{smaller}, or pad the rows with zeros"
            )
        return columns // self.block * self.block_bytes


_Q4_0, _Q5_0 = ("q4_0", "q8_0", "f16"), ("q5_0", "q8_0", "f16")
_Q5_1, _Q8_0 = (("q5_1", "q8_0", "f16"), ("q8_0", "f16"))

FORMATS: dict[str, WeightFormat] = {
    each.name: each
    for each in (
        WeightFormat("f32", 0, 1, 4, 0, of_calibration=True),
        WeightFormat("f16", 1, 1, 2, 1, of_calibration=True),
        WeightFormat("bf16", 30, 1, 2, 32),
        WeightFormat("q8_0", 8, 32, 34, 7, of_calibration=True),
        WeightFormat("q4_0", 2, 32, 18, 2),
        WeightFormat("q4_1", 3, 32, 20, 3),
        WeightFormat("q5_0", 6, 32, 22, 8),
        WeightFormat("q5_1", 7, 32, 24, 9),
        WeightFormat("q2_k", 10, 256, 84, 10, _Q4_0),
        WeightFormat("q3_k", 11, 256, 110, 12, _Q4_0),
        WeightFormat("q4_k", 12, 256, 144, 15, _Q5_0),
        WeightFormat("q5_k", 13, 256, 176, 17, _Q5_1),
        WeightFormat("q6_k", 14, 256, 210, 18, _Q8_0),
        WeightFormat("iq4_nl", 20, 32, 18, 25),
        WeightFormat("iq4_xs", 23, 256, 136, 30, ("iq4_nl", *_Q5_0[1:])),
        WeightFormat("tq1_0", 34, 256, 54, 36, _Q4_0),
        WeightFormat("tq2_0", 35, 256, 66, 37, _Q4_0),
        WeightFormat("mxfp4", 39, 32, 17, 38),
        WeightFormat("iq2_xxs", 16, 256, 66, 19, written=False),
        WeightFormat("iq2_xs", 17, 256, 74, 20, written=False),
        WeightFormat("iq2_s", 22, 256, 82, 28, written=False),
        WeightFormat("iq3_xxs", 18, 256, 98, 23, written=False),
        WeightFormat("iq3_s", 21, 256, 110, 26, written=False),
        WeightFormat("iq1_s", 19, 256, 50, 24, written=False),
        WeightFormat("iq1_m", 29, 256, 56, 31, written=False),
        WeightFormat("nvfp4", 40, 64, 36, 39, written=False),
    )
}

# Those of plain numbers, in which a file may hold vectors.
VECTOR_FORMATS = tuple(each.name for each in FORMATS.values() if each.block == 1)

# Those to which weights are quantised.
WRITTEN_FORMATS = tuple(each.name for each in FORMATS.values() if each.written)

# What `sparsefire calibrate` converts models to.
CALIBRATION_FORMATS = tuple(each.name for each in FORMATS.values() if each.of_calibration)

_BY_CODE = {each.code: each for each in FORMATS.values()}


# What others call the same: llama.cpp's mixtures by the format of most of their matrices.
_OTHER_NAMES = {
    f"{kind}_{size}": kind
    for kind, sizes in (("q2_k", "s"), ("q3_k", "sml"), ("q4_k", "sm"), ("q5_k", "sm"))
    for size in sizes
} | {"fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "bfloat16": "bf16"}


def file_format(name: str) -> WeightFormat:
    """The format that a new file is asked to have: as `weight_format`, and by the other names that
    are common for it, as in "Q4_K_M". `FormatError` also for one that is only read."""
    return written_format(_OTHER_NAMES.get(text(name, "format").lower(), name))


def written_format(name: str | int | WeightFormat) -> WeightFormat:
    """As `weight_format`, for weights that are to be quantised: `FormatError` also for a format
    that is only read."""
    found = weight_format(name)
    if not found.written:
        raise FormatError(
            f"{found.name} is only read, not written; written are {', '.join(WRITTEN_FORMATS)}"
        )
    return found


def format_name(value: str | int | WeightFormat, name: str) -> str:
    """The name of a format; a check for `sparsefire._options.checked`."""
    if not isinstance(value, (str, int, WeightFormat)) or isinstance(value, bool):
        refuse(value, name, "the name of a weight format")
    return weight_format(value).name


def weight_format(name: str | int | WeightFormat) -> WeightFormat:
    """The format of a name (any case) or of a GGUF tensor type number, else `FormatError`."""
    if isinstance(name, WeightFormat):
        return name
    found = _BY_CODE.get(name) if isinstance(name, int) else FORMATS.get(str(name).lower())
    if found is None:
        raise FormatError(f"unknown weight format {name!r}; known ones: {', '.join(FORMATS)}")
    return found
