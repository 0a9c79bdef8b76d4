"""WordPiece, and BPE of characters, against the `tokenizers` package."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from sparsefire.errors import ArgumentError
from sparsefire.text.tokenizer import Tokenizer
from test_tokenizer import ASSIGNED, SAMPLES, TELLING

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPUS = [*SAMPLES, "aaab aab bbbb abab the thee of ooo ΣΟΦΟΣ Ἄρης İstanbul हिन्दी " * 9]


def settled(letter: str) -> bool:
    """The other implementation is of Unicode 8: what counts as a mark there is so since 3.2."""
    return unicodedata.ucd_3_2_0.category(letter) == unicodedata.category(letter)


OLD = ASSIGNED.filter(settled)
TEXT = st.text(OLD) | st.text(st.sampled_from("abthe o'fé\u0301語!▁#Σς\u200b\ufffd\x00\x85İ"))


def keys(model: str, tokens: list[str], types: list[int], **more: Any) -> dict[str, Any]:
    named = {"model": model, "tokens": tokens, "token_type": np.array(types, np.int32), **more}
    return {f"tokenizer.ggml.{name}": value for name, value in named.items()}


@cache
def word_pieces(lowercase: bool, strip: bool | None = None) -> tuple[Tokenizer, Any]:
    """The same vocabulary here and there."""
    theirs = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=SPECIAL, show_progress=False, limit_alphabet=200
    )
    theirs.train_from_iterator(CORPUS, trainer)
    names = [theirs.id_to_token(token) for token in range(theirs.get_vocab_size())]
    # As llama.cpp's converter spells them.
    spelt = [n if n in SPECIAL else n[2:] if n.startswith("##") else f"▁{n}" for n in names]
    ids = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3}
    options: dict[str, Any] = {} if lowercase else {"normalizer.lowercase": False}
    if strip is not None:
        options["normalizer.strip_accents"] = strip
    metadata = keys("bert", spelt, [3] * 5 + [1] * (len(names) - 5), **ids, **options)
    return Tokenizer.from_metadata(metadata), theirs


def both(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text, special=False, add_bos=False, add_eos=False)
    assert ids == theirs.encode(text).ids


OPTIONS = [(True, None), (False, None), (True, False), (False, True)]


@pytest.mark.parametrize("options", OPTIONS)
def test_word_pieces(options: tuple[bool, bool | None]) -> None:
    ours, theirs = word_pieces(*options)
    for text in SAMPLES:
        both(ours, theirs, text)


@settings(max_examples=200)
@given(text=TEXT, options=st.sampled_from(OPTIONS))
def test_word_pieces_of_any_text(text: str, options: tuple[bool, bool | None]) -> None:
    both(*word_pieces(*options), text)


def test_every_kind_of_character() -> None:
    ours, theirs = word_pieces(True)
    for start in range(0, len(TELLING), 64):
        letters = filter(settled, TELLING[start : start + 64])
        both(ours, theirs, "".join(f"a{c}b{c}{c}the {c}\n" for c in letters))


def test_a_text_stands_between_two_tokens() -> None:
    ours, _ = word_pieces(True)
    ids = ours.encode("The people, Été")
    assert (ids[0], ids[-1]) == (2, 3)
    assert ours.vocabulary.add_separator
    assert ours.decode(ids) == "the people , ete"
    assert ours.encode("[MASK]")[1:-1] == [4]
    assert 4 not in ours.encode("[MASK]", special=False)
    metadata = keys("bert", ["▁a"], [1], bos_token_id=0, seperator_token_id=0, unknown_token_id=-1)
    with pytest.raises(ArgumentError, match="no tokens for the word 'b', and no unknown token"):
        Tokenizer.from_metadata(metadata).encode("b")


def test_long_words_are_unknown_in_linear_time() -> None:
    ours, theirs = word_pieces(True)
    for text in ("a" * 100, "a" * 101, "e\u0301" * 101, "ab" * 200_000, "a\u0301\u0316" * 100_000):
        if len(text) < 1000:
            both(ours, theirs, text)
        assert ours.encode(text)[0] == 2


# -- merges of characters ------------------------------------------------------------------------


@cache
def piece_merges(pre: str) -> tuple[Tokenizer, Any]:
    gemma = pre != "whitespace"
    theirs = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=gemma))
    if gemma:
        theirs.normalizer = normalizers.Replace(" ", "▁")
        theirs.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[^\n]+|\n+"), "isolated")
    else:
        theirs.normalizer = normalizers.Lowercase()
        theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))] if gemma else ["<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=150
    )
    theirs.train_from_iterator(CORPUS, trainer)
    names = [theirs.id_to_token(token) for token in range(theirs.get_vocab_size())]
    merges = json.loads(theirs.to_str())["model"]["merges"]
    metadata = keys(
        {"gemma4": "gemma4", "whitespace": "whitespace"}.get(pre, "gpt2"),
        names,
        [2, *[6 if gemma else 1] * (len(special) - 1), *[1] * (len(names) - len(special))],
        pre=pre,
        merges=[" ".join(merge) for merge in merges],
        unknown_token_id=0,
        bos_token_id=0,
        **{"normalizer.lowercase": True} if not gemma else {"add_bos_token": False},
    )
    return Tokenizer.from_metadata(metadata), theirs


@pytest.mark.parametrize("pre", ["gemma4", "sarvam-moe", "whitespace"])
def test_merges_of_characters(pre: str) -> None:
    ours, theirs = piece_merges(pre)
    for text in SAMPLES:
        if "<0x" not in text:
            both(ours, theirs, text)
    assert ours.add_bos == (pre == "gemma4")  # whatever the file says
    if pre != "whitespace":
        text = "  leading 語 🏳️‍🌈\n\n\tx"
        assert ours.decode(ours.encode(text, add_bos=False)) == text


@settings(max_examples=150)
@given(text=TEXT, pre=st.sampled_from(["sarvam-moe", "whitespace"]))
def test_merges_of_characters_of_any_text(text: str, pre: str) -> None:
    both(*piece_merges(pre), text)
