"""Layers of experts larger than memory: the experts stay in the model file as it was downloaded,
where each one's rows lie together, and those in a cache are resident."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ..arch.plan import ExpertLayer
from ..arch.read import format_by_neuron, read_vector, transposed
from ..core.core import Core
from ..core.handle import CoreObject
from ..errors import ModelFileError
from ..gguf.reader import GgufFile
from ..weights.formats import WeightFormat, weight_format
from .bundles import CUT_OFF, LayerShape, Source, opened, read_exactly
from .cache import CoreCache, NeuronCache
from .core_layer import DOWN_LAYOUTS
from .files import attach_predictors, read_expert_predictors, set_scales, set_up_parameter
from .uncached import UncachedFile

_READERS = 4  # reads at a time: enough to keep a fast disk busy


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
    expert is what a neuron is elsewhere, its bundle the rows of its gate, up and down matrices. The
    down matrices of ReLU-like experts are transposed, as those of experts in memory are."""

    def __init__(self, layer: ExpertLayer, header: GgufFile, core: Core) -> None:
        self.name = header.name
        self.header = header
        self.layer = layer
        self.core = core
        self.paths = header.paths
        self.parts = [_part(header, f"{name}.weight", layer.count) for name in layer.names]
        d_in, d_out = (
            header.tensor(f"{layer.up}.weight").shape[-1],
            header.tensor(f"{layer.down}.weight").shape[-2],
        )
        down = self.parts[-1]
        self.by_neuron = layer.activation.is_relu_family
        self.down_format, self._down_bytes = down.format, down.nbytes
        if self.by_neuron:
            self.down_format = format_by_neuron(header, down.name)
            self._down_bytes = layer.width * self.down_format.row_bytes(d_out)
        self.bundle_bytes = sum(part.nbytes for part in self.parts[:-1]) + self._down_bytes
        self.shape = LayerShape(layer.count, d_in, d_out, layer.activation, layer.parameter, 0)
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
        file, offset and expert if one cannot be read, `NotFiniteError` if its weights are not."""
        for expert, buffer in zip(experts.tolist(), out, strict=True):
            stored = []
            for part, offset, place in self.places(expert, buffer):
                failed = functools.partial(self.failed, expert, part, offset)
                read_exactly(self._files[part.file], offset, place, failed)
                stored.append(place)
            self.finish(stored[-1], buffer)
            yield 1

    def places(self, expert: int, buffer: memoryview) -> Iterator[tuple[_Part, int, memoryview]]:
        """Where in the file an expert's parts are, and where they are to be read to: into its
        buffer, but for a part that is transposed."""
        at = 0
        for part in self.parts:
            place = buffer[at : at + part.nbytes]
            if self.by_neuron and part is self.parts[-1]:
                place = memoryview(bytearray(part.nbytes))
            yield part, part.offset + expert * part.nbytes, place
            at += part.nbytes

    def finish(self, down: memoryview, buffer: memoryview) -> None:
        """Completes an expert's buffer when all its parts have been read, the last to ``down``."""
        if self.by_neuron:
            stored = np.frombuffer(down, np.uint8).reshape(self.shape.d_out, -1)
            name = self.parts[-1].name
            rows = transposed(self.core, self.header, name, stored, self.down_format)
            np.frombuffer(buffer, np.uint8)[-self._down_bytes :] = rows.reshape(-1)

    def failed(self, expert: int, part: _Part, offset: int, reason: str) -> ModelFileError:
        return ModelFileError(
            f"{self.name}: expert {expert} of {part.name!r} ({part.nbytes} bytes at byte {offset}) "
            f"cannot be read: {reason}"
        )

    def close(self) -> None:
        """Closes the files, unless they belong to the caller."""
        self._finalizer()


class ExpertReads:
    """Reads of a model's experts into their caches that go on, in several threads, while the core
    computes. The core's functions are called by the thread that evaluates alone, and layers are
    read one after another. ``paths``: the model's files, all of them. `ModelFileError` if one
    cannot be opened."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._files: list[UncachedFile] = []
        for path in paths:
            try:
                self._files.append(UncachedFile(path))
            except OSError as error:
                raise ModelFileError(f"{path}: {error.strerror or error}") from error
        self._going: dict[int, Future[tuple[memoryview, memoryview]]] = {}
        self._idle = threading.Condition()
        self._reading = self._round = 0  # reads that have begun; reads of other rounds do not begin

    @classmethod
    def of(cls, file: GgufFile, core: Core) -> ExpertReads | None:
        """Those of a model, or None: for files that are streams, in WebAssembly's memory, and on
        systems without reads at a place."""
        if len(file.paths) < len(file.files) or not core.shares_buffers:
            return None
        return cls(file.paths) if UncachedFile.supported else None

    def go_on(self, file: ExpertFile, cache: CoreCache, missing: npt.NDArray[np.int32]) -> None:
        """Starts to read the experts of a layer that are not being read; when all were, waits until
        one of them is there. Those that are there become resident. Errors as `ExpertFile.read`."""
        ids = missing.tolist()
        new = sorted(expert for expert in ids if expert not in self._going)
        addresses = cache.places(np.array(new, np.int32))
        for expert, address in zip(new, addresses, strict=True):
            read = functools.partial(self._read, file, cache, expert, address)
            self._going[expert] = _pool().submit(self._unless_settled, self._round, read)
        if not new:
            wait([self._going[expert] for expert in ids], return_when=FIRST_COMPLETED)
        for expert in [each for each, read in self._going.items() if read.done()]:
            file.finish(*self._going.pop(expert).result())
            cache.arrived(np.array([expert], np.int32))

    def _unless_settled(
        self, begun_in: int, read: Callable[[], tuple[memoryview, memoryview]]
    ) -> tuple[memoryview, memoryview]:
        with self._idle:
            if begun_in != self._round:
                raise CancelledError
            self._reading += 1
        try:
            return read()
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()

    def _read(
        self, file: ExpertFile, cache: CoreCache, expert: int, address: int
    ) -> tuple[memoryview, memoryview]:
        """What `ExpertFile.finish` needs."""
        with cache.core.writing([address], file.bundle_bytes) as (buffer,):
            place = buffer
            for part, offset, place in file.places(expert, buffer):
                try:
                    done = self._files[part.file].read(offset, place)
                except OSError as error:
                    raise file.failed(expert, part, offset, str(error)) from error
                if done < part.nbytes:
                    raise file.failed(expert, part, offset, CUT_OFF)
        return place, buffer

    def settle(self) -> None:
        """Ends the reads that an evaluation which ended early has left behind. Those that have
        begun are waited for, since they write to memory that others may be given; a
        `KeyboardInterrupt` comes afterwards."""
        interrupt = None
        while True:
            try:
                with self._idle:
                    self._round += 1
                    self._idle.wait_for(lambda: self._reading == 0)
                self._going.clear()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def close(self) -> None:
        """Closes the files. Closing twice is allowed."""
        self.settle()
        for file in self._files:
            file.close()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "sparsefire-reads")


def _part(header: GgufFile, name: str, count: int) -> _Part:
    info = header.tensor(name)
    format = weight_format(info.format)
    return _Part(name, info.part, format, info.offset, info.nbytes // count)


class CachedExperts(CoreObject):
    """A layer of experts of which those in a `NeuronCache` are resident. Results equal those of all
    experts in memory, bit for bit."""

    def __init__(
        self, file: ExpertFile, cache: NeuronCache, reads: ExpertReads | None = None
    ) -> None:
        layer, shape, core = file.layer, file.shape, file.core
        self.cache = cache
        self.lock = threading.RLock()
        self._reads = reads
        self._core_cache = core_cache = cache.attach(core, file, self)
        # One part for gate and up holds an expert's rows of both in this order.
        gate, up = file.parts[0], file.parts[-2]
        try:
            handle = core.open(
                "sf_experts_open_cached",
                core.context,
                core_cache.handle,
                gate.format.code if layer.gate else -1,
                up.format.code,
                file.down_format.code,
                shape.d_in,
                shape.d_out,
                layer.width,
                DOWN_LAYOUTS["neuron" if file.by_neuron else "output"],
                layer.activation.code,
                layer.parameter,
                what=f"{layer.count} experts of {file.name}",
            )
            super().__init__(core, handle, "sf_experts_close")
            self._set_biases(file)
            set_scales(self, file.header, layer)
            set_up_parameter(self, layer)
            self._predictors = read_expert_predictors(core, file.header, layer)
            attach_predictors(self, self._predictors)
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

    def read(self, missing: npt.NDArray[np.int32]) -> None:
        """Reads experts that the core is waiting for or, with `ExpertReads`, some of them: the
        others are read while the core computes these."""
        if self._reads is None:
            self.cache.load(missing)
        else:
            self._reads.go_on(self._file, self._core_cache, missing)

    def close(self) -> None:
        """Frees the memory and closes the file. Closing twice is allowed."""
        if self._reads is not None:
            self._reads.settle()
        super().close()
        self.cache.detach(self)
        self._file.close()
