"""The tokens of a model file: their names, kinds, and the BOS, EOS and end tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

from .._shown import shown_value
from ..errors import ModelFileError

BLANK = "▁"  # a space in SentencePiece vocabularies
# Tokens that take the white space beside their names: `lstrip` and `rstrip` in tokenizer.json.
STRIP_LEFT_KEY = "tokenizer.sparsefire.strip_left"
STRIP_RIGHT_KEY = "tokenizer.sparsefire.strip_right"
# Unicode's property White_Space, which Python's str.strip exceeds.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)


class TokenType(IntEnum):
    """The numbers in `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Ids that stand for no token: -1, as a signed or an unsigned number of 32 bits.
_NO_TOKEN = (-1, 0xFFFFFFFF)
# Tokens that end a model's turn and that files do not always name as such. They count where the
# file calls them control tokens.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eot|>",
    "<|eom|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "[EOT]",
    "[e~[",
)
# In vocabularies that have all of these, the first ends one of the messages of which a turn
# consists, and the others end the turn.
_MESSAGE_END, *_HARMONY_ENDS = ("<|end|>", "<|return|>", "<|call|>")


class Vocabulary:
    """Token names by id, with their kinds.

    `bos`, `eos`, `unknown`, `separator` and `padding` are ids or None; `end_ids` contains every id
    that ends a generation. `add_bos` and `add_eos` say whether they are added to a text,
    `add_separator` whether a separator is inserted between two texts. Tokens of `strip_left` and
    `strip_right` take the white space before and after their names in a text with them.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        types: Sequence[int] | None = None,
        bos: int | None = None,
        eos: int | None = None,
        unknown: int | None = None,
        separator: int | None = None,
        padding: int | None = None,
        end_ids: Iterable[int] = (),
        add_bos: bool = False,
        add_eos: bool = False,
        add_separator: bool = False,
        strip_left: Iterable[int] = (),
        strip_right: Iterable[int] = (),
    ) -> None:
        self.tokens = tokens
        self.size = len(tokens)
        self.types = [int(TokenType.NORMAL)] * self.size if types is None else list(types)
        if len(self.types) != self.size:
            raise ModelFileError(
                f"'tokenizer.ggml.token_type' has {len(self.types)} entries for {self.size} tokens"
            )
        self.bos = self._checked("bos", bos)
        self.eos = self._checked("eos", eos)
        self.unknown = self._checked("unknown", unknown)
        self.separator = self._checked("seperator", separator)
        self.padding = self._checked("padding", padding)
        self.end_ids = self._all_ends(end_ids)
        self.strip_left, self.strip_right = frozenset(strip_left), frozenset(strip_right)
        self._splitters: dict[bool, re.Pattern[str] | None] = {}
        self.add_bos = add_bos and self.bos is not None
        self.add_eos = add_eos and self.eos is not None
        self.add_separator = add_separator and self.separator is not None

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, Any],
        *,
        add_bos: bool = False,
        add_eos: bool = False,
        add_separator: bool = False,
        **defaults: int,
    ) -> Vocabulary:
        """The vocabulary of a GGUF file's metadata. The keyword arguments are the defaults of
        missing keys: whether to add tokens, and the ids of `bos`, `eos` and `unknown`.

        Errors: `ModelFileError` naming the key.
        """
        tokens = strings(metadata, "tokens")
        adds = {
            "bos": flag(metadata, "add_bos_token", add_bos),
            "eos": flag(metadata, "add_eos_token", add_eos),
        }

        def identity(name: str) -> int | None:
            value = _token_id(metadata, name)
            if value in _NO_TOKEN:
                if adds.get(name):
                    raise ModelFileError(
                        f"'tokenizer.ggml.{name}_token_id' is {value}, which stands for no token, "
                        "but texts are to get one"
                    )
                return None
            default = defaults.get(name)
            return default if value is None and (default or 0) < len(tokens) else value

        ends = (identity(name) for name in ("eot", "eom"))
        return cls(
            tokens,
            types=integers(metadata, "token_type"),
            bos=identity("bos"),
            eos=identity("eos"),
            unknown=identity("unknown"),
            separator=identity("seperator"),  # spelt so in the GGUF specification
            padding=identity("padding"),
            end_ids=[end for end in ends if end is not None],
            add_bos=adds["bos"],
            add_eos=adds["eos"],
            add_separator=flag(metadata, "add_sep_token", add_separator),
            strip_left=_array(metadata, STRIP_LEFT_KEY, "iu", "integers") or (),
            strip_right=_array(metadata, STRIP_RIGHT_KEY, "iu", "integers") or (),
        )

    def _checked(self, name: str, token: int | None) -> int | None:
        if token is not None and not 0 <= token < self.size:
            raise ModelFileError(
                f"'tokenizer.ggml.{name}_token_id' is {token}, outside the {self.size} tokens"
            )
        return token

    def _all_ends(self, given: Iterable[int]) -> frozenset[int]:
        ends = {*given} if self.eos is None else {self.eos, *given}
        named = {name: self.ids[name] for name in _TURN_ENDS if name in self.ids}
        controls = {
            name: token for name, token in named.items() if self.types[token] == TokenType.CONTROL
        }
        if all(name in controls for name in _HARMONY_ENDS):
            controls.pop(_MESSAGE_END, None)
        return frozenset(ends.union(controls.values()))

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Name → id; the first of several tokens with the same name."""
        return dict(zip(reversed(self.tokens), range(self.size - 1, -1, -1), strict=True))

    def of_type(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of these kinds."""
        return [token for token, kind in enumerate(self.types) if kind in types]

    def splitter(self, special: bool) -> re.Pattern[str] | None:
        """A pattern that matches tokens by their names, the longest first: control tokens if
        `special`, and always user-defined ones."""
        if special not in self._splitters:
            self._splitters[special] = self._new_splitter(special)
        return self._splitters[special]

    def _new_splitter(self, special: bool) -> re.Pattern[str] | None:
        kinds = (TokenType.CONTROL, TokenType.USER_DEFINED)[0 if special else 1 :]
        names = {self.tokens[token] for token in self.of_type(*kinds)} - {""}
        if not names:
            return None
        try:
            return re.compile(f"({_any_of(sorted(names))})")
        except RecursionError:  # names that differ in very many places
            names_by_length = sorted(names, key=len, reverse=True)
            return re.compile(f"({'|'.join(map(re.escape, names_by_length))})")


def _any_of(names: Sequence[str]) -> str:
    """A pattern for the longest of some sorted names, as a trie, so that finding one among
    thousands does not try them all."""
    shared = names[0]
    while not names[-1].startswith(shared):  # sorted: what the first and the last share, all do
        shared = shared[:-1]
    at = len(shared)
    rest = [name for name in names if len(name) > at]
    branches = []
    start = 0
    while start < len(rest):
        end = start
        while end < len(rest) and rest[end][at] == rest[start][at]:
            end += 1
        branches.append(_any_of([name[at:] for name in rest[start:end]]))
        start = end
    if not branches:
        return re.escape(shared)
    group = f"(?:{'|'.join(branches)})"
    return re.escape(shared) + (group if len(rest) == len(names) else f"{group}?")


# -- checked reading of keys -----------------------------------------------------------------------


def strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    """The list of strings `tokenizer.ggml.<name>`."""
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        problem = "is missing" if value is None else "is not a list of strings"
        raise ModelFileError(f"key 'tokenizer.ggml.{name}' {problem}")
    return value


def integers(metadata: Mapping[str, Any], name: str) -> list[int] | None:
    """The list of integers `tokenizer.ggml.<name>`, or None."""
    return _array(metadata, f"tokenizer.ggml.{name}", "iu", "integers")


def numbers(metadata: Mapping[str, Any], name: str) -> list[float]:
    """The list of numbers `tokenizer.ggml.<name>`."""
    value = _array(metadata, f"tokenizer.ggml.{name}", "iuf", "numbers")
    if value is None:
        raise ModelFileError(f"key 'tokenizer.ggml.{name}' is missing")
    return list(value)


def _array(metadata: Mapping[str, Any], key: str, kinds: str, what: str) -> list[Any] | None:
    value = metadata.get(key)
    if value is None:
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") not in tuple(kinds):
        raise ModelFileError(f"key {key!r} is not a list of {what}")
    listed: list[Any] = value.tolist()
    return listed


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """The bool `tokenizer.ggml.<name>`."""
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is not None and not isinstance(value, bool):
        raise ModelFileError(
            f"key 'tokenizer.ggml.{name}' is {shown_value(value)}; expected true or false"
        )
    return default if value is None else value


def _token_id(metadata: Mapping[str, Any], name: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ModelFileError(f"key 'tokenizer.ggml.{name}_token_id' is not an integer")
    return value
