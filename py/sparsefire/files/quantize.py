"""Writing a model in another weight format, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._files import check_output
from .._options import checked, flag, function, instance, path, text
from .._progress import Progress
from ..arch.screen import TENSORS as SCREEN_TENSORS
from ..arch.tensors import INTEGERS
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ArgumentError, ModelFileError, NotFiniteError
from ..ffn.bundles import LAYER_ARCHITECTURE
from ..gguf.header import TensorInfo
from ..gguf.reader import GgufFile
from ..gguf.types import TypedValue, ValueType, packed_bytes
from ..gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ..weights.formats import FORMATS, WeightFormat, file_format, weight_format
from ..weights.quantized import ByteArray, dequantize_rows, quantize_rows

_PIECE_WEIGHTS = 4 << 20  # unpacked at a time

# Below this number of bits per weight the output matrix gets more: it is read for every token, and
# no later layer averages its errors.
_FINE_BITS = 6.0
_OUTPUT_FORMATS = ("q6_k", "q8_0", "f16")


@dataclass(frozen=True)
class QuantizedTensor:
    """A written tensor. `note` says why its format is not the requested one, or is ""."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    bytes_before: int
    bytes_after: int
    note: str


@dataclass(frozen=True)
class QuantizeReport:
    """The result of `quantize_model`."""

    output: str
    format: str
    bytes_before: int
    bytes_after: int
    tensors: tuple[QuantizedTensor, ...]

    @property
    def bits_per_weight(self) -> float:
        """Average over all tensors."""
        weights = sum(int(np.prod(each.shape, dtype=np.int64)) for each in self.tensors)
        return 8 * sum(each.bytes_after for each in self.tensors) / weights

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "bits_per_weight": self.bits_per_weight}


@checked(
    source=path,
    output=path,
    format=text,
    output_format=text,
    embedding_format=text,
    force=flag,
    progress=function,
    core=instance(Core),
)
def quantize_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: str,
    *,
    output_format: str | None = None,
    embedding_format: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    core: Core | None = None,
) -> QuantizeReport:
    """Writes a model file with its matrices in another weight format, rounded by the core as GGUF
    does.

    Norms, biases and other vectors, integers, and the predictors of a calibrated model, are not
    changed. A matrix whose columns are not a multiple of the block size gets the next format that
    fits, and is listed in the report. With formats of fewer than 6 bits the output matrix is stored
    in Q6_K or Q8_0.

    format: a weight format, or one of llama.cpp's mixtures: "Q4_K_M" is Q4_K here.
    output_format: of "output.weight", or of the embedding if it is tied.
    embedding_format: of "token_embd.weight".
    force: replace an existing `output`. The file is written to a temporary file next to it and
      renamed when it is complete. It may not be `source`, or a part of it.
    progress: called with the current step and the share that is done, 0 … 1.

    Errors: `ArgumentError` (the output exists or is the input), `FormatError` (unknown format),
    `ModelFileError`, `NotFiniteError` (a weight is not finite, or too large for its
    format),
    `UnsupportedError`, `BackendError` (the gguf package is not installed), OSError.
    """
    wanted = file_format(format)
    core = core or get_core()
    target = Path(output)
    check_output(target, [Path(source)], force=force)
    gguf_package()  # fails early if it is missing
    announce = progress or (lambda what, share: None)
    # Read, not mapped: a file that is cut off while it is mapped ends the process.
    with GgufFile.open(source, mapped=False) as file:
        check_output(target, file.paths, force=force)
        chooser = _Chooser(file, wanted, output_format, embedding_format)
        tensors: dict[str, Writable] = {}
        reports = []
        total = sum(info.nbytes for info in file.tensors.values())
        done = 0
        for name, info in file.tensors.items():
            kind, note = chooser.choose(info)
            announce_now = _Announcement(announce, name, done / total)
            data = TensorData(kind, info.shape, _maker(file, info, kind, core, announce_now))
            tensors[name] = data
            after = packed_bytes(kind, info.shape)
            reports.append(
                QuantizedTensor(name, info.shape, info.format, kind, info.nbytes, after, note)
            )
            done += info.nbytes
        write_gguf(target, _metadata(file, wanted), tensors, file.paths, force=force)
        before = file.nbytes
    return QuantizeReport(str(target), wanted.name, before, target.stat().st_size, tuple(reports))


@dataclass
class _Announcement:
    """Reports that a tensor is being written."""

    announce: Progress
    name: str
    share: float

    def __call__(self) -> None:
        self.announce(self.name, self.share)


class _Chooser:
    """The format that each tensor gets."""

    def __init__(
        self,
        file: GgufFile,
        wanted: WeightFormat,
        output_format: str | None,
        embedding_format: str | None,
    ) -> None:
        self._file = file
        self._wanted = wanted
        tied = "output.weight" not in file.tensors
        chosen: dict[str, tuple[str, ...]] = {}
        logits = "token_embd.weight" if tied else "output.weight"
        if wanted.bits_per_weight < _FINE_BITS:
            chosen[logits] = _OUTPUT_FORMATS
        if embedding_format is not None:
            chosen["token_embd.weight"] = (file_format(embedding_format).name,)
        if output_format is not None:
            chosen[logits] = (file_format(output_format).name,)
        self._chosen = chosen

    def choose(self, info: TensorInfo) -> tuple[str, str]:
        """Name of the format, and a note."""
        if len(info.shape) < 2 or info.shape[0] == 1:
            return info.format, "a vector"
        if ".ffn_predictor" in info.name or info.name in SCREEN_TENSORS:
            return info.format, "a predictor"
        if info.format == INTEGERS:
            return info.format, "integers"
        if info.name == "rope_freqs.weight":
            return info.format, "a vector"
        columns = self._columns(info)
        formats = self._chosen.get(info.name, (self._wanted.name,))
        fallbacks = [*formats, *FORMATS[formats[0]].fallbacks]
        for kind in fallbacks:
            if columns % FORMATS[kind].block == 0:
                return kind, self._note(kind, formats, columns)
        return info.format, f"{columns} columns fit no block"  # not reached: f16 has no blocks

    def _columns(self, info: TensorInfo) -> int:
        """The columns that blocks must divide: all, or those of each part of a bundle."""
        if not info.name.endswith(".ffn_bundle.weight"):
            return info.shape[-1]
        metadata = self._file.metadata
        architecture = metadata.get("general.architecture")
        if architecture == LAYER_ARCHITECTURE:
            widths = [metadata.get(f"{architecture}.{name}_length") for name in ("input", "output")]
        else:
            widths = [metadata.get(f"{architecture}.embedding_length")]
        parts = [width for width in widths if isinstance(width, int) and width > 0]
        if not parts or len(parts) != len(widths):
            raise ModelFileError(
                f"{self._file.name}: tensor {info.name!r} is a bundle, but the key that gives the "
                "width of its parts is missing"
            )
        return int(np.gcd.reduce([*parts, info.shape[-1]]))

    def _note(self, kind: str, formats: Sequence[str], columns: int) -> str:
        if kind == self._wanted.name:
            return ""
        if kind not in formats:
            block = FORMATS[formats[0]].block
            return f"{columns} columns do not divide into {formats[0].upper()}'s blocks of {block}"
        return "makes the logits" if self._chosen else ""


def _maker(
    file: GgufFile, info: TensorInfo, kind: str, core: Core, announce: Callable[[], None]
) -> Callable[[], ByteArray]:
    """A function that returns the packed bytes when they are written."""

    def make() -> ByteArray:
        announce()
        data = file.tensor_data(info.name)
        if info.format.lower() == kind.lower():
            return data
        what = f"{file.name}: tensor {info.name!r}"
        try:
            return _converted(data, info, kind, core, what)
        except ArgumentError:
            raise NotFiniteError(f"{what} holds NaN or infinity; the model is damaged") from None

    return make


def _converted(data: ByteArray, info: TensorInfo, kind: str, core: Core, what: str) -> ByteArray:
    columns = info.shape[-1]
    rows = data.reshape(-1, data.size // (data_rows := _rows(info)))
    packed = np.empty((data_rows, weight_format(kind).row_bytes(columns)), np.uint8)
    step = max(1, _PIECE_WEIGHTS // columns)
    for start in range(0, data_rows, step):
        piece = np.ascontiguousarray(rows[start : start + step])
        values = unpacked_rows(piece, info.format, columns, core)
        packed[start : start + step] = quantize_rows(values, kind, core, what)
    return packed


def _rows(info: TensorInfo) -> int:
    return int(np.prod(info.shape[:-1], dtype=np.int64))


def unpacked_rows(packed: ByteArray, format: str, columns: int, core: Core) -> Any:
    """Weights as float32 (rows, columns). `ModelFileError` for a format that the core does not
    know."""
    if format.lower() not in FORMATS:
        raise ModelFileError(f"weights in {format.upper()} cannot be unpacked")
    return dequantize_rows(packed, format, columns, core)


def _metadata(file: GgufFile, wanted: WeightFormat) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        key: value
        for key, value in file.typed_metadata().items()
        if not key.startswith("split.")  # the new file is in one part
    }
    metadata["general.file_type"] = TypedValue(wanted.file_type, ValueType("u32"))
    metadata["general.quantization_version"] = TypedValue(2, ValueType("u32"))
    return metadata
