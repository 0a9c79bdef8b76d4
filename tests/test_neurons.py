"""Layers whose neurons are read on demand: the same bits as in memory, within the budget, by the
policy, and again after a failed read."""

from __future__ import annotations

import gc
import io
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefire as sf
from pyodide_harness import PyodideRuntime
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix

Ids = npt.NDArray[np.int32]

HIDDEN, D, OUT = 90, 64, 96
BUNDLE = {"f32": 4 * (2 * D + OUT), "f16": 2 * (2 * D + OUT), "q8_0": (2 * D + OUT) // 32 * 34}
SIZES = ["one", "tenth", "most", "all", "more"]  # of the cache


def slots_of(size: str) -> int:
    return {"one": 1, "tenth": HIDDEN // 10, "most": HIDDEN - 7, "all": HIDDEN, "more": 200}[size]


def layer(format: str = "f32", activation: str = "relu", gated: bool = True) -> sf.SparseFfn:
    random = np.random.default_rng(5)
    gate, up = random.standard_normal((2, HIDDEN, D))
    return sf.SparseFfn(
        up,
        random.standard_normal((OUT, HIDDEN)),
        activation,
        gate=gate if gated else None,
        gate_bias=random.standard_normal(HIDDEN) if gated else None,
        b1=random.standard_normal(HIDDEN),
        b2=random.standard_normal(OUT),
        format=format,
        parameter=0.25 if activation == "fatrelu" else 0.0,
    )


def saved(ffn: sf.SparseFfn, folder: Path) -> Path:
    path = folder / "layer.gguf"
    ffn.save_bundles(path)
    assert [each.name for each in folder.iterdir()] == ["layer.gguf"]
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(layer(), tmp_path)


def budget(slots: int, format: str = "f32", extra: int = 0) -> int:
    return slots * BUNDLE[format] + extra


def cache_of(slots: int, **options: Any) -> sf.NeuronCache:
    return sf.NeuronCache(budget_bytes=budget(slots), **options)


def power_law(random: np.random.Generator, hidden: int, active: float) -> Ids:
    """Active neurons of one token: neuron i is among them with a probability like i^-0.8, and
    `active` of all are on average."""
    share = (1.0 + np.arange(hidden)) ** -0.8
    chance = np.minimum(1, share * active * hidden / share.sum())
    return np.flatnonzero(random.random(hidden) < chance).astype(np.int32)


# -- the same bits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_bits_equal_those_in_memory(core: Core, tmp_path: Path, format: str, size: str) -> None:
    ffn = layer(format)
    cache = sf.NeuronCache(budget_bytes=budget(slots_of(size), format), policy="lfu")
    random = np.random.default_rng(1)
    with sf.CachedFfn.open(saved(ffn, tmp_path), cache) as cached:
        assert cached.nbytes == ffn.nbytes == HIDDEN * BUNDLE[format]
        x = random.standard_normal((4, D))
        for _ in range(3):
            active = [np.flatnonzero(random.random(HIDDEN) < 0.3) for _ in x]
            active[1] = active[1][:0]
            y = cached.forward_sparse(x, active)
            np.testing.assert_array_equal(y, ffn.forward_sparse(x, active))
            np.testing.assert_array_equal(cached.counts.selected, [len(ids) for ids in active])
            assert cache.stats.resident_bytes <= min(budget(slots_of(size), format), ffn.nbytes)
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
        np.testing.assert_array_equal(cached.forward(x[0]), ffn.forward(x[0], mode="exact"))
        np.testing.assert_array_equal(cached.forward_dense(x), cached.forward(x, mode="exact"))
        np.testing.assert_allclose(
            cached.forward_dense(x), ffn.forward_dense(x), rtol=1e-5, atol=1e-4
        )
        cache.reclassify()
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
        for on, cutoff in (("gate", 0.2), ("product", 0.4)):
            for each in (ffn, cached):
                each.set_cutoff(cutoff, on)
            np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
            np.testing.assert_array_equal(cached.counts.active, ffn.counts.active)
        assert (cached.cutoff, cached.product_cutoff) == (0.2, 0.4)
        assert (cached.counts.active < cached.counts.selected).all()
        np.testing.assert_allclose(
            cached.forward_dense(x), ffn.forward_dense(x), rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu2", "silu", "gelu_erf", "fatrelu"])
def test_every_kind_of_layer(host_core: Core, tmp_path: Path, activation: str, gated: bool) -> None:
    ffn = layer("f16", activation, gated)
    x = np.random.default_rng(2).standard_normal((3, D))
    active = [np.arange(0, HIDDEN, 3), np.arange(50), np.arange(HIDDEN)]
    cache = sf.NeuronCache(hot_fraction=0.25, policy="window", window=8)
    with sf.CachedFfn.open(saved(ffn, tmp_path), cache) as cached:
        assert (cached.activation, cached.gated, cached.format) == (activation, gated, "f16")
        y = cached.forward_sparse(x, active)
        np.testing.assert_array_equal(y, ffn.forward_sparse(x, active))


@pytest.mark.parametrize("kind", ["low-rank", "sign", "own"])
def test_a_predictor_chooses(core: Core, path: Path, kind: str) -> None:
    class Own:
        def predict(self, x: npt.ArrayLike) -> Any:
            few = [np.array([7, 2, 80])] * (1 if np.ndim(x) == 1 else len(np.asarray(x)))
            return few[0] if np.ndim(x) == 1 else few

    ffn = layer()
    rule = sf.SparsityConfig.with_top_k(20)
    predictor: Any = {
        "low-rank": lambda: sf.LowRankPredictor(D, HIDDEN, 8, rule),
        "sign": lambda: sf.SignPredictor(ffn, 0.9),
        "own": Own,
    }[kind]()
    x = np.random.default_rng(3).standard_normal((5, D))
    with sf.CachedFfn.open(path, cache_of(9)) as cached:
        np.testing.assert_array_equal(cached.forward(x, predictor), ffn.forward(x, predictor))
        np.testing.assert_array_equal(cached.forward(x[0], predictor), ffn.forward(x[0], predictor))
        if kind != "own":
            cached.set_predictor(predictor)
            np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, predictor))


@settings(max_examples=40)
@given(data=st.data())
def test_any_sequence_of_requests(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    ffn = layer()
    path = saved(ffn, tmp_path_factory.mktemp("layer"))
    slots = data.draw(st.integers(1, HIDDEN))
    cache = sf.NeuronCache(
        budget_bytes=budget(slots, extra=data.draw(st.integers(0, BUNDLE["f32"] - 1))),
        policy=data.draw(st.sampled_from(["lru", "lfu", "window"])),
        pinned=data.draw(st.floats(0, 1)),
    )
    random = np.random.default_rng(0)
    ids = st.lists(st.integers(0, HIDDEN - 1), max_size=HIDDEN)
    with sf.CachedFfn.open(path, cache) as cached:
        for wanted in data.draw(st.lists(ids, max_size=6)):
            x = random.standard_normal(D)
            active = np.array(wanted, np.int64)
            y = cached.forward_sparse(x, active)
            np.testing.assert_array_equal(y, ffn.forward_sparse(x, active))
            assert cache.stats.resident_bytes <= cache.budget_bytes
            if data.draw(st.booleans()):
                cache.reclassify()
                assert cache.stats.resident_bytes <= cache.budget_bytes
                assert len(cache.hot) <= cache.pinned * slots


def test_a_layer_of_a_calibrated_model(host_core: Core) -> None:
    """The embedded model: its bundles lie in the file at the tensor's offset, its predictor and
    the hottest neurons are known."""
    model = sf.Model.load()
    ffn = model.ffns[1]
    source = model.file.name
    hot = model.config.hot_counts[1]
    x = np.random.default_rng(4).standard_normal((3, model.config.d))
    cache = sf.NeuronCache(hot_fraction=0.4, pinned=0.25)
    with sf.CachedFfn.open(source, cache, layer=1) as cached:
        most = int(0.25 * cache.slots)
        np.testing.assert_array_equal(cache.hot, np.arange(min(hot, most)))
        assert cache.stats.bytes_read == cache.stats.resident_bytes
        assert cached.predictor is not None
        assert cached.predictor.hot == hot
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="sparse"))


def test_a_file_object(path: Path) -> None:
    stream = io.BytesIO(path.read_bytes())
    x = np.ones(D)
    with sf.CachedFfn.open(stream, cache_of(5)) as cached:
        np.testing.assert_array_equal(cached.forward(x), layer().forward(x, mode="exact"))
    assert not stream.closed


# -- what it keeps ---------------------------------------------------------------------------------


class Simulation:
    """The policies written plainly: a list of resident neurons, the least worthy dropped first,
    never one of the present request; of equals, the one in the lowest place."""

    def __init__(self, slots: int, policy: str, window: int, hot: set[int]) -> None:
        self.places: list[int | None] = [None] * slots
        self.policy, self.window, self.hot = policy, window, hot
        self.uses: dict[int, list[int]] = {}
        self.now = self.hits = self.misses = 0
        if hot:
            self.request(sorted(hot), counted=False)

    def worth(self, neuron: int) -> float:
        uses = self.uses[neuron]
        if self.policy == "lru":
            return uses[-1]
        if self.policy == "lfu":
            return len(uses)
        return sum((1 - 1 / self.window) ** (self.now - use) for use in uses[-3000:])

    def request(self, ids: list[int], counted: bool = True) -> None:
        while ids:
            self.now += 1
            room, part = len(self.places) - len(self.hot), []
            for neuron in ids:
                room -= neuron not in self.hot
                if room < 0:
                    break
                part.append(neuron)
            ids = ids[len(part) :]
            missing = [neuron for neuron in part if neuron not in self.places]
            self.hits += counted * (len(part) - len(missing))
            self.misses += counted * len(missing)
            for neuron in part:
                self.uses.setdefault(neuron, []).append(self.now)
            self.place(missing, self.hot | set(part))

    def place(self, missing: list[int], kept: set[int]) -> None:
        empty = self.places.count(None)
        movable = [p for p, n in enumerate(self.places) if n is not None and n not in kept]
        worth = {place: self.worth(self.places[place] or 0) for place in movable}
        order = deque(sorted(movable, key=lambda place: (worth[place], place)))
        for _ in range(len(missing) - empty):
            self.places[order.popleft()] = None
        for neuron in missing:
            self.places[self.places.index(None)] = neuron


@pytest.mark.parametrize(("policy", "window"), [("lru", None), ("lfu", None), ("window", 16)])
@pytest.mark.parametrize("pinned", [0.0, 0.5])
def test_hits_are_those_of_the_policy(
    host_core: Core, path: Path, policy: str, window: int | None, pinned: float
) -> None:
    """Power-law accesses with 40 % of the layer's bytes, against the simulation."""
    random = np.random.default_rng(6)
    order = random.permutation(HIDDEN)  # the most used are anywhere
    tokens = [np.sort(order[power_law(random, HIDDEN, 0.12)]) for _ in range(300)]
    slots = int(0.4 * HIDDEN)
    cache = cache_of(slots, policy=policy, window=window, pinned=pinned)
    x = np.ones(D)
    with sf.CachedFfn.open(path, cache) as cached:
        assert cache.slots == slots
        cache.record(tokens[:50])
        cache.reclassify()
        uses = np.bincount(np.concatenate(tokens[:50]), minlength=HIDDEN)
        hot = set(np.argsort(-uses, kind="stable")[: int(pinned * slots)].tolist())
        assert set(cache.hot.tolist()) == hot
        before = cache.stats
        assert before.hit_rate == 0
        for ids in tokens[50:]:
            cached.forward_sparse(x, ids)
        simulation = Simulation(slots, policy, window or 1, hot)
        for ids in tokens[50:]:
            simulation.request(ids.tolist())
        stats = cache.stats
        assert stats.hits + stats.misses == sum(len(ids) for ids in tokens[50:])
        # A window's weights are 32-bit floats in the core, so near-equals may go either way.
        tolerance = 2 if policy == "window" else 0
        assert abs(stats.hits - simulation.hits) <= tolerance
        assert stats.hit_rate == stats.hits / (stats.hits + stats.misses) > 0.6
        assert stats.bytes_read - before.bytes_read == stats.misses * BUNDLE["f32"]


def test_a_batch_asks_for_each_neuron_once(path: Path) -> None:
    cache = cache_of(1)
    with sf.CachedFfn.open(path, cache) as cached:
        x = np.random.default_rng(0).standard_normal((10, D))
        np.testing.assert_array_equal(cached.forward(x), layer().forward(x, mode="exact"))
        assert (cache.stats.hits, cache.stats.misses) == (0, HIDDEN)
        assert cache.uses.tolist() == [10] * HIDDEN


def test_what_is_observed_becomes_hot(path: Path) -> None:
    cache = cache_of(20, pinned=0.25)
    with sf.CachedFfn.open(path, cache) as cached:
        assert cache.hot.size == 0
        assert cache.stats == type(cache.stats)(0, 0, 0, 0, 0)
        for ids in ([3, 80, 5], [80, 5], [5, 11], [5, 12, 80], [7]):
            cached.forward_sparse(np.ones(D), ids)
        cache.record([[11, 12], [12]])
        assert cache.reclassify() == 5
        assert cache.hot.tolist() == [3, 5, 11, 12, 80]  # 3 before 7, used as often
        cache.record(np.array([7, 7]))
        cache.record(np.arange(HIDDEN) == 7)
        assert cache.reclassify() == 1
        assert cache.hot.tolist() == [5, 7, 11, 12, 80]
        assert cache.stats.reclassifications == 2
        before = cache.stats.misses
        cached.forward_sparse(np.ones(D), range(20, 90))  # sweeps over all the rest
        cached.forward_sparse(np.ones(D), [5, 7, 11, 12])
        assert cache.stats.misses == before + 69
        with pytest.raises(sf.ArgumentError, match="neuron id 90"):
            cache.record([1, 90])


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({"hot_fraction": 0.0}, 1),
        ({"hot_fraction": 0.29}, 26),
        ({"hot_fraction": 0.4}, 36),
        ({"hot_fraction": 1.0}, HIDDEN),
        ({"budget_bytes": budget(1)}, 1),
        ({"budget_bytes": budget(7) - 1}, 6),
        ({"budget_bytes": budget(7)}, 7),
        ({"budget_bytes": 1 << 60}, HIDDEN),
    ],
)
def test_sizes(path: Path, options: dict[str, Any], slots: int) -> None:
    cache = sf.NeuronCache(**options, pinned=1.0)
    assert cache.slots == 0
    with sf.CachedFfn.open(path, cache) as cached:
        assert cache.slots == slots
        cached.forward_dense(np.ones(D))
        assert cache.stats.resident_bytes == budget(slots)
        cache.reclassify()
        assert len(cache.hot) == (HIDDEN if slots == HIDDEN else slots - 1)
        cached.forward_dense(np.ones(D))
        assert cache.stats.resident_bytes == budget(slots)
        if slots == HIDDEN:
            assert (cache.stats.hits, cache.stats.misses) == (HIDDEN, HIDDEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either budget_bytes or hot_fraction"),
        ({"budget_bytes": 1000, "hot_fraction": 0.5}, "either budget_bytes or hot_fraction"),
        ({"budget_bytes": 0}, "budget_bytes must be 1 or more"),
        ({"hot_fraction": -0.1}, "between 0 and 1"),
        ({"hot_fraction": 1.1}, "between 0 and 1"),
        ({"hot_fraction": float("nan")}, "between 0 and 1"),
        ({"hot_fraction": 0.5, "pinned": 2}, "pinned must be between"),
        ({"hot_fraction": 0.5, "policy": "fifo"}, "'lru', 'lfu', 'window'"),
        ({"hot_fraction": 0.5, "window": 5}, "policy 'window'"),
        ({"hot_fraction": 0.5, "policy": "window", "window": 0}, "window must be 1 or more"),
    ],
)
def test_sizes_without_a_meaning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sf.ArgumentError, match=message):
        sf.NeuronCache(**options)


def test_a_budget_below_one_neuron(path: Path) -> None:
    cache = sf.NeuronCache(budget_bytes=budget(1) - 1)
    with pytest.raises(sf.ArgumentError, match="one takes 896 bytes, and all 90 take 80,640"):
        sf.CachedFfn.open(path, cache)


def test_a_cache_serves_one_layer_at_a_time(path: Path) -> None:
    cache = cache_of(5)
    for use in (cache.reclassify, lambda: cache.record([1]), lambda: cache.save_profile("x")):
        with pytest.raises(sf.ArgumentError, match="serves no layer yet"):
            use()
    first = sf.CachedFfn.open(path, cache)
    first.forward(np.ones(D))
    with pytest.raises(sf.ArgumentError, match="serves another layer"):
        sf.CachedFfn.open(path, cache)
    first.forward(np.ones(D))
    first.close()
    first.close()
    assert cache.stats.resident_bytes == 0
    with pytest.raises(sf.ArgumentError):
        first.forward(np.ones(D))
    second = sf.CachedFfn.open(path, cache)
    first.close()  # is not the owner any more
    assert cache.stats.hits == cache.stats.misses == 0
    del second
    gc.collect()
    with sf.CachedFfn.open(path, cache) as third:
        third.forward(np.ones(D))


# -- reads that fail -------------------------------------------------------------------------------


def test_a_file_that_was_cut_off(core: Core, path: Path) -> None:
    whole = path.read_bytes()
    ffn, x = layer(), np.ones(D)
    offset = whole.index(bundle_of(ffn, 60))
    cache = cache_of(20)
    with sf.CachedFfn.open(path, cache) as cached:
        cached.forward_sparse(x, [1, 70])
        with path.open("r+b") as file:
            file.truncate(offset + 10)
        for _ in range(2):
            with pytest.raises(sf.ModelFileError) as failure:
                cached.forward_sparse(x, range(58, 66))
            message = str(failure.value)
            assert str(path) in message
            assert f"neuron 60 of 'blk.0.ffn_bundle.weight' (896 bytes at byte {offset})" in message
            assert "cut off" in message
        for active in ([1, 70], [3, 4, 59]):  # resident, and whole in the file
            y = cached.forward_sparse(x, active)
            np.testing.assert_array_equal(y, ffn.forward_sparse(x, active))
        cache.record([[61]] * 9)
        with pytest.raises(sf.ModelFileError, match="neuron 61"):
            cache.reclassify()
        path.write_bytes(whole)
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
        assert 61 in cache.hot


def test_an_error_of_the_host_is_named_and_passes(path: Path) -> None:
    class Flaky(io.BytesIO):
        broken = False

        def readinto(self, buffer: Any) -> int:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer[: 1 + len(buffer) // 3])  # short reads are no error

    stream = Flaky(path.read_bytes())
    ffn, x = layer(), np.ones(D)
    out = np.full(OUT, 7.0)
    with sf.CachedFfn.open(stream, cache_of(10)) as cached:
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
        stream.broken = True
        with pytest.raises(sf.ModelFileError, match=r"neuron 2 .*Input/output error") as failure:
            cached.forward_sparse(x, [2, 3], out=out)
        assert isinstance(failure.value.__cause__, OSError)
        assert (out == 7).all()
        stream.broken = False
        np.testing.assert_array_equal(cached.forward(x), ffn.forward(x, mode="exact"))
    stream.close()


def test_a_closed_file(path: Path) -> None:
    stream = path.open("rb")
    with sf.CachedFfn.open(stream, cache_of(10)) as cached:
        stream.close()
        with pytest.raises(sf.ModelFileError, match=r"neuron 4 .*closed"):
            cached.forward_sparse(np.ones(D), [4])


def bundle_of(ffn: sf.SparseFfn, neuron: int) -> bytes:
    matrices = [each for each in ffn.matrices if each is not None]
    return b"".join(each.packed(neuron, neuron + 1).tobytes() for each in matrices)


def test_neurons_lie_in_the_file_as_the_format_says(path: Path) -> None:
    file = sf.gguf.reader.GgufFile.open(path)
    rows = file.tensor_data("blk.0.ffn_bundle.weight").view(np.float32).reshape(HIDDEN, -1)
    gate, up, down = (each.dequantize() for each in layer().matrices if each is not None)
    np.testing.assert_array_equal(rows, np.concatenate([gate, up, down], axis=1))


def test_files_that_are_no_layer(tmp_path: Path, path: Path) -> None:
    from tiny_model import write

    cache = cache_of(5)
    with pytest.raises(sf.ModelFileError, match=r"absent\.gguf: No such file"):
        sf.CachedFfn.open(tmp_path / "absent.gguf", cache)
    with pytest.raises(sf.ModelFileError, match="Is a directory"):
        sf.CachedFfn.open(tmp_path, cache)
    with pytest.raises(sf.ArgumentError, match="layers 0 … 0"):
        sf.CachedFfn.open(path, cache, layer=1)
    with pytest.raises(sf.ArgumentError, match="not in list"):
        sf.CachedFfn.open([1, 2], cache)  # type: ignore[arg-type]
    with pytest.raises(sf.ModelFileError, match="sparsefire calibrate"):
        sf.CachedFfn.open(write(tmp_path / "plain.gguf"), cache)
    short = tmp_path / "short.gguf"
    for length in (0, 100, path.stat().st_size - 1):
        short.write_bytes(path.read_bytes()[:length])
        with pytest.raises(sf.ModelFileError, match=r"short\.gguf"):
            sf.CachedFfn.open(short, cache)
    wrong = path.read_bytes().replace(b"relu", b"rulu", 1)
    short.write_bytes(wrong)
    with pytest.raises(sf.UnsupportedError, match="unknown activation 'rulu'"):
        sf.CachedFfn.open(short, cache)
    sf.CachedFfn.open(short, cache, activation="silu").close()


def test_layers_that_cannot_be_saved(tmp_path: Path) -> None:
    from sparsefire.core.hosts import get_core

    up, gate = Matrix.from_array(np.ones((4, 3))), Matrix.from_array(np.ones((4, 3)), "f16")
    down = Matrix.from_array(np.ones((4, 2)))
    mixed = sf.SparseFfn.from_matrices(get_core(), gate, up, down, activation="relu")
    with pytest.raises(sf.UnsupportedError, match="f16, f32, f32"):
        mixed.save_bundles(tmp_path / "x.gguf")
    by_output = Matrix.from_array(np.ones((2, 4)))
    other = sf.SparseFfn.from_matrices(
        get_core(), None, up, by_output, activation="relu", down_layout="output"
    )
    with pytest.raises(sf.UnsupportedError, match="one row per output"):
        other.save_bundles(tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


# -- profiles --------------------------------------------------------------------------------------


def test_a_profile_comes_back(host_core: Core, tmp_path: Path, path: Path) -> None:
    profile = tmp_path / "use.json"
    random = np.random.default_rng(8)
    cache = cache_of(30)
    with sf.CachedFfn.open(path, cache) as cached:
        for _ in range(50):
            cached.forward_sparse(np.ones(D), power_law(random, HIDDEN, 0.1))
        cache.reclassify()
        cache.save_profile(profile)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["layer.gguf", "use.json"]
    again, small = cache_of(30), cache_of(8, policy="lfu")
    for other in (again, small):
        with sf.CachedFfn.open(path, other):
            other.load_profile(profile)
            np.testing.assert_array_equal(other.uses, cache.uses)
            assert other.stats.bytes_read == len(other.hot) * BUNDLE["f32"]
            if other is again:
                np.testing.assert_array_equal(other.hot, cache.hot)
            else:
                assert len(other.hot) == 4
                assert set(other.hot) <= set(cache.hot)


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "kind": lambda found: found | {"kind": "other"},
    "version": lambda found: found | {"version": 2},
    "count": lambda found: found | {"uses": found["uses"][:-1]},
    "negative": lambda found: found | {"uses": [-1, *found["uses"][1:]]},
    "text": lambda found: found | {"uses": ["1", *found["uses"][1:]]},
    "list": lambda found: [found],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_profiles(tmp_path: Path, path: Path, damage: str) -> None:
    profile = tmp_path / "use.json"
    cache = cache_of(30)
    with sf.CachedFfn.open(path, cache) as cached:
        cached.forward(np.ones(D))
        cache.save_profile(profile)
        profile.write_text(json.dumps(DAMAGE[damage](json.loads(profile.read_text()))))
        with pytest.raises(sf.ModelFileError, match=r"use\.json"):
            cache.load_profile(profile)
        assert cache.uses.tolist() == [1] * HIDDEN


def test_profiles_of_something_else(tmp_path: Path, path: Path) -> None:
    profile = tmp_path / "use.json"
    cache = cache_of(30)
    with sf.CachedFfn.open(path, cache):
        with pytest.raises(sf.ModelFileError, match="No such file"):
            cache.load_profile(profile)
        profile.write_bytes(b"\xff{")
        with pytest.raises(sf.ModelFileError, match="not a neuron profile"):
            cache.load_profile(profile)
        shape = {"kind": "sparsefire neuron profile", "version": 1, "neurons": 2, "uses": [1, 2]}
        profile.write_text(json.dumps(shape))
        with pytest.raises(sf.ShapeError, match="2 neurons; the layer has 90"):
            cache.load_profile(profile)


# -- conventions -----------------------------------------------------------------------------------


def test_numpy_conventions(path: Path) -> None:
    ffn = layer()
    x = np.random.default_rng(9).standard_normal((D, 4)).T[::2]
    with sf.CachedFfn.open(path, cache_of(9)) as cached:
        out = np.empty((OUT, 2)).T
        assert cached.forward(x, out=out) is out
        np.testing.assert_array_equal(out, ffn.forward(x, mode="exact"))
        assert cached.forward(np.empty((0, D))).shape == (0, OUT)
        assert cached.forward_sparse(x[0], np.zeros(HIDDEN, bool)).tolist() == (
            ffn.forward_sparse(x[0], []).tolist()
        )
        before = cached.cache.stats
        with pytest.raises(sf.NotFiniteError):
            cached.forward(np.full(D, np.inf))
        with pytest.raises(sf.ShapeError, match=r"\(64,\)"):
            cached.forward(x[:, :-1])
        with pytest.raises(sf.ShapeError, match="expected 2 id lists, got 1"):
            cached.forward_sparse(x, [[1]])
        with pytest.raises(sf.ArgumentError, match="neuron id 90"):
            cached.forward_sparse(x[0], [90])
        with pytest.raises(sf.ArgumentError, match="needs a predictor"):
            cached.forward(x, mode="sparse")
        with pytest.raises(sf.ArgumentError, match="expected 'dense', 'exact' or 'sparse'"):
            cached.forward(x, mode="fast")
        with pytest.raises(sf.ShapeError, match="64 inputs and 90 neurons"):
            cached.set_predictor(sf.LowRankPredictor(D, HIDDEN + 1, 4))
        assert cached.cache.stats == before
        assert repr(cached) == (
            f"CachedFfn(64→90→96, gated, relu, f32, 80,640 bytes in {path}, "
            "NeuronCache(8,064 bytes, lru, 9 of 90 neurons))"
        )
    assert repr(sf.NeuronCache(hot_fraction=0.5, policy="window")) == (
        "NeuronCache(hot_fraction 0.5, window 128)"
    )


@pytest.mark.pyodide
def test_in_pyodide(pyodide_node: PyodideRuntime, path: Path) -> None:
    """The host reads from its file system into the core's own memory."""
    pyodide_node.write("/tmp/layer.gguf", path.read_bytes())
    code = """
import numpy as np, sparsefire as sf
same = []
for policy, size in (("lru", {"budget_bytes": 900}), ("window", {"hot_fraction": 0.1})):
    small = sf.NeuronCache(policy=policy, pinned=0.3, **size)
    with sf.CachedFfn.open("/tmp/layer.gguf", small) as ffn:
        same.append([ffn.forward(np.ones(64)).tolist(), small.stats.resident_bytes])
        small.record([5, 6])
        small.save_profile("/tmp/use.json")
        small.load_profile("/tmp/use.json")
        assert small.uses[5] == 2 and small.stats.reclassifications == 1
cache = sf.NeuronCache(hot_fraction=0.4, policy="lfu")
x = np.linspace(-1, 1, 3 * 64).reshape(3, 64)
failed = ""
with sf.CachedFfn.open("/tmp/layer.gguf", cache) as ffn:
    y = ffn.forward(x).tolist()
    sparse = ffn.forward_sparse(x[0], range(0, 90, 2)).tolist()
    new = cache.reclassify()
    again = ffn.forward(x).tolist() == y
    with open("/tmp/layer.gguf", "r+b") as file:
        file.truncate(50_000)
    try:
        ffn.forward(x)
    except sf.ModelFileError as error:
        failed = str(error)
[y, sparse, new, again, failed, cache.stats.hits > 0, same]
"""
    y, sparse, new, again, failed, hits, same = pyodide_node.run(code)
    assert same[0][0] == same[1][0]
    assert [resident for _, resident in same] == [BUNDLE["f32"], 9 * BUNDLE["f32"]]
    assert (new, again, hits) == (18, True, True)
    assert "/tmp/layer.gguf: neuron" in failed
    x = np.linspace(-1, 1, 3 * D).reshape(3, D)
    ffn = layer()
    np.testing.assert_allclose(y, ffn.forward(x, mode="exact"), rtol=1e-4, atol=1e-4)
    expected = ffn.forward_sparse(x[0], range(0, 90, 2))
    np.testing.assert_allclose(sparse, expected, rtol=1e-4, atol=1e-4)
