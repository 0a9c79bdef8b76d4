"""Independent forward passes, in float64 numpy, of models with several residual streams
(hyper-connections), with latent and delta attention that have gates and bounds, and of Kimi K3,
whose blocks read a mean of the stream and of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mixture_reference import Array, Family, sigmoid, softmax
from recurrent_reference import RecurrentReference

_OF_WINDOWS = "attention.sliding_window", "rope.freq_base_swa"


class StreamReference(RecurrentReference):
    """One file."""

    families: Mapping[str, Family] = {
        "hy_v4": Family(None, None, scaled=True, halves=False, limits="inside"),
        "dots3note": Family(None, None, scaled=True, halves=False),
        "glm5-next": Family(None, None, scaled=True, limits="inside"),
        "deepseek4": Family(None, None, scaled=True, halves=False, limits="inside"),
        "bailingmoe3": Family(None, None, scaled=True, halves=False, limits="outside"),
        "kimi-k3": Family(None, None, scaled=True),
    }

    def logits(self, tokens: npt.ArrayLike) -> Array:
        """Logits of all positions, (n, vocabulary)."""
        if self.architecture in ("glm5-next", "deepseek4"):  # whose limits are those of all layers
            self.keys["swiglu_clamp_shexp"] = self.keys["swiglu_clamp_exp"]
        x = self.tensors["token_embd.weight"][np.asarray(tokens)]
        if self.architecture == "kimi-k3":
            x = self._with_earlier_streams(x)
        elif "hyper_connection.count" in self.keys:
            x = self._with_streams(x)
        else:
            for layer in range(self.keys["block_count"]):
                for part in ("attn", "ffn"):
                    x = x + self._part(x, f"blk.{layer}.", part)
        return self._output(self._norm(x, "output_norm"))

    def _part(self, x: Array, block: str, part: str) -> Array:
        """What one of the two parts of a block makes."""
        x = self._norm(x, f"{block}{part}_norm")
        if part == "attn":
            recurrent = f"{block}ssm_conv1d_q.weight" in self.tensors
            return self._delta_attention(x, block) if recurrent else self._attended(x, block)
        if f"{block}ffn_gate_inp.weight" not in self.tensors:
            return self._ffn(x, f"{block}ffn_")
        scores = self._product(x, f"{block}ffn_gate_inp")
        if f"{block}ffn_routed_down.weight" not in self.tensors:
            return self._mixture(x, scores, block)
        routes = self._chosen(scores, self.tensors[f"{block}exp_probs_b.bias"])
        mixed = self._experts(self._product(x, f"{block}ffn_routed_down"), *routes, block)
        mixed = self._norm(mixed, f"{block}ffn_routed_norm")
        shared = self._ffn(x, f"{block}ffn_", "_shexp")
        return self._product(mixed, f"{block}ffn_routed_up") + shared

    # -- Streams -------------------------------------------------------------------------------

    def _with_streams(self, x: Array) -> Array:
        count, eps = self.keys["hyper_connection.count"], self.keys["hyper_connection.epsilon"]
        mixed = self.architecture in ("glm5-next", "deepseek4")
        streams = np.repeat(x[:, None], count, 1)
        for layer in range(self.keys["block_count"]):
            for part in ("attn", "ffn"):
                block = f"blk.{layer}."
                sizes = [count, count] + [count * count] * mixed
                read, written, *rest = self._shares(streams, f"{block}hc_{part}", sizes)
                made = self._part(
                    np.einsum("ns,nsd->nd", sigmoid(read) + eps, streams), block, part
                )
                if mixed:
                    balanced = self._balanced(rest[0].reshape(-1, count, count))
                    streams = np.einsum("nst,nsd->ntd", balanced, streams)
                    written = 2 * sigmoid(written)
                else:
                    magnitude = self.keys["hyper_connection.magnitude"]
                    written = magnitude * sigmoid(written) + eps
                streams = streams + written[:, :, None] * made[:, None]
        if self.architecture == "glm5-next":
            return np.asarray(streams.mean(1))
        (read,) = self._shares(streams, "output_hc", [count])
        return np.asarray(np.einsum("ns,nsd->nd", sigmoid(read) + eps, streams))

    def _shares(self, streams: Array, name: str, sizes: list[int]) -> list[Array]:
        normed = self._norm(streams.reshape(len(streams), -1), None)
        products = self._product(normed, f"{name}_fn")
        products = products * np.repeat(self.tensors[f"{name}_scale.weight"], sizes)
        products = products + self.tensors[f"{name}_base.weight"]
        return np.split(products, np.cumsum(sizes)[:-1], -1)

    def _balanced(self, logits: Array) -> Array:
        """Rows and columns divided by their sums in turn (Sinkhorn and Knopp 1967)."""
        eps = self.keys["hyper_connection.epsilon"]
        shares = softmax(logits) + eps
        for step in range(2 * self.keys["hyper_connection.sinkhorn_iterations"] - 1):
            shares = shares / (shares.sum(1 + step % 2, keepdims=True) + eps)
        return shares

    def _with_earlier_streams(self, x: Array) -> Array:
        kept: list[Array] = []
        for layer in range(self.keys["block_count"]):
            block = f"blk.{layer}."
            made = self._part(self._mean([*kept, x], f"{block}attn_res_score"), block, "attn")
            if layer % self.keys["attn_res.block_size"] == 0:
                kept.append(x)
                x = made
            else:
                x = x + made
            x = x + self._part(self._mean([*kept, x], f"{block}ffn_res_score"), block, "ffn")
        return self._mean([*kept, x], "output_res_score")

    def _mean(self, streams: list[Array], name: str) -> Array:
        if len(streams) == 1:
            return streams[0]
        together = np.stack(streams, 1)
        weights = softmax(self._norm(together, name).sum(-1))
        return np.asarray(np.einsum("ns,nsd->nd", weights, together))

    # -- Parts ---------------------------------------------------------------------------------

    def _attended(self, x: Array, block: str) -> Array:
        return self._gated_latent(x, block)

    def _gated_latent(self, x: Array, block: str) -> Array:
        keys, values = (self.tensors[f"{block}attn_{name}_b.weight"] for name in "kv")
        rank, turned = keys.shape[1], self.keys["rope.dimension_count"]
        pattern, window, base = self.keys.get("attention.sliding_window_pattern"), 0, None
        if pattern and pattern[int(block.split(".")[1])]:
            window, base = (self.keys[name] for name in _OF_WINDOWS)
        low = self._norm(self._product(x, f"{block}attn_q_a"), f"{block}attn_q_a_norm")
        q = self._product(low, f"{block}attn_q_b").reshape(len(x), len(keys), -1)
        joined = self._product(x, f"{block}attn_kv_a_mqa")
        latent = self._norm(joined[:, :rank], f"{block}attn_kv_a_norm")
        same = joined[:, None, rank:]
        if f"{block}attn_k_norm.weight" in self.tensors:
            same = self._norm(same, f"{block}attn_k_norm")
        if self.architecture in ("hy_v4", "bailingmoe3", "dots3note"):
            q = self._turned(q, turned, q.shape[-1] - turned, base)
            same = self._turned(same, turned, base=base)
        k = np.einsum("tr,hrd->thd", latent, keys)
        k = np.concatenate([k, np.repeat(same, len(keys), 1)], -1)
        v = np.einsum("tr,hvr->thv", latent, values)
        sinks = self.tensors.get(f"{block}attn_sinks.weight")
        mixed = self._weighted(q, k, v, q.shape[-1] ** -0.5, window, sinks)
        if f"{block}attn_gate.weight" in self.tensors:
            gate = sigmoid(self._product(x, f"{block}attn_gate"))
            mixed = mixed * np.repeat(gate, mixed.shape[1] // gate.shape[1], 1)
        return self._product(mixed, f"{block}attn_output")

    def _low(self, x: Array, name: str) -> Array:
        if f"{name}.weight" in self.tensors:
            return self._product(x, name)
        if f"{name}_b.weight" in self.tensors:
            return super()._low(x, name)
        return self._product(x, f"{name}_a")

    def _decay(self, rates: Array, factors: Array) -> Array:
        sign = 1 if self.architecture == "bailingmoe3" else -1
        bound = self.keys["kda.gate_lower_bound"]
        return np.asarray(np.exp(bound * sigmoid(sign * factors * rates)))

    def _unit(self, x: Array) -> Array:
        eps = 1e-6 if self.architecture == "glm5-next" else self.eps
        return np.asarray(x / np.sqrt((x * x).sum(-1, keepdims=True) + eps))

    def _limited(self, gate: Array, up: Array, block: str, key: str, activation: object) -> Array:
        if self.architecture != "kimi-k3":
            return super()._limited(gate, up, block, key, self.family.activation)
        beta, linear = (self.keys[f"activation.situ_{name}beta"] for name in ("", "linear_"))
        up = linear * np.tanh(up / linear)
        return np.asarray(beta * np.tanh(gate / beta) * sigmoid(gate) * up)
