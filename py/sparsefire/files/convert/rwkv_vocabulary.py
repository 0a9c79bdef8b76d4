"""RWKV's vocabulary file, `rwkv_vocab_*.txt`: a token a line, its number, its text as a literal of
Python, of a string or of bytes, and how many bytes it has."""

from __future__ import annotations

import ast
from pathlib import Path

from ...errors import ModelFileError

PATTERN = "rwkv_vocab_*.txt"
END = 0  # the token that begins and ends texts, which has no line
_TURN = b"\n\n"  # ends what one side of a conversation says


def read_tokens(path: Path) -> list[bytes]:
    """The bytes of the tokens from 1 on; `ModelFileError` naming a line that is not well formed."""
    tokens: list[bytes] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            index, rest = line.split(" ", 1)
            literal, size = rest.rsplit(" ", 1)
            value = ast.literal_eval(literal)
            token = value.encode("utf-8") if isinstance(value, str) else value
            if not isinstance(token, bytes) or len(token) != int(size):
                raise ValueError
            if int(index) != len(tokens) + 1:
                raise ValueError
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ModelFileError(f"{path}: line {number} is not a token: {line[:40]!r}") from None
        tokens.append(token)
    return tokens


def written(token: bytes) -> str:
    """A token as GGUF has it: what Python writes between the quotes of bytes."""
    return repr(token)[2:-1]


def turn_end(tokens: list[bytes]) -> dict[str, int]:
    """The key of the token that ends a turn, if there is one."""
    if _TURN not in tokens:
        return {}
    return {"tokenizer.ggml.eot_token_id": tokens.index(_TURN) + 1}
