"""Independent forward passes of models with recurrent layers, in float64 numpy, token after token:
Mamba-2 (Nemotron-H), short convolutions (LFM 2), gated delta nets (Qwen 3 Next and 3.5), and the
time mixes of RWKV 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mixture_reference import Array, Family, Reference, relu, sigmoid

_HEAD_NORM_EPS = 64e-5  # of RWKV's norm of each head


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def before(x: Array) -> Array:
    """Each token's predecessor, zeros for the first."""
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def layer_norm(x: Array, eps: float) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps))


def convolved(x: Array, weight: Array) -> Array:
    """Each channel of (n, channels) with its own filter, (channels, taps): the last tap is the
    token itself."""
    taps = weight.shape[1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    return np.asarray(sum(padded[tap : tap + len(x)] * weight[:, tap] for tap in range(taps)))


class RecurrentReference(Reference):
    """One file."""

    families: Mapping[str, Family] = {
        "nemotron_h": Family(),
        "nemotron_h_moe": Family("sigmoid", None, scaled=True),
        "kimi-linear": Family(None, scaled=True),
        "plm": Family(halves=False),
        "lfm2": Family(norms="head"),
        "minimax-01": Family(),
        "lfm2moe": Family("sigmoid", norms="head"),
        "qwen35": Family(norms="head"),
        "qwen35moe": Family(norms="head"),
        "qwen3next": Family(norms="head"),
        "rwkv6": Family(),
        "rwkv6qwen2": Family(),
        "rwkv7": Family(),
        "arwkv7": Family(),
    }

    def logits(self, tokens: npt.ArrayLike) -> Array:
        """Logits of all positions, (n, vocabulary)."""
        x = self.tensors["token_embd.weight"][np.asarray(tokens)]
        if "token_embd_norm.weight" in self.tensors and "rwkv" in self.architecture:
            x = self._layer_norm(x, "token_embd_norm")
        self._first_values: Array | None = None
        for layer in range(self.keys["block_count"]):
            x = self._layer(x, f"blk.{layer}.", layer)
        if "output_norm.bias" in self.tensors:
            return self._output(self._layer_norm(x, "output_norm"))
        last = "token_embd_norm" if self.architecture.startswith("lfm2") else "output_norm"
        return self._output(self._norm(x, last))

    def _layer(self, x: Array, block: str, layer: int) -> Array:
        if self.architecture == "minimax-01":
            return self._minimax(x, block, layer)
        if self.architecture.startswith("nemotron_h"):
            return x + self._nemotron(self._norm(x, f"{block}attn_norm"), block, layer)
        if self.architecture == "rwkv6":
            x = x + self._time_mix_6(self._layer_norm(x, f"{block}attn_norm"), block)
            x = x + self._channel_mix(self._layer_norm(x, f"{block}attn_norm_2"), block)
            every = self.keys["rescale_every_n_layers"]
            return x / 2 if every and (layer + 1) % every == 0 else x
        if self.architecture == "rwkv7":
            x = x + self._time_mix_7(self._layer_norm(x, f"{block}attn_norm"), block)
            return x + self._channel_mix(self._layer_norm(x, f"{block}attn_norm_2"), block)
        normed = self._norm(x, f"{block}attn_norm")
        if self.architecture == "arwkv7":
            x = x + self._time_mix_7(normed, block)
        elif self.architecture == "rwkv6qwen2":
            x = x + self._time_mix_6(normed, block)
        elif f"{block}shortconv.conv.weight" in self.tensors:
            x = x + self._gated_convolution(normed, block)
        elif f"{block}ssm_conv1d_q.weight" in self.tensors:
            x = x + self._delta_attention(normed, block)
        elif self.architecture == "plm":
            x = x + self._expanded(normed, block)
        elif self.architecture == "kimi-linear":
            x = x + self._latent_without_positions(normed, block)
        elif f"{block}ssm_conv1d.weight" in self.tensors:
            x = x + self._delta_net(normed, block)
        elif self.architecture.startswith("qwen3"):
            x = x + self._gated_attention(normed, block)
        else:
            x = x + self._attention(normed, block, layer)
        named = f"{block}post_attention_norm"
        after = named if f"{named}.weight" in self.tensors else f"{block}ffn_norm"
        normed = self._norm(x, after)
        if f"{block}ffn_gate_inp.weight" in self.tensors:
            return x + self._mixture(normed, self._product(normed, f"{block}ffn_gate_inp"), block)
        return x + self._ffn(normed, f"{block}ffn_")

    def _layer_norm(self, x: Array, name: str) -> Array:
        x = layer_norm(x, self.keys["attention.layer_norm_epsilon"])
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    # -- Nemotron-H ----------------------------------------------------------------------------

    def _nemotron(self, x: Array, block: str, layer: int) -> Array:
        """A layer is one of: Mamba-2, attention without positions, feed-forward."""
        if f"{block}ssm_in.weight" in self.tensors:
            return self._mamba2(x, block)
        if f"{block}attn_q.weight" in self.tensors:
            q, k, v = (self._product(x, f"{block}attn_{name}") for name in "qkv")
            count, count_kv = (
                self.keys["attention.head_count"],
                self.keys["attention.head_count_kv"],
            )
            q = q.reshape(len(x), count, -1)
            k, v = (each.reshape(len(x), count_kv[layer], -1) for each in (k, v))
            mixed = self._weighted(q, k, v, q.shape[-1] ** -0.5)
            return self._product(mixed, f"{block}attn_output")
        if f"{block}ffn_gate_inp.weight" not in self.tensors:
            return self._ffn(x, f"{block}ffn_")
        used = self._of_layer("expert_used_count", layer)
        scores = self._product(x, f"{block}ffn_gate_inp")
        routes = self._chosen(scores, self.tensors[f"{block}exp_probs_b.bias"], used)
        if f"{block}ffn_latent_down.weight" in self.tensors:
            mixed = self._experts(self._product(x, f"{block}ffn_latent_down"), *routes, block)
            mixed = self._product(mixed, f"{block}ffn_latent_up")
        else:
            mixed = self._experts(x, *routes, block)
        return mixed + self._ffn(x, f"{block}ffn_", "_shexp")

    def _mamba2(self, x: Array, block: str) -> Array:
        inner, state, heads, groups = (
            self.keys[f"ssm.{name}"]
            for name in ("inner_size", "state_size", "time_step_rank", "group_count")
        )
        gate, mixed, step = np.split(
            self._product(x, f"{block}ssm_in"), [inner, 2 * inner + 2 * groups * state], -1
        )
        weight, bias = (self.tensors[f"{block}ssm_conv1d.{name}"] for name in ("weight", "bias"))
        mixed = silu(convolved(mixed, weight) + bias)
        u, write, read = np.split(mixed, [inner, inner + groups * state], -1)
        u = u.reshape(len(x), heads, -1)
        write, read = (
            np.repeat(each.reshape(len(x), groups, state), heads // groups, 1)
            for each in (write, read)
        )
        step = softplus(step + self.tensors[f"{block}ssm_dt.bias"])
        decay, skip = (self.tensors[f"{block}ssm_{name}"].reshape(-1) for name in "ad")
        memory = np.zeros((heads, u.shape[-1], state))
        y = np.zeros_like(u)
        for t in range(len(x)):
            memory *= np.exp(step[t] * decay)[:, None, None]
            memory += (step[t][:, None] * u[t])[:, :, None] * write[t][:, None]
            y[t] = (memory * read[t][:, None]).sum(-1) + skip[:, None] * u[t]
        gated = (y.reshape(len(x), inner) * silu(gate)).reshape(len(x), groups, -1)
        normed = self._norm(gated, f"{block}ssm_norm").reshape(len(x), inner)
        return self._product(normed, f"{block}ssm_out")

    # -- MiniMax-01 ----------------------------------------------------------------------------

    def _minimax(self, x: Array, block: str, layer: int) -> Array:
        """What is added to comes from the norms, times a factor."""
        factor = self.keys["residual_scale"]
        x = self._norm(x, f"{block}attn_norm")
        lightning = f"{block}attn_gate.weight" in self.tensors
        mixed = self._lightning(x, block, layer) if lightning else self._attention(x, block, layer)
        x = self._norm(mixed + factor * x, f"{block}ffn_norm")
        return factor * x + self._mixture(x, self._product(x, f"{block}ffn_gate_inp"), block)

    def _lightning(self, x: Array, block: str, layer: int) -> Array:
        """All products of queries and earlier keys, which decay with the distance."""
        heads = self.keys["attention.head_count"]
        joined = silu(self._product(x, f"{block}attn_qkv")).reshape(len(x), heads, 3, -1)
        q, k, v = joined.transpose(2, 0, 1, 3)
        rates = (2.0 ** (-8 / heads)) ** np.arange(1, heads + 1)  # ALiBi's slopes
        rates = rates * (1 - layer / (self.keys["block_count"] - 1) + 1e-5)
        distance = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
        left = np.where(distance < 0, 0, np.exp(-rates[:, None, None] * np.maximum(distance, 0)))
        found = np.einsum("qhd,khd,hqk,khv->qhv", q, k, left, v).reshape(len(x), -1)
        found = self._norm(found, f"{block}attn_norm_2")
        gate = sigmoid(self._product(x, f"{block}attn_gate"))
        return self._product(gate * found, f"{block}attn_output")

    # -- LFM 2 and Qwen ------------------------------------------------------------------------

    def _gated_convolution(self, x: Array, block: str) -> Array:
        one, two, three = np.split(self._product(x, f"{block}shortconv.in_proj"), 3, -1)
        mixed = convolved(one * three, self.tensors[f"{block}shortconv.conv.weight"])
        return self._product(two * mixed, f"{block}shortconv.out_proj")

    def _gated_attention(self, x: Array, block: str) -> Array:
        """Attention whose queries come with a gate for each value."""
        count, count_kv = (self.keys[f"attention.head_count{kv}"] for kv in ("", "_kv"))
        size, turned = self.keys["attention.key_length"], self.keys["rope.dimension_count"]
        q, k, v = (self._product(x, f"{block}attn_{name}") for name in "qkv")
        q, gate = np.split(q.reshape(len(x), count, -1), [size], -1)
        k, v = (each.reshape(len(x), count_kv, -1) for each in (k, v))
        q = self._turned(self._norm(q, f"{block}attn_q_norm"), turned)
        k = self._turned(self._norm(k, f"{block}attn_k_norm"), turned)
        mixed = self._weighted(q, k, v, size**-0.5) * sigmoid(gate.reshape(len(x), -1))
        return self._product(mixed, f"{block}attn_output")

    def _delta_net(self, x: Array, block: str) -> Array:
        heads, key_heads, size = (
            self.keys[f"ssm.{name}"] for name in ("time_step_rank", "group_count", "state_size")
        )
        each, width = heads // key_heads, key_heads * size
        if f"{block}ssm_ba.weight" in self.tensors:
            both = self._product(x, f"{block}ssm_ba").reshape(len(x), key_heads, 2, each)
            rate, decay = (both[:, :, part].reshape(len(x), heads) for part in (0, 1))
        else:
            rate, decay = (self._product(x, f"{block}ssm_{name}") for name in ("beta", "alpha"))
        rate = sigmoid(rate)
        decay = softplus(decay + self.tensors[f"{block}ssm_dt.bias"])
        decay = np.exp(decay * self.tensors[f"{block}ssm_a"])
        weight = self.tensors[f"{block}ssm_conv1d.weight"]
        mixed = silu(convolved(self._product(x, f"{block}attn_qkv"), weight))
        q, k, v = np.split(mixed, [width, 2 * width], -1)
        q, k = (self._unit(part.reshape(len(x), key_heads, size)) for part in (q, k))
        # Which heads share a key: in Qwen 3.5 every so many, in Qwen 3 Next neighbours.
        if self.architecture == "qwen3next":
            q, k = (np.repeat(part, each, 1) for part in (q, k))
        else:
            q, k = (np.tile(part, (1, each, 1)) for part in (q, k))
        v = v.reshape(len(x), heads, -1)
        memory = np.zeros((heads, size, v.shape[-1]))
        y = np.zeros_like(v)
        for t in range(len(x)):
            memory *= decay[t][:, None, None]
            known = np.einsum("hkv,hk->hv", memory, k[t])
            memory += k[t][:, :, None] * (rate[t][:, None] * (v[t] - known))[:, None]
            y[t] = np.einsum("hkv,hk->hv", memory, q[t]) * size**-0.5
        gate = self._product(x, f"{block}attn_gate").reshape(v.shape)
        y = self._norm(y, f"{block}ssm_norm") * silu(gate)
        return self._product(y.reshape(len(x), -1), f"{block}ssm_out")

    def _delta_attention(self, x: Array, block: str) -> Array:
        """Kimi's: each row of the state has a decay of its own."""
        size = self.keys["kda.head_dim"]
        q, k, v = (
            silu(
                convolved(
                    self._product(x, f"{block}attn_{name}"),
                    self.tensors[f"{block}ssm_conv1d_{name}.weight"][:, 0],
                )
            ).reshape(len(x), -1, size)
            for name in "qkv"
        )
        q, k = self._unit(q), self._unit(k)
        rates = self._low(x, f"{block}ssm_f") + self.tensors[f"{block}ssm_dt.bias"]
        decay = self._decay(rates.reshape(q.shape), self.tensors[f"{block}ssm_a"].reshape(-1, 1))
        move = sigmoid(self._product(x, f"{block}ssm_beta"))
        memory = np.zeros((q.shape[1], size, size))
        y = np.zeros_like(v)
        for t in range(len(x)):
            memory *= decay[t][:, :, None]
            known = np.einsum("hkv,hk->hv", memory, k[t])
            memory += k[t][:, :, None] * (move[t][:, None] * (v[t] - known))[:, None]
            y[t] = np.einsum("hkv,hk->hv", memory, q[t]) * size**-0.5
        gate = self._low(x, f"{block}ssm_g")
        y = self._norm(y, f"{block}ssm_norm") * sigmoid(gate.reshape(v.shape))
        return self._product(y.reshape(len(x), -1), f"{block}attn_output")

    def _low(self, x: Array, name: str) -> Array:
        """The products with two matrices."""
        return self._product(self._product(x, f"{name}_a"), f"{name}_b")

    def _decay(self, rates: Array, factors: Array) -> Array:
        """What stays of each row of the state."""
        return np.asarray(np.exp(factors * softplus(rates)))

    def _latent_without_positions(self, x: Array, block: str) -> Array:
        rank = self.keys["attention.kv_lora_rank"]
        keys, values = (self.tensors[f"{block}attn_{name}_b.weight"] for name in "kv")
        q = self._product(x, f"{block}attn_q").reshape(len(x), len(keys), -1)
        joined = self._product(x, f"{block}attn_kv_a_mqa")
        latent = self._norm(joined[:, :rank], f"{block}attn_kv_a_norm")
        same = np.repeat(joined[:, None, rank:], len(keys), 1)
        k = np.concatenate([np.einsum("tr,hrd->thd", latent, keys), same], -1)
        v = np.einsum("tr,hvr->thv", latent, values)
        mixed = self._weighted(q, k, v, q.shape[-1] ** -0.5)
        return self._product(mixed, f"{block}attn_output")

    def _expanded(self, x: Array, block: str) -> Array:
        """Latent attention with rotary positions, whose keys and values one matrix makes."""
        rank, turned = self.keys["attention.kv_lora_rank"], self.keys["rope.dimension_count"]
        heads, size = (self.keys[f"attention.{name}"] for name in ("head_count", "key_length"))
        q = self._product(x, f"{block}attn_q").reshape(len(x), heads, size)
        joined = self._product(x, f"{block}attn_kv_a_mqa")
        latent = self._norm(joined[:, :rank], f"{block}attn_kv_a_norm")
        both = self._product(latent, f"{block}attn_kv_b").reshape(len(x), heads, -1)
        k, v = np.split(both, [size - turned], -1)
        same = self._turned(joined[:, None, rank:], turned)
        k = np.concatenate([k, np.repeat(same, heads, 1)], -1)
        mixed = self._weighted(self._turned(q, turned, size - turned), k, v, size**-0.5)
        return self._product(mixed, f"{block}attn_output")

    def _unit(self, x: Array) -> Array:
        return np.asarray(x / np.sqrt((x * x).sum(-1, keepdims=True) + self.eps))

    # -- RWKV ----------------------------------------------------------------------------------

    def _heads(self, x: Array) -> Array:
        return x.reshape(len(x), -1, self.keys["wkv.head_size"])

    def _head_norm(self, x: Array, block: str) -> Array:
        normed = layer_norm(x, _HEAD_NORM_EPS).reshape(len(x), -1)
        name = f"{block}time_mix_ln"
        return normed * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def _channel_mix(self, x: Array, block: str) -> Array:
        name = f"{block}channel_mix_"
        change = before(x) - x

        def shifted(which: str) -> Array:
            return x + change * self.tensors[f"{name}lerp_{which}.weight"].reshape(-1)

        value = self._product(relu(self._product(shifted("k"), f"{name}key")) ** 2, f"{name}value")
        if f"{name}receptance.weight" not in self.tensors:
            return value
        return sigmoid(self._product(shifted("r"), f"{name}receptance")) * value

    def _time_mix_6(self, x: Array, block: str) -> Array:
        name = f"{block}time_mix_"

        def product(value: Array, which: str) -> Array:
            return self._product(value, name + which)

        change = before(x) - x
        low = x + change * self.tensors[f"{name}lerp_x.weight"].reshape(-1)
        low = np.tanh(product(low, "w1")).reshape(len(x), 5, -1)
        if f"{name}lerp_fused.weight" in self.tensors:
            shares = self.tensors[f"{name}lerp_fused.weight"].reshape(5, -1)
        else:
            names = [f"{name}lerp_{which}.weight" for which in "wkvrg"]
            shares = np.stack([self.tensors[each].reshape(-1) for each in names])
        back = self.tensors[f"{name}w2.weight"]
        decay, k, v, r, gate = (
            x + change * (low[:, part] @ back[part].T + shares[part]) for part in range(5)
        )
        decay = product(np.tanh(product(decay, "decay_w1")), "decay_w2")
        decay = np.exp(-np.exp(decay + self.tensors[f"{name}decay.weight"]))
        parts = (product(r, "receptance"), product(k, "key"), product(v, "value"), decay)
        r, k, v, decay = (self._heads(part) for part in parts)
        if k.shape != r.shape:
            k, v = (np.repeat(part, r.shape[1] // k.shape[1], 1) for part in (k, v))
        if f"{name}first.weight" not in self.tensors:
            mixed = self._linear_attention(r, k * (1 - decay), v, decay)
            return product(mixed * sigmoid(product(gate, "gate")), "output")
        first = self.tensors[f"{name}first.weight"].reshape(r.shape[1:])
        memory = np.zeros((*r.shape[1:], r.shape[2]))
        y = np.zeros_like(r)
        for t in range(len(x)):
            new = k[t][:, :, None] * v[t][:, None]
            y[t] = ((memory + first[:, :, None] * new) * r[t][:, :, None]).sum(1)
            memory = memory * decay[t][:, :, None] + new
        return product(self._head_norm(y, block) * silu(product(gate, "gate")), "output")

    def _linear_attention(self, q: Array, k: Array, v: Array, decay: Array) -> Array:
        """Σ over tokens up to each of (q · what is left of k) · v, by head."""
        mixed = np.zeros_like(v)
        for t in range(len(q)):
            for s in range(t + 1):
                left = k[s] * np.prod(decay[s + 1 : t + 1], 0)
                mixed[t] += (q[t] * left).sum(-1, keepdims=True) * v[s]
        return np.asarray((mixed / np.sqrt(q.shape[2])).reshape(len(q), -1))

    def _time_mix_7(self, x: Array, block: str) -> Array:
        name = f"{block}time_mix_"

        def weight(which: str) -> Array:
            return self.tensors[f"{name}{which}.weight"]

        def product(value: Array, which: str) -> Array:
            return value @ weight(which).T

        change = before(x) - x
        shifted = [x + change * share for share in weight("lerp_fused").reshape(-1, x.shape[1])]
        r, decay, k, v, rate = shifted[:5]
        values = product(v, "value")
        if self._first_values is None:
            self._first_values = values
        else:
            share = sigmoid(product(product(v, "v1"), "v2") + weight("v0"))
            values = values + (self._first_values - values) * share
        decay = sigmoid(product(np.tanh(product(decay, "w1")), "w2") + weight("w0"))
        decay = np.exp(-0.606531 * decay)
        rate = sigmoid(product(product(rate, "a1"), "a2") + weight("a0"))
        r, k = product(r, "receptance"), product(k, "key")
        removed = self._heads(k * weight("k_k"))
        removed = removed / np.maximum(np.sqrt((removed**2).sum(-1, keepdims=True)), 1e-12)
        k = k * (1 + weight("k_a") * (rate - 1))
        r, decay, k, v, rate = (self._heads(part) for part in (r, decay, k, values, rate))
        memory = np.zeros((*r.shape[1:], r.shape[2]))  # value by key
        y = np.zeros_like(r)
        for t in range(len(x)):
            known = (memory * removed[t][:, None]).sum(-1)
            memory = memory * decay[t][:, None] + v[t][:, :, None] * k[t][:, None]
            memory -= known[:, :, None] * (removed[t] * rate[t])[:, None]
            y[t] = (memory * r[t][:, None]).sum(-1)
        bonus = v * (k * r * weight("r_k").reshape(r.shape[1:])).sum(-1, keepdims=True)
        normed = f"{name}ln.weight" in self.tensors
        mixed = self._head_norm(y, block) if normed else y.reshape(len(x), -1)
        mixed = mixed + bonus.reshape(len(x), -1)
        if f"{name}g1.weight" in self.tensors:
            mixed = mixed * product(sigmoid(product(shifted[5], "g1")), "g2")
        return product(mixed, "output")
