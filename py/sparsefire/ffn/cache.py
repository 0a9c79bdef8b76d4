"""A cache of neurons: hot ones stay in the core, cold ones are read on demand."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._files import write_json
from .._options import checked, one_of, path, positive, share
from ..core.core import Core
from ..core.enums import CachePolicy
from ..core.handle import CoreObject
from ..errors import ArgumentError, ModelFileError, ShapeError
from .bundles import LayerShape

POLICIES = {
    "lru": CachePolicy.CACHE_LRU,
    "lfu": CachePolicy.CACHE_LFU,
    "window": CachePolicy.CACHE_WINDOW,
}

_DEFAULT_WINDOW = 128
_READ_AT_ONCE = 8 << 20  # bytes per read; WebAssembly hosts hold them twice
_PROFILE = "sparsefire neuron profile"


@dataclass(frozen=True)
class CacheStats:
    """Statistics of a `NeuronCache` since it was attached."""

    hits: int  # requested neurons that were resident
    misses: int  # requested neurons that had to be read
    bytes_read: int  # from the file, for misses and for the hot set
    resident_bytes: int  # weights in the core now
    reclassifications: int  # how often the hot set was replaced

    @property
    def hit_rate(self) -> float:
        """Hits over requested neurons; 0 if there were none."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def __add__(self, other: CacheStats) -> CacheStats:
        """The sums of the statistics of two caches."""
        return CacheStats(
            self.hits + other.hits,
            self.misses + other.misses,
            self.bytes_read + other.bytes_read,
            self.resident_bytes + other.resident_bytes,
            self.reclassifications + other.reclassifications,
        )


class NeuronFile(Protocol):
    """What a cache is filled from: neurons, or experts, of one layer."""

    name: str
    shape: LayerShape
    bundle_bytes: int
    paths: tuple[Path, ...]

    def close(self) -> None:
        """Closes the file, unless it belongs to the caller."""

    def read(self, neurons: _arrays.IntArray, out: list[memoryview], /) -> Iterator[int]:
        """Fills ``out`` with the bundles of ``neurons``, ascending; yields how many each time."""
        ...


class CoreCache(CoreObject):
    """A neuron cache in the core, and the file that it is filled from."""

    def __init__(self, core: Core, file: NeuronFile, slots: int, policy: str, window: int) -> None:
        handle = core.open(
            "sf_cache_open",
            file.shape.hidden,
            file.bundle_bytes,
            slots,
            POLICIES[policy],
            window,
            what=f"neuron cache of {slots} × {file.bundle_bytes} bytes",
        )
        super().__init__(core, handle, "sf_cache_close")
        self.file = file
        self.slots = slots
        self.bytes_read = 0
        self._counts = np.zeros(2, np.int32)
        self._wanted = np.zeros(file.shape.hidden, np.int32)

    @property
    def resident(self) -> int:
        """Number of neurons in the core."""
        return self.core.check("sf_cache_resident", self.handle, what="neuron cache")

    def counts(self) -> tuple[int, int, _arrays.IntArray]:
        """Hits and misses since the last call, and the number of tokens of a model that requested
        each neuron, int32 (hidden,); the next call overwrites the array."""
        hits, misses = (self.core.out(self._counts[each : each + 1]) for each in (0, 1))
        wanted = self.core.out(self._wanted)
        self.core.check("sf_cache_counts", self.handle, hits, misses, wanted, what="neuron cache")
        return int(self._counts[0]), int(self._counts[1]), self._wanted

    def pin(self, ids: _arrays.IntArray) -> None:
        """Pins exactly these neurons, ascending ids."""
        self.core.check(
            "sf_cache_pin", self.handle, self.core.inp(ids), len(ids), what="pinning neurons"
        )

    def request(self, ids: _arrays.IntArray) -> tuple[int, _arrays.IntArray]:
        """How many of ``ids``, from the first on, fit into the cache together, and which of them
        must be read."""
        missing, count = np.empty(len(ids), np.int32), np.zeros(1, np.int32)
        granted = self.core.check(
            "sf_cache_request",
            self.handle,
            self.core.inp(ids),
            len(ids),
            self.core.out(missing),
            self.core.out(count),
            what=f"asking for {len(ids)} neurons",
        )
        return granted, missing[: int(count[0])]

    def load(self, missing: _arrays.IntArray) -> None:
        """Reads the neurons that `request` found missing. After an error, those read before it are
        resident and the others are not."""
        core, nbytes = self.core, self.file.bundle_bytes
        step = max(1, _READ_AT_ONCE // nbytes)
        for begin in range(0, len(missing), step):
            ids, done = missing[begin : begin + step], 0
            try:
                with core.writing(self.places(ids), nbytes) as buffers:
                    for count in self.file.read(ids, buffers):
                        done += count
            finally:
                if done:
                    self.arrived(ids[:done])

    def places(self, ids: _arrays.IntArray) -> list[int]:
        """The addresses of the bundles of neurons that `request` found missing."""
        found = np.empty(len(ids), self.core.pointer_dtype)
        given = self.core.inp(ids), len(ids), self.core.out(found)
        self.core.check("sf_cache_bundles", self.handle, *given, what="neuron cache")
        addresses: list[int] = found.tolist()
        return addresses

    def arrived(self, ids: _arrays.IntArray) -> None:
        """Notes that the bundles of neurons have been written to their places."""
        self.bytes_read += len(ids) * self.file.bundle_bytes
        given = self.core.inp(ids), len(ids)
        self.core.check("sf_cache_loaded", self.handle, *given, what="neuron cache")

    def close(self) -> None:
        super().close()
        self.file.close()


class NeuronCache:
    """Memory of a fixed size for the neurons of one layer whose weights are in a file; see
    `CachedFfn`.

    The size is ``budget_bytes``, rounded down to whole neurons, or ``hot_fraction`` of the layer's
    neurons (0 … 1, at least one neuron). The core never holds more weights than that. In addition
    it keeps index arrays of about 29 bytes per neuron of the layer and 13 per neuron in the cache.

    ``pinned`` is the share of the cache for the hot set: the most frequently used neurons, which
    are never evicted. They are known from the order of a calibrated model's neurons, from a profile
    (`load_profile`), or from observation (`reclassify`). The rest of the cache is managed by
    ``policy``, which evicts the least recently used neuron ("lru"), the least frequently used
    ("lfu"), or the least frequently used with exponential decay ("window": a use weighs
    (1 - 1/window)^age after ``age`` requests; ``window`` is 128 by default).

    A cache serves one layer at a time; several threads may use it. Pickling and copying keep its
    settings and its profile, which applies to the next layer with the same number of neurons.
    """

    @checked(
        budget_bytes=positive,
        hot_fraction=share,
        policy=one_of(*POLICIES),
        window=positive,
        pinned=share,
    )
    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        hot_fraction: float | None = None,
        policy: str = "lru",
        window: int | None = None,
        pinned: float = 0.5,
    ) -> None:
        if (budget_bytes is None) == (hot_fraction is None):
            raise ArgumentError("give either budget_bytes or hot_fraction, not both")
        if window is not None and policy != "window":
            raise ArgumentError(f"window: a number of requests for policy 'window', got {window}")
        self.budget_bytes = budget_bytes
        self.hot_fraction = hot_fraction
        self.policy = policy
        self.window = _DEFAULT_WINDOW if window is None else window
        if self.window > 1 << 24:
            raise ArgumentError(f"window must be at most {1 << 24} requests, got {window}")
        self.pinned = pinned
        self._start()

    def _start(self) -> None:
        self.lock = threading.RLock()
        self._core_cache: CoreCache | None = None
        self._owner: weakref.ref[object] | None = None
        self._profile: npt.NDArray[np.int64] | None = None  # for the next layer of its size
        self._reset(0)

    def _reset(self, hidden: int) -> None:
        self._uses = np.zeros(hidden, np.int64)
        self._hot = np.empty(0, np.int32)
        self._hits = self._misses = self._reclassifications = 0

    # -- the layer ---------------------------------------------------------------------------------

    def attach(self, core: Core, file: NeuronFile, owner: object) -> CoreCache:
        """Allocates memory for the neurons of ``file`` and reads those known to be hot. The memory
        is kept until `detach`, or until the layer ``owner`` is collected. For `CachedFfn`."""
        with self.lock:
            if self._owner is not None and self._owner() is not None:
                raise ArgumentError(
                    "the cache already serves another layer: give each layer its own cache, "
                    "or close the other one"
                )
            cache = CoreCache(core, file, self._slots_for(file), self.policy, self.window)
            self._reset(file.shape.hidden)
            if self._profile is not None and len(self._profile) == len(self._uses):
                self._uses = self._profile.copy()
            self._profile = None
            self._core_cache, self._owner = cache, weakref.ref(owner)
            try:
                self._pin_most_used()
            except BaseException:
                self.detach(owner)
                raise
            return cache

    def detach(self, owner: object) -> None:
        """Frees the memory if the cache serves ``owner``."""
        with self.lock:
            if self._core_cache is not None and self._owner and self._owner() is owner:
                self._collect()
                self._core_cache.close()
                self._core_cache = self._owner = None

    def _slots_for(self, file: NeuronFile) -> int:
        hidden, each = file.shape.hidden, file.bundle_bytes
        if self.budget_bytes is None:
            assert self.hot_fraction is not None
            return max(1, int(self.hot_fraction * hidden + 1e-9))
        if self.budget_bytes < each:
            raise ArgumentError(
                f"budget_bytes: {self.budget_bytes:,} bytes are less than a neuron of {file.name}; "
                f"one takes {each:,} bytes, and all {hidden} take {hidden * each:,}"
            )
        return min(hidden, self.budget_bytes // each)

    def _attached(self) -> CoreCache:
        if self._core_cache is None:
            raise ArgumentError("the cache serves no layer yet: CachedFfn.open(path, cache)")
        return self._core_cache

    # -- contents and statistics -------------------------------------------------------------------

    def _collect(self) -> None:
        """Adds the core's counts."""
        if self._core_cache is not None:
            hits, misses, wanted = self._core_cache.counts()
            self._hits += hits
            self._misses += misses
            self._uses += wanted

    @property
    def slots(self) -> int:
        """Capacity in neurons; 0 before the cache serves a layer."""
        return 0 if self._core_cache is None else self._core_cache.slots

    @property
    def hot(self) -> _arrays.IntArray:
        """The pinned neurons, ascending int32 ids."""
        return self._hot.copy()

    @property
    def uses(self) -> npt.NDArray[np.int64]:
        """How often each neuron was used or recorded, int64 (hidden,)."""
        with self.lock:
            self._collect()
            return self._uses.copy()

    @property
    def stats(self) -> CacheStats:
        """Hits, misses, bytes and reclassifications so far."""
        with self.lock:
            self._collect()
            cache = self._core_cache
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                bytes_read=0 if cache is None else cache.bytes_read,
                resident_bytes=0 if cache is None else cache.resident * cache.file.bundle_bytes,
                reclassifications=self._reclassifications,
            )

    def resident(self, ids: _arrays.IntArray) -> Iterator[_arrays.IntArray]:
        """Splits ``ids``, ascending, into parts that fit into the cache, each of which is resident
        while it is yielded. The caller holds `lock`."""
        cache = self._attached()
        while len(ids):
            granted, missing = cache.request(ids)
            cache.load(missing)
            yield ids[:granted]
            ids = ids[granted:]

    def load(self, missing: _arrays.IntArray) -> None:
        """Reads neurons that the core requested."""
        with self.lock:
            self._attached().load(missing)

    def count(self, lists: Sequence[_arrays.IntArray]) -> None:
        """`record` for checked lists. The caller holds `lock`."""
        for ids in lists:
            self._uses[ids] += 1

    # -- the hot set -------------------------------------------------------------------------------

    def record(self, ids: npt.ArrayLike | Sequence[npt.ArrayLike]) -> None:
        """Counts a use of each neuron of ``ids`` (any order, or a mask), or of each list in a list
        of them. `CachedFfn.forward` does this itself. Only `reclassify` uses these counts; the
        policy uses requests."""
        nested = isinstance(ids, (list, tuple)) and any(np.ndim(each) for each in ids)
        lists: list[Any] = list(ids) if nested else [ids]  # type: ignore[arg-type]
        with self.lock:
            self._attached()
            self.count([_arrays.active_ids(each, len(self._uses), "ids") for each in lists])

    def reclassify(self) -> int:
        """Makes the most frequently used neurons the hot set, reads those that are not resident,
        and returns how many are new in it. A failed read raises `ModelFileError`; the neurons are
        then read later, on demand."""
        with self.lock:
            before = self._hot
            self._attached()
            self._reclassifications += 1
            self._pin_most_used()
            return len(np.setdiff1d(self._hot, before))

    def _pin_most_used(self) -> None:
        """Pins the most frequently used neurons, with ties to the lower id; a neuron that was never
        used only if the file marks it as hot."""
        cache = self._attached()
        self._collect()
        hidden = len(self._uses)
        most = int(self.pinned * cache.slots)
        if cache.slots < hidden:
            most = min(most, cache.slots - 1)  # one slot for all the others
        known = (self._uses > 0) | (np.arange(hidden) < cache.file.shape.hot)
        order = np.argsort(-self._uses, kind="stable")
        hot = np.sort(order[known[order]][:most]).astype(np.int32)
        cache.pin(hot)
        self._hot = hot
        if len(hot):
            _, missing = cache.request(hot)
            cache.counts()  # loading them is not a use
            cache.load(missing)

    @checked(path=path)
    def save_profile(self, path: str | os.PathLike[str]) -> None:
        """Writes the number of uses of each neuron as JSON, atomically. The layer's own file is
        never replaced: `ArgumentError`."""
        paths = self._attached().file.paths
        write_json(Path(path), self.profile(), paths)

    def profile(self) -> dict[str, Any]:
        """The profile that `save_profile` writes."""
        uses = self.uses.tolist()
        return {"kind": _PROFILE, "version": 1, "neurons": len(uses), "uses": uses}

    @checked(path=path)
    def load_profile(self, path: str | os.PathLike[str]) -> None:
        """Replaces the counted uses by those of a file written by `save_profile`, and makes the
        most frequently used neurons the hot set. The profile may come from a cache of another size
        or policy.

        Errors: `ModelFileError` (missing, damaged), `ShapeError` (layer of another size).
        """
        self.set_profile(read_profile_file(Path(path)), str(path))

    def set_profile(self, found: object, name: str) -> None:
        """Like `load_profile`, for a result of `profile`, called ``name`` in messages."""
        uses = _uses_of(found, name)
        with self.lock:
            self._attached()
            if len(uses) != len(self._uses):
                raise ShapeError(
                    f"{name}: a profile of {len(uses)} neurons; the layer has {len(self._uses)}"
                )
            self._collect()
            self._uses = uses
            self._reclassifications += 1
            self._pin_most_used()

    def __getstate__(self) -> dict[str, Any]:
        names = ("budget_bytes", "hot_fraction", "policy", "window", "pinned")
        return {name: getattr(self, name) for name in names} | {"profile": self.uses}

    def __setstate__(self, state: dict[str, Any]) -> None:
        profile = state.pop("profile")
        self.__dict__.update(state)
        self._start()
        self._profile = profile

    def __repr__(self) -> str:
        if self.budget_bytes is not None:
            size = f"{self.budget_bytes:,} bytes"
        else:
            size = f"hot_fraction {self.hot_fraction:g}"
        window = f" {self.window}" if self.policy == "window" else ""
        held = f", {self.slots} of {len(self._uses)} neurons" if self.slots else ""
        return f"NeuronCache({size}, {self.policy}{window}{held})"


def read_profile_file(path: Path) -> object:
    """The contents of a JSON file of profiles."""
    try:
        found: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelFileError(f"{path}: not a neuron profile: {error}") from None
    return found


def _uses_of(found: object, name: str) -> npt.NDArray[np.int64]:
    """The uses in a profile, int64 (neurons,)."""
    if not isinstance(found, dict) or found.get("kind") != _PROFILE or found.get("version") != 1:
        raise ModelFileError(f"{name}: not a neuron profile of version 1")
    uses = found.get("uses")
    if not isinstance(uses, list) or len(uses) != found.get("neurons"):
        raise ModelFileError(f"{name}: the profile is damaged: expected one count per neuron")
    if not all(type(use) is int and 0 <= use < 1 << 62 for use in uses):
        raise ModelFileError(f"{name}: the profile is damaged: uses must be counts")
    return np.array(uses, np.int64)
