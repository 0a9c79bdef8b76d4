"""How byte-level BPE vocabularies cut text into words, by the name in `tokenizer.ggml.pre`.

A rule is one or several patterns, applied one after the other, each to the pieces of the one
before. They use classes that Python's `re` lacks: \\p{L}, \\p{N}, Unicode white space and others.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from ..errors import UnsupportedError

# White space by Unicode's property; Python's \s has U+001C … U+001F as well.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"

# {L}, {N}, {P}, {M} and {S} stand for the insides of character classes, {upper} and {lower} for
# letters and marks that may begin and end a word.
_GPT2 = _CONTRACTIONS + r"| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
_END = r"|[{S}]*[\r\n]+|[{S}]+(?![^{S}])|[{S}]+"
_GPT4 = (
    f"(?i:{_CONTRACTIONS})" + r"|[^\r\n{L}{N}]?[{L}]+|[{N}]{{1,%d}}| ?[^{S}{L}{N}]+[\r\n]*" + _END
)
_TEKKEN = (
    r"[^\r\n{L}{N}]?[{upper}]*[{lower}]+|[^\r\n{L}{N}]?[{upper}]+[{lower}]*|[{N}]"
    r"| ?[^{S}{L}{N}]+[\r\n/]*" + _END
)
_EACH_DIGIT = r"[{N}]"
_DEEPSEEK_CODER = (
    r"[\r\n]",
    r"[{S}]?[{L}]+",
    r"[{S}]?[{P}]+",
    r"[一-龥ࠀ-一가-\ud7ff]+",
    _EACH_DIGIT,
)

# Unicode's categories in each class.
_PARTS = {
    "L": ("Lu", "Ll", "Lt", "Lm", "Lo"),
    "N": ("Nd", "Nl", "No"),
    "M": ("Mn", "Mc", "Me"),
    "P": ("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"),
    "upper": ("Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Me"),
    "lower": ("Ll", "Lm", "Lo", "Mn", "Mc", "Me"),
}


@dataclass(frozen=True)
class _Rule:
    patterns: tuple[str, ...]
    add_bos: bool = False  # when the file does not say
    whole_words_first: bool = False  # a word that is a token is not merged from its bytes
    composed: bool = False  # the text is brought into Unicode's form NFC first
    total: bool = True  # the last pattern matches everywhere


_RULES = {
    "gpt-2": _Rule((_GPT2,)),
    "llama-bpe": _Rule((_GPT4 % 3,), add_bos=True, whole_words_first=True),
    "dbrx": _Rule((_GPT4 % 3,)),
    "qwen2": _Rule((_GPT4 % 1,), composed=True),
    "deepseek-r1-qwen": _Rule((_GPT4 % 1,)),
    "smollm": _Rule((_EACH_DIGIT, _GPT2)),
    "tekken": _Rule((_TEKKEN,), add_bos=True, whole_words_first=True),
    "deepseek-coder": _Rule(_DEEPSEEK_CODER, total=False),
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
        classes = _classes()
        self._patterns = [re.compile(each.format(**classes)) for each in rule.patterns]
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
    """Insides of the character classes for letters, numbers, white space and so on."""
    ranges: dict[str, list[str]] = {name: [] for name in _PARTS}
    # Of planes 4 to 16 only the start of plane 14 has anything of these (marks).
    for at, stop in ((0, 0x40000), (0xE0000, 0xE1000)):
        for category, members in groupby(map(unicodedata.category, map(chr, range(at, stop)))):
            end = at + sum(1 for _ in members)
            for name, parts in _PARTS.items():
                if category in parts:
                    ranges[name].append(f"\\U{at:08x}-\\U{end - 1:08x}")
            at = end
    return {"S": _SPACE, **{name: "".join(found) for name, found in ranges.items()}}
