"""The keys of a GGUF file for the tokeniser of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelFileError, UnsupportedError
from ...text.pretokenizer import DEEPSEEK_CODER, DIGIT, GPT2, GPT4, TEKKEN
from ...text.vocabulary import BLANK, TokenType
from .safetensors import read_json_object
from .sentencepiece import SentencePieceModel

# Rules for cutting text into words, by the patterns in tokenizer.json.
_RULES: dict[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (GPT4 % "{1,3}",): "dbrx",
    (GPT4 % "",): "deepseek-r1-qwen",
    (DIGIT, GPT2): "smollm",
    (TEKKEN,): "tekken",
    DEEPSEEK_CODER: "deepseek-coder",
}
# The same patterns where the vocabulary says more.
_WITH_WHOLE_WORDS = {"dbrx": "llama-bpe"}
_COMPOSED = {"deepseek-r1-qwen": "qwen2"}


def tokenizer_metadata(directory: Path, vocab: int, pre: str | None = None) -> dict[str, Any]:
    """The keys `tokenizer.*` for the files of a checkpoint: `tokenizer.json`, or `tokenizer.model`
    where there is one.

    vocab: rows of the embedding; tokens without a name are filled in.
    pre: name of the rule for cutting text into words, instead of the one that is recognised.

    Errors: `ModelFileError` naming the file, `UnsupportedError` (another kind, unknown rule).
    """
    settings = read_json_object(directory / "tokenizer_config.json")
    described = read_json_object(directory / "tokenizer.json")
    stored = directory / "tokenizer.model"
    if stored.exists():
        model = SentencePieceModel.read(stored.read_bytes(), str(stored))
        table = _Table(list(model.tokens), list(model.types), list(model.scores))
        keys = model.metadata()
    elif described:
        table, keys = _from_json(directory / "tokenizer.json", described, pre)
    else:
        raise UnsupportedError(f"{directory}: neither tokenizer.json nor tokenizer.model")
    table.add(_added_tokens(directory, settings, described), directory)
    if len(table.tokens) > vocab:
        raise ModelFileError(
            f"{directory}: the tokeniser has {len(table.tokens)} tokens, but the embedding "
            f"{vocab} rows"
        )
    table.fill(vocab)
    keys |= table.metadata("tokenizer.ggml.scores" in keys)
    keys |= _special_ids(directory, settings, table)
    keys |= _added_at_the_ends(settings, described)
    return keys | _chat_templates(directory, settings)


class _Table:
    """Tokens by id, while they are put together."""

    def __init__(self, tokens: list[str], types: list[int], scores: list[float]) -> None:
        self.tokens, self.types, self.scores = tokens, types, scores

    def add(self, added: Mapping[int, tuple[str, bool]], directory: Path) -> None:
        """Tokens by id that are matched as they are written: name, and whether it is special."""
        for token in sorted(added):
            name, special = added[token]
            kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
            if token > len(self.tokens) + (1 << 20):
                raise ModelFileError(f"{directory}: an added token has the id {token}")
            self.fill(token + 1)
            if self.types[token] in (TokenType.BYTE, TokenType.UNKNOWN):
                continue
            # Blanks are spelt out, since these names are looked for in the text itself.
            self.tokens[token] = name.replace(BLANK, " ") if not special else name
            self.types[token] = int(kind)

    def fill(self, size: int) -> None:
        """Names for ids that have none."""
        for token in range(len(self.tokens), size):
            self.tokens.append(f"[PAD{token}]")
            self.types.append(int(TokenType.UNUSED))
            self.scores.append(-10000.0)

    def find(self, name: str) -> int | None:
        """The id of a name."""
        return self.tokens.index(name) if name in self.tokens else None

    def metadata(self, scores: bool) -> dict[str, Any]:
        """The keys."""
        keys: dict[str, Any] = {
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": np.array(self.types, np.int32),
        }
        if scores:
            keys["tokenizer.ggml.scores"] = np.array(self.scores, np.float32)
        return keys


def _from_json(
    path: Path, described: Mapping[str, Any], pre: str | None
) -> tuple[_Table, dict[str, Any]]:
    model = described.get("model")
    model = model if isinstance(model, Mapping) else {}
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if model.get("type", "BPE") != "BPE" or not isinstance(vocabulary, dict):
        raise UnsupportedError(
            f"{path}: a tokeniser of the type {model.get('type')!r}; BPE is supported"
        )
    if not isinstance(merges, list):
        raise ModelFileError(f"{path}: the merges are missing")
    try:
        pairs = [each.split(" ", 1) if isinstance(each, str) else list(each) for each in merges]
        ids = {int(token): str(name) for name, token in vocabulary.items()}
        if any(len(pair) != 2 for pair in pairs) or min(ids, default=0) < 0:
            raise ValueError
        if max(ids, default=0) > 2 * len(ids) + 1024:
            raise ValueError
    except (TypeError, ValueError):
        raise ModelFileError(f"{path}: the vocabulary or a merge is not well formed") from None
    table = _Table([], [], [])
    for token in range(max(ids, default=-1) + 1):
        table.fill(token)
        table.tokens.append(ids.get(token, f"[PAD{token}]"))
        table.types.append(int(TokenType.NORMAL if token in ids else TokenType.UNUSED))
        table.scores.append(0.0)
    if model.get("byte_fallback"):
        return table, _pieces(table, pairs, model, described)
    rule = pre or _rule(path, described, model)
    return table, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
    }


def _pieces(
    table: _Table,
    pairs: Sequence[Sequence[str]],
    model: Mapping[str, Any],
    described: Mapping[str, Any],
) -> dict[str, Any]:
    """SentencePiece's BPE, whose merges say the order of its scores."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    last = len(ranks)
    for token, name in enumerate(table.tokens):
        table.scores[token] = -float(ranks.get(name, last))
        if name.startswith("<0x") and len(name) == 6:
            table.types[token] = int(TokenType.BYTE)
        elif name == model.get("unk_token"):
            table.types[token] = int(TokenType.UNKNOWN)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": None,  # set from the table
        "tokenizer.ggml.add_space_prefix": _puts_a_blank(described),
        "tokenizer.ggml.remove_extra_whitespaces": False,
    }


def _puts_a_blank(described: Mapping[str, Any]) -> bool:
    """Whether a blank goes before a text: by a normaliser or by a pre-tokeniser."""
    steps = [*_steps(described, "normalizer", "normalizers")]
    steps += _steps(described, "pre_tokenizer", "pretokenizers")
    return any(
        step.get("type") == "Prepend"
        or (
            step.get("type") == "Metaspace"
            and step.get("prepend_scheme", "always") != "never"
            and step.get("add_prefix_space", True)
        )
        for step in steps
    )


def _steps(described: Mapping[str, Any], name: str, inner: str) -> list[Mapping[str, Any]]:
    """The parts of a normaliser or pre-tokeniser, one or a sequence."""
    step = described.get(name)
    if not isinstance(step, Mapping):
        return []
    parts = step.get(inner) if step.get("type") == "Sequence" else [step]
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _rule(path: Path, described: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The rule for cutting text into words, recognised by its patterns."""
    patterns: list[str] = []
    for step in _steps(described, "pre_tokenizer", "pretokenizers"):
        kind = step.get("type")
        if kind == "Split":
            pattern = step.get("pattern")
            patterns.append(str(pattern.get("Regex")) if isinstance(pattern, Mapping) else "?")
        elif kind == "Digits" and step.get("individual_digits"):
            patterns.append(DIGIT)
        elif kind == "ByteLevel":
            if step.get("use_regex", True):
                patterns.append(GPT2)
        else:
            patterns.append(f"({kind})")
    rule = _RULES.get(tuple(patterns))
    if rule is None:
        raise UnsupportedError(
            f"{path}: the rule for cutting text into words is not known: {patterns}. If it is one "
            "that a GGUF file can name, name it with --pre"
        )
    if model.get("ignore_merges"):
        rule = _WITH_WHOLE_WORDS.get(rule, rule)
    if any(step.get("type") == "NFC" for step in _steps(described, "normalizer", "normalizers")):
        rule = _COMPOSED.get(rule, rule)
    return rule


def _added_tokens(
    directory: Path, settings: Mapping[str, Any], described: Mapping[str, Any]
) -> dict[int, tuple[str, bool]]:
    """Names of added tokens, and whether they are special, by id, from all three places."""
    added: dict[int, tuple[str, bool]] = {}
    for name, token in read_json_object(directory / "added_tokens.json").items():
        added[token] = (name, False)
    entries = described.get("added_tokens")
    listed: list[tuple[Any, Any]] = [
        (each.get("id"), each) for each in entries or [] if isinstance(each, Mapping)
    ]
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        listed += [(int(token), each) for token, each in decoder.items() if token.isdecimal()]
    for token, each in listed:
        if isinstance(each, Mapping):
            added[token] = (each.get("content", ""), bool(each.get("special")))
    for token, (name, _) in added.items():
        if not isinstance(token, int) or token < 0 or not isinstance(name, str) or not name:
            raise ModelFileError(f"{directory}: an added token is not well formed: {name!r}")
    return added


def _special_ids(directory: Path, settings: Mapping[str, Any], table: _Table) -> dict[str, Any]:
    """Ids of the tokens that begin and end texts and so on: by name in the tokeniser's settings,
    else by number in the model's."""
    configs = [
        read_json_object(directory / f"{name}.json") for name in ("config", "generation_config")
    ]
    keys = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = _named(settings.get(f"{name}_token"), table)
        for config in configs:
            given = config.get(f"{name}_token_id")
            given = given[0] if isinstance(given, list) and given else given
            token = given if token is None and isinstance(given, int) else token
        if token is not None and 0 <= token < len(table.tokens):
            keys[f"tokenizer.ggml.{key}_token_id"] = token
    # Chat models often end their turns with another token than texts.
    eos = keys.get("tokenizer.ggml.eos_token_id")
    ends = configs[1].get("eos_token_id")
    others = [each for each in ends if each != eos] if isinstance(ends, list) else []
    for key, token in zip(("eot", "eom"), others, strict=False):
        if isinstance(token, int) and 0 <= token < len(table.tokens):
            keys[f"tokenizer.ggml.{key}_token_id"] = token
    return keys


def _named(value: Any, table: _Table) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return table.find(value) if isinstance(value, str) else None


def _added_at_the_ends(settings: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Whether texts get tokens at their ends: as the settings say, else as the post-processor of
    tokenizer.json does."""
    begins, ends = settings.get("add_bos_token"), settings.get("add_eos_token")
    steps = _steps(described, "post_processor", "processors")
    template = next(
        (each.get("single") for each in steps if each.get("type") == "TemplateProcessing"), None
    )
    if isinstance(template, list) and template:
        begins = "SpecialToken" in template[0] if begins is None else begins
        ends = "SpecialToken" in template[-1] if ends is None else ends
    keys = {}
    # A SentencePiece model says nothing of them; those of this family have one at the front.
    for key, value in (("add_bos_token", begins), ("add_eos_token", ends)):
        if isinstance(value, bool):
            keys[f"tokenizer.ggml.{key}"] = value
        elif described:
            keys[f"tokenizer.ggml.{key}"] = False
    return keys


def _chat_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template, or several with names."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return {"tokenizer.chat_template": file.read_text("utf-8")}
    stored = settings.get("chat_template")
    stored = stored or read_json_object(directory / "chat_template.json").get("chat_template")
    if isinstance(stored, str):
        return {"tokenizer.chat_template": stored}
    keys: dict[str, Any] = {}
    names = []
    for each in stored if isinstance(stored, list) else []:
        name, source = (
            (each.get("name"), each.get("template")) if isinstance(each, dict) else (0, 0)
        )
        if not isinstance(name, str) or not isinstance(source, str):
            raise ModelFileError(f"{directory}: 'chat_template' is not well formed")
        if name == "default":
            keys["tokenizer.chat_template"] = source
        else:
            keys[f"tokenizer.chat_template.{name}"] = source
            names.append(name)
    return {**keys, "tokenizer.chat_templates": names} if names else keys
