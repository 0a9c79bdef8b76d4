"""Feed-forward layers larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._options import checked, count, instance
from ..core.core import Core
from ..core.handle import locked
from ..core.hosts import get_core
from ..errors import ModelFileError
from ..weights.activation import ActivationType
from .base import FfnLayer
from .bundles import BundleFile, Source
from .cache import CoreCache, NeuronCache
from .core_layer import CoreLayer
from .files import read_predictor
from .forward import ActiveRequest, NeuronCounts, chosen_mode
from .predictor import InCorePredictor, Predictor


class CoreCachedFfn(CoreLayer):
    """A feed-forward layer in the core whose weights are in a neuron cache."""

    def __init__(self, core: Core, cache: CoreCache, file: BundleFile) -> None:
        shape = file.shape
        handle = core.open(
            "sf_ffn_open_cached",
            core.context,
            cache.handle,
            file.format.code,
            shape.d_in,
            shape.d_out,
            int(file.gated),
            shape.activation.code,
            shape.parameter,
            what=f"feed-forward layer of {file.name}",
        )
        super().__init__(core, handle)
        self._cache = cache  # borrowed by the core
        biases = [file.biases.get(name) for name in ("gate_bias", "up_bias", "down_bias")]
        sizes = (shape.hidden, shape.hidden, shape.d_out)
        for size, bias in zip(sizes, biases, strict=True):
            if bias is not None and bias.shape != (size,):
                raise ModelFileError(f"{file.name}: a bias of {bias.shape}, expected ({size},)")
        inputs = [None if bias is None else core.inp(bias) for bias in biases]
        core.check("sf_ffn_set_bias", handle, *inputs, what=f"biases of {file.name}")
        if shape.both_active:
            core.check("sf_ffn_set_both_active", handle, 1, what="both active")

    def start(self, x: int, y: int) -> None:
        """Sets y (d_out) to the bias. ``x``, ``y``: addresses in the core."""
        self._run("sf_ffn_forward_active", np.empty(0, np.int32), x, y)

    def add(self, ids: _arrays.IntArray, x: int, y: int) -> int:
        """Adds the output of resident neurons for x (d_in) to y (d_out); returns how many were
        active."""
        return self._run("sf_ffn_add_active", ids, x, y)

    def _run(self, function: str, ids: _arrays.IntArray, x: int, y: int) -> int:
        given = self.core.inp(ids)
        what = f"forward with {len(ids)} neurons"
        return self.core.check(function, self.handle, given, len(ids), x, y, what=what)


class CachedFfn(FfnLayer):
    """A feed-forward layer whose weights stay in a file, except for those in a `NeuronCache`.
    Results equal those of `SparseFfn` with the same neurons, bit for bit.

    Create one with `open`. A failed read raises a `ModelFileError` that names the file, the byte
    and the neuron; the layer and its cache stay usable. Several threads may use a layer: calls wait
    for each other, and `counts` is of the last one, whichever thread made it.

    Whole neurons are read from the file before their values are known, so a cutoff saves
    arithmetic, not reads.
    """

    _core_ffn: CoreCachedFfn

    @checked(
        file=instance(BundleFile),
        cache=instance(NeuronCache),
        predictor=instance(InCorePredictor),
        core=instance(Core),
    )
    def __init__(
        self,
        file: BundleFile,
        cache: NeuronCache,
        *,
        predictor: InCorePredictor | None = None,
        core: Core | None = None,
    ) -> None:
        core = core or get_core()
        self.cache = cache
        self.lock = cache.lock
        self._file = file
        core_cache = cache.attach(core, file, self)
        try:
            self._core_ffn = CoreCachedFfn(core, core_cache, file)
            if predictor is None:
                predictor = read_predictor(core, file.header, file.layer, file.shape.hot)
            self.set_predictor(predictor)
        except BaseException:
            cache.detach(self)
            raise
        for on, cutoff in file.shape.cutoffs:
            self.set_cutoff(cutoff, on)
        self.counts = NeuronCounts.of((), ())

    @classmethod
    @checked(
        cache=instance(NeuronCache),
        layer=count,
        activation=ActivationType.of,
        predictor=instance(InCorePredictor),
        core=instance(Core),
    )
    def open(
        cls,
        source: Source,
        cache: NeuronCache,
        *,
        layer: int = 0,
        activation: str | ActivationType | None = None,
        predictor: InCorePredictor | None = None,
        core: Core | None = None,
    ) -> CachedFfn:
        """Opens a file written by `SparseFfn.save_bundles`, or layer ``layer`` of a model written
        by `sparsefire calibrate`, whose predictor is attached unless another one is given.

        ``source``: a path, or a seekable binary file. ``activation`` overrides the file's own.

        Errors: `ModelFileError` (missing, damaged, not stored neuron by neuron), `ArgumentError`
        (no such layer, a budget below one neuron, a cache in use), `UnsupportedError`.
        """
        file = BundleFile(source, layer, activation)
        try:
            return cls(file, cache, predictor=predictor, core=core)
        except BaseException:
            file.close()
            raise

    @property
    def hidden(self) -> int:
        """Number of neurons."""
        return self._file.shape.hidden

    @property
    def d_in(self) -> int:
        """Elements of an input vector."""
        return self._file.shape.d_in

    @property
    def d_out(self) -> int:
        """Elements of an output vector."""
        return self._file.shape.d_out

    @property
    def activation(self) -> ActivationType:
        """The activation function."""
        return self._file.shape.activation

    @property
    def format(self) -> str:
        """Weight format."""
        return self._file.format.name

    @property
    def gated(self) -> bool:
        """True if the layer has a gate matrix."""
        return self._file.gated

    @property
    def bundle_bytes(self) -> int:
        """Bytes of a neuron."""
        return self._file.bundle_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in the file."""
        return self.hidden * self._file.bundle_bytes

    @locked
    def forward(
        self,
        x: npt.ArrayLike,
        predictor: Predictor | None = None,
        *,
        mode: str | None = None,
        out: npt.NDArray[np.floating] | None = None,
    ) -> npt.NDArray[np.floating]:
        """Like `SparseFfn.forward`. Modes "dense" and "exact" both request every neuron, because
        whole neurons are read. For a batch (n, input), each neuron is requested once."""
        chosen = self.predictor if predictor is None else predictor
        mode = chosen_mode(mode, chosen, lambda: "exact")
        values, single = _arrays.vectors(x, self.d_in)
        given = values[0] if single else values
        if mode == "sparse":
            assert chosen is not None
            return self.forward_sparse(given, chosen.predict(given), out=out)
        everything = np.arange(self.hidden, dtype=np.int32)
        lists = everything if single else [everything] * len(values)
        cutoffs = [each for each in self._core_ffn.cutoffs.items() if each[1] and mode == "dense"]
        try:
            for on, _ in cutoffs:
                self._core_ffn.set_cutoff(0.0, on)
            return self.forward_sparse(given, lists, out=out)
        finally:
            for on, cutoff in cutoffs:
                self._core_ffn.set_cutoff(cutoff, on)

    @locked
    def forward_sparse(
        self,
        x: npt.ArrayLike,
        active: npt.ArrayLike | Sequence[npt.ArrayLike],
        *,
        out: npt.NDArray[np.floating] | None = None,
    ) -> npt.NDArray[np.floating]:
        """Like `SparseFfn.forward_sparse`: the output of only the neurons ``active``."""
        request = ActiveRequest(x, active, self.d_in, self.hidden, self.d_out, out)
        used = np.zeros(len(request.x), np.int32)
        if len(request.x):
            self._compute(request.x, request.ids, request.result.buffer, used)
        return request.finish(self, used)

    def _compute(
        self,
        values: _arrays.FloatArray,
        lists: list[_arrays.IntArray],
        result: _arrays.FloatArray,
        used: _arrays.IntArray,
    ) -> None:
        """Fills result (n, d_out) from values (n, d_in) and n id lists, n ≥ 1, and adds the number
        of active neurons to used (n). Every neuron in any list is made resident once, in ascending
        order."""
        wanted = lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))
        ffn, y_step, x_step = self._core_ffn, 4 * self.d_out, 4 * self.d_in
        with self.cache.lock, self.core.memory(result.nbytes) as y:
            x = self.core.upload(values)
            for j in range(len(lists)):
                ffn.start(x.ptr + j * x_step, y.ptr + j * y_step)
            for part in self.cache.resident(wanted):
                for j, ids in enumerate(lists):
                    first, last = np.searchsorted(ids, (part[0], part[-1] + 1))
                    if first < last:
                        used[j] += ffn.add(ids[first:last], x.ptr + j * x_step, y.ptr + j * y_step)
            y.read(result)
            x.close()
            self.cache.count(lists)

    @locked
    def close(self) -> None:
        """Closes the file and gives the cache's memory back; the cache may then serve another
        layer. Closing twice is allowed."""
        self._core_ffn.close()
        self.cache.detach(self)

    def __reduce__(self) -> Any:
        raise TypeError(
            "CachedFfn: a layer in a file cannot be pickled; open the file again, CachedFfn.open"
        )

    def __enter__(self) -> CachedFfn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        gate = ", gated" if self.gated else ""
        return (
            f"CachedFfn({self.d_in}→{self.hidden}→{self.d_out}{gate}, {self.activation}, "
            f"{self.format}, {self.nbytes:,} bytes in {self._file.name}, {self.cache!r})"
        )
