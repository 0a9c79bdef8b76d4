"""An independent forward pass of a GGUF language model, in float64 numpy.

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

from sparsefire.errors import FormatError
from sparsefire.weights.quantized import QuantizedWeights

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

# What the architectures are by their definition, as far as a file does not say it.
ACTIVATION_OF = {
    "bamboo": "relu",
    "gemma": "gelu_tanh",
    "gemma2": "gelu_tanh",
    "gemma3": "gelu_tanh",
    "nemotron": "relu2",
    "arcee": "relu2",
    "bitnet-b1.58": "relu2",
}
TURNS_HALVES = ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "nemotron", "bitnet-b1.58")


def pack(values: npt.ArrayLike, kind: gguf.GGMLQuantizationType) -> npt.NDArray[Any]:
    """Weights in a format, by the gguf package or, where it can only read it, by our quantiser.
    Zeros of the right size in a format that neither writes."""
    single = np.ascontiguousarray(values, np.float32)
    try:
        return np.asarray(gguf.quantize(single, kind))
    except NotImplementedError:
        pass
    try:
        return QuantizedWeights.quantize(single, kind.name).packed
    except FormatError:
        shape = gguf.quants.quant_shape_to_byte_shape(single.shape, kind)
        return np.zeros(shape, np.uint8)


def _with_magic(path: Path) -> Path:
    """The same file under GGUF's own magic: PowerInfer's files differ in nothing else."""
    if path.read_bytes()[:4] == b"GGUF":
        return path
    copy = path.with_suffix(".copy")
    copy.write_bytes(b"GGUF" + path.read_bytes()[4:])
    return copy


class Reference:
    """A model read from a file. `activation` overrides what the file says."""

    def __init__(self, path: Path, activation: str | None = None) -> None:
        reader = gguf.GGUFReader(_with_magic(path))
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.arch = str(self.fields["general.architecture"])
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
        own = ACTIVATION_OF.get(self.arch, "silu")
        if "powerinfer.sparse_threshold" in self.fields:
            own = "relu"
        self.activation = activation or self.key("hidden_activation", own)
        self.margin = np.inf
        self.margins: list[float] = []

    def key(self, name: str, default: Any = None) -> Any:
        return self.fields.get(f"{self.arch}.{name}", default)

    def norm(self, x: Array, name: str) -> Array:
        """x normalised with the weights of that name (and bias, where there is one); x itself
        where there are none."""
        weight = self.weights.get(f"{name}.weight")
        if weight is None:
            return x
        if self.arch == "nemotron":
            x = x - np.mean(x)
        return x / np.sqrt(np.mean(x * x) + self.epsilon) * weight + self.bias(name)

    def bias(self, name: str) -> Array | float:
        return self.weights.get(f"{name}.bias", 0.0)

    def window(self, layer: int) -> int:
        """Tokens that a layer sees, 0 for all of them."""
        window = int(self.key("attention.sliding_window", 4096 if self.arch == "gemma2" else 0))
        every = {"gemma2": 2, "gemma3": 6}.get(self.arch, 0)
        every = self.key("attention.sliding_window_pattern", every)
        if isinstance(every, list):
            return window if every[layer] else 0
        return 0 if every and (layer + 1) % every == 0 else window

    def frequencies(self, layer: int) -> tuple[Array, float]:
        """Angle of each pair a position, and the factor of sines and cosines."""
        base, stretched = float(self.key("rope.freq_base", 10000.0)), True
        if self.arch == "gemma3" and self.window(layer):
            base, stretched = float(self.key("rope.freq_base_swa", 10000.0)), False
        dims = self.rope_dims
        found = base ** (-2 * np.arange(dims // 2) / dims)
        kind, amplitude = self.key("rope.scaling.type"), 1.0
        factor = float(self.key("rope.scaling.factor", 1.0))
        if kind == "linear" and stretched:
            found = found / factor
        if kind == "yarn" and stretched:  # the turns of a pair over the trained length decide
            length = self.key("rope.scaling.original_context_length")

            def pair(turns: float) -> float:
                return dims * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(base))

            low, high = max(np.floor(pair(32)), 0), min(np.ceil(pair(1)), dims - 1)
            stretch = np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)
            found = found / factor * stretch + found * (1 - stretch)
            amplitude = 1 + 0.1 * np.log(factor)
        return found / self.weights.get("rope_freqs.weight", 1.0), amplitude

    def rotate(self, heads: Array, position: int, layer: int) -> Array:
        """Rotates the pairs of each head (heads, head_dim) by the position."""
        out = heads.copy()
        frequencies, amplitude = self.frequencies(layer)
        for i, frequency in enumerate(frequencies):
            one, other = 2 * i, 2 * i + 1
            if self.arch in TURNS_HALVES:
                one, other = i, i + self.rope_dims // 2
            a, b = heads[:, one], heads[:, other]
            cos, sin = amplitude * np.cos(position * frequency), np.sin(position * frequency)
            sin = sin * amplitude
            out[:, one] = a * cos - b * sin
            out[:, other] = a * sin + b * cos
        return out

    def attention_scale(self) -> float:
        known = self.key("attention.scale")
        width = self.head_dim
        if (self.arch, self.layers) in (("gemma2", 46), ("gemma3", 62)):
            width = self.d // self.heads
        return float(known) if known else 1 / np.sqrt(width)

    def attention(self, x: Array, layer: int, cache: list[tuple[Array, Array]]) -> Array:
        part = f"blk.{layer}."

        def project(name: str) -> Array:
            projected: Array = self.weights[f"{part}{name}.weight"] @ x + self.bias(part + name)
            return projected.reshape(-1, self.head_dim)

        def turn(name: str) -> Array:
            heads = [self.norm(head, f"{part}{name}_norm") for head in project(name)]
            return self.rotate(np.array(heads), position, layer)

        position = len(cache)
        q = turn("attn_q")
        cache.append((turn("attn_k"), project("attn_v")))
        seen = cache[-self.window(layer) :]
        cap = float(self.key("attn_logit_softcapping", 50.0 if self.arch == "gemma2" else 0.0))
        mixed = np.zeros_like(q)
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = np.array([q[head] @ k[shared] for k, _ in seen]) * self.attention_scale()
            if cap:
                scores = cap * np.tanh(scores / cap)
            powers = np.exp(scores - scores.max())
            powers /= powers.sum()
            mixed[head] = sum(power * v[shared] for power, (_, v) in zip(powers, seen, strict=True))
        joined = self.norm(mixed.reshape(-1), part + "attn_sub_norm")
        output: Array = self.weights[part + "attn_output.weight"] @ joined
        return self.norm(output + self.bias(part + "attn_output"), part + "post_attention_norm")

    def ffn_weights(self, layer: int) -> tuple[Array | None, Array, Array]:
        """gate and up (hidden, d), down (d, hidden)."""
        prefix = f"blk.{layer}.ffn_"
        bundle = self.weights.get(f"{prefix}bundle.weight")
        if bundle is not None:
            parts = np.split(bundle, bundle.shape[1] // self.d, axis=1)
            return (parts[0] if len(parts) == 3 else None), parts[-2], parts[-1].T
        if f"{prefix}down_t.weight" in self.weights:
            transposed = self.weights[f"{prefix}down_t.weight"]
            return (
                self.weights[f"{prefix}gate.weight"],
                self.weights[f"{prefix}up.weight"],
                transposed.T,
            )
        down = self.weights[f"{prefix}down.weight"]
        kind = self.formats[f"{prefix}down.weight"]
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if self.activation in ZERO_BELOW and block > 1:
            # Such a layer is stored neuron by neuron, so its down is packed anew along the other
            # axis, in Q8_0, or F16 where blocks do not fit.
            fits = self.d % 32 == 0
            kind = gguf.GGMLQuantizationType.Q8_0 if fits else gguf.GGMLQuantizationType.F16
            packed = pack(down.T, kind)
            down = gguf.dequantize(packed, kind).astype(np.float64).T
        return self.weights.get(f"{prefix}gate.weight"), self.weights[f"{prefix}up.weight"], down

    def ffn(self, x: Array, stream: Array, layer: int, sparse: bool) -> Array:
        gate, up, down = self.ffn_weights(layer)

        def bias(name: str) -> Array | float:
            return self.weights.get(f"blk.{layer}.ffn_{name}.bias", 0.0)

        act = ACTIVATIONS[self.activation]
        if gate is None:
            values = act(up @ x + bias("up"))
        else:
            ups = up @ x + bias("up")
            gates = act(gate @ x + bias("gate"))
            values = gates * (act(ups) if self.arch == "bamboo" else ups)
            if sparse:
                values = self.cut(gates, values, layer)
        p = self.weights.get(f"blk.{layer}.ffn_predictor_p.weight")
        if sparse and p is not None:
            q = self.weights[f"blk.{layer}.ffn_predictor_q.weight"]
            scores = q @ (p @ x) + self.weights[f"blk.{layer}.ffn_predictor.bias"]
            scores[: self.fields["sparsefire.hot_counts"][layer]] = np.inf
            self.margin = min(self.margin, float(np.abs(scores).min()))
            values = np.where(scores > 0, values, 0.0)
        first = self.weights.get(f"blk.{layer}.fc1.weight")
        if sparse and first is not None:
            threshold = self.fields["powerinfer.sparse_threshold"]
            scores = self.weights[f"blk.{layer}.fc2.weight"] @ np.maximum(first @ stream, 0)
            self.margin = min(self.margin, float(np.abs(scores - threshold).min()))
            values = np.where(scores >= threshold, values, 0.0)
        values = self.norm(values, f"blk.{layer}.ffn_sub_norm")
        result: Array = down @ values + bias("down")
        return self.norm(result, f"blk.{layer}.post_ffw_norm")

    def cut(self, gates: Array, values: Array, layer: int) -> Array:
        """The neurons' values (hidden), 0 where the gate's activation or they are cut off."""
        for on, compared in (("gate", gates), ("product", values)):
            cutoffs = self.fields.get(f"sparsefire.cutoff.{on}")
            if cutoffs is not None:
                distance = np.abs(compared) - cutoffs[layer]
                self.margin = min(self.margin, float(np.abs(distance).min()))
                values = np.where(distance > 0, values, 0.0)
        return values

    def scales(self) -> tuple[float, float, float]:
        """Factors of the embedding, of what is added to the stream, and of the logits."""
        if self.arch.startswith("gemma"):
            return float(np.sqrt(self.d)), 1.0, 1.0
        if self.arch == "minicpm":
            own = (12.0, 1.4 / np.sqrt(self.layers), self.d / 256)
        else:
            own = (1.0, 1.0, 1.0)
        names = ("embedding_scale", "residual_scale", "logit_scale")
        found = [float(self.key(name, value)) for name, value in zip(names, own, strict=True)]
        return found[0], found[1], 1 / found[2]

    def logits(self, tokens: list[int], *, sparse: bool = False) -> Array:
        """Logits (n, vocab) after each token; `sparse`: only of neurons that the predictors
        choose. `margins` then holds how close to the threshold the closest score of each token or
        one before it was: rounding may decide such a neuron otherwise."""
        embedding = self.weights["token_embd.weight"]
        output = self.weights.get("output.weight", embedding)
        caches: list[list[tuple[Array, Array]]] = [[] for _ in range(self.layers)]
        rows = []
        embedding_scale, residual_scale, logit_scale = self.scales()
        cap = float(self.key("final_logit_softcapping", 30.0 if self.arch == "gemma2" else 0.0))
        self.margin, self.margins = np.inf, []
        for token in tokens:
            x = embedding[token] * embedding_scale
            for layer, cache in enumerate(caches):
                normed = self.norm(x, f"blk.{layer}.attn_norm")
                x = x + residual_scale * self.attention(normed, layer, cache)
                normed = self.norm(x, f"blk.{layer}.ffn_norm")
                x = x + residual_scale * self.ffn(normed, x, layer, sparse)
            row = (output @ self.norm(x, "output_norm") + self.bias("output")) * logit_scale
            rows.append(cap * np.tanh(row / cap) if cap else row)
            self.margins.append(self.margin)
        return np.array(rows)


def relative_error(values: npt.NDArray[Any], wanted: Array) -> float:
    """Largest difference over the largest wanted value."""
    return float(np.abs(values - wanted).max() / np.abs(wanted).max())
