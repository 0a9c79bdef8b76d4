"""RWKV's tokeniser against a search through all tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefire.errors import ArgumentError
from sparsefire.text.tokenizer import Tokenizer

WORDS = (
    "the",
    "then",
    " the",
    "th",
    "  ",
    "\n\n",
    "é",
    "日本",
    "日",
    "'",
    '"',
    "\\",
    "a\tb",
    "\r\n",
)
TOKENS = [
    *(bytes([byte]) for byte in range(256)),
    *(word.encode() for word in WORDS),
    "日本語".encode()[:7],  # ends within a character
]
NAMES = ["<s>", *(repr(token)[2:-1] for token in TOKENS), "[PAD]"]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "rwkv",
    "tokenizer.ggml.tokens": NAMES,
    "tokenizer.ggml.token_type": np.array([3] + [1] * len(TOKENS) + [5], np.int32),
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.eot_token_id": NAMES.index("\\n\\n"),
}
TOKENIZER = Tokenizer.from_metadata(METADATA)


def longest(text: str) -> list[int]:
    raw, ids = text.encode(), []
    while raw:
        token = max((each for each in TOKENS if raw.startswith(each)), key=len)
        ids.append(1 + TOKENS.index(token))
        raw = raw[len(token) :]
    return ids


@settings(max_examples=100)
@given(st.text() | st.lists(st.sampled_from([*WORDS, "語", "n", "PAD]"])).map("".join))
def test_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text, special=False)
    assert ids == longest(text)
    assert TOKENIZER.decode(ids) == text


def test_special_tokens() -> None:
    ids = TOKENIZER.encode("a<s>the")
    assert ids == [1 + ord("a"), 0, 1 + TOKENS.index(b"the")]
    assert TOKENIZER.encode("<s>", special=False) == longest("<s>")
    assert TOKENIZER.encode("[PAD]") == longest("[PAD]")  # unused
    assert not TOKENIZER.add_bos
    assert TOKENIZER.end_ids == {0, NAMES.index("\\n\\n")}
    assert "longest match" in repr(TOKENIZER)


def test_streaming_gives_whole_characters() -> None:
    decoder = TOKENIZER.streaming_decoder()
    ids = TOKENIZER.encode("日本語")
    assert len(ids) == 3
    assert [decoder.feed(token) for token in ids] == ["日本", "", "語"]


def test_a_long_text_takes_linear_time() -> None:
    text = "  " * 100_000 + "x"
    assert len(TOKENIZER.encode(text)) == 100_001


def test_a_byte_that_the_vocabulary_lacks() -> None:
    metadata = {"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": ["a", "bb"]}
    with pytest.raises(ArgumentError, match="no token for byte 0x62"):
        Tokenizer.from_metadata(metadata).encode("ab")
    unknown = {**metadata, "tokenizer.ggml.unknown_token_id": 1}
    assert Tokenizer.from_metadata(unknown).encode("aba") == [0, 1, 0]
