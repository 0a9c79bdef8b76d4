"""Vocabularies of encoders in tokenizer.json: WordPiece (Devlin et al. 2019) and SentencePiece's
unigram model (Kudo 2018)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import ModelFileError
from ...text.vocabulary import BLANK, TokenType
from .tokenizer_json import Step, TokenizerJson

_GOES_ON = "##"
Tokens = tuple[list[str], list[int], list[float]]  # names, kinds, scores


def word_pieces(source: TokenizerJson) -> tuple[Tokens, dict[str, Any]]:
    """The tokens and keys of a WordPiece vocabulary: those that begin a word have "▁" before them,
    the others no sign."""
    model = source.model
    source.check_options(
        "'model'", model, "type vocab unk_token continuing_subword_prefix max_input_chars_per_word"
    )
    for name, value in (("continuing_subword_prefix", _GOES_ON), ("max_input_chars_per_word", 100)):
        if model.get(name, value) != value:
            raise source.refused("'model'", f"{name} {model[name]!r}")
    lowercase, strip = _bert_normalizer(source)
    _only(source, "pre_tokenizer", ["BertPreTokenizer"])
    for step in source.steps("decoder"):
        if step["type"] != "WordPiece" or step.get("prefix", _GOES_ON) != _GOES_ON:
            raise source.refused("'decoder'", f"{step['type']}, as it is set here,")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, Mapping) or not all(
        isinstance(token, int) and 0 <= token < len(vocabulary) for token in vocabulary.values()
    ):
        raise ModelFileError(f"{source.path}: the vocabulary is not well formed")
    unknown = model.get("unk_token")
    names, kinds = [""] * len(vocabulary), [int(TokenType.UNUSED)] * len(vocabulary)
    for name, token in vocabulary.items():
        goes_on = name.startswith(_GOES_ON)
        names[token] = name.removeprefix(_GOES_ON) if goes_on else f"{BLANK}{name}"
        kinds[token] = int(TokenType.NORMAL)
        if name == unknown:
            names[token], kinds[token] = name, int(TokenType.UNKNOWN)
    if TokenType.UNKNOWN not in kinds:
        raise ModelFileError(
            f"{source.path}: the unknown token {unknown!r} is not in the vocabulary"
        )
    keys = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.unknown_token_id": kinds.index(TokenType.UNKNOWN),
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": strip,
    }
    return (names, kinds, [0.0] * len(names)), keys


def _bert_normalizer(source: TokenizerJson) -> tuple[bool, bool]:
    """Whether capitals become small letters, and accents go."""
    (step,) = _only(source, "normalizer", ["BertNormalizer"])
    for name in ("clean_text", "handle_chinese_chars"):
        if step.get(name, True) is not True:
            raise source.refused("'normalizer' BertNormalizer", f"{name} false")
    lowercase = bool(step.get("lowercase", True))
    strip = step.get("strip_accents")
    return lowercase, lowercase if strip is None else bool(strip)


def _only(source: TokenizerJson, part: str, kinds: list[str]) -> list[Step]:
    """The steps of a part, which have to be of these kinds."""
    steps = source.steps(part)
    if [step["type"] for step in steps] != kinds:
        found = ", ".join(str(step["type"]) for step in steps) or "none"
        raise source.refused(repr(part), f"{found} with this kind of vocabulary")
    return steps


def unigram(source: TokenizerJson) -> tuple[Tokens, dict[str, Any]]:
    """The tokens and keys of a unigram vocabulary."""
    model = source.model
    source.check_options("'model'", model, "type unk_id vocab byte_fallback")
    if model.get("byte_fallback"):
        raise source.refused("'model'", "byte_fallback with unigrams")
    charsmap = _normalizer(source)
    try:
        names = [str(name) for name, _ in model["vocab"]]
        scores = [float(score) for _, score in model["vocab"]]
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(f"{source.path}: the vocabulary is not well formed") from None
    kinds = [int(TokenType.NORMAL)] * len(names)
    unknown = model.get("unk_id")
    if isinstance(unknown, int) and 0 <= unknown < len(names):
        kinds[unknown] = int(TokenType.UNKNOWN)
    else:
        raise ModelFileError(f"{source.path}: 'unk_id' is {unknown!r}, no token")
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.unknown_token_id": unknown,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": None,  # set from the table
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }
    if charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
    return (names, kinds, scores), keys


def _normalizer(source: TokenizerJson) -> bytes:
    """The table of replacements. Runs of spaces have to become one, and none stay at the ends."""
    charsmap, joined, trimmed = b"", False, False
    for step in source.steps("normalizer"):
        kind = step["type"]
        if kind == "Precompiled" and not (charsmap or joined or trimmed):
            charsmap = _decoded(source, step)
        elif kind == "Strip" and step.get("strip_right", True):
            trimmed = True
        elif kind == "Replace" and step.get("pattern") == {"Regex": " {2,}"}:
            joined = step.get("content") in (" ", BLANK)
        else:
            raise source.refused("'normalizer'", f"{kind}, as it is set here,")
    steps = source.steps("pre_tokenizer")
    if steps and steps[0]["type"] == "WhitespaceSplit" and charsmap:
        joined = trimmed = True  # the table makes spaces of what else is white
        steps = steps[1:]
    if [step["type"] for step in steps] != ["Metaspace"]:
        raise source.refused("'pre_tokenizer'", "other than Metaspace with unigrams")
    if source.metaspace("pre_tokenizer", steps[0]) != "always":
        raise source.refused("'pre_tokenizer' Metaspace", "no space before a text")
    if not (joined and trimmed):
        raise source.refused("'normalizer'", "runs of spaces, or spaces at the ends,")
    return charsmap


def _decoded(source: TokenizerJson, step: Step) -> bytes:
    try:
        return base64.b64decode(step["precompiled_charsmap"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise ModelFileError(f"{source.path}: 'precompiled_charsmap' is not base64") from None
