"""An independent forward pass of encoders in float64 numpy. It reads the file with the `gguf`
package and computes all positions at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf)


def gelu(x: Array) -> Array:
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


ACTIVATIONS = {
    "nomic-bert": silu,
    "neo-bert": silu,
    "eurobert": silu,
    "gemma-embedding": gelu_tanh,
    "t5encoder": gelu_tanh,
}
LAYER_NORMS = "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert"
ROTARY_HALVES = (
    *("nomic-bert", "nomic-bert-moe", "jina-bert-v3"),
    *("modern-bert", "eurobert", "gemma-embedding"),
)


class EncoderReference:
    """One file."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.kind: str = reader.fields["general.architecture"].contents()
        self.tensors = {each.name: each.data.astype(np.float64) for each in reader.tensors}
        self.keys: dict[str, Any] = {
            name.removeprefix(f"{self.kind}."): field.contents()
            for name, field in reader.fields.items()
        }
        self.active = ACTIVATIONS.get(self.kind, gelu)
        self.heads = self.keys["attention.head_count"]

    def score(self, tokens: npt.ArrayLike, types: npt.ArrayLike = 0) -> float:
        """A reranker's score of a pair of texts, as the classes for sequence classification of
        `transformers` compute it."""
        states, modern = self.states(tokens, types), self.kind == "modern-bert"
        x = states.mean(0) if modern else states[0]
        if self._has("cls"):
            x = self._product(x, "cls")
            x = gelu(x) if modern else np.tanh(x)
        if self._has("cls.norm"):
            x = self._norm(x, "cls.norm")
        return float(self._product(x, "cls.output")[0] if self._has("cls.output") else x[0])

    def states(self, tokens: npt.ArrayLike, types: npt.ArrayLike = 0) -> Array:
        """The vector of each token, (n, d)."""
        x = self.tensors["token_embd.weight"][np.asarray(tokens)]
        if "token_types.weight" in self.tensors:
            x = x + self.tensors["token_types.weight"][np.asarray(types)]
        if "position_embd.weight" in self.tensors:
            x = x + self.tensors["position_embd.weight"][: len(x)]
        if self.kind == "gemma-embedding":
            x = x * math.sqrt(x.shape[1])
        if "token_embd_norm.weight" in self.tensors:
            x = self._norm(x, "token_embd_norm")
        after = self.kind in LAYER_NORMS and self.kind != "modern-bert"
        for layer in range(self.keys["block_count"]):
            x = self._block_with_norms_after(x, layer) if after else self._block(x, layer)
        final = [name for name in ("output_norm", "enc.output_norm") if self._has(name)]
        return self._norm(x, final[0]) if final else x

    def _has(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors

    def _block_with_norms_after(self, x: Array, layer: int) -> Array:
        block = f"blk.{layer}."
        found = self._norm(x + self._attention(x, block, layer), f"{block}attn_output_norm")
        if self._has(f"{block}attn_norm_2"):
            found = self._norm(x + found, f"{block}attn_norm_2")
        return self._norm(found + self._ffn(found, block), f"{block}layer_output_norm")

    def _block(self, x: Array, layer: int) -> Array:
        block = f"{'enc.' if self.kind == 't5encoder' else ''}blk.{layer}."
        read = self._norm(x, f"{block}attn_norm") if self._has(f"{block}attn_norm") else x
        x = x + self._after(self._attention(read, block, layer), f"{block}post_attention_norm")
        added = self._ffn(self._norm(x, f"{block}ffn_norm"), block)
        return x + self._after(added, f"{block}post_ffw_norm")

    def _after(self, x: Array, name: str) -> Array:
        return self._norm(x, name) if self._has(name) else x

    def _norm(self, x: Array, name: str) -> Array:
        if self.kind in LAYER_NORMS:
            x = x - x.mean(-1, keepdims=True)
            epsilon = self.keys["attention.layer_norm_epsilon"]
        else:
            epsilon = self.keys["attention.layer_norm_rms_epsilon"]
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
        return x * self.tensors[f"{name}.weight"] + self.tensors.get(f"{name}.bias", 0.0)

    def _product(self, x: Array, name: str) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0.0)

    def _ffn(self, x: Array, block: str) -> Array:
        if self._has(f"{block}ffn_gate_inp"):
            return self._experts(x, block)
        up = self._product(x, f"{block}ffn_up")
        down = self.tensors[f"{block}ffn_down.weight"]
        if self._has(f"{block}ffn_gate"):
            hidden = self.active(self._product(x, f"{block}ffn_gate")) * up
        elif up.shape[1] == 2 * down.shape[1]:
            gate, up = np.split(up, 2, -1)
            hidden = self.active(gate) * up
        else:
            hidden = np.maximum(up, 0) if self.kind == "t5encoder" else self.active(up)
        return self._product(hidden, f"{block}ffn_down")

    def _experts(self, x: Array, block: str) -> Array:
        scores = softmax(self._product(x, f"{block}ffn_gate_inp"))
        up, down = (self.tensors[f"{block}ffn_{part}_exps.weight"] for part in ("up", "down"))
        found = np.zeros_like(x)
        for token, of_token in enumerate(scores):
            for expert in np.argsort(of_token)[::-1][: self.keys["expert_used_count"]]:
                hidden = self.active(up[expert] @ x[token])
                found[token] += of_token[expert] * (down[expert] @ hidden)
        return found

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        if self._has(f"{block}attn_qkv"):
            q, k, v = np.split(self._product(x, f"{block}attn_qkv"), 3, -1)
        else:
            q, k, v = (self._product(x, f"{block}attn_{each}") for each in "qkv")
        size = q.shape[1] // self.heads
        if self.kind == "jina-bert-v2" and self._has(f"{block}attn_q_norm"):
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        q, k, v = (each.reshape(len(x), -1, size) for each in (q, k, v))
        if self.kind == "gemma-embedding":
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        window = self._window(layer)
        if self.kind in (*ROTARY_HALVES, "neo-bert"):
            key = "rope.freq_base_swa" if window else "rope.freq_base"
            q, k = (self._turned(each, self.keys.get(key, 10000.0)) for each in (q, k))
        k, v = (np.repeat(each, self.heads // each.shape[1], 1) for each in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / (1 if self.kind == "t5encoder" else size**0.5)
        scores = scores + self._biases(len(x), scores)
        if window:
            places = np.arange(len(x))
            scores[:, abs(places[:, None] - places) > window // 2] = -np.inf
        found = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(len(x), -1)
        return self._product(found, f"{block}attn_{'o' if self.kind == 't5encoder' else 'output'}")

    def _window(self, layer: int) -> int:
        every = {"modern-bert": 3, "gemma-embedding": 6}.get(self.kind, 0)
        full = 0 if self.kind == "modern-bert" else every - 1
        whole = not every or layer % every == full
        return 0 if whole else int(self.keys["attention.sliding_window"])

    def _turned(self, x: Array, base: float) -> Array:
        """Rotary embedding of heads (n, heads, size)."""
        size = x.shape[-1]
        angles = np.outer(np.arange(len(x)), base ** (-np.arange(0, size, 2) / size))
        turn = np.exp(1j * angles)[:, None]
        if self.kind in ROTARY_HALVES:
            whole = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn
            return np.concatenate([whole.real, whole.imag], -1)
        whole = (x[..., ::2] + 1j * x[..., 1::2]) * turn
        return np.stack([whole.real, whole.imag], -1).reshape(x.shape)

    def _biases(self, n: int, scores: Array) -> Array:
        further = np.arange(n) - np.arange(n)[:, None]  # of keys than queries
        if self.kind == "jina-bert-v2":
            slopes = 2.0 ** (-8 * np.arange(1, self.heads + 1) / self.heads)
            return -slopes[:, None, None] * abs(further)
        if self.kind != "t5encoder":
            return np.zeros_like(scores)
        table = self.tensors["enc.blk.0.attn_rel_b.weight"]  # (buckets, heads)
        half, exact = len(table) // 2, len(table) // 4
        distance = abs(further)
        ratio = np.log(np.maximum(distance, 1) / exact) / math.log(128 / exact)
        far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
        bucket = np.where(distance < exact, distance, far) + half * (further > 0)
        return table[bucket].transpose(2, 0, 1)
