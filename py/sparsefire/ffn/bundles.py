"""Feed-forward layers in files, neuron by neuron."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arch.config import ModelConfig, read_config
from ..arch.plan import FfnLayer
from ..arch.read import read_biases
from ..arch.table import ARCHITECTURES
from ..arch.tensors import FFN_PARTS, check_format
from ..core.enums import Limit
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile
from ..gguf.writer import TensorData, Writable, write_gguf
from ..weights.activation import ActivationType
from ..weights.formats import WeightFormat, weight_format
from ..weights.matrix import Matrix
from ..weights.quantized import ByteArray

Source: TypeAlias = str | os.PathLike[str] | BinaryIO

LAYER_ARCHITECTURE = "sparsefire-ffn"  # of a file that holds one layer and no model

CUT_OFF = "the file ends too early; was it cut off since it was opened?"
_MOST_AT_ONCE = 512  # buffers of one system call; systems allow 1,024


class LayerShape(NamedTuple):
    """What a bundle file says of its layer. `hot`: so many neurons at the front are known to be
    the most used."""

    hidden: int
    d_in: int
    d_out: int
    activation: ActivationType
    parameter: float
    hot: int
    both_active: bool = False
    cutoffs: tuple[tuple[str, float], ...] = ()  # what they are on, and how large


def write_bundles(
    path: str | os.PathLike[str],
    matrices: list[Matrix],
    biases: Sequence[npt.NDArray[np.float32] | None],
    activation: ActivationType,
    parameter: float,
) -> None:
    """Writes a file of one layer: ``matrices`` are the gate, if there is one, up and down, with a
    row a neuron and all of one format; ``biases`` of gate, up and down. Errors: `BackendError`
    (the gguf package is not installed), OSError."""
    up, down = matrices[-2:]
    metadata = {
        "general.architecture": LAYER_ARCHITECTURE,
        f"{LAYER_ARCHITECTURE}.input_length": up.columns,
        f"{LAYER_ARCHITECTURE}.output_length": down.columns,
        f"{LAYER_ARCHITECTURE}.hidden_activation": str(activation),
        f"{LAYER_ARCHITECTURE}.hidden_activation_threshold": float(parameter),
    }
    columns = sum(each.columns for each in matrices)
    tensors: dict[str, Writable] = {
        "blk.0.ffn_bundle.weight": TensorData(
            up.format, (up.rows, columns), lambda: _joined(matrices)
        )
    }
    for name, bias in zip(FFN_PARTS, biases, strict=True):
        if bias is not None:
            tensors[f"blk.0.{name}.bias"] = bias
    write_gguf(path, metadata, tensors)


def _joined(matrices: list[Matrix]) -> ByteArray:
    """The packed rows of the matrices, concatenated per neuron: uint8 (hidden, bundle bytes)."""
    return np.concatenate([each.packed() for each in matrices], axis=1)


class BundleFile:
    """The neurons of layer ``layer`` of a calibrated model, or of a layer written by
    `SparseFfn.save_bundles`. Only the header is read at first, then neurons by `read`.

    ``source``: a path, or a seekable binary file, which stays the caller's to close. Of a file
    that has no ``readinto`` neighbours are read in one go. ``header`` and ``config``: of its model,
    when they have been read already; of a split one, ``source`` is the file with this layer.
    """

    def __init__(
        self,
        source: Source,
        layer: int = 0,
        activation: str | ActivationType | None = None,
        header: GgufFile | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        self._file = opened(source)
        self.paths: tuple[Path, ...] = (
            (Path(source),) if isinstance(source, (str, os.PathLike)) else ()
        )
        self._own = bool(self.paths)
        # Closed with this object, or when it is collected, unless it is the caller's.
        close = self._file.close if self._own else _nothing
        self._finalizer = weakref.finalize(self, close)
        try:
            # From the stream, not mapped: a file that is cut off while it is mapped ends the
            # process.
            self.header = GgufFile.open(self._file) if header is None else header
            shape = _layer_shape(self.header, layer, activation, config)
            self._read_layer(layer, shape)
        except BaseException:
            self.close()
            raise

    def _read_layer(self, layer: int, shape: LayerShape) -> None:
        self.name = str(self.paths[0]) if self.paths else self.header.name
        self.layer = layer
        self.shape = shape
        self.tensor = f"blk.{layer}.ffn_bundle.weight"
        info = self.header.tensor(self.tensor)
        check_format(self.header, info)
        if f"blk.{layer}.ffn_sub_norm.weight" in self.header.tensors:
            raise UnsupportedError(
                f"{self.name}: layer {layer} has a norm before its down matrix, which needs all "
                "of its neurons: load the model without a neuron budget"
            )
        if any(f"blk.{layer}.{part}.scale" in self.header.tensors for part in FFN_PARTS):
            raise UnsupportedError(
                f"{self.name}: layer {layer} has matrices with scales, which is not supported for "
                "neurons that are read singly: load the model without a neuron budget"
            )
        self.format: WeightFormat = weight_format(info.format)
        self.gated, hidden = self._gated(info.shape), self.shape.hidden
        self.offset = info.offset
        self.bundle_bytes = info.nbytes // info.shape[0]
        self.biases = read_biases(
            self.header, FfnLayer(layer, "", hidden, self.gated, self.shape.activation)
        )

    def _gated(self, stored: tuple[int, ...]) -> bool:
        hidden, d_in, d_out = self.shape[:3]
        parts = {(hidden, count * d_in + d_out): count == 2 for count in (1, 2)}
        if stored not in parts:
            raise ModelFileError(
                f"{self.name}: tensor {self.tensor!r} has the shape {stored}; {d_in} inputs and "
                f"{d_out} outputs make {' or '.join(map(str, parts))}"
            )
        return parts[stored]

    def read(self, neurons: npt.NDArray[np.int32], out: list[memoryview]) -> Iterator[int]:
        """Fills ``out``, buffers of `bundle_bytes` bytes, with the bundles of ``neurons``,
        ascending; yields the length of each contiguous run. `ModelFileError` with file, offset and
        neuron if one cannot be read."""
        apart = np.diff(neurons, prepend=-2) != 1
        apart[::_MOST_AT_ONCE] = True
        starts = np.flatnonzero(apart).tolist()
        ids, nbytes = neurons.tolist(), self.bundle_bytes
        vectored = self._own and hasattr(os, "preadv") and not self._file.closed
        descriptor = self._file.fileno() if vectored else -1
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            whole = 0
            if vectored:
                try:
                    offset = self.offset + ids[start] * nbytes
                    whole = os.preadv(descriptor, out[start:end], offset) // nbytes
                except OSError:
                    whole = 0  # reading one by one tells which neuron it is
            elif not hasattr(self._file, "readinto"):
                whole = self._read_run(ids[start], out[start:end])
            for index in range(start + whole, end):
                self._read_one(ids[index], out[index])
            yield end - start

    def _read_run(self, neuron: int, out: list[memoryview]) -> int:
        """Fills ``out`` with consecutive neurons from ``neuron`` on; returns how many were
        complete."""
        nbytes = self.bundle_bytes
        try:
            self._file.seek(self.offset + neuron * nbytes)
            data = self._file.read(len(out) * nbytes)
        except (OSError, ValueError):
            return 0
        whole = len(data) // nbytes
        for index in range(whole):
            _fill(out[index], data[index * nbytes : (index + 1) * nbytes])
        return int(whole)

    def _read_one(self, neuron: int, out: memoryview) -> None:
        offset = self.offset + neuron * self.bundle_bytes
        read_exactly(self._file, offset, out, lambda reason: self._failed(neuron, reason))

    def _failed(self, neuron: int, reason: str) -> ModelFileError:
        return ModelFileError(
            f"{self.name}: neuron {neuron} of {self.tensor!r} ({self.bundle_bytes} bytes at byte "
            f"{self.offset + neuron * self.bundle_bytes}) cannot be read: {reason}"
        )

    def close(self) -> None:
        """Closes the file, unless it belongs to the caller."""
        self._finalizer()


def read_exactly(
    file: Any, offset: int, out: memoryview, failed: Callable[[str], ModelFileError]
) -> None:
    """Fills ``out`` from byte ``offset`` of a file object; ``failed`` makes the error that says why
    it cannot."""
    done = 0
    try:
        file.seek(offset)
        while done < len(out):
            if hasattr(file, "readinto"):
                count = file.readinto(out[done:])
            else:
                data = file.read(len(out) - done)
                count = len(data)
                _fill(out[done : done + count], data)
            if not count:
                raise failed(CUT_OFF)
            done += count
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise failed(str(error)) from error


def _nothing() -> None:
    pass


def _fill(target: memoryview, data: bytes) -> None:
    np.frombuffer(target, np.uint8)[:] = np.frombuffer(data, np.uint8)


def opened(source: Source) -> Any:
    """The file object that bundles are read from."""
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).open("rb", buffering=0)
        except OSError as error:
            raise ModelFileError(f"{source}: {error.strerror or error}") from error
    if not hasattr(source, "read") or not hasattr(source, "seek"):
        raise ArgumentError(
            "weights that are read on demand are in a path or a seekable binary file, not in "
            f"{type(source).__name__}"
        )
    return source


def _layer_shape(
    file: GgufFile,
    layer: int,
    activation: str | ActivationType | None,
    config: ModelConfig | None,
) -> LayerShape:
    """The shape of a layer stored neuron by neuron, in a model or in a file of one layer."""
    architecture = file.metadata.get("general.architecture")
    if config is None and architecture in ARCHITECTURES:
        config = read_config(file, activation)
    if config is None and architecture != LAYER_ARCHITECTURE:
        raise UnsupportedError(
            f"{file.name}: the architecture {architecture!r} is not one of "
            f"{', '.join((*ARCHITECTURES, LAYER_ARCHITECTURE))}"
        )
    layers = 1 if config is None else config.layers
    if not 0 <= layer < layers:
        raise ArgumentError(f"layer {layer}: {file.name} has the layers 0 … {layers - 1}")
    if f"blk.{layer}.ffn_bundle.weight" not in file.tensors:
        raise ModelFileError(
            f"{file.name}: layer {layer} is not stored neuron by neuron; "
            f"`sparsefire calibrate` writes such a model"
        )
    return _single_shape(file, activation) if config is None else _shape_in_model(config, layer)


def _shape_in_model(config: ModelConfig, layer: int) -> LayerShape:
    return LayerShape(
        config.hidden,
        config.d,
        config.d,
        config.activation,
        config.activation_parameter,
        config.hot_counts[layer] if config.hot_counts else 0,
        config.kind.both_active,
        tuple((on, each[layer]) for on, each in config.cutoffs.items()),
    )


def _single_shape(file: GgufFile, activation: str | ActivationType | None) -> LayerShape:
    def value(name: str, kinds: type | tuple[type, ...]) -> Any:
        found = file.metadata.get(f"{LAYER_ARCHITECTURE}.{name}")
        if not isinstance(found, kinds) or isinstance(found, bool):
            raise ModelFileError(
                f"{file.name}: key '{LAYER_ARCHITECTURE}.{name}' is missing or has another type"
            )
        return found

    sizes = [value("input_length", int), value("output_length", int)]
    stored = file.tensor("blk.0.ffn_bundle.weight").shape
    if len(stored) != 2 or not all(1 <= size <= Limit.MAX_NEURONS for size in (*sizes, stored[0])):
        raise ModelFileError(
            f"{file.name}: {sizes[0]} inputs, {sizes[1]} outputs and bundles of shape {stored} "
            f"are no feed-forward layer"
        )
    try:
        kind = ActivationType(activation or value("hidden_activation", str))
    except ArgumentError as error:
        raise UnsupportedError(f"{file.name}: {error}") from None
    parameter = float(value("hidden_activation_threshold", float))
    return LayerShape(stored[0], sizes[0], sizes[1], kind, parameter, 0)
