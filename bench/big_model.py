"""A llama-architecture model of about 1.1 billion random weights in Q8_0, in two files: as other
programs read it, and as calibration leaves it. Speed does not depend on what the weights say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from peer_files import HOME
from sparsefire.gguf.writer import TensorData, write_gguf

# The sizes of Llama 3.2 1B, with a vocabulary of 32,000.
LAYERS, D, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 2048, 8192, 32, 8, 64, 32000
ACTIVE, RANK = 0.1, 128
_BIAS = 8.0  # lifts every gate above zero, so that each selected neuron is computed in full


def big_model() -> Path:
    """As other programs read it: separate gate, up and down."""
    return _ensure("plain", _plain_layer, {})


def big_sparse_model() -> Path:
    """The same sizes with bundles and predictors that select a tenth of the neurons."""
    keys = {"sparsefire.version": 1, "sparsefire.hot_counts": np.zeros(LAYERS, np.int32)}
    return _ensure("sparse", _sparse_layer, keys)


def _ensure(name: str, layer: Callable[[str], dict[str, TensorData]], keys: dict[str, Any]) -> Path:
    path = HOME / f"random-1b-{name}.gguf"
    if path.exists():
        return path
    HOME.mkdir(parents=True, exist_ok=True)
    tensors = {"token_embd.weight": _q8_0(VOCAB, D)} | _ones("output_norm.weight", D)
    for index in range(LAYERS):
        prefix = f"blk.{index}."
        tensors |= _ones(f"{prefix}attn_norm.weight", D) | _ones(f"{prefix}ffn_norm.weight", D)
        tensors[f"{prefix}attn_q.weight"] = _q8_0(HEADS * HEAD_DIM, D)
        tensors[f"{prefix}attn_k.weight"] = _q8_0(KV_HEADS * HEAD_DIM, D)
        tensors[f"{prefix}attn_v.weight"] = _q8_0(KV_HEADS * HEAD_DIM, D)
        tensors[f"{prefix}attn_output.weight"] = _q8_0(D, HEADS * HEAD_DIM)
        tensors |= layer(prefix)
    metadata = {
        "general.architecture": "llama",
        "general.name": f"random 1B {name}",
        "llama.block_count": LAYERS,
        "llama.context_length": 4096,
        "llama.embedding_length": D,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.vocab_size": VOCAB,
        "tokenizer.ggml.model": "none",
        **keys,
    }
    if name == "sparse":
        metadata["llama.hidden_activation"] = "relu"
    write_gguf(path, metadata, tensors)
    return path


def _plain_layer(prefix: str) -> dict[str, TensorData]:
    return {
        f"{prefix}ffn_gate.weight": _q8_0(HIDDEN, D),
        f"{prefix}ffn_up.weight": _q8_0(HIDDEN, D),
        f"{prefix}ffn_down.weight": _q8_0(D, HIDDEN),
    }


def _sparse_layer(prefix: str) -> dict[str, TensorData]:
    return {
        f"{prefix}ffn_bundle.weight": _q8_0(HIDDEN, 3 * D, D),
        f"{prefix}ffn_predictor_p.weight": _q8_0(RANK, D),
        f"{prefix}ffn_predictor_q.weight": _q8_0(HIDDEN, RANK),
        f"{prefix}ffn_predictor.bias": _constant(HIDDEN, NormalDist().inv_cdf(ACTIVE)),
        f"{prefix}ffn_gate.bias": _constant(HIDDEN, _BIAS),
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
