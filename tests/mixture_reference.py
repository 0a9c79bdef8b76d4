"""An independent forward pass of mixtures of experts, in float64 numpy, from the definitions of the
architectures. It reads the file with the `gguf` package and computes all positions at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    powers: Array = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def swiglu(gate: Array, up: Array) -> Array:
    return gate * sigmoid(gate) * up


def reglu(gate: Array, up: Array) -> Array:
    return relu(gate) * up


def clamped_swiglu(gate: Array, up: Array) -> Array:
    """Of gpt-oss."""
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    return gate * sigmoid(1.702 * gate) * (up + 1)


@dataclass(frozen=True)
class Family:
    """What distinguishes an architecture. ``scoring`` and ``normalised`` are None where the file
    says it; ``scoring`` is "chosen" where the softmax is over the chosen experts alone."""

    scoring: str | None = "softmax"
    normalised: bool | None = True
    default_scoring: str = ""
    scaled: bool = False
    halves: bool = True  # rotary: pairs of the two halves of a head, or of neighbours
    norms: str = ""  # of queries and keys: "head", "head, after rotary", "whole"
    ffn_norm: str = "ffn_norm"
    activation: Callable[[Array, Array], Array] = swiglu
    dense: Callable[[Array, Array], Array] = swiglu  # of layers that are no experts
    limits: str = ""  # the file's limits hold "inside" of SiLU, or "outside"; "": there are none


FAMILIES = {
    "llama": Family(halves=False),
    "qwen2moe": Family(normalised=False),
    "qwen3moe": Family(norms="head"),
    "olmoe": Family(normalised=False, norms="whole"),
    "gpt-oss": Family("chosen", False, ffn_norm="post_attention_norm", activation=clamped_swiglu),
    "granitemoe": Family(halves=False),
    "deepseek": Family(normalised=False, scaled=True, halves=False),
    "deepseek2": Family(None, None, "softmax", scaled=True, halves=False),
    "deepseek32": Family(None, None, scaled=True, halves=False),
    "glm-dsa": Family(None, None, "sigmoid", scaled=True, halves=False),
    "mistral4": Family(None, None, "softmax", scaled=True, halves=False),
    "glm4moe": Family(
        None, None, "sigmoid", scaled=True, norms="head", ffn_norm="post_attention_norm"
    ),
    "dots1": Family(None, None, scaled=True, norms="head"),
    "ernie4_5-moe": Family(halves=False),
    "hunyuan-moe": Family(norms="head, after rotary"),
    "bailingmoe": Family(normalised=None, scaled=True, halves=False),
    "bailingmoe2": Family(None, None, scaled=True, norms="head"),
    "phimoe": Family(),
    "minimax-m2": Family(None, norms="whole"),
    "minimax-m3": Family(
        *(None, None), scaled=True, norms="head", activation=clamped_swiglu, dense=clamped_swiglu
    ),
    "grovemoe": Family(norms="head"),
    "mellum": Family(norms="head"),
    "afmoe": Family(None, None, "sigmoid", scaled=True, norms="head"),
    "llama4": Family("sigmoid", False, halves=False),
    "smallthinker": Family(None, activation=reglu),
}


class Reference:
    """One file, of one of `families`."""

    families: Mapping[str, Family] = FAMILIES

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.architecture = reader.fields["general.architecture"].contents()
        self.family = self.families[self.architecture]
        prefix = f"{self.architecture}."
        self.keys: dict[str, Any] = {
            name.removeprefix(prefix): each.contents()
            for name, each in reader.fields.items()
            if name.startswith(prefix)
        }
        self.bare = {name: each.contents() for name, each in reader.fields.items() if "." in name}
        self.tensors: dict[str, Array] = {
            each.name: each.data.astype(np.float64) for each in reader.tensors
        }
        for name in [each for each in self.tensors if each.endswith("ffn_gate_up_exps.weight")]:
            parts = np.split(
                self.tensors.pop(name), 2, axis=1
            )  # of each expert, one below the other
            for part, values in zip(("gate", "up"), parts, strict=True):
                self.tensors[name.replace("gate_up", part)] = values
        self.eps = self.keys.get("attention.layer_norm_rms_epsilon", 0.0)

    def logits(self, tokens: npt.ArrayLike) -> Array:
        """Logits of all positions, (n, vocabulary)."""
        x = self.tensors["token_embd.weight"][np.asarray(tokens)]
        if self.architecture == "afmoe":
            x = x * np.sqrt(x.shape[1])
        x = x * self.keys.get("embedding_scale", 1.0)
        residual = self.keys.get("residual_scale", 1.0)
        for layer in range(self.keys["block_count"]):
            block = f"blk.{layer}."
            entered = x
            normed = self._norm(x, f"{block}attn_norm")
            mixed = self._attention(normed, block, layer)
            if self.architecture == "afmoe":
                mixed = self._norm(mixed, f"{block}post_attention_norm")
            x = x + residual * mixed
            normed = self._norm(x, block + self.family.ffn_norm)
            if f"{block}ffn_gate_inp.weight" in self.tensors:
                # SmallThinker's router looks at what enters the layer.
                routed = entered if self.architecture == "smallthinker" else normed
                mixed = self._mixture(normed, self._product(routed, f"{block}ffn_gate_inp"), block)
            else:
                mixed = self._ffn(normed, f"{block}ffn_")
            if self.architecture == "afmoe":
                mixed = self._norm(mixed, f"{block}post_ffw_norm")
            x = x + residual * mixed
        x = self._output(self._norm(x, "output_norm"))
        return np.asarray(x / self.keys.get("logit_scale", 1.0))

    def _of_layer(self, key: str, layer: int) -> int:
        """A number that the file may give for each layer."""
        value = self.keys[key]
        return int(value[layer] if isinstance(value, list) else value)

    # -- Parts ---------------------------------------------------------------------------------

    def _product(self, x: Array, name: str) -> Array:
        bias = self.tensors.get(f"{name}.bias")
        return x @ self.tensors[f"{name}.weight"].T + (0 if bias is None else bias)

    def _output(self, x: Array) -> Array:
        tied = "output.weight" not in self.tensors
        return self._product(x, "token_embd" if tied else "output")

    def _norm(self, x: Array, name: str | None) -> Array:
        """RMS norm over the last axis; without a weight if there is no name. Phi's has a mean."""
        if self.architecture == "phimoe":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        if name is None:
            return x
        bias = self.tensors.get(f"{name}.bias")
        return x * self.tensors[f"{name}.weight"] + (0 if bias is None else bias)

    def _ffn(self, x: Array, prefix: str, suffix: str = "") -> Array:
        up = self._product(x, f"{prefix}up{suffix}")
        if f"{prefix}gate{suffix}.weight" in self.tensors:
            gate = self._product(x, f"{prefix}gate{suffix}")
            up = self._limited(gate, up, prefix, "swiglu_clamp_shexp", self.family.dense)
        else:
            up = relu(up) ** 2
        return self._product(up, f"{prefix}down{suffix}")

    def _limited(
        self,
        gate: Array,
        up: Array,
        block: str,
        key: str,
        activation: Callable[[Array, Array], Array],
    ) -> Array:
        """A gate and what it is for, with the file's limit for that layer if there is one."""
        limit = self.keys.get(key, 0.0) if self.family.limits else 0.0
        limit = limit[int(block.split(".")[1])] if isinstance(limit, list) else limit
        if not limit:
            return activation(gate, up)
        up = np.clip(up, -limit, limit)
        if self.family.limits == "inside":
            return swiglu(np.minimum(gate, limit), up)
        return np.minimum(gate * sigmoid(gate), limit) * up

    def _turned(self, x: Array, size: int, start: int = 0, base: float | None = None) -> Array:
        """Rotary embedding of `size` values of each head, (n, heads, values), from `start` on."""
        x = x.copy()
        part = x[..., start : start + size]
        base = base or self.keys.get("rope.freq_base", 10000.0)
        angle = np.arange(len(x))[:, None] * base ** (-2 * np.arange(size // 2) / size)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        half = size // 2
        one, two = (slice(half), slice(half, None))
        if not self.family.halves:
            one, two = slice(0, None, 2), slice(1, None, 2)
        first, second = part[..., one].copy(), part[..., two].copy()
        part[..., one] = first * cos - second * sin
        part[..., two] = first * sin + second * cos
        return x

    # -- Attention -----------------------------------------------------------------------------

    def _place(self, layer: int) -> tuple[int, bool]:
        """The window of a layer (0: everything) and whether its heads are turned."""
        name, window = self.architecture, self.keys.get("attention.sliding_window", 0)
        if name == "gpt-oss":
            return (0 if layer % 2 else window), True
        if name in ("mellum", "afmoe"):
            whole = layer % 4 == 3
            return (0 if whole else window), name == "mellum" or not whole
        if name == "smallthinker":
            return (window if layer % 4 else 0), layer % 4 != 0
        if name == "llama4":  # in chunks longer than the texts here
            return 0, layer % 4 != 3
        return 0, True

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        if f"{block}attn_kv_a_mqa.weight" in self.tensors:
            return self._latent_attention(x, block)
        count, count_kv = (self._of_layer(f"attention.head_count{kv}", layer) for kv in ("", "_kv"))
        if f"{block}attn_qkv.weight" in self.tensors:
            size = self.keys["attention.key_length"]
            joined = self._product(x, f"{block}attn_qkv")
            q, k, v = np.split(joined, [count * size, (count + count_kv) * size], -1)
        else:
            q, k, v = (self._product(x, f"{block}attn_{name}") for name in "qkv")
        norms, (window, turned) = self.family.norms, self._place(layer)
        if norms == "whole":
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        q, k, v = (
            each.reshape(len(x), heads, -1)
            for each, heads in ((q, count), (k, count_kv), (v, count_kv))
        )
        if norms == "head":
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        if turned:
            size = self.keys["rope.dimension_count"]
            q, k = self._turned(q, size), self._turned(k, size)
        if norms == "head, after rotary":
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        if self.architecture == "llama4" and turned:
            q, k = self._norm(q, None), self._norm(k, None)
        scale = self.keys.get("attention.scale", q.shape[-1] ** -0.5)
        mixed = self._weighted(
            q, k, v, scale, window, self.tensors.get(f"{block}attn_sinks.weight")
        )
        if f"{block}attn_gate.weight" in self.tensors:
            mixed = mixed * sigmoid(self._product(x, f"{block}attn_gate"))
        return self._product(mixed, f"{block}attn_output")

    @staticmethod
    def _weighted(
        q: Array, k: Array, v: Array, scale: float, window: int = 0, sinks: Array | None = None
    ) -> Array:
        """Values weighted by causal attention, heads side by side."""
        each = q.shape[1] // k.shape[1]
        scores = np.einsum("qhd,khd->hqk", q, np.repeat(k, each, 1)) * scale
        distance = np.subtract.outer(np.arange(len(q)), np.arange(len(k)))
        unseen = distance < 0
        if window:
            unseen = unseen | (distance >= window)
        scores = np.where(unseen, -np.inf, scores)
        if sinks is not None:
            extra = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate([scores, extra], -1)
        weights = softmax(scores)[..., : len(k)]
        mixed = np.einsum("hqk,khd->qhd", weights, np.repeat(v, each, 1))
        return np.asarray(mixed.reshape(len(q), -1))

    def _latent_attention(self, x: Array, block: str) -> Array:
        """Multi-head latent attention: keys and values of all heads from one vector a token."""
        count, turned = self.keys["attention.head_count"], self.keys["rope.dimension_count"]
        rank = self.keys["attention.kv_lora_rank"]
        low = self._norm(self._product(x, f"{block}attn_q_a"), f"{block}attn_q_a_norm")
        q = self._product(low, f"{block}attn_q_b").reshape(len(x), count, -1)
        plain = q.shape[-1] - turned
        q = self._turned(q, turned, plain)
        if "attention.temperature_scale" in self.keys:
            length = self.keys["attention.temperature_length"]
            grown = np.log(np.floor(np.arange(len(x)) / length) + 1)
            q = q * (1 + self.keys["attention.temperature_scale"] * grown)[:, None, None]
        joined = self._product(x, f"{block}attn_kv_a_mqa")
        latent = self._norm(joined[:, :rank], f"{block}attn_kv_a_norm")
        k = np.einsum("tr,hrd->thd", latent, self.tensors[f"{block}attn_k_b.weight"])
        same = self._turned(joined[:, None, rank:], turned)
        k = np.concatenate([k, np.repeat(same, count, 1)], -1)
        v = np.einsum("tr,hvr->thv", latent, self.tensors[f"{block}attn_v_b.weight"])
        mixed = self._weighted(q, k, v, q.shape[-1] ** -0.5)
        return self._product(mixed, f"{block}attn_output")

    # -- Experts -------------------------------------------------------------------------------

    def _mixture(self, x: Array, scores: Array, block: str) -> Array:
        bias = self.tensors.get(f"{block}exp_probs_b.bias")
        mixed = self._experts(x, *self._chosen(scores, bias), block)
        if self.architecture == "grovemoe":
            chosen, weights = self._chosen(scores, None)
            groups = chosen // self.keys["experts_per_group"]
            small = self._experts(x, groups, weights, block, "_chexps")
            mixed = mixed + self.keys["expert_group_scale"] * small
        if f"{block}ffn_up_shexp.weight" in self.tensors:
            shared = self._ffn(x, f"{block}ffn_", "_shexp")
            if f"{block}ffn_gate_inp_shexp.weight" in self.tensors:
                gate = self.tensors[f"{block}ffn_gate_inp_shexp.weight"]
                shared = shared * sigmoid(x @ gate)[:, None]
            mixed = mixed + shared
        return mixed

    def _chosen(
        self, scores: Array, bias: Array | None, used: int | None = None
    ) -> tuple[npt.NDArray[np.int64], Array]:
        """Experts of each token and their weights, (n, used)."""
        family = self.family
        if self.architecture == "phimoe":
            return self._mixed(scores)
        named = {1: "softmax", 2: "sigmoid"}
        scoring = family.scoring or named.get(
            self.keys.get("expert_gating_func", 0), family.default_scoring
        )
        if scoring == "chosen":
            shares = scores
        else:
            shares = softmax(scores) if scoring == "softmax" else sigmoid(scores)
        order = shares if bias is None else shares + bias
        groups = self.keys.get("expert_group_count", 0)
        if groups > 1:
            order = self._without_groups(order, groups)
        used = used or self.keys["expert_used_count"]
        chosen = np.argsort(-order, -1, kind="stable")[:, :used]
        weights = np.take_along_axis(shares, chosen, -1)
        if scoring == "chosen":
            weights = softmax(weights)
        normalised = family.normalised
        if self.keys.get("expert_weights_norm", False) if normalised is None else normalised:
            weights = weights / weights.sum(-1, keepdims=True)
        if family.scaled:
            weights = weights * self.keys.get("expert_weights_scale", 1.0)
        return chosen, weights

    def _mixed(self, scores: Array) -> tuple[npt.NDArray[np.int64], Array]:
        """SparseMixer: one expert after the other, each weighted against those near it."""
        left, chosen, weights = scores.copy(), [], []
        for _ in range(self.keys["expert_used_count"]):
            best = left.max(-1, keepdims=True)
            far = (best - scores) / np.maximum(np.abs(scores), best) > 0.02
            chosen.append(left.argmax(-1))
            weights.append(softmax(np.where(far, -np.inf, left)).max(-1))
            np.put_along_axis(left, chosen[-1][:, None], -np.inf, -1)
        return np.stack(chosen, -1), np.stack(weights, -1)

    def _without_groups(self, order: Array, groups: int) -> Array:
        """Leaves the groups with the largest sums of their two largest values."""
        grouped = order.reshape(len(order), groups, -1)
        sums = np.sort(grouped, -1)[..., -2:].sum(-1)
        best = np.argsort(-sums, -1)[:, : self.keys["expert_group_used_count"]]
        kept = np.full_like(grouped, -np.inf)
        for token, each in enumerate(best):
            kept[token, each] = grouped[token, each]
        return kept.reshape(order.shape)

    def _experts(
        self,
        x: Array,
        chosen: npt.NDArray[np.int64],
        weights: Array,
        block: str,
        suffix: str = "_exps",
    ) -> Array:
        def product(name: str, expert: int, value: Array) -> Array:
            bias = self.tensors.get(f"{block}ffn_{name}{suffix}.bias")
            result = self.tensors[f"{block}ffn_{name}{suffix}.weight"][expert] @ value
            scales = self.tensors.get(f"{block}ffn_{name}{suffix}.scale")
            result = result if scales is None else scales[expert] * result
            return np.asarray(result if bias is None else result + bias[expert])

        mixed = np.zeros((len(x), self.tensors[f"{block}ffn_down{suffix}.weight"].shape[1]))
        for token, value in enumerate(x):
            for expert, weight in zip(chosen[token], weights[token], strict=True):
                # Llama 4 weighs what goes into an expert.
                before = weight if self.architecture == "llama4" else 1.0
                up = product("up", expert, before * value)
                if f"{block}ffn_gate{suffix}.weight" in self.tensors:
                    gate = product("gate", expert, before * value)
                    activation = self.family.activation
                    up = self._limited(gate, up, block, "swiglu_clamp_exp", activation)
                else:
                    up = relu(up) ** 2
                down = product("down", expert, up)
                mixed[token] += down if self.architecture == "llama4" else weight * down
        return mixed
