"""An independent forward pass of a llama-like GGUF model, in float64 numpy.

It shares nothing with the package but the quantiser of formats that the `gguf` package cannot
write: the file is read and dequantised by that package, and every step is written from its
definition, one token after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from sparsefire.quant import QuantizedWeights

Array = npt.NDArray[np.float64]


def _erf(x: Array) -> Array:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0),
    "relu2": lambda v: np.maximum(v, 0) ** 2,
    "silu": lambda v: v / (1 + np.exp(-v)),
    "gelu_erf": lambda v: 0.5 * v * (1 + _erf(v / np.sqrt(2))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
}
ZERO_BELOW = ("relu", "relu2")


def pack(values: npt.ArrayLike, kind: gguf.GGMLQuantizationType) -> npt.NDArray[Any]:
    """Weights in a format, by the gguf package or, where it can only read it, by our quantiser."""
    single = np.ascontiguousarray(values, np.float32)
    try:
        return np.asarray(gguf.quantize(single, kind))
    except NotImplementedError:
        return QuantizedWeights.quantize(single, kind.name).packed


class Reference:
    """A model read from a file. `activation` overrides what the file says."""

    def __init__(self, path: Path, activation: str | None = None) -> None:
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights: dict[str, Array] = {}
        self.formats: dict[str, Any] = {}
        for tensor in reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            shape = tuple(int(size) for size in tensor.shape[::-1])
            self.weights[tensor.name] = np.asarray(values, np.float64).reshape(shape)
            self.formats[tensor.name] = tensor.tensor_type
        self.layers = int(self.key("block_count"))
        self.heads = int(self.key("attention.head_count"))
        self.kv_heads = int(self.key("attention.head_count_kv", self.heads))
        self.d = int(self.key("embedding_length"))
        self.head_dim = int(self.key("attention.key_length", self.d // self.heads))
        self.rope_dims = int(self.key("rope.dimension_count", self.head_dim))
        self.epsilon = float(self.key("attention.layer_norm_rms_epsilon"))
        self.activation = activation or self.key("hidden_activation", "silu")
        self.margin = np.inf
        self.margins: list[float] = []

    def key(self, name: str, default: Any = None) -> Any:
        return self.fields.get(f"llama.{name}", default)

    def norm(self, x: Array, weight: Array) -> Array:
        return x / np.sqrt(np.mean(x * x) + self.epsilon) * weight

    def rotate(self, heads: Array, position: int) -> Array:
        """Rotates the pairs (2i, 2i+1) of each head (heads, head_dim) by the position."""
        out = heads.copy()
        base = float(self.key("rope.freq_base", 10000.0))
        scale = 1.0
        if self.key("rope.scaling.type") == "linear":
            scale = float(self.key("rope.scaling.factor"))
        factors = self.weights.get("rope_freqs.weight")
        for i in range(self.rope_dims // 2):
            angle = position / scale * base ** (-2 * i / self.rope_dims)
            if factors is not None:
                angle /= factors[i]
            a, b = heads[:, 2 * i], heads[:, 2 * i + 1]
            out[:, 2 * i] = a * np.cos(angle) - b * np.sin(angle)
            out[:, 2 * i + 1] = a * np.sin(angle) + b * np.cos(angle)
        return out

    def attention(self, x: Array, layer: int, cache: list[tuple[Array, Array]]) -> Array:
        def project(name: str) -> Array:
            projected: Array = self.weights[f"blk.{layer}.{name}.weight"] @ x
            return projected.reshape(-1, self.head_dim)

        position = len(cache)
        q = self.rotate(project("attn_q"), position)
        cache.append((self.rotate(project("attn_k"), position), project("attn_v")))
        mixed = np.zeros_like(q)
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = np.array([q[head] @ k[shared] for k, _ in cache]) / np.sqrt(self.head_dim)
            powers = np.exp(scores - scores.max())
            powers /= powers.sum()
            mixed[head] = sum(
                power * v[shared] for power, (_, v) in zip(powers, cache, strict=True)
            )
        output: Array = self.weights[f"blk.{layer}.attn_output.weight"] @ mixed.reshape(-1)
        return output

    def ffn_weights(self, layer: int) -> tuple[Array | None, Array, Array]:
        """gate and up (hidden, d), down (d, hidden)."""
        prefix = f"blk.{layer}.ffn_"
        bundle = self.weights.get(f"{prefix}bundle.weight")
        if bundle is not None:
            parts = np.split(bundle, bundle.shape[1] // self.d, axis=1)
            return (parts[0] if len(parts) == 3 else None), parts[-2], parts[-1].T
        down = self.weights[f"{prefix}down.weight"]
        kind = self.formats[f"{prefix}down.weight"]
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if self.activation in ZERO_BELOW and block > 1:
            # Such a layer is stored neuron by neuron, so its down is packed anew along the other
            # axis, in F16 where blocks do not fit.
            if self.d % block:
                kind = gguf.GGMLQuantizationType.F16
            packed = pack(down.T, kind)
            down = gguf.dequantize(packed, kind).astype(np.float64).T
        return self.weights[f"{prefix}gate.weight"], self.weights[f"{prefix}up.weight"], down

    def ffn(self, x: Array, layer: int, sparse: bool) -> Array:
        gate, up, down = self.ffn_weights(layer)

        def bias(name: str) -> Array | float:
            return self.weights.get(f"blk.{layer}.ffn_{name}.bias", 0.0)

        act = ACTIVATIONS[self.activation]
        if gate is None:
            values = act(up @ x + bias("up"))
        else:
            values = act(gate @ x + bias("gate")) * (up @ x + bias("up"))
        p = self.weights.get(f"blk.{layer}.ffn_predictor_p.weight")
        if sparse and p is not None:
            q = self.weights[f"blk.{layer}.ffn_predictor_q.weight"]
            scores = q @ (p @ x) + self.weights[f"blk.{layer}.ffn_predictor.bias"]
            scores[: self.fields["sparsefire.hot_counts"][layer]] = np.inf
            self.margin = min(self.margin, float(np.abs(scores).min()))
            values = np.where(scores > 0, values, 0.0)
        result: Array = down @ values + bias("down")
        return result

    def logits(self, tokens: list[int], *, sparse: bool = False) -> Array:
        """Logits (n, vocab) after each token; `sparse`: only of neurons that the predictors
        choose. `margins` then holds how close to the threshold the closest score of each token or
        one before it was: rounding may decide such a neuron otherwise."""
        embedding = self.weights["token_embd.weight"]
        output = self.weights.get("output.weight", embedding)
        caches: list[list[tuple[Array, Array]]] = [[] for _ in range(self.layers)]
        rows = []
        self.margin, self.margins = np.inf, []
        for token in tokens:
            x = embedding[token]
            for layer, cache in enumerate(caches):
                normed = self.norm(x, self.weights[f"blk.{layer}.attn_norm.weight"])
                x = x + self.attention(normed, layer, cache)
                normed = self.norm(x, self.weights[f"blk.{layer}.ffn_norm.weight"])
                x = x + self.ffn(normed, layer, sparse)
            rows.append(output @ self.norm(x, self.weights["output_norm.weight"]))
            self.margins.append(self.margin)
        return np.array(rows)


def relative_error(values: npt.NDArray[Any], wanted: Array) -> float:
    """Largest difference over the largest wanted value."""
    return float(np.abs(values - wanted).max() / np.abs(wanted).max())
