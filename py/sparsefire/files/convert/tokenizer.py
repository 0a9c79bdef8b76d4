"""The keys of a GGUF file for the tokeniser of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelFileError, UnsupportedError
from ...text.normalizer import SCHEME_KEY
from ...text.pretokenizer import FORM_KEY, PRE_KEY, pretokenizer
from ...text.vocabulary import BLANK, STRIP_LEFT_KEY, STRIP_RIGHT_KEY, TokenType
from . import rwkv_vocabulary
from .encoder_tokenizers import unigram, word_pieces
from .safetensors import read_json_object
from .sentencepiece import SentencePieceModel
from .tokenizer_json import Ends, TokenizerJson, check_flags


def tokenizer_metadata(
    directory: Path, vocab: int, pre: str | None = None, *, encoder: bool = False
) -> dict[str, Any]:
    """The keys `tokenizer.*` for the files of a checkpoint: `tokenizer.json`, or `tokenizer.model`
    where there is one, or RWKV's vocabulary.

    vocab: rows of the embedding; tokens without a name are filled in.
    pre: name of the rule for cutting text into words, instead of the one that is recognised.
    encoder: the vocabulary of one, in whose texts names of control tokens, such as that of hidden
      words, are plain text.

    Errors: `ModelFileError` naming the file, `UnsupportedError` (another kind, unknown rule).
    """
    settings = read_json_object(directory / "tokenizer_config.json")
    described = read_json_object(directory / "tokenizer.json")
    stored = directory / "tokenizer.model"
    mask = _name(settings.get("mask_token")) if encoder else None
    source = TokenizerJson(directory / "tokenizer.json", described)
    if source.bpe and described:
        source.check_model()
        source.check_added_tokens(mask)
    if stored.exists():
        model = SentencePieceModel.read(stored.read_bytes(), str(stored))
        table = _Table(list(model.tokens), list(model.types), list(model.scores))
        keys = model.metadata()
        if source.pieces:  # of two descriptions of a vocabulary, this one says where spaces go
            keys |= _spaces(source)
    elif source.kind in _OTHER_KINDS:
        tokens, keys = _OTHER_KINDS[source.kind](source)
        table = _Table(*tokens)
    elif described:
        source.check_model()
        table, keys = _from_json(directory / "tokenizer.json", source, pre)
    else:
        table, keys = _from_rwkv(directory)
    ends = source.ends()
    entries = _entries(settings, described)
    added = _added_tokens(directory, entries, mask)
    table.add(
        added,
        directory,
        blanks=keys["tokenizer.ggml.model"] in ("llama", "t5"),
        merged=source.merged_blanks,
    )
    if len(table.tokens) > vocab:
        raise ModelFileError(
            f"{directory}: the tokeniser has {len(table.tokens)} tokens, but the embedding "
            f"{vocab} rows"
        )
    table.fill(vocab)
    keys |= table.metadata("tokenizer.ggml.scores" in keys)
    if keys["tokenizer.ggml.model"] != "rwkv":
        around = {} if ends.eos is None else {"tokenizer.ggml.seperator_token_id": ends.eos}
        keys |= around if source.kind == "WordPiece" else {}
        keys |= _special_ids(directory, settings, table, ends)
    keys |= _added_at_the_ends(settings, ends, bool(described))
    return keys | _stripping(entries, mask) | _chat_templates(directory, settings)


_OTHER_KINDS = {"WordPiece": word_pieces, "Unigram": unigram}


class _Table:
    """Tokens by id, while they are put together."""

    def __init__(self, tokens: list[str], types: list[int], scores: list[float]) -> None:
        self.tokens, self.types, self.scores = tokens, types, scores

    def add(
        self,
        added: Mapping[int, tuple[str, bool]],
        directory: Path,
        *,
        blanks: bool,
        merged: frozenset[str],
    ) -> None:
        """Tokens by id that are matched as they are written: name, and whether it is special.
        blanks: "▁" in their names is a space. merged: those that are merged as others are."""
        for token in sorted(added):
            name, special = added[token]
            kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
            if token > len(self.tokens) + (1 << 20):
                raise ModelFileError(f"{directory}: an added token has the id {token}")
            self.fill(token + 1)
            if self.types[token] in (TokenType.BYTE, TokenType.UNKNOWN):
                continue
            if name in merged:
                self.types[token] = int(TokenType.NORMAL)
                continue
            # Blanks are spelt out, since these names are looked for in the text itself.
            self.tokens[token] = name.replace(BLANK, " ") if not special and blanks else name
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


def _from_json(path: Path, source: TokenizerJson, pre: str | None) -> tuple[_Table, dict[str, Any]]:
    vocabulary, merges = source.model["vocab"], source.model["merges"]
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
    if source.pieces:
        return table, _pieces(table, pairs, source)
    rule = source.rule(pairs, pre)
    own = {} if pretokenizer(rule).form == source.form() else {FORM_KEY: source.form()}
    return table, {
        "tokenizer.ggml.model": "gpt2",
        PRE_KEY: rule,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
        **own,
    }


def _from_rwkv(directory: Path) -> tuple[_Table, dict[str, Any]]:
    """A vocabulary by longest match, with the token at the ends of texts, where configs of such
    checkpoints name others."""
    found = sorted(directory.glob(rwkv_vocabulary.PATTERN))
    if not found:
        raise UnsupportedError(
            f"{directory}: neither tokenizer.json nor tokenizer.model, nor "
            f"{rwkv_vocabulary.PATTERN}"
        )
    tokens = rwkv_vocabulary.read_tokens(found[0])
    names = ["<s>", *map(rwkv_vocabulary.written, tokens)]
    types = [int(TokenType.CONTROL), *[int(TokenType.NORMAL)] * len(tokens)]
    ends = dict.fromkeys(("bos", "eos"), rwkv_vocabulary.END)
    return _Table(names, types, [0.0] * len(names)), {
        "tokenizer.ggml.model": "rwkv",
        **{f"tokenizer.ggml.{name}_token_id": token for name, token in ends.items()},
        **rwkv_vocabulary.turn_end(tokens),
    }


def _pieces(table: _Table, pairs: Sequence[Sequence[str]], source: TokenizerJson) -> dict[str, Any]:
    """SentencePiece's BPE, whose merges say the order of its scores."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    last = len(ranks)
    for token, name in enumerate(table.tokens):
        table.scores[token] = -float(ranks.get(name, last))
        if name.startswith("<0x") and len(name) == 6:
            table.types[token] = int(TokenType.BYTE)
        elif name == source.model.get("unk_token"):
            table.types[token] = int(TokenType.UNKNOWN)
    source.check_pieces_model(table.types.count(TokenType.BYTE))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": None,  # set from the table
        "tokenizer.ggml.remove_extra_whitespaces": False,
        **_spaces(source),
    }


def _spaces(source: TokenizerJson) -> dict[str, Any]:
    """Where a space is put before a text. GGUF's own key says only whether there is one; then it
    means SentencePiece's way, "every"."""
    scheme = source.prepend_scheme()
    keys: dict[str, Any] = {"tokenizer.ggml.add_space_prefix": scheme != "never"}
    if scheme in ("always", "first"):
        keys[SCHEME_KEY] = scheme
    return keys


def _entries(
    settings: Mapping[str, Any], described: Mapping[str, Any]
) -> list[tuple[Any, Mapping[str, Any]]]:
    """Added tokens by id, with what the tokeniser and its settings say of each."""
    entries = described.get("added_tokens")
    found: list[tuple[Any, Any]] = [
        (each.get("id"), each) for each in entries or [] if isinstance(each, Mapping)
    ]
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        found += [(int(token), each) for token, each in decoder.items() if token.isdecimal()]
    return [(token, each) for token, each in found if isinstance(each, Mapping)]


def _added_tokens(
    directory: Path, entries: Sequence[tuple[Any, Mapping[str, Any]]], mask: str | None
) -> dict[int, tuple[str, bool]]:
    """Names of added tokens, and whether they are special, by id, from all places."""
    added: dict[int, tuple[str, bool]] = {}
    for name, token in read_json_object(directory / "added_tokens.json").items():
        added[token] = (name, False)
    for token, each in entries:
        if mask is None or each.get("content") != mask:
            check_flags(directory, each)
        added[token] = (each.get("content", ""), bool(each.get("special")))
    for token, (name, _) in added.items():
        if not isinstance(token, int) or token < 0 or not isinstance(name, str) or not name:
            raise ModelFileError(f"{directory}: an added token is not well formed: {name!r}")
    return added


def _stripping(
    entries: Sequence[tuple[Any, Mapping[str, Any]]], mask: str | None
) -> dict[str, Any]:
    """Keys of the tokens that take the white space beside them."""
    keys = {}
    for flag, key in (("lstrip", STRIP_LEFT_KEY), ("rstrip", STRIP_RIGHT_KEY)):
        found = {token for token, each in entries if each.get(flag) and each["content"] != mask}
        if found:
            keys[key] = np.array(sorted(found), np.uint32)
    return keys


def _special_ids(
    directory: Path, settings: Mapping[str, Any], table: _Table, around: Ends
) -> dict[str, Any]:
    """Ids of the tokens that begin and end texts and so on: by name in the tokeniser's settings,
    else those that the post-processor adds, else by number in the model's settings."""
    configs = [
        read_json_object(directory / f"{name}.json") for name in ("config", "generation_config")
    ]
    keys = {}
    names = ("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")
    for key, name in (*names, ("cls", "cls"), ("seperator", "sep"), ("mask", "mask")):
        token = _named(settings.get(f"{name}_token"), table)
        added = getattr(around, name, None)
        told = isinstance(settings.get(f"add_{name}_token"), bool)
        if added is not None and token not in (None, added) and not told:
            raise UnsupportedError(
                f"{directory}: 'post_processor' adds the token {added}, but {name}_token of "
                f"tokenizer_config.json is {token}"
            )
        token = added if token is None else token
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
    name = _name(value)
    return None if name is None else table.find(name)


def _name(value: Any) -> str | None:
    """The name of a token, which settings may describe with its flags."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None


def _added_at_the_ends(settings: Mapping[str, Any], ends: Ends, described: bool) -> dict[str, Any]:
    """Whether texts get tokens at their ends: as the settings say, else as the post-processor of
    tokenizer.json does."""
    keys = {}
    for name, token in (("bos", ends.bos), ("eos", ends.eos)):
        value = settings.get(f"add_{name}_token")
        # A SentencePiece model says nothing of them; those of this family have one at the front.
        if isinstance(value, bool):
            keys[f"tokenizer.ggml.add_{name}_token"] = value
        elif described:
            keys[f"tokenizer.ggml.add_{name}_token"] = token is not None
    return {**keys, "tokenizer.ggml.add_sep_token": True} if ends.separated else keys


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
