"""Pre-tokenisers: how byte-level BPE vocabularies split text into words, by the name in
`tokenizer.ggml.pre`.

A rule is one or several patterns, applied in sequence, each to the pieces of the previous one. They
use classes that Python's `re` lacks: \\p{L}, \\p{N}, Unicode white space and others.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from ..errors import ArgumentError, UnsupportedError

# White space by Unicode's property; Python's \s has U+001C … U+001F as well.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# Patterns as in tokenizer.json, which `_translated` converts to Python's.
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    + _END
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
)
DIGIT = r"\p{N}"
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", DIGIT)


@dataclass(frozen=True)
class _Rule:
    patterns: tuple[str, ...]
    add_bos: bool = False  # default of a missing key
    whole_words_first: bool = False  # a word that is a token is not merged from its bytes
    composed: bool = False  # the text is normalised to NFC first
    total: bool = True  # the last pattern matches everywhere


_RULES = {
    "gpt-2": _Rule((GPT2,)),
    "llama-bpe": _Rule((GPT4 % "{1,3}",), add_bos=True, whole_words_first=True),
    "dbrx": _Rule((GPT4 % "{1,3}",)),
    "qwen2": _Rule((GPT4 % "",), composed=True),
    "deepseek-r1-qwen": _Rule((GPT4 % "",)),
    "smollm": _Rule((DIGIT, GPT2)),
    "tekken": _Rule((TEKKEN,), add_bos=True, whole_words_first=True),
    "deepseek-coder": _Rule(DEEPSEEK_CODER, total=False),
}
_ALIASES = {
    **dict.fromkeys(("gpt2", "phi-2", "mpt", "olmo", "jais", "exaone4"), "gpt-2"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), "llama-bpe"),
    "smaug-bpe": "dbrx",
    **dict.fromkeys(("stablelm2", "megrez"), "deepseek-r1-qwen"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone"), "smollm"),
}


class PreTokenizer:
    """A compiled rule: `split` yields the words of a text, which together are the text."""

    def __init__(self, name: str, rule: _Rule) -> None:
        self.name = name
        self.add_bos = rule.add_bos
        self.whole_words_first = rule.whole_words_first
        self.composed = rule.composed
        self._patterns = [re.compile(_translated(each)) for each in rule.patterns]
        self._total = rule.total

    def split(self, text: str) -> Iterable[str]:
        """The words of `text`, in order."""
        pieces: Iterable[str] = (text,)
        for pattern in self._patterns[:-1]:
            pieces = _isolate(pattern, pieces)
        if not self._total:
            return _isolate(self._patterns[-1], pieces)
        words = self._patterns[-1].findall
        if len(self._patterns) == 1:
            return words(text)
        return (word for piece in pieces for word in words(piece))


def _isolate(pattern: re.Pattern[str], pieces: Iterable[str]) -> Iterator[str]:
    """Splits each piece into matches and the text between them."""
    for piece in pieces:
        at = 0
        for match in pattern.finditer(piece):
            if match.start() > at:
                yield piece[at : match.start()]
            yield match.group()
            at = match.end()
        if at < len(piece):
            yield piece[at:]


@functools.cache
def pretokenizer(name: str) -> PreTokenizer:
    """The rule of that name; `UnsupportedError` if it is unknown."""
    known = _ALIASES.get(name, name)
    if known not in _RULES:
        said = f"the pre-tokeniser rule {name!r}, which is unknown" if name else "no rule at all"
        raise UnsupportedError(
            f"the vocabulary names {said} ('tokenizer.ggml.pre'); known pre-tokenisers: "
            f"{', '.join(_RULES)}. If you know which of them the model was trained with, name it "
            "with --pre (pre=…)"
        )
    return PreTokenizer(known, _RULES[known])


def check_rule(name: str) -> None:
    """`ArgumentError` if there is no rule of that name."""
    if not isinstance(name, str) or _ALIASES.get(name, name) not in _RULES:
        raise ArgumentError(
            f"pre: unknown pre-tokeniser {name!r}; known ones: {', '.join((*_RULES, *_ALIASES))}"
        )


def rules_of(patterns: Iterable[str]) -> list[str]:
    """Names of the rules with these patterns, written as in tokenizer.json."""
    wanted = tuple(patterns)
    return [name for name, rule in _RULES.items() if rule.patterns == wanted]


def _translated(pattern: str) -> str:
    r"""The pattern in Python's `re`, which lacks \p{…} and has another \s: both become ranges of
    characters, in brackets of their own outside of a class."""
    in_class = False
    parts = []
    for match in _PIECES.finditer(pattern):
        piece, name = match.group(), match["property"]
        if piece == "[":
            in_class = True
        elif piece == "]":
            in_class = False
        elif name or piece in (r"\s", r"\S"):
            inside = _SPACE if name is None else _ranges(name)
            negated = "^" if piece == r"\S" else ""
            piece = inside if in_class else f"[{negated}{inside}]"
        parts.append(piece)
    return "".join(parts)


_PIECES = re.compile(r"\\p\{(?P<property>\w+)\}|\\.|[^\\]", re.DOTALL)


@functools.cache
def _ranges(name: str) -> str:
    """The inside of a character class: the characters of a category, such as Lu, or of all whose
    names begin so, such as L."""
    found = (ranges for category, ranges in _categories().items() if category.startswith(name))
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for each in found for first, last in each)


@functools.cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """First and last characters of the runs of each Unicode category that patterns ask for."""
    runs: dict[str, list[tuple[int, int]]] = {}
    # Of planes 4 to 16 only the start of plane 14 has anything of these (marks).
    for at, stop in ((0, 0x40000), (0xE0000, 0xE1000)):
        for category, members in groupby(map(unicodedata.category, map(chr, range(at, stop)))):
            end = at + sum(1 for _ in members)
            runs.setdefault(category, []).append((at, end - 1))
            at = end
    return runs
