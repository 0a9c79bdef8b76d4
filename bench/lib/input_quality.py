"""What leaving out inputs costs a Llama model in perplexity: its forward pass in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsefire import Model
from sparsefire._arrays import FloatArray
from sparsefire.arch.read import read_floats, read_vector

WINDOW = 512  # tokens
SHARES = (0.25, 0.4, 0.5)  # of the inputs that are left out
_SAMPLE = 64  # tokens of a window by which limits are set

Taken = Callable[[str, FloatArray], FloatArray]
"""What of the inputs (n, columns) of a site is multiplied."""


def print_costs(path: Path, text: Path, windows: int) -> None:
    """Limits are set on the first window, evenly: each site leaves out the same share. Perplexity
    is of the others."""
    with Model.load(path, head="dense") as loaded:
        tokens = loaded.tokenize(text.read_text()[: 16 * WINDOW * windows])
        model = Llama(loaded)
    cut = [tokens[place : place + WINDOW] for place in range(0, WINDOW * windows, WINDOW)]
    magnitudes: dict[str, FloatArray] = {}

    def note(site: str, x: FloatArray) -> FloatArray:
        magnitudes[site] = np.abs(x[:: max(1, len(x) // _SAMPLE)])
        return x

    model.losses(cut[0], note)
    dense = model.perplexity(cut[1:], lambda _site, x: x)
    print(f"{path.name}, {WINDOW * (windows - 1):,} tokens: perplexity {dense:.3f}")
    for share in SHARES:
        for method in ("magnitudes", "magnitudes × column norms"):
            factors = model.norms if "norms" in method else dict.fromkeys(magnitudes, 1.0)
            limits = {
                site: np.quantile(each * factors[site], share) for site, each in magnitudes.items()
            }

            def some(
                site: str,
                x: FloatArray,
                limits: dict[str, Any] = limits,
                factors: dict[str, Any] = factors,
            ) -> FloatArray:
                return np.where(np.abs(x) * factors[site] < limits[site], np.float32(0), x)

            found = model.perplexity(cut[1:], some)
            cost = found / dense - 1
            print(f"  {share:.0%} left out by {method}: {found:.3f} ({cost:+.1%})", flush=True)


class Llama:
    """A Llama model's weights as numbers."""

    def __init__(self, model: Model) -> None:
        self.config = model.config
        file, core = model.file, model.core
        self._matrices = {
            name: read_floats(core, file, name)
            for name, info in file.tensors.items()
            if len(info.shape) == 2
        }
        self._vectors = {
            name: read_vector(file, name)
            for name, info in file.tensors.items()
            if len(info.shape) == 1
        }
        self._layers = sum(name.endswith(".attn_norm.weight") for name in self._vectors)
        metadata = file.metadata
        self._heads = int(metadata["llama.attention.head_count"])
        self._kv_heads = int(metadata.get("llama.attention.head_count_kv", self._heads))
        self._epsilon = float(metadata["llama.attention.layer_norm_rms_epsilon"])
        self._base = float(metadata.get("llama.rope.freq_base", 10_000.0))
        self.norms = {
            f"{index}.{site}": np.sqrt(sum((self._of(index, name) ** 2).sum(0) for name in names))
            for index in range(self._layers)
            for site, names in _SITES.items()
        }

    def _of(self, layer: int, name: str) -> FloatArray:
        return self._matrices[f"blk.{layer}.{name}.weight"]

    def perplexity(self, windows: Sequence[Sequence[int]], taken: Taken) -> float:
        """Of all tokens of the windows but the first of each."""
        losses = np.concatenate([self.losses(window, taken) for window in windows])
        return float(np.exp(losses.mean()))

    def losses(self, tokens: Sequence[int], taken: Taken) -> Any:
        """-log p of each token but the first, given those before it."""
        embedding = self._matrices["token_embd.weight"]
        x = embedding[np.asarray(tokens)]
        for layer in range(self._layers):
            x = x + self._attention(layer, x, taken)
            x = x + self._ffn(layer, x, taken)
        x = self._norm(x, "output_norm.weight")
        logits = x[:-1] @ self._matrices.get("output.weight", embedding).T
        logits -= logits.max(1, keepdims=True)
        sums = np.log(np.exp(logits).sum(1, dtype=np.float64))
        return sums - logits[np.arange(len(logits)), np.asarray(tokens[1:])]

    def _norm(self, x: FloatArray, weight: str) -> FloatArray:
        mean = (x**2).mean(1, keepdims=True)
        scaled: FloatArray = x / np.sqrt(mean + np.float32(self._epsilon)) * self._vectors[weight]
        return scaled

    def _products(
        self, layer: int, site: str, x: FloatArray, taken: Taken
    ) -> tuple[FloatArray, ...]:
        chosen = taken(f"{layer}.{site}", x)
        return tuple(chosen @ self._of(layer, name).T for name in _SITES[site])

    def _attention(self, layer: int, x: FloatArray, taken: Taken) -> FloatArray:
        x = self._norm(x, f"blk.{layer}.attn_norm.weight")
        n = len(x)
        q, k, v = self._products(layer, "attention", x, taken)
        q = self._rotated(q.reshape(n, self._heads, -1))
        k = self._rotated(k.reshape(n, self._kv_heads, -1))
        v = v.reshape(n, self._kv_heads, -1)
        repeats = self._heads // self._kv_heads
        k, v = np.repeat(k, repeats, 1), np.repeat(v, repeats, 1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(q.shape[2] ** 0.5)
        scores += np.triu(np.full((n, n), -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(2, keepdims=True))
        scores /= scores.sum(2, keepdims=True)
        out = (scores @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(n, -1)
        return self._products(layer, "attention output", out, taken)[0]

    def _rotated(self, x: FloatArray) -> FloatArray:
        """Pairs (2i, 2i + 1) of each head, as GGUF has Llama's."""
        dim = x.shape[2]
        turns = self._base ** -(np.arange(0, dim, 2) / dim)
        angles = np.arange(len(x))[:, None, None] * turns
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], 3).reshape(x.shape)

    def _ffn(self, layer: int, x: FloatArray, taken: Taken) -> FloatArray:
        x = self._norm(x, f"blk.{layer}.ffn_norm.weight")
        gate, up = self._products(layer, "gate and up", x, taken)
        return self._products(layer, "down", gate / (1 + np.exp(-gate)) * up, taken)[0]


_SITES = {
    "attention": ("attn_q", "attn_k", "attn_v"),
    "attention output": ("attn_output",),
    "gate and up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}
