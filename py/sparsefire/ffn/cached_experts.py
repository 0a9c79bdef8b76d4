"""Layers of experts larger than memory: the experts stay in the model file as it was downloaded,
where each one's rows lie together, and those in a cache are resident."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ..arch.plan import ExpertLayer
from ..arch.read import read_vector
from ..core.core import Core
from ..core.enums import DownLayout
from ..core.handle import CoreObject
from ..errors import ModelFileError
from ..gguf.reader import GgufFile
from ..weights.formats import WeightFormat, weight_format
from .bundles import LayerShape, Source, opened, read_exactly
from .cache import NeuronCache


class _Part(NamedTuple):
    """A tensor of matrices, one an expert: which of a model's files it is in, where it begins, and
    the bytes of each."""

    name: str
    file: int
    format: WeightFormat
    offset: int
    nbytes: int


class ExpertFile:
    """The experts of a layer of a model file, or of a split model, as `NeuronCache` reads them: the
    expert is what a neuron is elsewhere, its bundle the rows of its gate, up and down matrices."""

    def __init__(self, layer: ExpertLayer, header: GgufFile) -> None:
        self.name = header.name
        self.header = header
        self.layer = layer
        self.paths = header.paths
        names = dict.fromkeys(name for name in (layer.gate, layer.up, layer.down) if name)
        self.parts = [_part(header, f"{name}.weight", layer.count) for name in names]
        self.bundle_bytes = sum(part.nbytes for part in self.parts)
        d_in, d_out = (
            header.tensor(f"{layer.up}.weight").shape[-1],
            header.tensor(f"{layer.down}.weight").shape[-2],
        )
        self.shape = LayerShape(layer.count, d_in, d_out, layer.activation, 0.0, 0)
        self._files: dict[int, Any] = {}
        own = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, own.close)
        for index in dict.fromkeys(part.file for part in self.parts):
            source = cast(Source, header.files[index])
            self._files[index] = opened(source)
            if isinstance(source, (str, os.PathLike)):
                own.callback(self._files[index].close)

    def read(self, experts: npt.NDArray[np.int32], out: list[memoryview]) -> Iterator[int]:
        """Fills ``out``, buffers of `bundle_bytes` bytes; yields 1 for each. `ModelFileError` with
        file, offset and expert if one cannot be read."""
        for expert, buffer in zip(experts.tolist(), out, strict=True):
            at = 0
            for part in self.parts:
                place = buffer[at : at + part.nbytes]
                offset = part.offset + expert * part.nbytes
                failed = functools.partial(self._failed, expert, part, offset)
                read_exactly(self._files[part.file], offset, place, failed)
                at += part.nbytes
            yield 1

    def _failed(self, expert: int, part: _Part, offset: int, reason: str) -> ModelFileError:
        return ModelFileError(
            f"{self.name}: expert {expert} of {part.name!r} ({part.nbytes} bytes at byte {offset}) "
            f"cannot be read: {reason}"
        )

    def close(self) -> None:
        """Closes the files, unless they belong to the caller."""
        self._finalizer()


def _part(header: GgufFile, name: str, count: int) -> _Part:
    info = header.tensor(name)
    format = weight_format(info.format)
    return _Part(name, info.part, format, info.offset, info.nbytes // count)


class CachedExperts(CoreObject):
    """A layer of experts of which those in a `NeuronCache` are resident. Results equal those of all
    experts in memory, bit for bit."""

    def __init__(self, file: ExpertFile, cache: NeuronCache, core: Core) -> None:
        layer, shape = file.layer, file.shape
        self.cache = cache
        self.lock = threading.RLock()
        core_cache = cache.attach(core, file, self)
        # One part for gate and up holds an expert's rows of both in this order.
        gate, up, down = file.parts[0], file.parts[-2], file.parts[-1]
        try:
            handle = core.open(
                "sf_experts_open_cached",
                core.context,
                core_cache.handle,
                gate.format.code if layer.gate else -1,
                up.format.code,
                down.format.code,
                shape.d_in,
                shape.d_out,
                layer.width,
                DownLayout.DOWN_BY_OUTPUT,
                layer.activation.code,
                0.0,
                what=f"{layer.count} experts of {file.name}",
            )
            super().__init__(core, handle, "sf_experts_close")
            self._set_biases(file)
        except BaseException:
            cache.detach(self)
            raise
        self._file = file
        self.bundle_bytes = file.bundle_bytes
        self.hidden = layer.hidden
        self.nbytes = file.bundle_bytes * layer.count

    def _set_biases(self, file: ExpertFile) -> None:
        layer = file.layer
        if layer.biases:
            names = [layer.gate, layer.up, layer.down]
            values = [
                None if name is None else read_vector(file.header, f"{name}.bias", 2)
                for name in names
            ]
            pointers = [None if each is None else self.core.inp(each) for each in values]
            self.core.check("sf_experts_set_bias", self.handle, *pointers, what="biases")

    def close(self) -> None:
        """Frees the memory and closes the file. Closing twice is allowed."""
        super().close()
        self.cache.detach(self)
        self._file.close()
