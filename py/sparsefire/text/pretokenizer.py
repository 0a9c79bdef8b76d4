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

from .._shown import shown_value
from ..errors import ArgumentError, UnsupportedError
from .vocabulary import BLANK

PRE_KEY = "tokenizer.ggml.pre"  # of a GGUF file: the name of the rule
# How `convert` records another normalisation form than the rule's, which GGUF has no key for.
FORM_KEY = "tokenizer.sparsefire.normalization_form"
FORMS = "", "NFC", "NFKC"
DEFAULT_RULE = "default"  # of files that name none, as in llama.cpp

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
_WORD = (  # capitals, then small letters; either may be missing
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_ANY_CASE = f"(?i:{_CONTRACTIONS})?"
TEKKEN = _WORD % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
GPT4O = _WORD % (_ANY_CASE, _ANY_CASE) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
QWEN35 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _END
)
SEED_CODER = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+" + _END
)
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
EXAONE_MOE = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
# Its own spelling subtracts Han from the classes of letters, which Python's `re` cannot.
KIMI_K2 = (
    r"[\p{Han}]+|"
    + (_WORD % (_ANY_CASE, _ANY_CASE)).replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    + _END
)
DIGIT = r"\p{N}"
# Without contractions: suffixes stay with their apostrophe.
UFAKZEKA = (GPT4 % "").removeprefix(rf"(?i:{_CONTRACTIONS})|")
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", DIGIT)
# Letters that have two cases, as of Unicode 11.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ"
    "Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄ"
    "Ⰰ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-\ud7ff]+",
    DIGIT,
)
_ASCII_MARK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_WORD = (
    _ASCII_MARK + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _END
)
DEEPSEEK_V3 = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK_WORD)
SPARK = (
    *DEEPSEEK_V3[:2],
    _DEEPSEEK_WORD.replace(r"]+[\r\n]*|\s*[\r\n]+|", r"]+|[\r\n]|"),
    DIGIT,
)
YOUTU = (
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
    GPT4O.replace("{1,3}", ""),
)
_BY_THREES = r"\A\p{N}{1,2}(?=(?:\p{N}{3})+\Z)|\p{N}{3}"  # digits from the right
AFMOE = (
    r"\p{N}+",
    _BY_THREES,
    "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
    _DEEPSEEK_WORD,
)
PUNCTUATION, THREE_DIGITS = r"[\p{P}\$\+<=>\^~\|`]+", "[0-9][0-9][0-9]"
FALCON = (PUNCTUATION, GPT2, THREE_DIGITS)
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", THREE_DIGITS)
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
CHAMELEON = (
    "<sentinel:[0-9]+>",
    "(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z",
    r"(?:[\t\n]|    |  )",
    DIGIT,
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
)
JAIS2 = (GPT4 % "{1,3}").replace(
    r"|\s+(?!\S)|\s+",
    "".join(rf"|\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1)) + r"|\s{1,2}(?!\S)|\s{1}",
)
# Digits by three from the right, of numbers that end where a word ends, or of all.
TINY_AYA = (r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O)
SUPERBPE = (r"\p{N}+", r"(?=(\d{3})+(?!\d))")
LINES = r"[^\n]+|[\n]+"
# What a word may consist of, at whose end \b matches (Unicode's \w, with Latin-1's fractions).
_WORDS = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}"
    "²³¹¼-¾Ⓐ-ⓩ\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189"
)
# Patterns that Python's `re` reads otherwise, or that take quadratic time, and what stands for
# them: a pattern, or one and a second that cuts its matches.
_REWRITTEN = {
    BLOOM: (r" ?[^(\s|.,!?…。，、।۔،)]+",),  # a class within a class
    TINY_AYA[0]: (rf"(?<!\p{{Nd}})\p{{Nd}}++(?![{_WORDS}])", _BY_THREES),
    # From one cut to the next: numbers without digits, such as ½, stay with their neighbours.
    SUPERBPE[1]: (
        r"(?!\Z)(?:\A%s|\p{Nd}{3})?+(?:[^\p{Nd}]++(?:%s)?+)*+"
        % ((r"\p{Nd}{1,2}(?=(?:\p{Nd}{3})*+(?!\p{Nd}))",) * 2),
    ),
}


@dataclass(frozen=True)
class _Rule:
    patterns: tuple[str, ...]
    add_bos: bool = False  # default of a missing key
    whole_words_first: bool = False  # a word that is a token is not merged from its bytes
    form: str = ""  # Unicode's normalisation form that the text gets first
    # The last pattern matches everywhere, or what it does not match is dropped.
    total: bool = True
    add_separator: bool = False  # default of a missing key
    blank: str | None = None  # merges join characters, and not bytes, with this for spaces


_RULES = {
    "gpt-2": _Rule((GPT2,)),
    "llama-bpe": _Rule((GPT4 % "{1,3}",), add_bos=True, whole_words_first=True),
    "dbrx": _Rule((GPT4 % "{1,3}",)),
    "glm4": _Rule((GPT4 % "{1,3}",), whole_words_first=True),
    "minicpm5": _Rule((r"\p{N}{1,3}", GPT4 % "+"), whole_words_first=True),
    "qwen2": _Rule((GPT4 % "",), form="NFC"),
    "deepseek-r1-qwen": _Rule((GPT4 % "",)),
    "qwen35": _Rule((QWEN35,)),
    "seed-coder": _Rule((SEED_CODER,)),
    "bailingmoe": _Rule((BAILING % "",)),
    "nanochat": _Rule((BAILING % "{1,2}",)),
    "exaone-moe": _Rule((EXAONE_MOE,)),
    "smollm": _Rule((DIGIT, GPT2)),
    "tekken": _Rule((TEKKEN,), add_bos=True, whole_words_first=True),
    "gpt-4o": _Rule((GPT4O,)),
    "kimi-k2": _Rule((KIMI_K2,)),
    "deepseek-llm": _Rule(DEEPSEEK_LLM, total=False),
    "deepseek-coder": _Rule(DEEPSEEK_CODER, total=False),
    "deepseek-v3": _Rule(DEEPSEEK_V3, total=False),
    "afmoe": _Rule(AFMOE, total=False),
    "falcon": _Rule(FALCON, total=False),
    DEFAULT_RULE: _Rule(DEFAULT, total=False),
    "roberta-bpe": _Rule((GPT2,), add_separator=True),
    "bloom": _Rule((BLOOM,), total=False),
    "viking": _Rule((BLOOM, DIGIT), total=False),
    "chameleon": _Rule(CHAMELEON, add_bos=True),
    "jais-2": _Rule((JAIS2,)),
    "granite-embed-multi-97m": _Rule((GPT4O,), whole_words_first=True),
    "tiny_aya": _Rule(TINY_AYA),
    "superbpe": _Rule(SUPERBPE, total=False),
    "youtu": _Rule(YOUTU, whole_words_first=True),
    "spark2_5": _Rule(SPARK, total=False),
    "ufakzeka": _Rule((UFAKZEKA,)),
    "laguna": _Rule((LINES, GPT4 % "")),
    "gemma4": _Rule((LINES,), add_bos=True, blank=BLANK),
    "sarvam-moe": _Rule((LINES,), blank=BLANK),
    "whitespace": _Rule((r"\S+",), blank=" "),
}
_ALIASES = {
    alias: name
    for name, aliases in {
        "gpt-2": "gpt2 phi-2 mpt olmo jais exaone4 gigachat a.x-4.0 mellum trillion "
        "granite-docling modern-bert jina-es jina-de jina-v2-es jina-v2-de",
        "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        "dbrx": "smaug-bpe chatglm-bpe",
        "glm4": "glm5",
        "qwen2": "hunyuan f2llmv2",
        "deepseek-r1-qwen": "stablelm2 megrez kormo solar-open grok-2",
        "bailingmoe": "bailingmoe2 llada-moe",
        "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
        "gpt-4o": "llama4 kanana2 talkie minimax-m2",
        "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
        "roberta-bpe": "jina-v1-en jina-v2-code",
        "bloom": "poro-chat gpt3-finnish",
        "tiny_aya": "cohere2moe",
        "gemma4": "granite-embed-multi-311m",
    }.items()
    for alias in aliases.split()
}


class PreTokenizer:
    """A compiled rule: `split` yields the words of a text, which together are the text."""

    def __init__(self, name: str, rule: _Rule) -> None:
        self.name = name
        self.add_bos = rule.add_bos
        self.whole_words_first = rule.whole_words_first
        self.form = rule.form
        self.add_separator = rule.add_separator
        self.blank = rule.blank
        self._steps = [_compiled(each) for each in rule.patterns]
        self._total = rule.total

    def split(self, text: str) -> Iterable[str]:
        """The words of `text`, in order."""
        pieces: Iterable[str] = (text,)
        for step in self._steps[: -1 if self._total else None]:
            pieces = _isolate(step, pieces)
        if not self._total:
            return pieces
        words = self._steps[-1][0].findall
        if len(self._steps) == 1:
            return words(text)
        return (word for piece in pieces for word in words(piece))


_Step = tuple[re.Pattern[str], ...]  # a pattern, and perhaps one that cuts its matches


def _isolate(step: _Step, pieces: Iterable[str]) -> Iterator[str]:
    """Splits each piece into matches and the text between them."""
    pattern, *within = step
    for piece in pieces:
        at = 0
        for match in pattern.finditer(piece):
            if match.start() > at:
                yield piece[at : match.start()]
            if within:
                yield from _isolate(tuple(within), (match.group(),))
            else:
                yield match.group()
            at = match.end()
        if at < len(piece):
            yield piece[at:]


def _compiled(pattern: str) -> _Step:
    return tuple(re.compile(_translated(each)) for each in _REWRITTEN.get(pattern, (pattern,)))


def pretokenizer(name: object) -> PreTokenizer:
    """The rule of that name; `UnsupportedError` if it is unknown."""
    known = _ALIASES.get(name, name) if isinstance(name, str) else None
    if known is None or known not in _RULES:
        raise UnsupportedError(
            f"the vocabulary names the pre-tokeniser rule {shown_value(name)}, which is unknown "
            f"('{PRE_KEY}'); known ones: {', '.join(_RULES)}. If you know which of them the model "
            "was trained with, name it with --pre (pre=…)"
        )
    return _of_rule(known)


@functools.cache
def _of_rule(name: str) -> PreTokenizer:
    return PreTokenizer(name, _RULES[name])


def check_rule(name: str) -> None:
    """`ArgumentError` if there is no rule of that name."""
    if not isinstance(name, str) or _ALIASES.get(name, name) not in _RULES:
        raise ArgumentError(
            f"pre: unknown pre-tokeniser {name!r}; known ones: {', '.join((*_RULES, *_ALIASES))}"
        )


def rules_of(patterns: Iterable[str]) -> list[str]:
    """Names of the rules with these patterns, written as in tokenizer.json: there line ends stand
    as such or as escapes."""
    wanted = tuple(each.replace("\r", r"\r").replace("\n", r"\n") for each in patterns)
    return [name for name, rule in _RULES.items() if rule.patterns == wanted]


def _translated(pattern: str) -> str:
    r"""The pattern in Python's `re`, which lacks \p{…} and has another \s: both become ranges of
    characters, in brackets of their own outside of a class. A class without another (`&&[^…]`)
    becomes a class behind a negative lookahead. White space before the end is looked for from the
    start of its run only, or a long run elsewhere would take quadratic time."""
    pattern = _DIFFERENCE.sub(r"(?:(?!\2)\1])\3", pattern).replace(r"\s+$", r"(?<!\s)\s++$")
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


def character_class(inside: str) -> str:
    """The inside of a character class with \\p{…} and \\s, for Python's `re`."""
    return _translated(f"[{inside}]")[1:-1]


_DIFFERENCE = re.compile(r"(\[(?:\\p\{\w+\})+)&&\[\^(\\p\{\w+\})\]\]([*+]?)")
_PIECES = re.compile(r"\\p\{(?P<property>\w+)\}|\\.|[^\\]", re.DOTALL)


@functools.cache
def _ranges(name: str) -> str:
    """The inside of a character class: the characters of a category, such as Lu, or of all whose
    names begin so, such as L."""
    if name in _SCRIPTS:
        return _SCRIPTS[name]
    found = (ranges for category, ranges in _categories().items() if category.startswith(name))
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for each in found for first, last in each)


# Scripts, which Python's `unicodedata` lacks (Unicode 16, Scripts.txt).
_SCRIPTS = {
    "Han": (
        r"\u2e80-\u2e99\u2e9b-\u2ef3\u2f00-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf"
        r"\u4e00-\u9fff\uf900-\ufa6d\ufa70-\ufad9\U00016fe2\U00016fe3\U00016ff0\U00016ff1"
        r"\U00020000-\U0002a6df\U0002a700-\U0002b739\U0002b740-\U0002b81d\U0002b820-\U0002cea1"
        r"\U0002ceb0-\U0002ebe0\U0002ebf0-\U0002ee5d\U0002f800-\U0002fa1d\U00030000-\U0003134a"
        r"\U00031350-\U000323af"
    ),
}


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
