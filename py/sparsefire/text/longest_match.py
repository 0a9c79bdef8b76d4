"""RWKV's vocabularies (`tokenizer.ggml.model` = "rwkv"): from the left, always the longest token
that the text goes on with, in bytes. There are no merges and no words."""

from __future__ import annotations

import re

from ..errors import ArgumentError
from .vocabulary import TokenType, Vocabulary

_MATCHED = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.BYTE)
# Files write a token as Python writes bytes, or the inside of a string.
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class LongestMatch:
    """Cuts text into the longest tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = [_unescaped(token) for token in vocabulary.tokens]
        self._ids: dict[bytes, int] = {}
        lengths: dict[bytes, set[int]] = {}
        for token in vocabulary.of_type(*_MATCHED):
            raw = self._bytes[token]
            if raw:
                self._ids.setdefault(raw, token)
                lengths.setdefault(raw[:2], set()).add(len(raw))
        # By their first two bytes, or the only one, the lengths of tokens from the longest on.
        self._lengths = {start: sorted(each, reverse=True) for start, each in lengths.items()}

    def encode(self, text: str, ids: list[int], starts: bool) -> None:
        """Appends the tokens of a text without special tokens. `starts` makes no difference."""
        raw = text.encode("utf-8")
        at = 0
        while at < len(raw):
            part = raw[at : at + 1]
            for length in self._lengths.get(raw[at : at + 2], ()):
                longer = raw[at : at + length]
                if longer in self._ids:
                    part = longer
                    break
            ids.append(self._id(part))
            at += len(part)

    def _id(self, raw: bytes) -> int:
        found = self._ids.get(raw, self._vocabulary.unknown)
        if found is None:
            raise ArgumentError(f"the vocabulary has no token for byte 0x{raw[0]:02x}")
        return found

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        return self._bytes[token]

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a whole text, as they are: nothing is put before a text."""
        return raw

    def __repr__(self) -> str:
        return f"{len(self._ids)} tokens by longest match"


def _unescaped(token: str) -> bytes:
    """The bytes of a token as the file writes it."""

    def byte(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        if len(code) == 3 and code.startswith(b"x"):
            return bytes([int(code[1:], 16)])
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(byte, token.encode("utf-8", "surrogateescape"))
