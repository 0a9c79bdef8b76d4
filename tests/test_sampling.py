"""Choosing tokens from logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsefire.errors import ArgumentError, NotFiniteError
from sparsefire.lm.sampling import Sampler, SamplerConfig, score

PLAIN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def logits_of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def shares(config: SamplerConfig, logits: np.ndarray, draws: int = 20_000) -> np.ndarray:
    sampler = Sampler(config)
    counts = np.bincount([sampler.sample(logits) for _ in range(draws)], minlength=len(logits))
    return counts / draws


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def test_greedy_takes_the_lowest_of_equals() -> None:
    sampler = Sampler(SamplerConfig(temperature=0))
    assert sampler.sample(logits_of(1, 3, 2, 3, 3)) == 1


def test_draws_follow_the_softmax() -> None:
    logits = logits_of(0.3, -1.2, 2.0, 1.1, -4.0)
    for temperature in (0.5, 1.0, 2.0):
        config = SamplerConfig(**{**PLAIN, "temperature": temperature, "seed": 1})
        expected = softmax(logits / np.float32(temperature))
        assert np.abs(shares(config, logits) - expected).max() < 0.02


def test_a_seed_below_0_is_a_different_one_each_time() -> None:
    logits = np.zeros(1 << 16, np.float32)
    samplers = [Sampler(SamplerConfig(**{**PLAIN, "temperature": 1, "seed": -1})) for _ in range(3)]
    assert len({tuple(each.sample(logits) for _ in range(3)) for each in samplers}) == 3


def test_same_seed_same_tokens() -> None:
    logits = np.random.default_rng(0).standard_normal(500).astype(np.float32)

    def run(seed: int) -> list[int]:
        sampler = Sampler(SamplerConfig(seed=seed))
        return [sampler.sample(logits) for _ in range(50)]

    assert run(3) == run(3)
    assert run(3) != run(4)


VALUES = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.integers(-20, 20).map(lambda v: v / 4)
)


def kept(config: SamplerConfig, logits: np.ndarray) -> list[int]:
    """Which tokens may be drawn, worked out by sorting everything."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    likely = softmax(logits)[order]
    if config.min_p:
        order = order[likely >= config.min_p * likely[0] * (1 - 1e-9)]
    if config.top_k:
        order = order[: config.top_k]
    cumulative = np.cumsum(np.exp(logits[order].astype(np.float64) - logits.max()))
    if config.top_p < 1:
        order = order[: int((cumulative < config.top_p * cumulative[-1]).sum()) + 1]
    return sorted(order.tolist())


@settings(max_examples=300)
@given(
    logits=VALUES,
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.06, 0.3]),
)
def test_candidates(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> None:
    config = SamplerConfig(temperature=1, top_k=top_k, top_p=top_p, min_p=min_p, seed=0)
    sampler = Sampler(config)
    found = sampler._candidates(logits, float(logits.max()))
    assert sorted(found.tolist()) == kept(config, logits)
    assert sampler.sample(logits) in found


def test_large_vocabulary_keeps_exactly_top_k() -> None:
    logits = np.random.default_rng(2).standard_normal(50_001).astype(np.float32)
    logits[[7, 49_999, 50_000]] = 9  # ties at the top, and one in the odd last group
    sampler = Sampler(SamplerConfig(**{**PLAIN, "top_k": 40}))
    found = sampler._candidates(logits, 9.0)
    order = np.lexsort((np.arange(len(logits)), -logits))
    assert found.tolist() == order[:40].tolist()


def test_repeat_penalty() -> None:
    logits = logits_of(2.0, 1.9, -1.0, -1.1)
    before = logits.copy()
    sampler = Sampler(SamplerConfig(temperature=0, repeat_penalty=2.0))
    assert sampler.sample(logits, [0]) == 1
    assert sampler.sample(logits, [0, 1, 0]) == 0  # 1.0 and 0.95 are left
    assert sampler.sample(logits_of(-1.0, -1.5), [0]) == 1
    assert np.array_equal(logits, before)
    # Only the last 64 tokens count.
    assert sampler.sample(logits, [0] + [2] * 64) == 0


def test_frequency_and_presence_penalty() -> None:
    """Against OpenAI's formula: logit − count · frequency − (count > 0) · presence."""
    logits = np.random.default_rng(5).standard_normal(40).astype(np.float32)
    config = SamplerConfig(temperature=0, frequency_penalty=0.3, presence_penalty=0.2)
    sampler, counts = Sampler(config), np.zeros(40)
    for _ in range(60):
        wanted = logits - 0.3 * counts - 0.2 * (counts > 0)
        token = sampler.sample(logits, [39] * 64)  # what the sampler did not draw does not count
        assert wanted[token] == pytest.approx(wanted.max(), abs=1e-5)
        counts[token] += 1
    assert (counts > 1).sum() > 5


def test_logit_bias() -> None:
    logits = logits_of(2.0, 1.0, 0.0)
    before = logits.copy()
    for bias, wanted in (({2: 2.5}, 2), ({0: -np.inf}, 1), ({0: -np.inf, 1: -100}, 2), ({}, 0)):
        assert Sampler(SamplerConfig(temperature=0, logit_bias=bias)).sample(logits) == wanted
    banned = SamplerConfig(**{**PLAIN, "logit_bias": {0: -np.inf}, "seed": 0})
    assert shares(banned, logits, 500)[0] == 0
    assert np.array_equal(logits, before)
    with pytest.raises(NotFiniteError):
        Sampler(SamplerConfig(logit_bias={0: -np.inf})).sample(logits_of(1.0))


@settings(max_examples=80)
@given(logits=VALUES, top=st.integers(0, 310), token=st.integers(0, 299))
def test_score(logits: np.ndarray, top: int, token: int) -> None:
    token %= len(logits)
    found = score(logits, token, top)
    wide = logits.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    order = np.lexsort((np.arange(len(logits)), -logits))[:top]
    assert found.token == token
    assert found.logprob == pytest.approx(logprobs[token], abs=1e-5)
    assert [each for each, _ in found.top] == order.tolist()
    assert [value for _, value in found.top] == pytest.approx(logprobs[order], abs=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_not_finite(value: float, temperature: float) -> None:
    with pytest.raises(NotFiniteError, match="token 1"):
        Sampler(SamplerConfig(temperature=temperature)).sample(logits_of(0, value, 1))


def test_extreme_settings() -> None:
    logits = logits_of(3.0, 2.0, -1.0)
    for penalty in (1e-15, 1e15):
        for sign in (-1, 1):
            config = SamplerConfig(
                temperature=5e-324,
                repeat_penalty=penalty,
                frequency_penalty=sign * 1e15,
                presence_penalty=sign * 1e15,
                logit_bias={2: sign * 1e15},
            )
            sampler = Sampler(config)
            assert all(0 <= sampler.sample(logits, [0, 1, 2]) < 3 for _ in range(20))


def test_minus_infinity_is_never_drawn() -> None:
    config = SamplerConfig(**{**PLAIN, "seed": 0})
    assert shares(config, logits_of(0.0, -np.inf, 0.0), 500)[1] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repeat_penalty": 0.0},
        {"frequency_penalty": float("nan")},
        {"presence_penalty": float("inf")},
        {"logit_bias": {3: float("inf")}},
        {"logit_bias": {3: -1e38}},
        {"repeat_penalty": 5e-324},
        {"frequency_penalty": -1e308},
    ],
)
def test_settings_without_a_meaning(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ArgumentError, match=name):
        SamplerConfig(**change)
