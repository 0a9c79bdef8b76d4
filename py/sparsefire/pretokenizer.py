"""How byte-level BPE vocabularies cut text into words, by the name in `tokenizer.ggml.pre`.

A rule is one or several patterns, applied one after the other, each to the pieces of the one
before. They use three classes that Python's `re` lacks: \\p{L}, \\p{N} and Unicode white space.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from .errors import UnsupportedError

# White space by Unicode's property; Python's \s has U+001C … U+001F as well.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"

# {L}, {N} and {S} stand for the insides of character classes.
_GPT2 = _CONTRACTIONS + r"| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
_GPT4 = (
    f"(?i:{_CONTRACTIONS})" + r"|[^\r\n{L}{N}]?[{L}]+|[{N}]{{1,%d}}| ?[^{S}{L}{N}]+[\r\n]*"
    r"|[{S}]*[\r\n]+|[{S}]+(?![^{S}])|[{S}]+"
)
_EACH_DIGIT = r"[{N}]"


@dataclass(frozen=True)
class _Rule:
    patterns: tuple[str, ...]
    add_bos: bool = False  # when the file does not say
    whole_words_first: bool = False  # a word that is a token is not merged from its bytes


_RULES = {
    "gpt-2": _Rule((_GPT2,)),
    "llama-bpe": _Rule((_GPT4 % 3,), add_bos=True, whole_words_first=True),
    "qwen2": _Rule((_GPT4 % 1,)),
    "smollm": _Rule((_EACH_DIGIT, _GPT2)),
}
_ALIASES = {"gpt2": "gpt-2", "phi-2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


class PreTokenizer:
    """A compiled rule: `split` yields the words of a text, which together are the text."""

    def __init__(self, name: str, rule: _Rule) -> None:
        self.name = name
        self.add_bos = rule.add_bos
        self.whole_words_first = rule.whole_words_first
        classes = _classes()
        self._patterns = [re.compile(each.format(**classes)) for each in rule.patterns]

    def split(self, text: str) -> Iterable[str]:
        """The words of `text`, in order."""
        pieces: Iterable[str] = (text,)
        for pattern in self._patterns[:-1]:
            pieces = _isolate(pattern, pieces)
        words = self._patterns[-1].findall
        if len(self._patterns) == 1:
            return words(text)
        return (word for piece in pieces for word in words(piece))


def _isolate(pattern: re.Pattern[str], pieces: Iterable[str]) -> Iterator[str]:
    """Cuts each piece into what matches and what lies between."""
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
    """The rule of that name; `UnsupportedError` when it is not known."""
    known = _ALIASES.get(name, name)
    if known not in _RULES:
        said = f"the rule {name!r} ('tokenizer.ggml.pre')" if name else "no rule at all"
        raise UnsupportedError(
            f"the vocabulary names {said} for cutting text into words; known ones: "
            f"{', '.join(_RULES)}"
        )
    return PreTokenizer(known, _RULES[known])


@functools.cache
def _classes() -> dict[str, str]:
    """Insides of the character classes for letters, numbers and white space."""
    # Planes 4 to 16 hold no letters and no numbers.
    categories = map(unicodedata.category, map(chr, range(0x40000)))
    ranges: dict[str, list[str]] = {"L": [], "N": []}
    at = 0
    for group, members in groupby(categories, key=lambda category: category[0]):
        end = at + sum(1 for _ in members)
        if group in ranges:
            ranges[group].append(f"\\U{at:08x}-\\U{end - 1:08x}")
        at = end
    return {"L": "".join(ranges["L"]), "N": "".join(ranges["N"]), "S": _SPACE}
