"""Models whose feed-forward neurons are read from their file on demand, through neuron caches."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from .._files import write_json
from .._options import checked, path
from ..arch.config import ModelConfig
from ..arch.plan import ExpertLayer, Plan
from ..core.core import Core
from ..errors import ArgumentError, ModelFileError, ShapeError
from ..ffn.bundles import BundleFile, Source
from ..ffn.cache import CacheStats, NeuronCache, read_profile_file
from ..ffn.cached import CachedFfn
from ..ffn.cached_experts import CachedExperts, ExpertFile, ExpertReads
from ..gguf.reader import GgufFile

_PROFILES = "sparsefire neuron profiles"
_SHARES = "sparsefire.calibration.selected_share"


class ModelNeurons:
    """The feed-forward layers of a model that was loaded with a ``neuron_budget``: `layers`, each
    with its own `NeuronCache` (`CachedFfn.cache`), and their statistics and profiles together.

    The budget is divided among the layers in proportion to the neurons that calibration found to
    be selected, so that each layer holds the neurons of the same number of tokens.
    """

    def __init__(
        self,
        core: Core,
        file: GgufFile,
        config: ModelConfig,
        plan: Plan,
        budget: int | NeuronCache,
    ) -> None:
        like = budget if isinstance(budget, NeuronCache) else NeuronCache(budget_bytes=budget)
        self._paths = file.paths
        files: list[BundleFile | ExpertFile] = []
        self.layers: list[CachedFfn | CachedExperts] = []
        self.places = _cached_places(plan)
        self.lock = threading.RLock()  # of all caches, since evaluating a token uses them together
        self._reads: ExpertReads | None = None
        try:
            for place in self.places:
                layer = plan.layers[place]
                if isinstance(layer, ExpertLayer):
                    files.append(ExpertFile(layer, file, core))
                else:
                    files.append(_bundles(file, config, layer.block))
            if any(isinstance(each, ExpertFile) for each in files):
                self._reads = ExpertReads.of(file, core)
            caches = _caches(like, file, files)
            for each, cache in zip(files, caches, strict=True):
                cache.lock = self.lock
                if isinstance(each, ExpertFile):
                    self.layers.append(CachedExperts(each, cache, self._reads))
                else:
                    self.layers.append(CachedFfn(each, cache, core=core))
        except BaseException:
            self.close()
            for each in files:
                each.close()
            raise

    @property
    def caches(self) -> list[NeuronCache]:
        """The cache of each layer."""
        return [layer.cache for layer in self.layers]

    @property
    def stats(self) -> CacheStats:
        """Hits, reads and evictions of all caches since the model was loaded."""
        total = CacheStats(0, 0, 0, 0, 0)
        for cache in self.caches:
            total += cache.stats
        return total

    @property
    def unit(self) -> str:
        """What is read in one go: "neuron" or "expert"."""
        return "expert" if isinstance(self.layers[0], CachedExperts) else "neuron"

    @property
    def budget_bytes(self) -> int:
        """Capacity of the caches in bytes of weights."""
        return sum(each.cache.slots * each.bundle_bytes for each in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' weights in the file."""
        return sum(layer.nbytes for layer in self.layers)

    def reclassify(self) -> int:
        """Calls `NeuronCache.reclassify` for every layer; the number of neurons new in hot sets."""
        return sum(cache.reclassify() for cache in self.caches)

    @checked(path=path)
    def save_profile(self, path: str | os.PathLike[str]) -> None:
        """Writes how often each neuron was used, as JSON, atomically. The model's own file is never
        replaced: `ArgumentError`."""
        layers = [cache.profile() for cache in self.caches]
        write_json(Path(path), {"kind": _PROFILES, "version": 1, "layers": layers}, self._paths)

    @checked(path=path)
    def load_profile(self, path: str | os.PathLike[str]) -> None:
        """Replaces the use counts by those that `save_profile` wrote, and makes the most used
        neurons of each layer its hot set. The budget may differ.

        Errors: `ModelFileError` (missing, damaged), `ShapeError` (model of other sizes).
        """
        found = read_profile_file(Path(path))
        if not isinstance(found, dict) or found.get("kind") != _PROFILES:
            raise ModelFileError(f"{path}: no neuron profiles of a model")
        layers = found.get("layers")
        if not isinstance(layers, list) or len(layers) != len(self.layers):
            raise ShapeError(f"{path}: not the profiles of a model of {len(self.layers)} layers")
        for index, (cache, each) in enumerate(zip(self.caches, layers, strict=True)):
            cache.set_profile(each, f"{path}, layer {index}")

    def read(self, layer: int, missing: npt.NDArray[np.int32]) -> None:
        """Reads neurons, or some of the experts, of a layer of the plan that the core is waiting
        for, for `Session`."""
        found = self.at(layer)
        if isinstance(found, CachedExperts):
            found.read(missing)
        else:
            found.cache.load(missing)

    def settle(self) -> None:
        """Waits for reads that an evaluation which ended early has left behind."""
        if self._reads is not None:
            self._reads.settle()

    def at(self, layer: int) -> CachedFfn | CachedExperts:
        """The cached layer that is this one of the plan's."""
        return self.layers[self.places.index(layer)]

    def close(self) -> None:
        """Frees the memory and closes the files. Closing twice is allowed."""
        for layer in self.layers:
            layer.close()
        if self._reads is not None:
            self._reads.close()

    def __repr__(self) -> str:
        return (
            f"<ModelNeurons: {len(self.layers)} layers, {self.budget_bytes:,} of {self.nbytes:,} "
            f"bytes, {self.layers[0].cache.policy}, hit rate {self.stats.hit_rate:.1%}>"
        )


def _bundles(file: GgufFile, config: ModelConfig, block: int) -> BundleFile:
    """The neurons of a block, in whichever of the model's files they are."""
    info = file.tensors.get(f"blk.{block}.ffn_bundle.weight")
    source = file.files[info.part if info else 0]
    return BundleFile(cast(Source, source), block, header=file, config=config)


def _cached_places(plan: Plan) -> list[int]:
    """Which layers of a plan are cached: those of experts, or without any all."""
    places = range(len(plan.layers))
    experts = [place for place in places if isinstance(plan.layers[place], ExpertLayer)]
    return experts or list(places)


def _caches(
    like: NeuronCache, file: GgufFile, files: list[BundleFile | ExpertFile]
) -> list[NeuronCache]:
    """A cache for each layer with the settings of ``like``, among which its bytes are divided."""
    caches = [copy.copy(like) for _ in files]
    if like.budget_bytes is not None:
        each = [bundles.bundle_bytes for bundles in files]
        hidden = [bundles.shape.hidden for bundles in files]
        noun = "expert" if isinstance(files[0], ExpertFile) else "neuron"
        if like.budget_bytes < sum(each):
            raise ArgumentError(
                f"neuron_budget: {like.budget_bytes:,} bytes are too few for {file.name}: one "
                f"{noun} of each of its {len(files)} layers takes {sum(each):,} bytes, and all "
                f"take {sum(a * b for a, b in zip(each, hidden, strict=True)):,}"
            )
        found = file.metadata.get(_SHARES)
        known = isinstance(found, np.ndarray) and found.shape == (len(files),)
        shares = np.asarray(found, np.float64) if known else np.ones(len(files))
        slots = divide(like.budget_bytes, each, hidden, shares)
        for cache, count, size in zip(caches, slots, each, strict=True):
            cache.budget_bytes = count * size
    return caches


def divide(
    budget: int,
    nbytes: Sequence[int],
    hidden: Sequence[int],
    shares: npt.NDArray[np.float64],
) -> list[int]:
    """The number of neurons of each layer that share ``budget`` bytes: at least one, in proportion
    to ``shares`` of the layers' neurons. What a layer does not need goes to the others.

    nbytes: bytes of a neuron in each layer. hidden: neurons of each layer."""
    sizes, most = np.array(nbytes, np.float64), np.array(hidden, np.float64)
    weights = np.maximum(np.nan_to_num(shares, nan=0.0), 1e-3) * most

    def slots(level: float) -> npt.NDArray[np.float64]:
        return np.clip(np.floor(level * weights), 1, most)

    low, high = 0.0, float((most / weights).max()) + 1
    for _ in range(60):
        middle = (low + high) / 2
        if float((slots(middle) * sizes).sum()) <= budget:
            low = middle
        else:
            high = middle
    return [int(each) for each in slots(low)]
