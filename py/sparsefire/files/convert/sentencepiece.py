"""Reading `tokenizer.model`, the file of a SentencePiece vocabulary: a protocol buffer, of which
only what a GGUF file needs is understood."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ModelFileError, UnsupportedError
from ...text.vocabulary import TokenType

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.model_type


@dataclass
class SentencePieceModel:
    """A vocabulary. `kind` is GGUF's name of it, "llama" (BPE) or "t5" (unigram)."""

    kind: str
    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    padding: int | None = None
    add_blank: bool = True
    trim: bool = True
    charsmap: bytes = b""

    @classmethod
    def read(cls, raw: bytes, name: str = "tokenizer.model") -> SentencePieceModel:
        """From the bytes of the file; `name` is what messages call it.

        Errors: `ModelFileError` (damaged), `UnsupportedError` (a model of words or characters).
        """
        try:
            return _read(raw)
        except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError):
            raise ModelFileError(f"{name}: not a SentencePiece model, or damaged") from None
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error}") from None

    def metadata(self) -> dict[str, Any]:
        """The keys of a GGUF file for it."""
        keys: dict[str, Any] = {
            "tokenizer.ggml.model": self.kind,
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.scores": np.array(self.scores, np.float32),
            "tokenizer.ggml.token_type": np.array(self.types, np.int32),
            "tokenizer.ggml.add_space_prefix": self.add_blank,
            "tokenizer.ggml.remove_extra_whitespaces": self.trim,
        }
        for key, token in (
            ("bos", self.bos),
            ("eos", self.eos),
            ("unknown", self.unknown),
            ("padding", self.padding),
        ):
            if token is not None:
                keys[f"tokenizer.ggml.{key}_token_id"] = token
        if self.charsmap:
            keys["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(self.charsmap, np.uint8)
        return keys


def _read(raw: bytes) -> SentencePieceModel:
    fields = list(_fields(raw))
    trainer = dict(_fields(next((value for number, value in fields if number == 2), b"")))
    normalizer = dict(_fields(next((value for number, value in fields if number == 3), b"")))
    model_type = trainer.get(3, _UNIGRAM)
    if model_type not in (_UNIGRAM, _BPE):
        raise UnsupportedError("a vocabulary of words or characters; BPE and unigram are supported")
    if trainer.get(24, 0):
        raise UnsupportedError("a vocabulary with blanks at the end of words is not supported")
    model = SentencePieceModel("llama" if model_type == _BPE else "t5")
    for number, value in fields:
        if number == 1:
            piece = dict(_fields(value))
            model.tokens.append(piece[1].decode("utf-8"))
            model.scores.append(struct.unpack("<f", piece.get(2, bytes(4)))[0])
            model.types.append(piece.get(3, int(TokenType.NORMAL)))
    if not model.tokens:
        raise ValueError
    # The numbers and their defaults are those of sentencepiece_model.proto.
    ids = [
        trainer.get(number, default) for number, default in ((40, 0), (41, 1), (42, 2), (43, -1))
    ]
    known = [each if 0 <= each < len(model.tokens) else None for each in ids]
    model.unknown, model.bos, model.eos, model.padding = known
    model.charsmap = normalizer.get(2, b"")
    model.add_blank = bool(normalizer.get(3, 1))
    model.trim = bool(normalizer.get(4, 1))
    return model


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message's fields: ints for varints, otherwise bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value: Any
            value, at = _varint(raw, at)
            if value >= 1 << 63:
                value -= 1 << 64
        else:
            length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(raw, at)
            if kind not in (1, 2, 5) or at + length > len(raw):
                raise ValueError
            value = raw[at : at + length]
            at += length
        yield number, value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError
