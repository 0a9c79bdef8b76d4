"""An independent forward pass, in float64 numpy, of the architectures of `mixed_models`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from decoder_models import of_layer
from decoder_reference import DecoderReference
from mixture_reference import Array
from recurrent_reference import RecurrentReference, convolved, silu, softplus


class MixedReference(DecoderReference):
    """One file, of one of `MIXED`."""

    def logits(self, tokens: npt.ArrayLike) -> Array:
        x = self._embedded(tokens)
        self.first = x
        if self.architecture == "nanbeige":
            for _ in range(self.keys["num_loops"] - 1):
                x = self._norm(self._blocks(x), "output_norm")
        if self.architecture == "hrm_text":
            return self._output(self._cycles(x))
        return self._logits(self._blocks(x))

    def _cycles(self, slow: Array) -> Array:
        fast = self.tensors["hrm.z_l_init"]
        size = self.keys["hrm.layers_per_stack"]

        def stack(x: Array, first: int) -> Array:
            for layer in range(first, first + size):
                x = super(MixedReference, self)._block(x, f"blk.{layer}.", layer)
            return self._norm(x, None)

        for _ in range(self.keys["hrm.h_cycles"]):
            for _ in range(self.keys["hrm.l_cycles"]):
                fast = stack(slow + fast, 0)
            slow = stack(slow + fast, size)
        return slow

    def _block(self, x: Array, block: str, layer: int) -> Array:
        name = self.architecture
        if name == "mamba":
            return x + self._mamba(self._norm(x, f"{block}attn_norm"), block)
        if name == "talkie":
            scale = self.tensors[f"{block}layer_output_scale.weight"]
            return super()._block(x, block, layer) + scale * self.first
        if name == "arctic":
            experts = self._part(self._norm(x, f"{block}ffn_norm_exps"), block, layer)
            x = x + self._attention(self._norm(x, f"{block}attn_norm"), block, layer)
            return x + experts + self._ffn(self._norm(x, f"{block}ffn_norm"), f"{block}ffn_")
        if name == "deci":
            if f"{block}attn_norm.weight" in self.tensors:
                x = x + self._attention(self._norm(x, f"{block}attn_norm"), block, layer)
            if f"{block}ffn_norm.weight" in self.tensors:
                x = x + self._ffn(self._norm(x, f"{block}ffn_norm"), f"{block}ffn_")
            return x
        if name == "minicpm3":
            each = 1.4 / math.sqrt(self.keys["block_count"])
            x = x + each * self._attention(self._norm(x, f"{block}attn_norm"), block, layer)
            return x + each * self._ffn(self._norm(x, f"{block}ffn_norm"), f"{block}ffn_")
        return super()._block(x, block, layer)

    def _attention(self, x: Array, block: str, layer: int) -> Array:
        name = self.architecture
        if name == "minicpm3":
            return self._expanded_attention(x, block)
        if of_layer(self.keys, "attention.head_count_kv", layer) == 0:
            if name == "deci":
                return self._product(x, f"{block}attn_output")
            mixers = {"jamba": self._mamba, "plamo2": self._plamo}
            return mixers[name](x, block) if name in mixers else self._mamba2(x, block)
        mixed = super()._attention(x, block, layer)
        return mixed + self._mamba2(x, block) if name == "falcon-h1" else mixed

    def _found(self, q: Array, k: Array, v: Array, window: int, sinks: Array | None) -> Array:
        if self.architecture == "talkie":
            q, k = self._norm(q, None), self._norm(k, None)
            q = q * self._query_factors.reshape(-1, 1)
        return super()._found(q, k, v, window, sinks)

    def _product(self, x: Array, name: str) -> Array:
        if self.architecture == "talkie" and name.endswith("attn_q"):
            self._query_factors = self.tensors[f"{name}_norm.weight"]
        return super()._product(x, name)

    _mamba2 = RecurrentReference._mamba2

    def _selected(self, u: Array, block: str, order: tuple[str, ...]) -> dict[str, Array]:
        """What steps are made of (dt), keys (b) and queries (c), normalised if they have norms."""
        sizes = dict.fromkeys("bc", self.keys["ssm.state_size"])
        product = self._product(u, f"{block}ssm_x")
        sizes["dt"] = product.shape[1] - 2 * sizes["b"]
        split = np.split(product, np.cumsum([sizes[name] for name in order])[:2], -1)
        parts = dict(zip(order, split, strict=True))
        for name, part in parts.items():
            norm = f"{block}ssm_{name}_norm"
            if norm in self.tensors or f"{norm}.weight" in self.tensors:
                parts[name] = self._norm(part, norm)
        return parts

    def _mamba(self, x: Array, block: str) -> Array:
        u, gate = np.split(self._product(x, f"{block}ssm_in"), 2, -1)
        weight, bias = (self.tensors[f"{block}ssm_conv1d.{name}"] for name in ("weight", "bias"))
        u = silu(convolved(u, weight) + bias)
        parts = self._selected(u, block, ("dt", "b", "c"))
        step = softplus(self._product(parts["dt"], f"{block}ssm_dt"))
        rates = self.tensors[f"{block}ssm_a"]
        memory, y = np.zeros_like(rates), np.zeros_like(u)
        for t in range(len(x)):
            memory *= np.exp(step[t][:, None] * rates)
            memory += np.outer(step[t] * u[t], parts["b"][t])
            y[t] = memory @ parts["c"][t]
        y += self.tensors[f"{block}ssm_d"] * u
        return self._product(y * silu(gate), f"{block}ssm_out")

    def _plamo(self, x: Array, block: str) -> Array:
        heads = self.keys["ssm.time_step_rank"]
        both = self._product(x, f"{block}ssm_in").reshape(len(x), heads, 2, -1)
        gate, u = (both[:, :, i].reshape(len(x), -1) for i in (0, 1))
        u = silu(convolved(u, self.tensors[f"{block}ssm_conv1d.weight"]))
        parts = self._selected(u, block, ("b", "c", "dt"))
        step = softplus(self._product(parts["dt"], f"{block}ssm_dt"))
        decay = np.exp(step * self.tensors[f"{block}ssm_a"])
        u = u.reshape(len(x), heads, -1)
        memory, y = np.zeros((*u.shape[1:], parts["b"].shape[1])), np.zeros_like(u)
        for t in range(len(x)):
            memory *= decay[t][:, None, None]
            memory += (step[t][:, None] * u[t])[:, :, None] * parts["b"][t]
            y[t] = memory @ parts["c"][t]
        y += self.tensors[f"{block}ssm_d"][:, None] * u
        return self._product(y.reshape(len(x), -1) * silu(gate), f"{block}ssm_out")

    def _expanded_attention(self, x: Array, block: str) -> Array:
        count, turned = self.keys["attention.head_count"], self.keys["rope.dimension_count"]
        rank, value = (self.keys[f"attention.{n}"] for n in ("kv_lora_rank", "value_length"))
        low = self._norm(self._product(x, f"{block}attn_q_a"), f"{block}attn_q_a_norm")
        q = self._product(low, f"{block}attn_q_b").reshape(len(x), count, -1)
        q = self._turned(q, turned, q.shape[-1] - turned)
        joined = self._product(x, f"{block}attn_kv_a_mqa")
        latent = self._norm(joined[:, :rank], f"{block}attn_kv_a_norm")
        both = self._product(latent, f"{block}attn_kv_b").reshape(len(x), count, -1)
        plain, v = both[..., :-value], both[..., -value:]
        same = np.repeat(self._turned(joined[:, None, rank:], turned), count, 1)
        k = np.concatenate([plain, same], -1)
        mixed = self._weighted(q, k, v, q.shape[-1] ** -0.5)
        return self._product(mixed, f"{block}attn_output")
