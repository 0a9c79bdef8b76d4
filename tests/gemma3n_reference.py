"""An independent forward pass of Gemma 3n in float64 numpy: four streams that are predicted and
corrected (AltUp), learned low-rank residuals (LAuReL), inputs of each layer by token, cutoffs of
the gate by its mean and deviation, and layers that share keys and values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mixture_reference import Array, Family, Reference, relu

STREAMS = 4
# Of files without the keys: inputs of a layer, layers with keys and values, deviations.
INPUTS, OWN_LAYERS = 256, 20
DEVIATIONS = [1.6448533535003662] * 10 + [0.0] * 100  # 5 % of a normal distribution lie above
CAP = 30.0


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def size(x: Array) -> Array:
    return np.asarray(np.sqrt((x * x).sum(-1, keepdims=True)))


def resized(x: Array, like: Array) -> Array:
    """Vectors as long as others."""
    return x * size(like) / size(x)


class Gemma3nReference(Reference):
    """One file."""

    families: Mapping[str, Family] = {"gemma3n": Family()}

    def logits(self, tokens: npt.ArrayLike) -> Array:
        """Logits of all positions, (n, vocabulary)."""
        ids = np.asarray(tokens)
        embedded = self.tensors["token_embd.weight"][ids]
        width, layers = embedded.shape[1], self.keys["block_count"]
        count = self.keys.get("embedding_length_per_layer_input", INPUTS)
        embedded = embedded * np.sqrt(width)
        inputs = self.tensors["per_layer_token_embd.weight"][ids] * np.sqrt(count)
        projected = self._product(embedded, "per_layer_model_proj") / np.sqrt(width)
        projected = self._norm(projected.reshape(-1, layers, count), "per_layer_proj_norm")
        inputs = (inputs.reshape(-1, layers, count) + projected) / np.sqrt(2)
        others = self.tensors["altup_proj.weight"]
        x = np.stack([embedded, *(resized(embedded @ each.T, embedded) for each in others)])
        self._shared: dict[int, tuple[Array, Array]] = {}
        for layer in range(layers):
            x = self._layer(x, inputs[:, layer], f"blk.{layer}.", layer)
        back = self.tensors["altup_unembd_proj.weight"]
        parts = [resized(x[1 + part] @ each.T, x[0]) for part, each in enumerate(back)]
        mean = (x[0] + sum(parts)) / STREAMS
        scores = self._output(self._norm(mean, "output_norm"))
        return np.asarray(CAP * np.tanh(scores / CAP))

    def _layer(self, x: Array, inputs: Array, block: str, layer: int) -> Array:
        predicted = self._predicted(x, block)
        active = predicted[0]
        normed = self._norm(active, f"{block}attn_norm")
        low = self._product(self._product(normed, f"{block}laurel_l"), f"{block}laurel_r")
        laurel = normed + self._norm(low, f"{block}laurel_post_norm")
        mixed = self._norm(self._attention(normed, block, layer), f"{block}post_attention_norm")
        mixed = (active + mixed + laurel) / np.sqrt(2)
        normed = self._norm(mixed, f"{block}ffn_norm")
        gate, up = (self._product(normed, f"{block}ffn_{name}") for name in ("gate", "up"))
        deviations = self.keys.get("activation_sparsity_scale", DEVIATIONS)[layer]
        if deviations:
            deviation = gate.std(-1, ddof=1, keepdims=True)
            gate = relu(gate - gate.mean(-1, keepdims=True) - deviations * deviation)
        down = self._product(gelu(gate) * up, f"{block}ffn_down")
        mixed = mixed + self._norm(down, f"{block}post_ffw_norm")
        x = self._corrected(predicted, mixed, block)
        added = x[0] * self.tensors[f"{block}altup_correct_scale.weight"]
        added = gelu(self._product(added, f"{block}inp_gate")) * inputs
        added = self._norm(self._product(added, f"{block}proj"), f"{block}post_norm")
        return np.concatenate([x[:1], x[1:] + added])

    # -- AltUp ---------------------------------------------------------------------------------

    def _modes(self, x: Array, block: str) -> Array:
        normed = self._norm(x, f"{block}altup_router_norm") / x.shape[-1]
        return np.tanh(self._product(normed, f"{block}altup_router"))

    def _predicted(self, x: Array, block: str) -> Array:
        shares = self._product(self._modes(x[0], block), f"{block}altup_predict_coef")
        shares = shares.reshape(-1, STREAMS, STREAMS)
        return np.asarray(x + np.einsum("tij,jtd->itd", shares, x))

    def _corrected(self, predicted: Array, active: Array, block: str) -> Array:
        shares = 1 + self._product(self._modes(active, block), f"{block}altup_correct_coef")
        return np.asarray(predicted + shares.T[:, :, None] * (active - predicted[0]))

    # -- Attention -----------------------------------------------------------------------------

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        local = layer % 5 != 4
        base = self.keys["rope.freq_base_swa" if local else "rope.freq_base"]
        window = self.keys["attention.sliding_window"] if local else 0
        turned = self.keys["attention.key_length"]

        def heads(name: str) -> Array:
            return self._product(x, f"{block}attn_{name}").reshape(len(x), -1, turned)

        q = self._turned(self._norm(heads("q"), f"{block}attn_q_norm"), turned, base=base)
        layers = self.keys["block_count"]
        own = layers - self.keys.get("attention.shared_kv_layers", layers - OWN_LAYERS)
        if layer < own:
            k = self._turned(self._norm(heads("k"), f"{block}attn_k_norm"), turned, base=base)
            self._shared[layer] = k, self._norm(heads("v"), None)
        alike = [each for each in range(own) if (each % 5 != 4) == local]
        source = layer if layer < own else alike[-1]
        mixed = self._weighted(q, *self._shared[source], 1.0, window)
        return self._product(mixed, f"{block}attn_output")
