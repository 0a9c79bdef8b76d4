"""PLaMo 2's tokeniser against a search through all ways to cut a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefire.errors import ModelFileError
from sparsefire.text.tokenizer import Tokenizer

# Scores of which many sums are equal; "bad" is worse than its letters, "no" counts for nothing.
SCORES = {"a": -1.0, "b": -1.0, "ab": -2.0, "ba": -1.5, "aba": -3.0, "bad": -9000.0, "d": -2.0}
SCORES |= {"no": -2000.0, "日": -1.25, "日本": -2.5, "本": -1.25, " a": -1.99995, " ": -1.0}
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SCORES]
KEYS: dict[str, Any] = {
    "tokenizer.ggml.model": "plamo2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * 256, *[1] * len(SCORES)], np.int32),
    "tokenizer.ggml.scores": np.array([0.0] * 259 + list(SCORES.values()), np.float32),
}
TOKENIZER = Tokenizer.from_metadata(KEYS)


def ways(text: str) -> list[tuple[float, list[str]]]:
    """Every way to cut a text, with its cost in ten-thousandths, the longest first tokens first."""
    if not text:
        return [(0, [])]
    found = []
    for length in range(len(text), 0, -1):
        part = text[:length]
        scaled = np.float32(SCORES.get(part, -np.inf)) * 1e4
        costs = [-np.trunc(scaled + np.copysign(0.5, scaled))] if scaled > -2e7 else []
        if length == 1:
            costs.append(1e7)
        for cost in costs:
            found += [(cost + more, [part, *rest]) for more, rest in ways(text[length:])]
    return found


def searched(text: str) -> list[int]:
    _, parts = min(ways(text), key=lambda way: way[0])  # of equals the first
    ids = []
    for part in parts:
        if part in SCORES:
            ids.append(TOKENS.index(part))
        else:
            ids += [3 + byte for byte in part.encode()]
    return ids


@settings(max_examples=150)
@given(st.text(st.sampled_from("abdno 日本é"), max_size=9))
def test_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids == searched(text)
    assert TOKENIZER.decode(ids) == text


def test_what_is_special() -> None:
    assert TOKENIZER.encode("</s>a") == [2, TOKENS.index("a")]
    assert 2 not in TOKENIZER.encode("</s>a", special=False)
    assert TOKENIZER.encode("\ufeffa") == [TOKENS.index("a")]
    assert TOKENIZER.encode("a", add_bos=True)[0] == 1
    assert "tokens by least cost" in repr(TOKENIZER)
    with pytest.raises(ModelFileError, match="lacks tokens for some bytes"):
        Tokenizer.from_metadata(
            {**KEYS, "tokenizer.ggml.tokens": ["x"] * len(TOKENS)}
            | {"tokenizer.ggml.token_type": np.ones(len(TOKENS), np.int32)}
        )


def test_a_long_text_takes_linear_time() -> None:
    assert len(TOKENIZER.encode("ab" * 100_000)) <= 200_000
