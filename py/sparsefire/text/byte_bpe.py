"""Byte-pair encoding: neighbours are merged, the pair of highest rank first.

Byte-level vocabularies (`tokenizer.ggml.model` = "gpt2") cut text into words by their own rule
(`pretokenizer`), write a word's UTF-8 bytes as 256 printable characters, and have a list of merges
(Sennrich et al. 2016; Radford et al. 2019). SentencePiece's (`sentencepiece`) share the merging.
"""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError, ModelFileError
from .pretokenizer import FORM_KEY, FORMS, PreTokenizer
from .vocabulary import TokenType, Vocabulary
from .word_cache import WordCache


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte: itself when it is printable Latin-1,
    else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, following = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else following))
        following += byte not in printable
    return letters


_LETTER_OF_BYTE = _byte_letters()
_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(_LETTER_OF_BYTE)}


class ByteLevelBpe:
    """Cuts text into tokens, by merges and a rule for words. form: Unicode's normalisation form of
    texts, "" for none; by default the rule's."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        merges: Sequence[str],
        rule: PreTokenizer,
        form: str | None = None,
    ) -> None:
        self._form: Any = rule.form if form is None else form
        if self._form not in FORMS:
            raise ModelFileError(f"key '{FORM_KEY}' is {form!r}; expected one of {FORMS}")
        self._vocabulary = vocabulary
        self._ids = vocabulary.ids
        self._rule = rule
        self._ranks = merge_ranks(merges, self._ids)
        self._cache = WordCache()

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens. `starts` makes no difference."""
        cache = self._cache
        if self._form and not text.isascii():
            text = unicodedata.normalize(self._form, text)
        for word in self._rule.split(text):
            known = cache.get(word)
            if known is None:
                known = cache.remember(word, self._encode_word(word))
            ids += known

    def _encode_word(self, word: str) -> list[int]:
        raw = word.encode("utf-8")
        letters = [_LETTER_OF_BYTE[byte] for byte in raw]
        if self._rule.whole_words_first:
            whole = self._ids.get("".join(letters))
            if whole is not None:
                return [whole]
        symbols = merged(letters, self._ranks, " ") if len(letters) > 1 else letters
        try:
            return [self._ids[symbol] for symbol in symbols]
        except KeyError as error:
            if self._vocabulary.unknown is None:
                byte = _BYTE_OF_LETTER[error.args[0]]
                raise ArgumentError(f"the vocabulary has no token for byte 0x{byte:02x}") from None
        unknown = self._vocabulary.unknown
        return [self._ids.get(symbol, unknown) for symbol in symbols]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        text = self._vocabulary.tokens[token]
        if self._vocabulary.types[token] in (TokenType.NORMAL, TokenType.BYTE):
            try:
                return bytes([_BYTE_OF_LETTER[letter] for letter in text])
            except KeyError:  # an added token that the file does not mark as such
                pass
        return text.encode("utf-8", "surrogateescape")

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text, as they are: nothing is put before a text."""
        return raw

    def __repr__(self) -> str:
        return f"{len(self._ranks)} merges, {self._rule.name}"


def merge_ranks(merges: Sequence[str], ids: Mapping[str, int]) -> dict[str, int]:
    """Merge ("left right") → rank; of two that are alike the first counts.

    Errors: `ModelFileError` for a merge of no two tokens, or whose result is none of `ids`.
    """
    for rank, merge in enumerate(merges):
        # Hundreds of thousands: one lookup for each that is as it should be.
        if merge.replace(" ", "", 1) in ids and " " in merge:
            continue
        left, space, right = merge.partition(" ")
        problem = f"needs the token {left + right!r}, which the vocabulary lacks"
        if not space:
            problem = "is not two tokens with a blank between them"
        raise ModelFileError(f"'tokenizer.ggml.merges': merge {rank}, {merge!r}, {problem}")
    return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))


def merged(symbols: list[str], ranks: Mapping[str, float], between: str) -> list[str]:
    """Merges neighbours until no merge is left: always the pair of lowest rank, and of equal ones
    the leftmost. A pair's key in `ranks` is its two symbols with `between` between them.

    A heap of candidates over a linked list: n log n for n symbols.
    """
    symbols = list(symbols)
    count = len(symbols)
    left = list(range(-1, count - 1))
    right = list(range(1, count + 1))
    heap: list[tuple[float, int, str, str]] = []  # rank, position, and the two when pushed
    for position in range(count - 1):
        first, second = symbols[position], symbols[position + 1]
        rank = ranks.get(f"{first}{between}{second}")
        if rank is not None:
            heap.append((rank, position, first, second))
    heapq.heapify(heap)
    while heap:
        _, at, first, second = heapq.heappop(heap)
        after = right[at]
        if symbols[at] != first or after >= count or symbols[after] != second:
            continue  # one of the two was merged meanwhile
        symbols[at], symbols[after] = first + second, ""
        right[at] = beyond = right[after]
        if beyond < count:
            left[beyond] = at
        for start, end in ((left[at], at), (at, beyond)):
            if start >= 0 and end < count:
                first, second = symbols[start], symbols[end]
                rank = ranks.get(f"{first}{between}{second}")
                if rank is not None:
                    heapq.heappush(heap, (rank, start, first, second))
    return [symbol for symbol in symbols if symbol]
