"""WordPiece (`tokenizer.ggml.model` = "bert"): of each word the longest token that it begins with,
then the longest that its rest begins with, and so on (Devlin et al. 2019).

Words are what lies between white space, punctuation and Chinese characters; of the last two each
character is a word. Results equal those of the tokenizers package with its `BertNormalizer` and
`BertPreTokenizer`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from .normalizer import lowered
from .pretokenizer import character_class
from .vocabulary import BLANK, TokenType, Vocabulary, flag
from .word_cache import WordCache

_LONGEST_WORD = 100  # characters; a longer one is unknown, as in the reference

# Chinese characters; from U+2B920 on, where U+2B820 was meant, because the reference has it so.
_CHINESE = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Co")  # controls, formats and private characters


class _Visible(dict[int, str]):
    """What a character becomes, for `str.translate`: white space is a space, what cannot be seen
    vanishes, and with `strip` accents do."""

    def __init__(self, strip: bool) -> None:
        super().__init__()
        self._strip = strip

    def __missing__(self, code: int) -> str:
        text = self[code] = self._seen(chr(code))
        return text

    def _seen(self, letter: str) -> str:
        if letter in "\t\n\r":
            return " "
        if letter == "\ufffd" or unicodedata.category(letter) in _HIDDEN_CATEGORIES:
            return ""
        if not self._strip:
            return letter
        # One at a time: to order the marks of a text takes quadratic time, and accents go anyway.
        apart = unicodedata.normalize("NFD", letter)
        return "".join(each for each in apart if unicodedata.category(each) != "Mn")


class WordPiece:
    """Cuts words into the longest tokens, with "▁" before the tokens that begin a word."""

    def __init__(
        self, vocabulary: Vocabulary, *, lowercase: bool = True, strip_accents: bool = True
    ) -> None:
        self._vocabulary = vocabulary
        self._lowercase = lowercase
        self._visible = _Visible(strip_accents)
        self._begins: dict[str, int] = {}
        self._goes_on: dict[str, int] = {}
        for token in vocabulary.of_type(TokenType.NORMAL, TokenType.USER_DEFINED):
            name = vocabulary.tokens[token]
            if name.startswith(BLANK) and name != BLANK:
                self._begins.setdefault(name[1:], token)
            elif name:
                self._goes_on.setdefault(name, token)
        self._longest = max(map(len, (*self._begins, *self._goes_on)), default=0)
        single = rf"\p{{P}}!-/:-@\[-`{{-~{_CHINESE}"
        apart, within = character_class(single), character_class(rf"{single}\s")
        self._word = re.compile(f"[{apart}]|[^{within}]+")
        self._cache = WordCache()

    @classmethod
    def from_metadata(cls, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> WordPiece:
        """With the normaliser's options of a file's metadata, where small letters are the default
        and accents go with capitals."""
        lowercase = flag(metadata, "normalizer.lowercase", True)
        strip = flag(metadata, "normalizer.strip_accents", lowercase)
        return cls(vocabulary, lowercase=lowercase, strip_accents=strip)

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens. `starts` makes no difference."""
        text = text.translate(self._visible)
        if self._lowercase:
            text = lowered(text)
        cache = self._cache
        for word in self._word.findall(text):
            known = cache.get(word)
            if known is None:
                known = cache.remember(word, self._encode_word(word))
            ids += known

    def _encode_word(self, word: str) -> list[int]:
        """The tokens of a word: the unknown one if any part of it has no token."""
        found: list[int] = []
        if len(word) > _LONGEST_WORD:
            return self._unknown(word)
        at, tokens = 0, self._begins
        while at < len(word):
            for end in range(min(len(word), at + self._longest), at, -1):
                token = tokens.get(word[at:end])
                if token is not None:
                    found.append(token)
                    at, tokens = end, self._goes_on
                    break
            else:
                return self._unknown(word)
        return found

    def _unknown(self, word: str) -> list[int]:
        if self._vocabulary.unknown is None:
            raise ArgumentError(
                f"the vocabulary has no tokens for the word {word[:40]!r}, and no unknown token"
            )
        return [self._vocabulary.unknown]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for: one that begins a word follows a space."""
        text = self._vocabulary.tokens[token]
        if self._vocabulary.types[token] == TokenType.NORMAL and text.startswith(BLANK):
            text = f" {text[1:]}"
        return text.encode("utf-8", "surrogateescape")

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text without the space before its first word."""
        return raw.removeprefix(b" ")

    def __repr__(self) -> str:
        case = "small letters" if self._lowercase else "capitals and small letters"
        return f"{len(self._begins)} beginnings of words, {case}"
