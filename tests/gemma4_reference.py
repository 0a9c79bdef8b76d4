"""An independent forward pass of Gemma 4's text part in float64 numpy: heads of two sizes, values
that are keys, inputs of each layer by token, layers that share keys and values, and experts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gemma3n_reference import gelu
from mixture_reference import Array, Family, Reference


def geglu(gate: Array, up: Array) -> Array:
    return gelu(gate) * up


class Gemma4Reference(Reference):
    """One file."""

    families: Mapping[str, Family] = {"gemma4": Family(activation=geglu)}

    def logits(self, tokens: npt.ArrayLike) -> Array:
        """Logits of all positions, (n, vocabulary)."""
        ids, layers = np.asarray(tokens), self.keys["block_count"]
        x = self.tensors["token_embd.weight"][ids]
        x = x * np.sqrt(x.shape[1])
        inputs = self._inputs(ids, x) if self.keys["embedding_length_per_layer_input"] else None
        self._shared: dict[int, tuple[Array, Array]] = {}
        for layer in range(layers):
            block = f"blk.{layer}."
            mixed = self._attention(self._norm(x, f"{block}attn_norm"), block, layer)
            x = x + self._norm(mixed, f"{block}post_attention_norm")
            normed = self._norm(x, f"{block}ffn_norm")
            gate, up = (self._product(normed, f"{block}ffn_{name}") for name in ("gate", "up"))
            down = self._product(geglu(gate, up), f"{block}ffn_down")
            if f"{block}ffn_gate_inp.weight" in self.tensors:
                down = self._norm(down, f"{block}post_ffw_norm_1") + self._routed(x, block)
            x = x + self._norm(down, f"{block}post_ffw_norm")
            if inputs is not None:
                gated = gelu(self._product(x, f"{block}inp_gate")) * inputs[:, layer]
                x = x + self._norm(self._product(gated, f"{block}proj"), f"{block}post_norm")
            x = x * self.tensors.get(f"{block}layer_output_scale.weight", 1.0)
        scores = self._output(self._norm(x, "output_norm"))
        cap = self.keys.get("final_logit_softcapping", np.inf)
        return np.asarray(cap * np.tanh(scores / cap)) if np.isfinite(cap) else scores

    def _routed(self, x: Array, block: str) -> Array:
        """What the experts make, by a router that looks at x in a norm of its own."""
        routed = self._norm(x, None) * self.tensors[f"{block}ffn_gate_inp.scale"]
        scores = self._product(routed / np.sqrt(x.shape[1]), f"{block}ffn_gate_inp")
        normed = self._norm(x, f"{block}pre_ffw_norm_2")
        return self._norm(self._mixture(normed, scores, block), f"{block}post_ffw_norm_2")

    def _inputs(self, ids: npt.NDArray[np.int64], x: Array) -> Array:
        """What each layer gets, (n, layers, width)."""
        stored = self.tensors["per_layer_token_embd.weight"][ids]
        shape = len(ids), self.keys["block_count"], -1
        stored = stored.reshape(shape)
        projected = self._product(x, "per_layer_model_proj") / np.sqrt(x.shape[1])
        projected = self._norm(projected.reshape(shape), "per_layer_proj_norm")
        return (stored * np.sqrt(stored.shape[-1]) + projected) / np.sqrt(2)

    def _turned_heads(self, x: Array, name: str, layer: int) -> Array:
        """Heads after their norm and rotation. In layers without a window, pairs turn slower by
        the file's factors, some not at all."""
        x = self._norm(x, name)
        if self.keys["attention.sliding_window_pattern"][layer]:
            return self._turned(
                x, self.keys["rope.dimension_count_swa"], base=self.keys["rope.freq_base_swa"]
            )
        half = x.shape[-1] // 2
        pairs = np.arange(half)
        speed = self.keys["rope.freq_base"] ** (-pairs / half) / self.tensors["rope_freqs.weight"]
        turn = np.exp(1j * np.arange(len(x))[:, None, None] * speed)
        turned = (x[..., :half] + 1j * x[..., half:]) * turn
        return np.concatenate([turned.real, turned.imag], -1)

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        pattern = self.keys["attention.sliding_window_pattern"]
        windowed = pattern[layer]
        size = self.keys["attention.key_length_swa" if windowed else "attention.key_length"]

        def heads(name: str) -> Array:
            return self._product(x, f"{block}attn_{name}").reshape(len(x), -1, size)

        q = self._turned_heads(heads("q"), f"{block}attn_q_norm", layer)
        own = self.keys["block_count"] - self.keys["attention.shared_kv_layers"]
        source = layer
        if layer < own:
            has_values = f"{block}attn_v.weight" in self.tensors
            values = self._norm(heads("v" if has_values else "k"), None)
            k = self._turned_heads(heads("k"), f"{block}attn_k_norm", layer)
            self._shared[layer] = k, values
        else:
            source = max(each for each in range(own) if pattern[each] == windowed)
        window = self.keys["attention.sliding_window"] if windowed else 0
        mixed = self._weighted(q, *self._shared[source], 1.0, window)
        return self._product(mixed, f"{block}attn_output")
