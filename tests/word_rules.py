"""The word rules of published tokenisers, spelt as in their own files, for the `tokenizers`
package."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from sparsefire.text.pretokenizer import DEEPSEEK_LLM

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Spelt as in the models' own files; of AFMoE's digits the rule is that groups end at the right.
GPT4O = TEKKEN.replace("+|[^", f"+{CONTRACTIONS}?|[^").replace(
    r"*|\p{N}", rf"*{CONTRACTIONS}?|\p{{N}}{{1,3}}"
)
KIMI_K2 = r"[\p{Han}]+|" + GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"\n/]", r"\n]")
DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_CUTS = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+")
QWEN2 = GPT4.replace("{1,3}", "")
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
HAN_OR_HANGUL = "[一-龥ࠀ-一가-\ud7ff]+"


def splitter(*patterns: str | Any) -> Any:
    """Isolates what matches each of the patterns; other splitters may stand among them."""
    splits = [
        pre_tokenizers.Split(tokenizers.Regex(each), "isolated") if isinstance(each, str) else each
        for each in patterns
    ]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, last])


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_SPLITTER = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
SPLITTERS = {
    "gpt-2": GPT2_SPLITTER,
    "llama-bpe": splitter(GPT4),
    "minicpm5": splitter(r"\p{N}{1,3}", GPT4.replace("{1,3}", "+")),
    "qwen2": splitter(GPT4.replace("{1,3}", "")),
    "qwen35": splitter(
        GPT4.replace("{1,3}", "")
        .replace(r"?\p{L}+", r"?[\p{L}\p{M}]+")
        .replace(r"s\p{L}", r"s\p{L}\p{M}")
    ),
    "seed-coder": splitter(
        GPT4.replace("{1,3}", "{1}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
    ),
    "bailingmoe": splitter(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "nanochat": splitter(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "exaone-moe": splitter(
        CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "tekken": splitter(TEKKEN),
    "gpt-4o": splitter(GPT4O),
    "kimi-k2": splitter(KIMI_K2),
    "deepseek-llm": splitter(
        r"[\r\n]",
        DEEPSEEK_LLM[1],
        r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        r"\s+$",
        HAN_OR_HANGUL,
        DIGITS,
    ),
    "deepseek-coder": splitter(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_OR_HANGUL, DIGITS),
    "deepseek-v3": splitter(*DEEPSEEK_CUTS, DEEPSEEK_V3),
    "afmoe": splitter(
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
        DEEPSEEK_V3,
    ),
    "smollm": pre_tokenizers.Sequence([DIGITS, GPT2_SPLITTER]),
    "falcon": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"[!-/:-@\[-`{-~\p{P}]+"), "isolated"),
            GPT2_SPLITTER,
            pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    ),
    "default": splitter(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "bloom": splitter(BLOOM),
    "viking": splitter(BLOOM, r"\p{N}"),
    "chameleon": splitter(
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        DIGITS,
        r"[\p{P}!-/:-@\[-`{-~]",
        GPT2,
    ),
    "jais-2": splitter(
        GPT4.replace(
            r"|\s+(?!\S)|\s+",
            r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)"
            r"|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "tiny_aya": splitter(r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O),
    "superbpe": splitter(r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "youtu": splitter(
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        GPT4O.replace("{1,3}", ""),
    ),
    "spark2_5": splitter(
        *DEEPSEEK_CUTS,
        DEEPSEEK_V3.replace(r"]+[\r\n]*|\s*[\r\n]+|", r"]+|[\r\n]|"),
        r"\p{N}",
    ),
    "ufakzeka": splitter(QWEN2.partition("|[^")[2].join(["[^", ""])),
    "laguna": splitter(r"[^\n]+|[\n]+", QWEN2),
}
