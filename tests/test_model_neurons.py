"""Models whose neurons are read from their file on demand: the same bits as in memory, within the
budget, and again after a failed read."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsefire as sf
import tiny_model
from model_variants import IDS, VARIANTS, greedy, modes, variant_path
from pyodide_harness import PyodideRuntime
from sparsefire.core.core import Core
from sparsefire.lm.neurons import ModelNeurons, divide
from sparsefire.lm.opening import default_model

NAMES = [
    "calibrated",
    "calibrated q8_0",
    "calibrated, ungated",
    "calibrated silu",
    "cutoffs, bundled",
]


def caches_of(model: sf.Model) -> ModelNeurons:
    assert model.neurons is not None
    return model.neurons


def smallest(path: Path) -> int:
    """Bytes of one neuron of each layer."""
    with sf.Model.load(path, neuron_budget=1 << 40) as model:
        return sum(each.nbytes // each.hidden for each in caches_of(model).layers)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_as_in_memory(core: Core, name: str) -> None:
    path, tiny = variant_path(name), VARIANTS[name]
    least = smallest(path)
    policies = {1: "lru", 7: "lfu", 40: "window", 200: "lru"}
    with sf.Model.load(path) as whole:
        wanted = {mode: whole.logits(IDS, mode=mode) for mode in modes(tiny)}
        shares = {}
        for mode in modes(tiny):
            whole.logits(IDS, mode=mode)
            shares[mode] = whole.stats.active_share, whole.stats.selected_share
        inputs, states = whole.ffn_inputs(IDS), whole.hidden_states(IDS)
    for neurons, policy in policies.items():
        budget = sf.NeuronCache(budget_bytes=neurons * least, policy=policy)
        with sf.Model.load(path, neuron_budget=budget) as model:
            caches = caches_of(model)
            assert caches.budget_bytes <= neurons * least
            for mode in modes(tiny):
                found = model.logits(IDS, mode=mode)
                if mode == "dense":
                    # In memory dense prompts multiply floats, here inputs of 16 bits.
                    atol = 4e-4 * np.abs(wanted[mode]).max()
                    np.testing.assert_allclose(found, wanted[mode], rtol=0, atol=atol)
                    continue
                np.testing.assert_array_equal(found, wanted[mode])
                assert (model.stats.active_share, model.stats.selected_share) == shares[mode]
                assert caches.stats.resident_bytes <= neurons * least
            np.testing.assert_array_equal(model.ffn_inputs(IDS), inputs)
            np.testing.assert_array_equal(model.hidden_states(IDS), states)


def test_split_models(tmp_path: Path) -> None:
    path = variant_path("calibrated q8_0")
    parts = tiny_model.split(path, tmp_path, 3)
    with sf.Model.load(path) as whole:
        wanted = whole.logits(IDS, mode="sparse")
    budget = smallest(path) * 7
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(each.open("rb")) for each in parts]
        for source in (parts[0], parts[::-1], streams):
            with sf.Model.load(source, neuron_budget=budget) as model:
                np.testing.assert_array_equal(model.logits(IDS, mode="sparse"), wanted)
                assert caches_of(model).stats.misses
        assert not any(stream.closed for stream in streams)
    with pytest.raises(sf.ArgumentError, match="already in memory"):
        sf.Model.load([parts[0], parts[1], parts[2].read_bytes()], neuron_budget=budget)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_the_embedded_model(host_core: Core, share: float) -> None:
    with sf.Model.load() as whole:
        text = greedy(whole, "The people of", 40)
        window = whole.tokenize("The people of the United States " * 12)
        loss = whole.perplexity(window).loss
    budget = sf.NeuronCache(hot_fraction=share)
    with sf.Model.load(neuron_budget=budget) as model:
        assert greedy(model, "The people of", 40) == text
        caches = caches_of(model)
        assert caches.stats.bytes_read > caches.stats.resident_bytes > 0
        assert caches.reclassify() > 0
        assert model.perplexity(window).loss == loss
        assert caches.stats.resident_bytes <= share * caches.nbytes
        assert caches.stats.hit_rate > 0
        assert repr(caches).startswith(f"<ModelNeurons: 4 layers, {caches.budget_bytes:,} of 5,84")


def test_hits_and_uses_are_those_of_the_selection(host_core: Core) -> None:
    path = variant_path("calibrated")
    with sf.Model.load(path) as whole, sf.Model.load(path, neuron_budget=1 << 40) as model:
        caches = caches_of(model)
        inputs = whole.ffn_inputs(IDS, mode="sparse")
        expected = []
        for layer, ffn in enumerate(whole.ffns):
            assert ffn.predictor is not None
            chosen = ffn.predictor.predict(inputs[:, layer])
            expected.append(np.bincount(np.concatenate(chosen), minlength=ffn.hidden))
        before = caches.stats
        assert (before.hits, before.misses) == (0, 0)
        model.logits(IDS, mode="sparse")
        for cache, uses in zip(caches.caches, expected, strict=True):
            np.testing.assert_array_equal(cache.uses, uses)
        used = sum(int((uses > 0).sum()) for uses in expected)
        after = caches.stats
        assert after.hits + after.misses == used
        assert after.bytes_read == after.resident_bytes
        model.logits(IDS, mode="sparse")
        assert caches.stats.hits - after.hits == used
        assert caches.stats.misses == after.misses


def test_layers_can_be_used_alone(host_core: Core) -> None:
    with sf.Model.load() as whole, sf.Model.load(neuron_budget=500_000) as model:
        x = whole.ffn_inputs(whole.tokenize("We the people"))[:, 2]
        layer = caches_of(model).layers[2]
        np.testing.assert_array_equal(layer.forward(x), whole.ffns[2].forward(x))
        with pytest.raises(sf.ArgumentError, match=r"model\.neurons\.layers"):
            _ = model.ffns
        assert whole.neurons is None


def test_a_cutoff_is_that_of_the_layer() -> None:
    path = variant_path("calibrated")
    with sf.Model.load(path) as whole, sf.Model.load(path, neuron_budget=20_000) as model:
        dense = whole.logits(IDS, mode="dense")
        for ffn in (*whole.ffns, *caches_of(model).layers):
            ffn.set_cutoff(0.3, "product")
        wanted = whole.logits(IDS, mode="exact")
        assert not np.array_equal(wanted, dense)
        np.testing.assert_array_equal(model.logits(IDS, mode="exact"), wanted)
        found = model.logits(IDS, mode="dense")
        np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-4)


def test_a_read_that_fails_loses_nothing(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(variant_path("calibrated"), path)

    class Flaky(io.BytesIO):
        broken = False

        def readinto(self, buffer: Any) -> int:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    stream = Flaky(path.read_bytes())
    with (
        sf.Model.load(path) as whole,
        sf.Model.load(stream, neuron_budget=20_000) as model,
    ):
        wanted = whole.logits(IDS, mode="sparse")
        session = model.new_session(40)
        session.rewind(0, "sparse")
        logits = np.empty((7, 270), np.float32)
        session.evaluate(np.array(IDS[:7], np.int32), logits)
        stream.broken = True
        for _ in range(2):
            with pytest.raises(sf.ModelFileError, match=r"neuron \d+ of .*Input/output error"):
                session.evaluate(np.array(IDS[7:14], np.int32), logits)
        stream.broken = False
        for start in (7, 14):
            session.evaluate(np.array(IDS[start : start + 7], np.int32), logits)
            np.testing.assert_array_equal(logits, wanted[start : start + 7])
        np.testing.assert_array_equal(model.logits(IDS, mode="sparse"), wanted)


def test_sessions_take_turns() -> None:
    """Two sequences in one model, whose caches hold one neuron a layer."""
    path = variant_path("calibrated")
    with sf.Model.load(path) as whole, sf.Model.load(path, neuron_budget=smallest(path)) as model:
        alone, first, second = whole.new_session(30), model.new_session(30), model.new_session(30)
        for session in (alone, first, second):
            session.rewind(0, "sparse")
        for token in IDS:
            wanted = alone.step(token).copy()
            for session in (first, second):
                np.testing.assert_array_equal(session.step(token), wanted)


def test_files_without_readinto() -> None:
    """As JavaScript gives them: neighbours come in one read."""

    class Plain:
        name = "plain"
        reads = 0

        def __init__(self, data: bytes) -> None:
            self._file = io.BytesIO(data)

        def seek(self, *where: int) -> int:
            return self._file.seek(*where)

        def read(self, nbytes: int = -1) -> bytes:
            self.reads += 1
            return self._file.read(nbytes)

    path = variant_path("calibrated")
    source: Any = Plain(path.read_bytes())
    with sf.Model.load(path) as whole, sf.Model.load(source, neuron_budget=1 << 40) as model:
        source.reads = 0
        np.testing.assert_array_equal(
            model.logits(IDS, mode="exact"), whole.logits(IDS, mode="exact")
        )
        assert source.reads == 2  # all neurons of each layer


def test_profiles_of_a_model(tmp_path: Path, host_core: Core) -> None:
    path, profile = variant_path("calibrated"), tmp_path / "profile.json"
    with sf.Model.load(path, neuron_budget=20_000) as model:
        model.logits(IDS, mode="sparse")
        caches = caches_of(model)
        caches.save_profile(profile)
        uses = [cache.uses for cache in caches.caches]
    with sf.Model.load(path, neuron_budget=30_000) as model:
        caches = caches_of(model)
        caches.load_profile(profile)
        for cache, wanted in zip(caches.caches, uses, strict=True):
            np.testing.assert_array_equal(cache.uses, wanted)
            assert len(cache.hot) > 0
        found = json.loads(profile.read_text())
        for damage, error, message in (
            (found | {"kind": "other"}, sf.ModelFileError, "no neuron profiles"),
            (found | {"layers": found["layers"][:1]}, sf.ShapeError, "2 layers"),
            (found | {"layers": [1, 2]}, sf.ModelFileError, "layer 0: not a neuron profile"),
        ):
            profile.write_text(json.dumps(damage))
            with pytest.raises(error, match=message):
                caches.load_profile(profile)


def test_models_that_cannot_be_read_by_neurons(tmp_path: Path) -> None:
    with pytest.raises(sf.ModelFileError, match="sparsefire calibrate"):
        sf.Model.load(variant_path("silu"), neuron_budget=1000)
    with pytest.raises(sf.UnsupportedError, match="a norm before its down matrix"):
        sf.Model.load(variant_path("bitnet, calibrated"), neuron_budget=100_000)
    path = variant_path("calibrated")
    least = smallest(path)
    with pytest.raises(sf.ArgumentError, match=rf"one neuron of each .* takes {least:,} bytes"):
        sf.Model.load(path, neuron_budget=least - 1)
    with pytest.raises(sf.ArgumentError, match="already in memory"):
        sf.Model.load(path.read_bytes(), neuron_budget=100_000)
    with pytest.raises(sf.ArgumentError, match="neuron_budget"):
        sf.Model.load(path, neuron_budget=0)


def test_the_norm_before_down_is_not_left_out() -> None:
    """A single layer of such a model is refused, not computed wrongly."""
    path = variant_path("bitnet, calibrated")
    with pytest.raises(sf.UnsupportedError, match="a norm before its down matrix"):
        sf.CachedFfn.open(path, sf.NeuronCache(hot_fraction=0.5))
    with pytest.raises(sf.UnsupportedError, match="a norm before its down matrix"):
        sf.SparseFfn.load(path)


def test_the_budget_is_divided() -> None:
    even = np.ones(3)
    assert divide(30, [1, 1, 1], [100, 100, 100], even) == [10, 10, 10]
    assert divide(10**9, [3, 3, 3], [100, 7, 100], even) == [100, 7, 100]
    first, second = divide(1000, [10, 10], [90, 90], np.array([0.3, 0.1]))
    assert (first, second) == (75, 25)
    assert divide(40, [10, 10], [90, 90], np.array([1e9, np.nan])) == [3, 1]
    for budget in range(3, 300, 7):
        slots = divide(budget, [1, 2, 1], [90, 40, 60], np.array([0.5, 0.1, 0.2]))
        assert sum(a * b for a, b in zip(slots, [1, 2, 1], strict=True)) <= max(budget, 4)


CODE = """
import numpy as np, sparsefire as sf
ids = %s
with sf.Model.load("/tmp/whole.gguf") as whole, sf.Model.load(
    "/tmp/whole.gguf", neuron_budget=20_000
) as model:
    same = all(
        np.array_equal(model.logits(ids, mode=mode), whole.logits(ids, mode=mode))
        for mode in ("sparse", "exact")
    )
    stats = model.neurons.stats
    with open("/tmp/whole.gguf", "r+b") as file:
        file.truncate(30_000)
    try:
        model.logits(ids)
        failed = ""
    except sf.ModelFileError as error:
        failed = str(error)
[same, stats.hits, stats.misses, stats.resident_bytes, failed]
"""


@pytest.mark.pyodide
def test_in_pyodide(pyodide_node: PyodideRuntime) -> None:
    path = variant_path("calibrated")
    pyodide_node.write("/tmp/whole.gguf", path.read_bytes())
    same, hits, misses, resident, failed = pyodide_node.run(CODE % IDS)
    assert same
    assert resident <= 20_000
    assert "/tmp/whole.gguf: the file was changed" in failed
    with sf.Model.load(path, neuron_budget=20_000) as model:
        for mode in ("sparse", "exact"):
            model.logits(IDS, mode=mode)
        stats = caches_of(model).stats
        assert (hits, misses) == (stats.hits, stats.misses)


def test_the_default_model_is_read_from_its_path() -> None:
    with sf.Model.load(neuron_budget=1_000_000) as model:
        assert model.file.name == str(default_model())
