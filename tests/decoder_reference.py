"""An independent forward pass of decoders in float64 numpy, from what `decoder_models` says of each
architecture. It reads the file with the `gguf` package and computes all positions at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from decoder_models import DECODERS, Decoder, has_experts, of_layer
from mixed_models import MIXED
from mixture_reference import Array, Family, Reference, relu, sigmoid, softmax


def gelu(x: Array) -> Array:
    """The approximation with a hyperbolic tangent (Hendrycks and Gimpel 2016)."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": gelu,
    "relu2": lambda x: relu(x) ** 2,
    "xielu": lambda x: x,  # has numbers of its own in each layer, see `DecoderReference._xielu`
}
GATES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "softplus": lambda x: np.log1p(np.exp(x)),
}


class DecoderReference(Reference):
    """One file, of one of `DECODERS`."""

    families: ClassVar[Mapping[str, Family]] = {
        name: Family(
            decoder.scoring,
            None if "expert_weights_norm" in decoder.keys else "unnormalised" not in decoder.parts,
            scaled="expert_weights_scale" in decoder.keys,
            halves="halves" in decoder.parts,
            limits=decoder.limits,
            activation=lambda gate, up, of=decoder.activation: ACTIVATIONS[of](gate) * up,
        )
        for name, decoder in {**DECODERS, **MIXED}.items()
    }

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.decoder: Decoder = {**DECODERS, **MIXED}[self.architecture]
        if "layer" in self.decoder.parts:
            self.eps = self.keys["attention.layer_norm_epsilon"]

    def logits(self, tokens: npt.ArrayLike) -> Array:
        return self._logits(self._blocks(self._embedded(tokens)))

    def _embedded(self, tokens: npt.ArrayLike) -> Array:
        decoder, parts = self.decoder, self.decoder.parts
        x = self.tensors["token_embd.weight"][np.asarray(tokens)] * decoder.embedding_scale
        if "positions" in parts:
            x = x + self.tensors["position_embd.weight"][: len(x)]
        if "embedding_norm" in parts:
            x = self._norm(x, "token_embd_norm")
        if "bare_embedding_norm" in parts:
            x = self._norm(x, None)
        return x

    def _blocks(self, x: Array) -> Array:
        for layer in range(self.keys["block_count"]):
            x = self._block(x, f"blk.{layer}.", layer)
        return x

    def _logits(self, x: Array) -> Array:
        decoder, parts = self.decoder, self.decoder.parts
        x = self._output(self._norm(x, None if "bare" in parts else "output_norm"))
        x = x * decoder.logit_scale
        cap = decoder.logit_cap
        return cap * np.tanh(x / cap) if cap else x

    def _block(self, x: Array, block: str, layer: int) -> Array:
        decoder, parts = self.decoder, self.decoder.parts
        before = not parts & {"no_before", "bare"}
        first, second = f"{block}attn_norm", block + decoder.ffn_norm

        def entering(x: Array, name: str) -> Array:
            return x if "no_before" in parts else self._norm(x, name if before else None)

        read = entering(x, first)
        mixed = self._attention(
            entering(x, f"{first}_2") if "second" in parts else read, block, layer
        )
        mixed = self._after(mixed, block + decoder.after[0])
        if "beside" in parts:
            return x + mixed + self._part(read, block, layer)
        if "apart" in parts:
            return x + mixed + self._part(entering(x, second), block, layer)
        x = x + mixed
        added = self._part(entering(x, second), block, layer)
        return x + self._after(added, block + decoder.after[1])

    def _after(self, x: Array, name: str) -> Array:
        if "after" not in self.decoder.parts:
            return x
        usual, self.eps = self.eps, self.decoder.after_eps or self.eps
        x = self._norm(x, name)
        self.eps = usual
        return x

    def _norm(self, x: Array, name: str | None) -> Array:
        if "layer" in self.decoder.parts:
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        if name is None:
            return x
        weight = self.tensors.get(f"{name}.weight", self.tensors.get(name))
        assert weight is not None
        return x * weight + self.tensors.get(f"{name}.bias", np.zeros(()))

    def _part(self, x: Array, block: str, layer: int) -> Array:
        """The feed-forward part of a block."""
        if not has_experts(self.decoder, layer):
            return self._ffn(x, f"{block}ffn_")
        mixed = self._mixture(x, self._product(x, f"{block}ffn_gate_inp"), block)
        if "dense_beside" in self.decoder.parts:
            mixed = mixed + self._ffn(x, f"{block}ffn_")
        return mixed * self.decoder.shared_scale

    def _ffn(self, x: Array, prefix: str, suffix: str = "") -> Array:
        active = ACTIVATIONS[self.decoder.activation]
        if self.decoder.activation == "xielu":
            return self._product(self._xielu(x, prefix), f"{prefix}down{suffix}")
        up = self._product(x, f"{prefix}up{suffix}")
        if "gate_up" in self.decoder.parts:
            gate, up = np.split(up, 2, -1)
            hidden = active(gate) * up
        elif f"{prefix}gate{suffix}.weight" in self.tensors:
            hidden = active(self._product(x, f"{prefix}gate{suffix}")) * up
        else:
            hidden = active(up)
        return self._product(hidden, f"{prefix}down{suffix}")

    def _xielu(self, x: Array, prefix: str) -> Array:
        """xIELU (Huang and Schlag 2024), of the layer's ffn_up · x."""
        negative, positive, beta, least = (
            self.bare[f"xielu.{name}"][int(prefix.split(".")[1])]
            for name in ("alpha_n", "alpha_p", "beta", "eps")
        )
        negative, positive = beta + np.log1p(np.exp(negative)), np.log1p(np.exp(positive))
        x = self._product(x, f"{prefix}up")
        below = negative * (np.expm1(np.minimum(x, least)) - x)
        return np.asarray(np.where(x > 0, positive * x * x, below) + beta * x)

    def _window(self, layer: int) -> int:
        decoder = self.decoder
        if decoder.every == 0 or layer % decoder.every == decoder.full_at % decoder.every:
            return 0
        return int(self.keys["attention.sliding_window"])

    def _turns(self, layer: int, window: int) -> bool:
        decoder, parts = self.decoder, self.decoder.parts
        if not parts & {"halves", "plain"}:
            return False
        if "lead_turn" in parts and not has_experts(decoder, layer):
            return True
        if decoder.unturned and layer % decoder.unturned == decoder.unturned - 1:
            return False
        return window > 0 or "windowed_turn" not in parts

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        decoder, parts = self.decoder, self.decoder.parts
        count, kv_count = (
            of_layer(self.keys, f"attention.head_count{kv}", layer) for kv in ("", "_kv")
        )
        size, window = self.keys["attention.key_length"], self._window(layer)
        if "fused" in parts:
            joined = self._product(x, f"{block}attn_qkv")
            q, k, v = np.split(joined, [count * size, (count + kv_count) * size], -1)
        else:
            q, k, v = (self._product(x, f"{block}attn_{name}") for name in "qkv")
        if "clamp" in parts:
            limit = self.keys["attention.clamp_kqv"]
            q, k, v = (np.clip(each, -limit, limit) for each in (q, k, v))
        if "whole_norms" in parts:
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        q, k, v = (each.reshape(len(x), -1, size) for each in (q, k, v))
        normed = bool(parts & {"head_norms", "own_norms"})
        if normed and "late" not in parts:
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        if self._turns(layer, window):
            dims, base = self.keys["rope.dimension_count"], decoder.window_base if window else None
            q, k = self._turned(q, dims, base=base), self._turned(k, dims, base=base)
        if normed and "late" in parts:
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        found = self._found(q, k, v, window, self.tensors.get(f"{block}attn_sinks.weight"))
        if parts & {"gate", "gate_each"}:
            gate = GATES[decoder.gate](self._product(x, f"{block}attn_gate"))
            found = found * gate.reshape(len(x), count, -1)
        return self._product(found.reshape(len(x), -1), f"{block}attn_output")

    def _found(self, q: Array, k: Array, v: Array, window: int, sinks: Array | None) -> Array:
        """What each head finds, (n, heads, values)."""
        cap, heads = self.decoder.attention_cap, q.shape[1]
        k, v = (np.repeat(each, heads // k.shape[1], 1) for each in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * self.decoder.attention_scale
        if cap:
            scores = cap * np.tanh(scores / cap)
        distance = np.subtract.outer(np.arange(len(q)), np.arange(len(k)))
        if "alibi" in self.decoder.parts:
            assert heads == 4  # a power of two: slopes from 2^(-8/4) on, each that times the last
            slopes = 2.0 ** -(2 * np.arange(1, 5))
            scores = scores - slopes[:, None, None] * distance
        unseen = (distance < 0) | ((distance >= window) if window else False)
        if "both" in self.decoder.parts:
            unseen = np.zeros_like(unseen)
        scores = np.where(unseen, -np.inf, scores)
        if sinks is not None:
            extra = np.broadcast_to(sinks[:, None, None], (heads, len(q), 1))
            scores = np.concatenate([scores, extra], -1)
        return np.einsum("hqk,khd->qhd", softmax(scores)[..., : len(k)], v)
