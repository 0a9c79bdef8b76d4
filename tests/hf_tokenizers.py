"""Small tokenisers with the rules of published ones, trained with the `tokenizers` package."""

from __future__ import annotations

from collections.abc import Callable

import tokenizers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from word_rules import SPLITTERS

TRAINING = [
    "The people of the United States and of this and that, then there. ab abab aab über 1789",
    "def f(x):\n    return x + 12345\n\n\tweren't we'll 日本語のテキスト Привет, мир 👍",
] * 4
_LETTERS = sorted({letter for text in TRAINING for letter in text if not letter.isspace()})


def _byte_level(
    rule: str | pre_tokenizers.PreTokenizer,
    size: int,
    *,
    composed: bool = False,
    whole: bool = False,
    around: tuple[str, ...] = (),
    mask: str = "",
) -> Tokenizer:
    """Byte-level BPE; around: what begins, and perhaps ends, a text."""
    made = Tokenizer(models.BPE(ignore_merges=whole))
    made.pre_tokenizer = SPLITTERS[rule] if isinstance(rule, str) else rule
    made.decoder = decoders.ByteLevel()
    if composed:
        made.normalizer = normalizers.NFC()
    names = [*dict.fromkeys(around or ("<|endoftext|>",))]
    trainer = trainers.BpeTrainer(
        vocab_size=size - bool(mask),
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TRAINING, trainer)
    if mask:
        made.add_special_tokens([AddedToken(mask, lstrip=True)])
    if around:
        made.post_processor = processors.TemplateProcessing(
            single=" ".join([around[0], "$A", *around[1:]]),
            special_tokens=[(name, made.token_to_id(name)) for name in names],
        )
    return made


def _sentencepiece(size: int, *, metaspace: bool) -> Tokenizer:
    """SentencePiece's BPE as tokenizer.json describes it, in Llama 2's older or newer way."""
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(steps)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *pieces],
        limit_alphabet=30,
        show_progress=False,
    )
    made.train_from_iterator(TRAINING, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


def _phi(size: int) -> Tokenizer:
    """Phi-3's, whose added tokens take the white space after them."""
    made = _sentencepiece(size - 3, metaspace=False)
    names = ("<|user|>", "<|end|>", "<|assistant|>")
    made.add_special_tokens([AddedToken(name, rstrip=True, normalized=False) for name in names])
    return made


def _gemma(size: int) -> Tokenizer:
    """Gemma's: no space before a text, and added tokens for runs of line ends and of spaces, which
    the merges reach as well."""
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size - 3,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", *pieces],
        limit_alphabet=30,
        show_progress=False,
    )
    made.train_from_iterator(["▁▁▁▁▁▁▁▁" * 20, *TRAINING], trainer)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_tokens([AddedToken(name, normalized=False) for name in ("\n\n", "▁▁", "▁▁▁▁", "\t")])
    made.add_special_tokens(["<start_of_turn>"])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return made


def _word_piece(size: int) -> Tokenizer:
    """BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=names, show_progress=False)
    made.train_from_iterator(TRAINING, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, names.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


def _unigram(size: int) -> Tokenizer:
    """XLM-RoBERTa's, but for its table of replacements."""
    made = Tokenizer(models.Unigram())
    steps = [
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(tokenizers.Regex(" {2,}"), "▁"),
    ]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=size - 1,
        special_tokens=names,
        unk_token="<unk>",
        initial_alphabet=_LETTERS,
        show_progress=False,
    )
    made.train_from_iterator(TRAINING, trainer)
    made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return made


def _roberta(size: int) -> Tokenizer:
    """RoBERTa's."""
    made = _byte_level("gpt-2", size, around=("<s>", "</s>"), mask="<mask>")
    made.post_processor = processors.RobertaProcessing(
        ("</s>", made.token_to_id("</s>")), ("<s>", made.token_to_id("<s>")), add_prefix_space=False
    )
    return made


# By the family: the tokeniser of a published model of it, for a vocabulary of so many tokens.
MAKERS: dict[str, Callable[[int], Tokenizer]] = {
    "mixtral": lambda size: _sentencepiece(size, metaspace=False),
    "phimoe": lambda size: _sentencepiece(size, metaspace=True),
    "qwen2_moe": lambda size: _byte_level("qwen2", size, composed=True),
    "qwen3_moe": lambda size: _byte_level("qwen2", size, composed=True),
    "smallthinker": lambda size: _byte_level("qwen2", size, composed=True),
    "olmoe": lambda size: _byte_level("gpt-2", size, composed=True),
    "gpt_oss": lambda size: _byte_level("gpt-4o", size),
    "deepseek_v2": lambda size: _byte_level("deepseek-llm", size),
    "deepseek_v3": lambda size: _byte_level("deepseek-v3", size),
    "granite": lambda size: _byte_level("smollm", size),
    "granitemoe": lambda size: _byte_level("smollm", size),
    "nemotron": lambda size: _sentencepiece(size, metaspace=False),
    "nemotron_h": lambda size: _byte_level("tekken", size, whole=True, around=("<s>",)),
    "arcee": lambda size: _byte_level("llama-bpe", size, whole=True, around=("<|begin|>",)),
    "bitnet": lambda size: _byte_level("llama-bpe", size, whole=True, around=("<|begin|>",)),
    "nanochat": lambda size: _byte_level("nanochat", size, around=("<|bos|>",)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), _gemma),
    "phi3": _phi,
    "mistral3": lambda size: _byte_level("tekken", size, whole=True, around=("<s>",)),
    "ministral3": lambda size: _byte_level("tekken", size, whole=True, around=("<s>",)),
    "smollm3": lambda size: _byte_level("llama-bpe", size, whole=True, around=("<|begin|>",)),
    "olmo": lambda size: _byte_level("gpt-2", size, composed=True),
    **dict.fromkeys(("olmo2", "olmo3"), lambda size: _byte_level("llama-bpe", size)),
    "cohere": lambda size: _byte_level("smollm", size, composed=True, around=("<BOS_TOKEN>",)),
    "cohere2": lambda size: _byte_level("smollm", size, composed=True, around=("<BOS_TOKEN>",)),
    **dict.fromkeys(("gpt2", "phi", "exaone4"), lambda size: _byte_level("gpt-2", size)),
    "gpt_neox": lambda size: _byte_level("gpt-2", size, composed=True),
    "starcoder2": lambda size: _byte_level("smollm", size),
    "falcon": lambda size: _byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
        size,
    ),
    "stablelm": lambda size: _byte_level("qwen2", size),
    "glm4": lambda size: _byte_level("llama-bpe", size, whole=True),
    "glm4_moe": lambda size: _byte_level("llama-bpe", size, whole=True),
    "ernie4_5": lambda size: _sentencepiece(size, metaspace=True),
    "hunyuan_v1_dense": lambda size: _byte_level("deepseek-v3", size),
    "lfm2": lambda size: _byte_level("llama-bpe", size, whole=True, around=("<|begin|>",)),
    "seed_oss": lambda size: _byte_level("seed-coder", size),
    "qwen3": lambda size: _byte_level("qwen2", size, composed=True),
    "bert": _word_piece,
    "nomic_bert": _word_piece,
    "roberta": _roberta,
    "xlm_roberta": _unigram,
    "modernbert": lambda size: _byte_level(
        "gpt-2", size, composed=True, around=("[CLS]", "[SEP]"), mask="[MASK]"
    ),
}
