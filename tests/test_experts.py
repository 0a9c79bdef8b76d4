"""Mixtures of experts: experts on demand, statistics, and tokens of several sessions together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import moe_model
import sparsefire as sf
import tiny_model
from sparsefire.core.core import Core

IDS = np.arange(40) * 37 % moe_model.VOCAB


def experts_bytes(model: sf.Model) -> int:
    return sum(layer.nbytes for layer in model.layers)


@pytest.mark.parametrize(
    ("format", "activation"), [("F32", "silu"), ("Q8_0", "silu"), ("F32", "relu"), ("Q4_0", "relu")]
)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_experts_on_demand_give_the_same_bits(
    format: str, activation: str, share: float, host_core: Core, tmp_path: Path
) -> None:
    path = moe_model.write(tmp_path / "m.gguf", format, activation)
    with sf.Model.load(path) as whole:
        wanted, budget = whole.logits(IDS), int(experts_bytes(whole) * share)
    with sf.Model.load(path, neuron_budget=budget) as model:
        np.testing.assert_array_equal(model.logits(IDS), wanted)
        assert model.neurons is not None
        assert model.neurons.budget_bytes <= budget
        stats = model.neurons.stats
        assert stats.hits + stats.misses >= moe_model.LAYERS * moe_model.USED
        if share == 1:
            assert stats.misses <= moe_model.LAYERS * moe_model.EXPERTS


def test_experts_of_split_models(tmp_path: Path) -> None:
    path = moe_model.write(tmp_path / "m.gguf", "Q8_0", "silu")
    parts = tiny_model.split(path, tmp_path, 4)
    with sf.Model.load(path) as whole:
        wanted, budget = whole.logits(IDS), experts_bytes(whole) // 2
    for source in (parts[0], parts):
        with sf.Model.load(source, neuron_budget=budget) as model:
            np.testing.assert_array_equal(model.logits(IDS), wanted)
            assert model.neurons is not None
            assert model.neurons.stats.misses


def test_a_budget_below_one_expert(tmp_path: Path) -> None:
    path = moe_model.write(tmp_path / "m.gguf")
    with pytest.raises(sf.ArgumentError, match="one expert of each of its 2 layers"):
        sf.Model.load(path, neuron_budget=100)


def test_shares_count_the_neurons_of_all_experts(tmp_path: Path) -> None:
    path = moe_model.write(tmp_path / "m.gguf")
    with sf.Model.load(path) as model:
        model.logits(IDS, mode="dense")
        assert model.stats.active_share.mean == pytest.approx(moe_model.USED / moe_model.EXPERTS)
        model.logits(IDS, mode="exact")
        assert model.stats.active_share.mean < 0.8 * moe_model.USED / moe_model.EXPERTS
        with pytest.raises(sf.UnsupportedError, match=r"model\.layers"):
            _ = model.ffns


def test_modes_agree(tmp_path: Path) -> None:
    with sf.Model.load(moe_model.write(tmp_path / "m.gguf")) as model:
        dense, exact = (model.logits(IDS, mode=mode) for mode in ("dense", "exact"))
        np.testing.assert_allclose(exact, dense, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "experts", "budget"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_sessions_together_are_as_alone(
    kind: str, count: int, host_core: Core, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    budget = None
    if kind == "dense":
        tiny_model.write(path)
    else:
        moe_model.write(path, activation="silu")
        budget = 60_000 if kind == "budget" else None
    random = np.random.default_rng(count)
    with sf.Model.load(path, neuron_budget=budget) as model:
        prompts = [random.integers(0, 260, 3 + 4 * i) for i in range(count)]
        sessions = [model.new_session(40) for _ in prompts]
        rounds = [model.evaluate(list(zip(sessions, prompts, strict=True)))]
        for _ in range(3):
            chosen = rounds[-1].argmax(axis=1)
            rounds.append(model.evaluate([(s, [t]) for s, t in zip(sessions, chosen, strict=True)]))
        for i, prompt in enumerate(prompts):
            alone = model.new_session(40)
            alone.rewind(0, model.config.default_mode)
            tokens, expected = prompt.tolist(), np.empty((1, model.config.vocab), np.float32)
            for logits in rounds:
                alone.evaluate(np.array(tokens[len(alone.tokens) :], np.int32), expected)
                np.testing.assert_array_equal(logits[i], expected[0])
                tokens.append(int(expected.argmax()))
            assert sessions[i].tokens == tokens[:-1]
            assert (sessions[i].active == alone.active).all()


def test_the_phase_decides_not_the_number_of_tokens(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf")
    with sf.Model.load(path) as model:
        first, second, alone = (model.new_session(16) for _ in range(3))
        model.evaluate([(first, [1, 2, 3]), (second, [4])])
        both = model.evaluate([(first, [5]), (second, [6])], phase="decode")
        model.evaluate([(alone, [1, 2, 3])])
        np.testing.assert_array_equal(both[0], alone.step(5))


def test_bad_sessions(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf")
    with sf.Model.load(path) as model, sf.Model.load(path) as other:
        session, second, foreign = model.new_session(4), model.new_session(4), other.new_session(4)
        for parts, message in (
            ([], "at least one"),
            ([(session, [1]), (session, [2])], "once"),
            ([(session, [1]), (foreign, [2])], "session 1 is of another model"),
            ([(session, [])], "session 0 has no tokens"),
        ):
            with pytest.raises(sf.ArgumentError, match=message):
                model.evaluate(parts)
        with pytest.raises(sf.ContextFullError, match="session 1 holds 4 tokens"):
            model.evaluate([(session, [1]), (second, [1] * 5)])
        with pytest.raises(sf.ArgumentError, match="phase is 'chat'"):
            model.evaluate([(session, [1])], phase="chat")
        model.evaluate([(session, [1])], mode="dense")
        with pytest.raises(sf.ArgumentError, match="in dense mode, not exact"):
            model.evaluate([(session, [1])], mode="exact")
        assert session.tokens == [1]
        assert second.tokens == []
