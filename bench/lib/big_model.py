"""Llama models of random weights in Q8_0, each as two files: as other programs read it, and with
bundles and predictors as calibration leaves it. Speed does not depend on the weights' values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from sparsefire.gguf.writer import TensorData, write_gguf

from .peer_files import HOME


@dataclass(frozen=True)
class Sizes:
    """Of a model; ``heads`` and ``kv_heads`` of ``head_dim`` each."""

    name: str
    layers: int
    d: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


BIG = Sizes("1B", 16, 2048, 8192, 32, 8, 64, 32000)  # Llama 3.2 1B, but for the vocabulary
TINY = Sizes("tiny", 2, 128, 256, 4, 2, 32, 256)
ACTIVE, RANK = 0.1, 128
_BIAS = 8.0  # lifts every gate above zero, so that each selected neuron is computed in full


def plain_model(sizes: Sizes) -> Path:
    """As other programs read it: separate gate, up and down."""
    return _ensure(sizes, sparse=False)


def sparse_model(sizes: Sizes) -> Path:
    """With bundles, and predictors that select the share `ACTIVE` of the neurons."""
    return _ensure(sizes, sparse=True)


def _ensure(sizes: Sizes, sparse: bool) -> Path:
    kind = "sparse" if sparse else "plain"
    path = HOME / f"random-{sizes.name.lower()}-{kind}.gguf"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        write_gguf(path, _metadata(sizes, sparse), _tensors(sizes, sparse))
    return path


def _tensors(sizes: Sizes, sparse: bool) -> dict[str, TensorData]:
    d, head_dim = sizes.d, sizes.head_dim
    layer = _sparse_layer if sparse else _plain_layer
    tensors = {"token_embd.weight": _q8_0(sizes.vocab, d)} | _ones("output_norm.weight", d)
    for index in range(sizes.layers):
        prefix = f"blk.{index}."
        tensors |= _ones(f"{prefix}attn_norm.weight", d) | _ones(f"{prefix}ffn_norm.weight", d)
        tensors[f"{prefix}attn_q.weight"] = _q8_0(sizes.heads * head_dim, d)
        tensors[f"{prefix}attn_k.weight"] = _q8_0(sizes.kv_heads * head_dim, d)
        tensors[f"{prefix}attn_v.weight"] = _q8_0(sizes.kv_heads * head_dim, d)
        tensors[f"{prefix}attn_output.weight"] = _q8_0(d, sizes.heads * head_dim)
        tensors |= layer(prefix, sizes.d, sizes.hidden)
    return tensors


def _metadata(sizes: Sizes, sparse: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": f"random {sizes.name}, {'sparse' if sparse else 'plain'}",
        "llama.block_count": sizes.layers,
        "llama.context_length": 4096,
        "llama.embedding_length": sizes.d,
        "llama.feed_forward_length": sizes.hidden,
        "llama.attention.head_count": sizes.heads,
        "llama.attention.head_count_kv": sizes.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": sizes.head_dim,
        "llama.vocab_size": sizes.vocab,
        "tokenizer.ggml.model": "none",
    }
    if sparse:
        metadata["llama.hidden_activation"] = "relu"
        metadata["sparsefire.version"] = 1
        metadata["sparsefire.hot_counts"] = np.zeros(sizes.layers, np.int32)
    return metadata


def _plain_layer(prefix: str, d: int, hidden: int) -> dict[str, TensorData]:
    return {
        f"{prefix}ffn_gate.weight": _q8_0(hidden, d),
        f"{prefix}ffn_up.weight": _q8_0(hidden, d),
        f"{prefix}ffn_down.weight": _q8_0(d, hidden),
    }


def _sparse_layer(prefix: str, d: int, hidden: int) -> dict[str, TensorData]:
    return {
        f"{prefix}ffn_bundle.weight": _q8_0(hidden, 3 * d, d),
        f"{prefix}ffn_predictor_p.weight": _q8_0(RANK, d),
        f"{prefix}ffn_predictor_q.weight": _q8_0(hidden, RANK),
        f"{prefix}ffn_predictor.bias": _constant(hidden, NormalDist().inv_cdf(ACTIVE)),
        f"{prefix}ffn_gate.bias": _constant(hidden, _BIAS),
    }


def _constant(size: int, value: float) -> TensorData:
    data = np.full(size, value, np.float32)
    return TensorData("f32", (size,), data.view(np.uint8))


def _ones(name: str, size: int) -> dict[str, TensorData]:
    return {name: _constant(size, 1.0)}


def _q8_0(rows: int, columns: int, inputs: int | None = None) -> TensorData:
    """Random blocks: products with ``inputs`` standard normal numbers (by default a row's) are
    about standard normal."""
    scale = np.float16((inputs or columns) ** -0.5 / 73.6)

    def make() -> np.ndarray:
        random = np.random.default_rng(rows + columns)
        blocks = np.empty((rows * columns // 32, 34), np.uint8)
        blocks[:, :2] = np.array([scale]).view(np.uint8)
        levels = random.integers(-127, 128, (len(blocks), 32), np.int8)
        blocks[:, 2:] = levels.view(np.uint8)
        return blocks.reshape(-1)

    return TensorData("q8_0", (rows, columns), make)
