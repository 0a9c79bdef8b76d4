"""Lists of the tensors of small random models, and their files. Shapes are numpy's: (outputs,
inputs)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

VOCABULARY, WIDTH, LAYERS = 128, 128, 3

# How a tensor's values are drawn, from standard normal ones.
MATRIX, NORM, BIAS, WIDE, SHARE, DECAY, SCALE = range(7)


@dataclass
class RandomModel:
    """Keys without the architecture's name before them, and shapes and kinds of tensors."""

    architecture: str
    keys: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)

    def add(self, prefix: str, kind: int, **shapes: tuple[int, ...]) -> None:
        """Adds tensors: `attn_q=(8, 4)` is `<prefix>attn_q.weight`."""
        for name, shape in shapes.items():
            self.tensors[f"{prefix}{name}.weight"] = shape, kind

    def add_norm(self, prefix: str, *names: str, size: int = WIDTH, bias: bool = False) -> None:
        """Adds the weights of norms, and their biases."""
        for name in names:
            self.tensors[f"{prefix}{name}.weight"] = (size,), NORM
            if bias:
                self.tensors[f"{prefix}{name}.bias"] = (size,), BIAS

    def add_ends(self, *, output: bool = True, bias: bool = False) -> None:
        """Adds the embedding, the last norm and the output matrix."""
        self.add("", WIDE, token_embd=(VOCABULARY, WIDTH))
        self.add_norm("", "output_norm", bias=bias)
        if output:
            self.add("", MATRIX, output=(VOCABULARY, WIDTH))


def add_attention(model: RandomModel, block: str, heads: int, heads_kv: int, head: int) -> None:
    shape = (heads_kv * head, WIDTH)
    model.add(block, MATRIX, attn_q=(heads * head, WIDTH), attn_k=shape, attn_v=shape)
    model.add(block, MATRIX, attn_output=(WIDTH, heads * head))


def add_ffn(model: RandomModel, block: str, hidden: int) -> None:
    shape = (hidden, WIDTH)
    model.add(block, MATRIX, ffn_gate=shape, ffn_up=shape, ffn_down=(WIDTH, hidden))


def write_model(path: Path, model: RandomModel, pieces: list[str] | None = None) -> Path:
    """Writes a model with a vocabulary of llama.cpp's tests or, if given, of WordPiece's pieces."""
    writer = gguf.GGUFWriter(path, model.architecture)
    first = {
        "block_count": LAYERS,
        "vocab_size": VOCABULARY,
        "context_length": 256,
        "embedding_length": WIDTH,
    }
    for key, value in {**first, **model.keys}.items():
        _add_key(writer, f"{model.architecture}.{key}", value)
    _add_key(writer, "tokenizer.ggml.model", "bert" if pieces else "test")
    tokens = pieces or [f"tok_{token}" for token in range(VOCABULARY)]
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.scores", [0.0] * len(tokens))
    for name, piece in (("cls", "[CLS]"), ("seperator", "[SEP]"), ("unknown", "[UNK]")):
        if pieces:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", pieces.index(piece))
    if types := model.tensors.get("token_types.weight"):
        writer.add_uint32("tokenizer.ggml.token_type_count", types[0][0])
    random = np.random.default_rng(zlib.crc32(path.stem.encode()))
    for name, (shape, kind) in model.tensors.items():
        writer.add_tensor(name, _values(random, shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: Mapping[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _values(
    random: np.random.Generator, shape: tuple[int, ...], kind: int
) -> npt.NDArray[np.float32]:
    draw: Mapping[int, Callable[[], npt.NDArray[np.float64]]] = {
        MATRIX: lambda: random.standard_normal(shape) / np.sqrt(shape[-1]),
        NORM: lambda: 1 + random.standard_normal(shape) / 10,
        BIAS: lambda: random.standard_normal(shape) / 10,
        WIDE: lambda: random.standard_normal(shape),
        SHARE: lambda: random.random(shape),
        DECAY: lambda: -0.1 - random.random(shape),
        SCALE: lambda: 0.5 + np.abs(random.standard_normal(shape)),
    }
    return draw[kind]().astype(np.float32)
