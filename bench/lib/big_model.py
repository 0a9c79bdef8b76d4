"""Models of random weights, each as two files: as other programs read it, and with bundles and
predictors as calibration leaves it. Speed does not depend on the weights' values."""

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
    architecture: str = "llama"
    activation: str = "relu"  # of the model with predictors
    format: str = "q8_0"  # of all matrices but
    output: str = "q8_0"  # that of the embedding, which makes the logits too
    active: float = 0.1  # share of the neurons that predictors select
    screen: tuple[int, int] | None = None  # rank and rows, in the model with predictors


BIG = Sizes("1B", 16, 2048, 8192, 32, 8, 64, 32000)  # Llama 3.2 1B, but for the vocabulary
TINY = Sizes("tiny", 2, 128, 256, 4, 2, 32, 256)
LLAMA_7B = Sizes("7B", 32, 4096, 11008, 32, 32, 128, 32000, format="q4_0", output="q4_0")
BITNET = Sizes(
    "BitNet-2B",  # BitNet b1.58 2B4T
    30,
    2560,
    6912,
    20,
    5,
    128,
    128256,
    architecture="bitnet",
    activation="relu2",
    format="tq2_0",
    output="f16",
    active=0.2,
    screen=(128, 8192),
)
RANK = 128
_BIAS = 8.0  # lifts every gate above zero, so that each selected neuron is computed in full


def plain_model(sizes: Sizes) -> Path:
    """As other programs read it: separate gate, up and down."""
    return _ensure(sizes, sparse=False)


def sparse_model(sizes: Sizes) -> Path:
    """With bundles, predictors that select a share of the neurons, and a screen if there is one."""
    return _ensure(sizes, sparse=True)


def path_of(sizes: Sizes, sparse: bool) -> Path:
    """Where the file is, or would be."""
    return HOME / f"random-{sizes.name.lower()}-{'sparse' if sparse else 'plain'}.gguf"


def _ensure(sizes: Sizes, sparse: bool) -> Path:
    path = path_of(sizes, sparse)
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        write_gguf(path, _metadata(sizes, sparse), _tensors(sizes, sparse))
    return path


def _tensors(sizes: Sizes, sparse: bool) -> dict[str, TensorData]:
    d, hidden, kind, wide = sizes.d, sizes.hidden, sizes.format, sizes.heads * sizes.head_dim
    narrow = sizes.kv_heads * sizes.head_dim
    layer = _sparse_layer if sparse else _plain_layer
    tensors = {"token_embd.weight": _random(sizes.vocab, d, sizes.output)}
    tensors |= _ones("output_norm.weight", d)
    if sparse and sizes.screen is not None:
        rank, _ = sizes.screen
        tensors["output_screen_p.weight"] = _random(rank, d, "q8_0")
        tensors["output_screen_q.weight"] = _random(sizes.vocab, rank, "q8_0")
        tensors["output_screen.bias"] = _constant(sizes.vocab, 0.0)
    for index in range(sizes.layers):
        prefix = f"blk.{index}."
        tensors |= _ones(f"{prefix}attn_norm.weight", d) | _ones(f"{prefix}ffn_norm.weight", d)
        if sizes.architecture == "bitnet":
            tensors |= _ones(f"{prefix}attn_sub_norm.weight", wide)
            tensors |= _ones(f"{prefix}ffn_sub_norm.weight", hidden)
        tensors[f"{prefix}attn_q.weight"] = _random(wide, d, kind)
        tensors[f"{prefix}attn_k.weight"] = _random(narrow, d, kind)
        tensors[f"{prefix}attn_v.weight"] = _random(narrow, d, kind)
        tensors[f"{prefix}attn_output.weight"] = _random(d, wide, kind)
        tensors |= layer(prefix, sizes)
    return tensors


def _metadata(sizes: Sizes, sparse: bool) -> dict[str, Any]:
    name = sizes.architecture
    metadata: dict[str, Any] = {
        "general.architecture": name,
        "general.name": f"random {sizes.name}, {'sparse' if sparse else 'plain'}",
        f"{name}.block_count": sizes.layers,
        f"{name}.context_length": 4096,
        f"{name}.embedding_length": sizes.d,
        f"{name}.feed_forward_length": sizes.hidden,
        f"{name}.attention.head_count": sizes.heads,
        f"{name}.attention.head_count_kv": sizes.kv_heads,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{name}.rope.dimension_count": sizes.head_dim,
        f"{name}.vocab_size": sizes.vocab,
        "tokenizer.ggml.model": "none",
    }
    if sparse:
        metadata[f"{name}.hidden_activation"] = sizes.activation
        metadata["sparsefire.version"] = 1
        metadata["sparsefire.hot_counts"] = np.zeros(sizes.layers, np.int32)
        if sizes.screen is not None:
            metadata["sparsefire.head.rows"] = sizes.screen[1]
    return metadata


def _plain_layer(prefix: str, sizes: Sizes) -> dict[str, TensorData]:
    d, hidden, kind = sizes.d, sizes.hidden, sizes.format
    return {
        f"{prefix}ffn_gate.weight": _random(hidden, d, kind),
        f"{prefix}ffn_up.weight": _random(hidden, d, kind),
        f"{prefix}ffn_down.weight": _random(d, hidden, kind),
    }


def _sparse_layer(prefix: str, sizes: Sizes) -> dict[str, TensorData]:
    d, hidden = sizes.d, sizes.hidden
    return {
        f"{prefix}ffn_bundle.weight": _random(hidden, 3 * d, sizes.format, d),
        f"{prefix}ffn_predictor_p.weight": _random(RANK, d, "q8_0"),
        f"{prefix}ffn_predictor_q.weight": _random(hidden, RANK, "q8_0"),
        f"{prefix}ffn_predictor.bias": _constant(hidden, NormalDist().inv_cdf(sizes.active)),
        f"{prefix}ffn_gate.bias": _constant(hidden, _BIAS),
    }


def _constant(size: int, value: float) -> TensorData:
    data = np.full(size, value, np.float32)
    return TensorData("f32", (size,), data.view(np.uint8))


def _ones(name: str, size: int) -> dict[str, TensorData]:
    return {name: _constant(size, 1.0)}


# Of a format: weights and bytes of a block, where its scale is, and the root mean square of the
# levels that `_levels` draws.
_BLOCKS = {
    "q8_0": (32, 34, 0, 73.6),
    "q4_0": (32, 18, 0, 4.32),
    "tq2_0": (256, 66, 64, 0.816),
}
_DRAWN = 32_749  # blocks that are drawn and repeated; a prime number, so that no rows are the same


def _random(rows: int, columns: int, format: str, inputs: int | None = None) -> TensorData:
    """Random weights: products with ``inputs`` standard normal numbers (by default a row's) are
    about standard normal."""
    size = (inputs or columns) ** -0.5

    def make() -> np.ndarray:
        random = np.random.default_rng(rows + columns)
        if format == "f16":
            drawn = (size * random.standard_normal(_DRAWN)).astype(np.float16)
            return np.resize(drawn, rows * columns).view(np.uint8)
        weights, nbytes, place, spread = _BLOCKS[format]
        blocks = np.empty((min(_DRAWN, rows * columns // weights), nbytes), np.uint8)
        blocks[:] = _levels(random, blocks.shape, format)
        blocks[:, place : place + 2] = np.array([size / spread], np.float16).view(np.uint8)
        return np.resize(blocks, (rows * columns // weights, nbytes)).reshape(-1)

    return TensorData(format, (rows, columns), make)


def _levels(random: np.random.Generator, shape: tuple[int, int], format: str) -> np.ndarray:
    """Random bytes of blocks whose levels are as often above zero as below."""
    if format == "q8_0":
        return random.integers(-127, 128, shape, np.int8).view(np.uint8)
    # Of 4 bits 1 … 15 for -7 … 7; of 2 bits 0, 1 and 2 for -1, 0 and 1.
    low, high, bits = (1, 16, 4) if format == "q4_0" else (0, 3, 2)
    codes = random.integers(low, high, (*shape, 8 // bits), np.uint8)
    return np.asarray((codes << np.arange(0, 8, bits, dtype=np.uint8)).sum(axis=-1), np.uint8)
