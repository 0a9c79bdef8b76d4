"""Writing GGUF files, through the `gguf` package (the extras "calibrate" and "convert")."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files import named_errors, replaced
from ..errors import ArgumentError, BackendError
from ..weights.quantized import QuantizedWeights
from .source import ByteArray
from .types import TypedValue, ValueType, format_code, packed_bytes, value_type_codes


@dataclass(frozen=True)
class TensorData:
    """A tensor to be written: packed bytes, or a function that returns them when they are written,
    so that a large file needs little memory. `shape` is in numpy's order."""

    format: str
    shape: tuple[int, ...]
    data: ByteArray | Callable[[], ByteArray]


Writable = TensorData | QuantizedWeights | npt.NDArray[Any]

_NUMPY_FORMATS = {"float32": "f32", "float16": "f16"}
_NUMPY_VALUES = {
    "uint8": "u8",
    "int8": "i8",
    "uint16": "u16",
    "int16": "i16",
    "uint32": "u32",
    "int32": "i32",
    "float32": "f32",
    "bool": "bool",
    "uint64": "u64",
    "int64": "i64",
    "float64": "f64",
}


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Writable],
    inputs: Iterable[Path] = (),
    *,
    force: bool = True,
) -> None:
    """Writes a GGUF file to a temporary file next to `path` and renames it when it is complete.

    metadata: values by key. A `TypedValue` (as from `GgufFile.typed_metadata`) keeps its type;
      otherwise the type follows from the value: bool, string, u32, i32 or i64 for an int, f32 for a
      float, the dtype of a numpy array or scalar. Empty arrays are omitted, as by the `gguf`
      package. "general.architecture" is required.
    tensors: `TensorData`, `QuantizedWeights`, or numpy arrays of float32 or float16, by name.
    inputs, force: what `path` may be and replace, see `check_output`.

    Errors: `BackendError` (the gguf package is not installed), `ArgumentError`, OSError.
    """
    gguf = gguf_package()
    target = Path(path)
    prepared = {name: _prepare(name, tensor) for name, tensor in tensors.items()}
    with replaced(target, inputs, force=force) as part:
        writer = gguf.GGUFWriter(part, _architecture(metadata))
        try:
            _add_metadata(writer, gguf, metadata)
            for name, tensor in prepared.items():
                writer.add_tensor_info(
                    name,
                    tensor.shape,
                    np.dtype(np.float32),
                    packed_bytes(tensor.format, tensor.shape),
                    raw_dtype=gguf.GGMLQuantizationType(format_code(tensor.format)),
                )
            with named_errors(target):
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
            for name, tensor in prepared.items():
                packed = _packed(name, tensor).view(_Written)
                with named_errors(target):
                    writer.write_tensor_data(packed)
            with named_errors(target):
                for file in writer.fout or ():
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            with named_errors(target):
                writer.close()


class _Written(np.ndarray[Any, Any]):
    """Bytes whose writing fails with the system's cause; numpy's `tofile` only counts items."""

    def tofile(self, file: Any, *_: Any) -> None:
        """Writes the bytes to an open file."""
        file.write(self.data)


def gguf_package() -> Any:
    """The gguf package; `BackendError` if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise BackendError(
            "writing GGUF files needs the gguf package: pip install 'sparsefire[convert]'"
        ) from None
    return gguf


def _architecture(metadata: Mapping[str, Any]) -> str:
    value = metadata.get("general.architecture")
    name = value.value if isinstance(value, TypedValue) else value
    if not isinstance(name, str) or not name:
        raise ArgumentError("metadata: 'general.architecture' must be a name, as in 'llama'")
    return name


def _add_metadata(writer: Any, gguf: Any, metadata: Mapping[str, Any]) -> None:
    codes = value_type_codes()
    for key, given in metadata.items():
        if key == "general.architecture":  # the writer has added it
            continue
        value, kind = given if isinstance(given, TypedValue) else _typed(key, given)
        if key == "general.alignment":
            writer.add_custom_alignment(int(value))
            continue
        if kind.name == "array":
            items = value.tolist() if isinstance(value, np.ndarray) else list(value)
            if not items:
                continue
            value = [_encoded(item) for item in items]
        element = None if kind.element is None else gguf.GGUFValueType(codes[kind.element])
        writer.add_key_value(key, _encoded(value), gguf.GGUFValueType(codes[kind.name]), element)


def _encoded(value: Any) -> Any:
    """Strings as the bytes that they were read from; other values unchanged."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _typed(key: str, value: Any) -> TypedValue:
    """The value with the type that suits it."""
    if isinstance(value, np.ndarray):
        element = _NUMPY_VALUES.get(value.dtype.name)
        if element is not None and value.ndim == 1:
            return TypedValue(value, ValueType("array", element))
    elif isinstance(value, np.generic):
        name = _NUMPY_VALUES.get(value.dtype.name)
        if name is not None:
            return TypedValue(value.item(), ValueType(name))
    elif isinstance(value, (list, tuple)):
        if not value:
            return TypedValue(value, ValueType("array", "string"))
        element = _typed(key, value[0]).type.name
        return TypedValue(value, ValueType("array", element))
    elif isinstance(value, bool):
        return TypedValue(value, ValueType("bool"))
    elif isinstance(value, str):
        return TypedValue(value, ValueType("string"))
    elif isinstance(value, float):
        return TypedValue(value, ValueType("f32"))
    elif isinstance(value, int):
        ranges = (("u32", 0, 1 << 32), ("i32", -(1 << 31), 0), ("i64", -(1 << 63), 1 << 63))
        for name, low, high in ranges:
            if low <= value < high:
                return TypedValue(value, ValueType(name))
    raise ArgumentError(f"metadata {key!r}: {value!r} cannot be stored in a GGUF file")


def _prepare(name: str, tensor: Writable) -> TensorData:
    if isinstance(tensor, TensorData):
        return tensor
    if isinstance(tensor, QuantizedWeights):
        return TensorData(tensor.format, tensor.shape, tensor.packed)
    kind = _NUMPY_FORMATS.get(tensor.dtype.name)
    if kind is None or tensor.ndim == 0:
        raise ArgumentError(
            f"tensor {name!r}: expected a float32 or float16 array, got {tensor.dtype} "
            f"{tensor.shape}"
        )
    packed = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    return TensorData(kind, tensor.shape, packed)


def _packed(name: str, tensor: TensorData) -> ByteArray:
    """The tensor's bytes, uint8 (nbytes,), of the length that its shape says."""
    data = tensor.data() if callable(tensor.data) else tensor.data
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    wanted = packed_bytes(tensor.format, tensor.shape)
    if flat.nbytes != wanted:
        raise ArgumentError(
            f"tensor {name!r}: {tensor.format} {tensor.shape} takes {wanted} bytes, "
            f"got {flat.nbytes}"
        )
    return flat
