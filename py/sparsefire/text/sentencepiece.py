"""SentencePiece vocabularies: text is not split into words first, and a space is a letter, "▁".

`tokenizer.ggml.model` = "llama" merges adjacent tokens, the pair with the highest score first;
"gemma4" has a list of merges in place of scores; "t5" chooses the tokens with the highest sum of
scores (Kudo 2018). Characters without a token fall back
to bytes if the vocabulary has byte tokens. Results equal those of the SentencePiece library (Kudo
and Richardson 2018).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ArgumentError, ModelFileError
from .byte_bpe import merge_ranks, merged
from .normalizer import Normalizer
from .pretokenizer import PreTokenizer
from .vocabulary import BLANK, TokenType, Vocabulary
from .word_cache import WordCache

_UNKNOWN = -1  # stands for a character that has no token, until runs of them are joined
_UNKNOWN_PENALTY = 10.0
_SPLIT = 536870913.0  # 2^29 + 1
_BYTE_NAME = re.compile("<0x([0-9A-Fa-f]{2})>")


def check_scores(vocabulary: Vocabulary, scores: Sequence[float]) -> Sequence[float]:
    """The scores. `ModelFileError` if they are not finite numbers, one for each token."""
    if len(scores) != vocabulary.size:
        raise ModelFileError(
            f"'tokenizer.ggml.scores' has {len(scores)} entries for {vocabulary.size} tokens"
        )
    if not all(map(math.isfinite, scores)):
        raise ModelFileError("'tokenizer.ggml.scores' holds NaN or infinity")
    return scores


def byte_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """Tokens that stand for a byte, and which. `ModelFileError` for one with another name."""
    found = {}
    for token in vocabulary.of_type(TokenType.BYTE):
        name = _BYTE_NAME.fullmatch(vocabulary.tokens[token])
        if name is None:
            raise ModelFileError(
                f"'tokenizer.ggml.tokens': token {token}, {vocabulary.tokens[token]!r}, is marked "
                "as a byte; expected a name such as <0x0A>"
            )
        found[token] = int(name[1], 16)
    return found


class Pieces(ABC):
    """Base class of the algorithms."""

    _runs_on = True  # a run of unknown characters goes on from one word to the next

    def __init__(self, vocabulary: Vocabulary, normalizer: Normalizer) -> None:
        self._vocabulary = vocabulary
        self._normalizer = normalizer
        # If several tokens have the same name, the first counts.
        self._ids: dict[str, int] = {}
        kinds = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        for token in vocabulary.of_type(*kinds):
            self._ids.setdefault(vocabulary.tokens[token], token)
        self._byte_of_id = byte_tokens(vocabulary)
        self._id_of_byte = {byte: token for token, byte in self._byte_of_id.items()}
        self._between: re.Pattern[str] | None = self._between_words()
        self._cache = WordCache()

    def _between_words(self) -> re.Pattern[str]:
        """A pattern of places that no token crosses: before spaces, but for those that follow a
        letter that a token has before a space, as the vocabulary of Gemma has one of `>▁</`. Words
        can then be cached with the same result."""
        crossing = re.compile(f"(.)(?={BLANK})", re.DOTALL)
        crossed = {letter for name in self._ids for letter in crossing.findall(name)}
        letters = "".join(map(re.escape, sorted(crossed | {BLANK})))
        return re.compile(f"(?<=[^{letters}])(?={BLANK})")

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens. `starts`: it is the start of a whole
        text, and does not follow a special token."""
        text = self._normalizer.normalize(text, starts)
        cache = self._cache
        unknown_before = False
        for word in self._cut(text):
            if not word:
                continue
            known = cache.get(word)
            if known is None:
                known = cache.remember(word, self._encode_word(word))
            if _UNKNOWN in known or unknown_before:
                unknown = self._add_with_unknown(known, ids, unknown_before)
                unknown_before = unknown and self._runs_on
            else:
                ids += known

    def _cut(self, text: str) -> Iterable[str]:
        """Parts of a normalised text whose tokens do not depend on one another."""
        return (text,) if self._between is None else self._between.split(text)

    def _add_with_unknown(self, found: list[int], ids: list[int], unknown_before: bool) -> bool:
        """Appends tokens with one unknown token for each run of unknown characters; returns
        whether they end in one."""
        for token in found:
            if token != _UNKNOWN:
                ids.append(token)
            elif not unknown_before:
                if self._vocabulary.unknown is None:
                    raise ArgumentError(
                        "the vocabulary lacks a character of the text, and has no unknown token"
                    )
                ids.append(self._vocabulary.unknown)
            unknown_before = token == _UNKNOWN
        return unknown_before

    @abstractmethod
    def _encode_word(self, word: str) -> list[int]:
        """Tokens of a normalised word, `_UNKNOWN` for a character without any."""

    def _tokens(self, symbols: Iterable[str]) -> list[int]:
        """The tokens of symbols that no merge joins any more."""
        found: list[int] = []
        for symbol in symbols:
            token = self._ids.get(symbol)
            found += self._spelt(symbol) if token is None else [token]
        return found

    def _spelt(self, text: str) -> list[int]:
        """The tokens of the bytes of a character without a token of its own."""
        spelt = [self._id_of_byte.get(byte, _UNKNOWN) for byte in text.encode("utf-8")]
        return [_UNKNOWN] if _UNKNOWN in spelt else spelt

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        byte = self._byte_of_id.get(token)
        if byte is not None:
            return bytes([byte])
        text = self._vocabulary.tokens[token]
        if self._vocabulary.types[token] in (TokenType.NORMAL, TokenType.UNUSED):
            text = text.replace(BLANK, " ")
        return text.encode("utf-8", "surrogateescape")

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text without the prepended space."""
        return raw.removeprefix(b" ") if self._normalizer.add_blank else raw

    def __repr__(self) -> str:
        return type(self).__name__


class PieceBpe(Pieces):
    """Merges adjacent tokens, the pair with the highest score first."""

    def __init__(
        self, vocabulary: Vocabulary, scores: Sequence[float], normalizer: Normalizer
    ) -> None:
        super().__init__(vocabulary, normalizer)
        check_scores(vocabulary, scores)
        self._ranks = {name: -scores[token] for name, token in self._ids.items()}

    def _encode_word(self, word: str) -> list[int]:
        return self._tokens(merged(list(word), self._ranks, ""))


class PieceMerges(Pieces):
    """Merges adjacent tokens by a list of merges, within the words of a rule: byte-level BPE with
    characters in place of bytes."""

    _runs_on = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        merges: Sequence[str],
        normalizer: Normalizer,
        rule: PreTokenizer,
    ) -> None:
        super().__init__(vocabulary, normalizer)
        self._ranks = merge_ranks(merges, vocabulary.ids)
        self._rule = rule

    def _cut(self, text: str) -> Iterable[str]:
        return self._rule.split(text)

    def _encode_word(self, word: str) -> list[int]:
        return self._tokens(merged(list(word), self._ranks, " "))

    def __repr__(self) -> str:
        return f"{len(self._ranks)} merges, {self._rule.name}"


class Unigram(Pieces):
    """Chooses the tokens with the highest sum of scores."""

    def __init__(
        self, vocabulary: Vocabulary, scores: Sequence[float], normalizer: Normalizer
    ) -> None:
        super().__init__(vocabulary, normalizer)
        self._scores = check_scores(vocabulary, scores)
        # Single precision makes a sum depend on what is before it: a text is cut as a whole.
        self._between = None
        normal = [scores[token] for token in vocabulary.of_type(TokenType.NORMAL)]
        self._unknown_score = float(np.float32(min(normal, default=0.0) - _UNKNOWN_PENALTY))
        # By first character: lengths of names, and whether there is a name of that character.
        self._lengths: dict[str, list[int]] = {}
        for name, token in self._ids.items():
            if name and vocabulary.types[token] != TokenType.UNUSED:
                lengths = self._lengths.setdefault(name[0], [])
                if len(name) not in lengths:
                    lengths.append(len(name))
        for lengths in self._lengths.values():
            lengths.sort()

    def _encode_word(self, word: str) -> list[int]:
        size = len(word)
        best = [-math.inf] * (size + 1)  # sum of scores up to here
        begins = [0] * (size + 1)  # of the last token up to here
        tokens = [_UNKNOWN] * (size + 1)
        best[0] = 0.0
        ids, scores, types = self._ids, self._scores, self._vocabulary.types
        for start in range(size):
            here = best[start]
            single = False
            for length in self._lengths.get(word[start], ()):
                end = start + length
                if end > size:
                    break
                token = ids.get(word[start:end])
                if token is None or types[token] == TokenType.UNUSED:
                    continue
                single = single or length == 1
                # Rounded to single precision as the reference's sum is, by splitting off the upper
                # 24 bits (Dekker 1971), so that ties are broken alike.
                wide = (here + scores[token]) * _SPLIT
                total = wide - (wide - (here + scores[token]))
                if total > best[end]:
                    best[end], begins[end], tokens[end] = total, start, token
            if not single:
                wide = (here + self._unknown_score) * _SPLIT
                total = wide - (wide - (here + self._unknown_score))
                if total > best[start + 1]:
                    best[start + 1], begins[start + 1], tokens[start + 1] = total, start, _UNKNOWN
        return self._traced(word, begins, tokens)

    def _traced(self, word: str, begins: list[int], tokens: list[int]) -> list[int]:
        backwards: list[int] = []
        end = len(word)
        while end:
            start, token = begins[end], tokens[end]
            backwards += self._spelt(word[start:end])[::-1] if token == _UNKNOWN else [token]
            end = start
        return backwards[::-1]
