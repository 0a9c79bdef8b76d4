"""Byte-level BPE against the `tokenizers` package."""

from __future__ import annotations

import json
import random
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pyodide_harness import PyodideRuntime
from sparsefire.errors import ArgumentError, ModelFileError, UnsupportedError
from sparsefire.text.byte_bpe import ByteLevelBpe
from sparsefire.text.pretokenizer import pretokenizer, rules_of
from sparsefire.text.tokenizer import Tokenizer
from sparsefire.text.vocabulary import Vocabulary
from word_rules import DEEPSEEK_V3, GPT4, GPT4O, SPLITTERS

END = "<|endoftext|>"
USER = "<tool>"

SAMPLES = [
    "",
    " ",
    "The people of the United States, in 1789, weren't sure; they'll see.",
    "  leading, trailing  \n\n\t tabs\r\nand\rlines \n ",
    "def f(x: int) -> str:\n    return f'{x:>10}'  # 100%\n\n\nprint(f(12345678))\n",
    "Ünïcödé naïve café Straße ĳ ǅ İstanbul ﬁ",
    "日本語のテキスト、中文文本和한국어 텍스트。",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 emoji",
    "١٢٣ ४५६ Ⅷ ½ ² 一二三",
    "\x00\x01\x1b[0m\x7f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u200b\ufeff",
    "e\u0301\u0301\u0301 combining \u0d9a\u0dca\u200d\u0dbb",
    "I'M WE'LL he'D 'ſ don’t ''s 's't",
    "\U0010ffff \ue000 \ufffd",
    "a" * 300 + "\n" * 300 + " " * 301 + "x" + "!?" * 200,
]


WHOLE_WORDS_FIRST = ("llama-bpe", "tekken", "minicpm5")


@dataclass
class Pair:
    """The same vocabulary in both implementations."""

    ours: Tokenizer
    theirs: tokenizers.Tokenizer


def ours_from(theirs: tokenizers.Tokenizer, pre: str) -> Tokenizer:
    size = theirs.get_vocab_size()
    tokens = [theirs.id_to_token(index) for index in range(size)]
    merges = json.loads(theirs.to_str())["model"]["merges"]
    types = [{END: 3, USER: 4}.get(token, 1) for token in tokens]
    return byte_level(
        tokens,
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        pre,
        types=types,
        bos=tokens.index(END),
        eos=tokens.index(END),
    )


def byte_level(
    tokens: list[str], merges: list[str], pre: str = "gpt-2", **options: Any
) -> Tokenizer:
    vocabulary = Vocabulary(tokens, **options)
    return Tokenizer(vocabulary, ByteLevelBpe(vocabulary, merges, pretokenizer(pre)))


@cache
def pair(pre: str) -> Pair:
    theirs = tokenizers.Tokenizer(models.BPE(ignore_merges=pre in WHOLE_WORDS_FIRST))
    if pre == "qwen2":
        theirs.normalizer = normalizers.NFC()
    theirs.pre_tokenizer = SPLITTERS[pre]
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([*SAMPLES, "aaab aab bbbb abab " * 9], trainer)
    theirs.add_tokens([USER])
    return Pair(ours_from(theirs, pre), theirs)


RULES = sorted(SPLITTERS)
LETTERS_REPEATED = ("a", " ", "\n", "é", "語", "!", "1")
# Merging takes most of the time and is the same for every rule.
MERGED_AT_LENGTH = ("gpt-2", "llama-bpe", "qwen2", "tekken", "deepseek-coder", "smollm")


@pytest.mark.parametrize("pre", RULES)
@pytest.mark.parametrize("text", SAMPLES)
def test_samples(pre: str, text: str) -> None:
    both = pair(pre)
    ids = both.ours.encode(text)
    assert ids == both.theirs.encode(text).ids
    assert both.ours.decode(ids) == normal(text, pre)


def normal(text: str, pre: str) -> str:
    """What comes back of a text."""
    return unicodedata.normalize("NFC", text) if pre == "qwen2" else text


# What is unassigned here may be a letter in the other implementation's newer Unicode.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))
BPE_TEXT = st.text(ASSIGNED) | st.text(st.sampled_from("ab \n\r\t'sSl1٣½é語👍.!_")) | st.text("ab")


@settings(max_examples=300)
@given(text=BPE_TEXT, pre=st.sampled_from(RULES))
def test_any_text(text: str, pre: str) -> None:
    both = pair(pre)
    ids = both.ours.encode(text, special=False)
    assert ids == both.theirs.encode(text).ids
    assert both.ours.decode(ids) == normal(text, pre)


def _telling_characters() -> list[str]:
    """Every assigned character whose category is not that of both its neighbours, and of the
    others every 61st."""
    categories = [unicodedata.category(chr(code)) for code in range(0x110000)] + ["Cn"]
    return [
        chr(code)
        for code, category in enumerate(categories[:-1])
        if category not in ("Cs", "Cn")
        and (not categories[code - 1] == category == categories[code + 1] or code % 61 == 0)
    ]


TELLING = _telling_characters()


@pytest.mark.parametrize("pre", RULES)
def test_every_kind_of_character_is_cut_alike(pre: str) -> None:
    rule, theirs = pretokenizer(pre), SPLITTERS[pre]
    for start in range(0, len(TELLING), 64):
        text = "".join(f"a{c}1{c}{c}! {c}\n" for c in TELLING[start : start + 64])
        pieces = [text[begin:end] for _, (begin, end) in theirs.pre_tokenize_str(text)]
        assert list(rule.split(text)) == pieces


def test_random_merges() -> None:
    """Long words over two letters, where nearly every pair merges and ranks tie often."""
    both, draw = pair("gpt-2"), random.Random(5)
    for _ in range(200):
        word = "".join(draw.choice("ab") for _ in range(draw.randint(1, 80)))
        assert both.ours.encode(word) == both.theirs.encode(word).ids


@pytest.mark.parametrize("letter", LETTERS_REPEATED)
@pytest.mark.parametrize("pre", MERGED_AT_LENGTH)
def test_thirty_thousand_times_one_letter(pre: str, letter: str) -> None:
    text = letter * 30_000
    both = pair(pre)
    ids = both.ours.encode(text)
    assert both.ours.decode(ids) == text
    # The other implementation takes minutes for some of these, so a shorter run is compared.
    assert both.ours.encode(letter * 3001) == both.theirs.encode(letter * 3001).ids


@pytest.mark.parametrize("pre", RULES)
def test_a_hundred_thousand_letters_are_cut_in_linear_time(pre: str) -> None:
    rule, theirs = pretokenizer(pre), SPLITTERS[pre]
    for letter in LETTERS_REPEATED:
        assert "".join(rule.split(letter * 100_000 + "x1")) == letter * 100_000 + "x1"
        text = letter * 3001 + "x1"
        pieces = [text[begin:end] for _, (begin, end) in theirs.pre_tokenize_str(text)]
        assert list(rule.split(text)) == pieces


def test_special_tokens() -> None:
    both = pair("gpt-2")
    end = both.ours.eos
    assert end is not None
    text = f"one{END}{END} two{USER}three"
    ids = both.ours.encode(text)
    assert ids == both.theirs.encode(text).ids
    assert ids.count(end) == 2
    # As plain text the name is spelt with ordinary tokens; a user-defined token is one always.
    plain = both.ours.encode(text, special=False)
    assert end not in plain
    assert both.ours.encode(USER)[0] in plain
    assert both.ours.decode(plain) == text
    assert both.ours.decode(ids) == f"one two{USER}three"
    assert both.ours.decode(ids, special=True) == text
    assert both.ours.encode("x", add_bos=True) == [end, *both.ours.encode("x")]


def test_longest_special_token_wins() -> None:
    tokens = ["<a>", "<a><b>", *(chr(code) for code in range(0x21, 0x7F))]
    types = [3, 3] + [1] * (len(tokens) - 2)
    tokenizer = byte_level(tokens, [], types=types)
    assert tokenizer.encode("<a><b><a>") == [1, 0]


@settings(max_examples=200)
@given(text=st.text(ASSIGNED))
def test_streaming_gives_whole_characters(text: str) -> None:
    tokenizer = pair("gpt-2").ours
    decoder = tokenizer.streaming_decoder()
    pieces = [decoder.feed(token) for token in tokenizer.encode(text, special=False)]
    assert "".join(pieces) == text
    assert decoder.finish() == ""


def test_streaming_half_characters() -> None:
    tokenizer = pair("gpt-2").ours
    by_byte = {tokenizer.token_bytes(token): token for token in range(tokenizer.size)}
    face = [by_byte[bytes([byte])] for byte in "👍".encode()]
    decoder = tokenizer.streaming_decoder()
    assert [decoder.feed(token) for token in face] == ["", "", "", "👍"]
    # A character that is broken off, and bytes that can begin none.
    assert decoder.feed(face[0]) == ""
    assert decoder.feed(by_byte[b"a"]) == "\ufffda"
    assert decoder.feed(by_byte[b"\xff"]) == "\ufffd"
    assert decoder.feed(face[0]) + decoder.feed(face[1]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    assert tokenizer.decode(face[:3]) == "\ufffd"


@settings(max_examples=100)
@given(ids=st.lists(st.integers(0, pair("gpt-2").ours.size - 1)))
def test_streaming_equals_decoding(ids: list[int]) -> None:
    both = pair("gpt-2")
    decoder = both.ours.streaming_decoder()
    text = "".join(map(decoder.feed, ids)) + decoder.finish()
    assert text == both.ours.decode(ids)
    raw = b"".join(map(both.ours.token_bytes, ids))
    assert text == raw.decode("utf-8", "replace")


def test_lone_surrogates_are_replaced() -> None:
    tokenizer = pair("gpt-2").ours
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("\udcff") == tokenizer.encode("\ufffd")
    # Two halves that belong together are one character.
    assert tokenizer.encode("\ud83d\udc4d") == tokenizer.encode("👍")


def test_ids_without_text() -> None:
    tokenizer = pair("gpt-2").ours
    assert tokenizer.decode([tokenizer.size + 5]) == ""
    with pytest.raises(ArgumentError, match="negative"):
        tokenizer.decode([-1])
    with pytest.raises(ArgumentError, match="text must be a text"):
        tokenizer.encode(b"bytes")  # type: ignore[arg-type]


def test_a_byte_that_the_vocabulary_lacks() -> None:
    with pytest.raises(ArgumentError, match="0x62"):
        byte_level(["a"], []).encode("ab")
    assert byte_level(["a", "?"], [], unknown=1).encode("aba") == [0, 1, 0]


# -- metadata ----------------------------------------------------------------------------------

LETTERS = [chr(code) for code in range(0x21, 0x7F)]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*LETTERS, "ab", "<s>", "<e>"],
    "tokenizer.ggml.token_type": np.array([1] * (len(LETTERS) + 1) + [3, 3], np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": len(LETTERS) + 1,
    "tokenizer.ggml.eos_token_id": len(LETTERS) + 2,
    "tokenizer.ggml.eot_token_id": 0,
    "tokenizer.ggml.add_bos_token": True,
}


def test_from_metadata() -> None:
    tokenizer = Tokenizer.from_metadata(METADATA)
    assert tokenizer.bos == len(LETTERS) + 1
    assert tokenizer.end_ids == {len(LETTERS) + 2, 0}
    assert tokenizer.encode("abc<e>") == [95, 94, LETTERS.index("c"), 96]


def test_turn_ends_that_the_file_does_not_name() -> None:
    tokens, types = [*LETTERS, "<|im_end|>", "<|eot_id|>"], [1] * len(LETTERS) + [3, 1]
    ends = byte_level(tokens, [], types=types, eos=5).end_ids
    assert ends == {5, len(LETTERS)}  # only what is a control token


def test_the_end_of_one_of_several_messages_ends_no_turn() -> None:
    names = ["<|end|>", "<|return|>", "<|call|>"]
    tokens, first = [*LETTERS, *names], len(LETTERS)

    def ends(kinds: list[int]) -> frozenset[int]:
        return byte_level(tokens, [], types=[1] * first + kinds).end_ids

    assert ends([3, 3, 3]) == {first + 1, first + 2}
    assert ends([3, 3, 1]) == {first, first + 1}


def test_end_of_text() -> None:
    tokenizer = Tokenizer.from_metadata({**METADATA, "tokenizer.ggml.add_eos_token": True})
    assert tokenizer.encode("a") == [tokenizer.bos, LETTERS.index("a"), tokenizer.eos]
    assert tokenizer.encode("a", add_bos=False, add_eos=False) == [LETTERS.index("a")]
    with pytest.raises(ArgumentError, match="add_eos: the vocabulary has no token that ends"):
        byte_level(["a"], []).encode("a", add_eos=True)


def test_begin_of_text_follows_the_rule_when_the_file_is_silent() -> None:
    metadata = {**METADATA}
    del metadata["tokenizer.ggml.add_bos_token"]
    assert not Tokenizer.from_metadata(metadata).add_bos
    assert Tokenizer.from_metadata({**metadata, "tokenizer.ggml.pre": "llama-bpe"}).add_bos


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, ModelFileError, "tokenizer.ggml.model' is missing"),
        ({"model": "elmo"}, UnsupportedError, "'elmo' is not supported; supported: 'gpt2'"),
        ({"pre": "unheard-of"}, UnsupportedError, "'unheard-of'.*gpt-2"),
        ({"tokens": None}, ModelFileError, "tokens' is missing"),
        ({"tokens": 5}, ModelFileError, "tokens' is not a list"),
        ({"merges": None}, ModelFileError, "merges' is missing"),
        ({"merges": ["a"]}, ModelFileError, "merge 0, 'a', is not two tokens"),
        ({"merges": ["a b", "a c"]}, ModelFileError, "merge 1, 'a c', needs the token 'ac'"),
        ({"token_type": np.array([1, 1], np.int32)}, ModelFileError, "2 entries for 97 tokens"),
        ({"token_type": ["x"]}, ModelFileError, "not a list of integers"),
        ({"eos_token_id": 97}, ModelFileError, "eos_token_id' is 97, outside the 97 tokens"),
        ({"bos_token_id": -2}, ModelFileError, "outside"),
        ({"bos_token_id": -1, "add_bos_token": True}, ModelFileError, "bos_token_id' is -1, which"),
        ({"eos_token_id": 2**32 - 1, "add_eos_token": True}, ModelFileError, "stands for no token"),
        ({"bos_token_id": "x"}, ModelFileError, "not an integer"),
        ({"eot_token_id": 1.5}, ModelFileError, "not an integer"),
    ],
)
def test_bad_metadata(change: dict[str, Any], error: type[Exception], message: str) -> None:
    metadata = {**METADATA}
    for name, value in change.items():
        metadata.pop(f"tokenizer.ggml.{name}", None)
        if value is not None:
            metadata[f"tokenizer.ggml.{name}"] = value
    with pytest.raises(error, match=message) as caught:
        Tokenizer.from_metadata(metadata, "x.gguf")
    assert str(caught.value).startswith("x.gguf: ")


@pytest.mark.parametrize("name", ["bos", "eos", "unknown", "seperator", "padding", "eot", "eom"])
@pytest.mark.parametrize("value", [-1, 2**32 - 1])
def test_ids_that_stand_for_no_token(name: str, value: int) -> None:
    changed = {f"tokenizer.ggml.{name}_token_id": value, "tokenizer.ggml.add_bos_token": False}
    tokenizer = Tokenizer.from_metadata({**METADATA, **changed})
    vocabulary = tokenizer.vocabulary
    assert getattr(vocabulary, {"seperator": "separator"}.get(name, name), None) is None
    assert value not in tokenizer.end_ids
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


def test_no_token_is_not_the_default() -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"],
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 1], np.int32),
        "tokenizer.ggml.scores": np.zeros(4, np.float32),
    }
    assert Tokenizer.from_metadata(metadata).vocabulary.unknown == 0
    metadata["tokenizer.ggml.unknown_token_id"] = -1
    assert Tokenizer.from_metadata(metadata).vocabulary.unknown is None


def test_rules_are_found_by_their_patterns() -> None:
    assert "llama-bpe" in rules_of([GPT4])
    assert rules_of([GPT4O]) == ["gpt-4o", "granite-embed-multi-97m"]
    ends = DEEPSEEK_V3.replace(r"\r", "\r").replace(r"\n", "\n")
    for last in (DEEPSEEK_V3, ends):
        assert rules_of([r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", last]) == ["deepseek-v3"]
    assert rules_of(["x"]) == []


# The names that llama.cpp knows.
NAMES = """
    default minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2
    jina-v5-nano deepseek-llm deepseek-coder deepseek-v3 spark2_5 youtu falcon mpt starcoder
    gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert
    jais-2 gemma4 granite-embed-multi-311m sarvam-moe jina-v1-en jina-v2-code roberta-bpe
    whitespace refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 olmo
    dbrx smaug-bpe poro-chat chatglm-bpe glm4 glm5 viking jais tekken smollm codeshell bloom
    gpt3-finnish exaone exaone4 exaone-moe chameleon minerva-7b megrez gpt-4o llama4 kanana2
    talkie granite-embed-multi-97m tiny_aya cohere2moe superbpe trillion granite-docling
    bailingmoe bailingmoe2 llada-moe seed-coder hunyuan hunyuan-dense hy_v4 joyai-llm
    kimi-k2 ufakzeka grok-2 afmoe laguna minimax-m2 solar-open mellum2
"""


def test_every_name_that_files_hold_is_known() -> None:
    compared = {
        # The words of these are those of others, or are compared with their merges.
        *("dbrx", "glm4", "deepseek-r1-qwen", "roberta-bpe", "granite-embed-multi-97m"),
        *("gemma4", "sarvam-moe", "whitespace"),
        *SPLITTERS,
    }
    ours = {"nanochat"}  # of converted checkpoints
    assert {pretokenizer(name).name for name in NAMES.split()} | ours == compared


def test_named_rule() -> None:
    metadata = {**METADATA, "tokenizer.ggml.pre": "unheard-of"}
    with pytest.raises(UnsupportedError, match="--pre"):
        Tokenizer.from_metadata(metadata)
    assert "smollm" in repr(Tokenizer.from_metadata(metadata, pre="smollm"))
    del metadata["tokenizer.ggml.pre"]
    assert "merges, default)" in repr(Tokenizer.from_metadata(metadata))
    assert Tokenizer.from_metadata(metadata).kind == "byte-level BPE, words by the default rule"
    assert "smollm" in repr(Tokenizer.from_metadata(metadata, pre="smollm"))
    with pytest.raises(ArgumentError, match=r"pre: unknown pre-tokeniser 'x'; known ones: gpt-2"):
        Tokenizer.from_metadata(METADATA, pre="x")
    with pytest.raises(ArgumentError, match="only byte-level BPE has a pre-tokeniser"):
        Tokenizer.from_metadata({**METADATA, "tokenizer.ggml.model": "llama"}, pre="gpt-2")


PYODIDE = """
import json
from sparsefire.text.tokenizer import Tokenizer
import numpy as np
metadata, texts = json.loads(DATA)
metadata["tokenizer.ggml.token_type"] = np.array(metadata["tokenizer.ggml.token_type"], np.int32)
tokenizer = Tokenizer.from_metadata(metadata)
ids = [tokenizer.encode(text) for text in texts]
assert [tokenizer.decode(each) for each in ids] == texts
json.dumps(ids)
"""


@pytest.mark.pyodide
def test_in_pyodide(pyodide_node: PyodideRuntime) -> None:
    both = pair("smollm")
    size = both.theirs.get_vocab_size()
    tokens = [both.theirs.id_to_token(index) for index in range(size)]
    merges = json.loads(both.theirs.to_str())["model"]["merges"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in merges
        ],
        "tokenizer.ggml.token_type": [1] * size,
    }
    code = f"DATA = {json.dumps([metadata, SAMPLES])!r}\n{PYODIDE}"
    assert json.loads(pyodide_node.run(code)) == [both.theirs.encode(text).ids for text in SAMPLES]
