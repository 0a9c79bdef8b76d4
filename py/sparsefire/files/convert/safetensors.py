"""Reading safetensors checkpoints: one file, or several that an index names.

The format (https://github.com/huggingface/safetensors): 8 bytes of length, a JSON object that says
dtype, shape and place of each tensor, then the bytes. Nothing in it is believed unchecked.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._arrays import FloatArray
from ...errors import ModelFileError, UnsupportedError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MOST_HEADER = 100 << 20  # as the reference

# dtype → bytes of an element, and GGUF's name of the format.
_TYPES = {"F64": (8, "f32"), "F32": (4, "f32"), "F16": (2, "f16"), "BF16": (2, "bf16")}
# Packed: see ternary.py and packed_integers.py; 8-bit floats alone fit in F16.
_TYPES |= {"U8": (1, ""), "I32": (4, ""), "F8_E4M3": (1, "f16")}


class StoredTensor(NamedTuple):
    """A tensor of a checkpoint; `dtype` is "F32", "F16", "BF16", "F64" or "F8_E4M3", or "U8" or
    "I32" for numbers in which weights are packed."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: npt.NDArray[np.uint8]

    @property
    def format(self) -> str:
        """GGUF's name of the format that keeps every bit (of F64, those of F32)."""
        return _TYPES[self.dtype][1]

    def floats(self) -> FloatArray:
        """The values as float32, in the tensor's shape."""
        if self.dtype == "BF16":
            wide = self.data.view("<u2").astype(np.uint32) << np.uint32(16)
            values = wide.view(np.float32)
        elif self.dtype == "F8_E4M3":
            values = _EIGHT_BITS[self.data]
        else:
            kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[self.dtype]
            values = self.data.view(kind).astype(np.float32)
        return values.reshape(self.shape)


def _eight_bit_floats() -> FloatArray:
    """What each byte of F8_E4M3 stands for (Micikevicius et al. 2022): a sign, 4 bits of exponent
    and 3 of the number; without infinity, and NaN where all 7 bits are set."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + fraction / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(fraction / 8, -6), normal)
    values[code & 127 == 127] = np.nan
    return np.where(code < 128, values, -values).astype(np.float32)


_EIGHT_BITS = _eight_bit_floats()


class Checkpoint:
    """The tensors of a directory's safetensors files, by name. The files are mapped, not read.

    Errors: `ModelFileError` (missing, damaged; names the file), `UnsupportedError` (no
    safetensors files, or a dtype other than floats).
    """

    def __init__(self, directory: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        files = _files(directory)
        for path in files:
            self._read(path, files[path])

    def _read(self, path: Path, wanted: set[str]) -> None:
        """Reads a file, which has at least the tensors that the index says."""
        try:
            with path.open("rb") as file:
                data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise ModelFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        length = int.from_bytes(data[:8].tobytes(), "little")
        if len(data) < 8 or not 2 <= length <= min(_MOST_HEADER, len(data) - 8):
            raise ModelFileError(f"{path}: not a safetensors file, or cut off")
        try:
            header = json.loads(data[8 : 8 + length].tobytes())
        except ValueError:
            raise ModelFileError(f"{path}: the header is not JSON; the file is damaged") from None
        if not isinstance(header, dict):
            raise ModelFileError(f"{path}: the header is not a JSON object; the file is damaged")
        body = data[8 + length :]
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in self.tensors:
                raise ModelFileError(f"{path}: tensor {name!r} is in another file as well")
            self.tensors[name] = _tensor(path, name, entry, body)
        missing = sorted(wanted - header.keys())
        if missing:
            raise ModelFileError(
                f"{path}: tensor {missing[0]!r} is missing, which {_INDEX} says is in it"
            )


def _files(directory: Path) -> dict[Path, set[str]]:
    """The files, with the names of the tensors that the index says are in each."""
    index = directory / _INDEX
    if index.exists():
        entries = read_json_object(index).get("weight_map")
        if not isinstance(entries, dict) or not all(isinstance(x, str) for x in entries.values()):
            raise ModelFileError(f"{index}: 'weight_map' is missing or is not a list of files")
        files: dict[Path, set[str]] = {}
        for tensor, name in sorted(entries.items(), key=lambda entry: entry[1]):
            if Path(name).name != name:
                raise ModelFileError(f"{index}: {name!r} is not the name of a file beside it")
            files.setdefault(directory / name, set()).add(tensor)
        return files
    if (directory / _SINGLE).exists():
        return {directory / _SINGLE: set()}
    raise UnsupportedError(
        f"{directory}: no {_SINGLE} and no {_INDEX}; only safetensors checkpoints are converted "
        "(for pytorch_model.bin: load the model with transformers, then save_pretrained)"
    )


def _tensor(path: Path, name: str, entry: Any, body: npt.NDArray[np.uint8]) -> StoredTensor:
    problem = ModelFileError(f"{path}: tensor {name!r} is described wrongly; the file is damaged")
    if not isinstance(entry, Mapping):
        raise problem
    dtype = entry.get("dtype")
    shape, place = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if shape is None or place is None or len(place) != 2 or not isinstance(dtype, str):
        raise problem
    if dtype not in _TYPES:
        raise UnsupportedError(
            f"{path}: tensor {name!r} is {dtype}; F32, F16, BF16, F8_E4M3, and 4-bit weights of "
            "GPTQ and AWQ are supported, so convert the checkpoint as it was before it was "
            "quantised"
        )
    start, end = place
    if end > len(body) or end - start != math.prod(shape) * _TYPES[dtype][0]:
        raise problem
    return StoredTensor(name, tuple(shape), dtype, body[start:end])


def _sizes(values: Any) -> list[int] | None:
    """A list of whole numbers of 0 or more, else None."""
    if not isinstance(values, list):
        return None
    whole = all(isinstance(each, int) and type(each) is not bool and each >= 0 for each in values)
    return values if whole else None


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file; {} when there is no such file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        value = json.loads(raw)
    except ValueError:
        raise ModelFileError(f"{path}: not JSON") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: not a JSON object")
    return value
