"""An independent forward pass, in float64 numpy, of DeepSeek-V4: attention to a window and to
pooled runs of tokens, whose values are turned as the keys are, and experts that the token alone
chooses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixture_reference import Array, softmax
from stream_reference import StreamReference

_OVERLAPPING = 4


class PooledReference(StreamReference):
    """One file."""

    def logits(self, tokens: npt.ArrayLike) -> Array:
        self.tokens = np.asarray(tokens)
        return super().logits(tokens)

    # -- Attention -----------------------------------------------------------------------------

    def _attended(self, x: Array, block: str) -> Array:
        run = self.keys["attention.compress_ratios"][int(block.split(".")[1])]
        places, rates = np.arange(len(x)), self._rates(run)
        low = self._norm(self._product(x, f"{block}attn_q_a"), f"{block}attn_q_a_norm")
        q = self._product(low, f"{block}attn_q_b")
        q = self._norm(q.reshape(len(x), self.keys["attention.head_count"], -1), None)
        q = _turned(q, places, rates) / np.sqrt(q.shape[-1])
        near = self._norm(self._product(x, f"{block}attn_kv"), f"{block}attn_kv_a_norm")
        near = _turned(near[:, None], places, rates)[:, 0]
        far = self._pooled(x, block, run, rates) if run else near[:0]
        sinks, made = self.tensors[f"{block}attn_sinks.weight"][:, None], []
        for t in places:
            first = max(0, t + 1 - self.keys["attention.sliding_window"])
            rows = np.concatenate([near[first : t + 1], far[: (t + 1) // run if run else 0]])
            weights = softmax(np.concatenate([q[t] @ rows.T, sinks], -1))[:, :-1]
            made.append(weights @ rows)
        read = _turned(np.stack(made), -places, rates)
        groups = self.keys["attention.output_group_count"]
        read = read.reshape(len(x), groups, -1)
        matrices = self.tensors[f"{block}attn_output_a.weight"]
        matrices = matrices.reshape(groups, -1, read.shape[-1])
        low = np.einsum("ngc,grc->ngr", read, matrices).reshape(len(x), -1)
        return self._product(low, f"{block}attn_output_b")

    def _pooled(self, x: Array, block: str, run: int, rates: Array) -> Array:
        """The vectors of the runs that are complete."""
        name, rows = f"{block}attn_compressor_", []
        count, dim = len(x) // run, self.keys["attention.key_length"]
        values = self._product(x, f"{name}kv")[: count * run].reshape(count, run, -1)
        scores = self._product(x, f"{name}gate")[: count * run].reshape(count, run, -1)
        scores = scores + self.tensors[f"{name}ape.weight"]
        for r in range(count):
            value, score = values[r, :, -dim:], scores[r, :, -dim:]
            if run == _OVERLAPPING and r > 0:
                value = np.concatenate([values[r - 1, :, :dim], value])
                score = np.concatenate([scores[r - 1, :, :dim], score])
            rows.append((softmax(score.T) * value.T).sum(-1))
        if not rows:
            return np.zeros((0, dim))
        far = self._norm(np.stack(rows), f"{name}norm")
        return _turned(far[:, None], run * np.arange(count), rates)[:, 0]

    def _rates(self, run: int) -> Array:
        """Angles of a position: with pooled runs of another base, and scaled by YaRN (Peng et al.
        2023), whose slow pairs are interpolated."""
        size = self.keys["rope.dimension_count"]
        pairs = np.arange(size // 2)
        base = self.keys["attention.compress_rope_freq_base"] if run else 10000.0
        rates = base ** (-2 * pairs / size)
        if not run:
            return np.asarray(rates)
        trained = self.keys["rope.scaling.original_context_length"]
        turns = np.array([32.0, 1.0])
        ends = size * np.log(trained / (turns * 2 * np.pi)) / (2 * np.log(base))
        low, high = max(np.floor(ends[0]), 0), min(np.ceil(ends[1]), size - 1)
        slow = np.clip((pairs - low) / max(high - low, 0.001), 0, 1)
        return np.asarray(rates * (1 - slow) + rates / self.keys["rope.scaling.factor"] * slow)

    # -- Experts -------------------------------------------------------------------------------

    def _mixture(self, x: Array, scores: Array, block: str) -> Array:
        shares, used = np.sqrt(np.log1p(np.exp(scores))), self.keys["expert_used_count"]
        table = self.tensors.get(f"{block}ffn_gate_tid2eid.weight")
        if table is None:
            order = shares + self.tensors[f"{block}exp_probs_b.bias"]
            chosen = np.argsort(-order, -1, kind="stable")[:, :used]
        else:
            chosen = table[self.tokens].astype(np.int64)
        weights = np.take_along_axis(shares, chosen, -1)
        weights = self.keys["expert_weights_scale"] * weights / weights.sum(-1, keepdims=True)
        mixed = self._experts(x, chosen, weights, block)
        return mixed + self._ffn(x, f"{block}ffn_", "_shexp")


def _turned(x: Array, places: npt.NDArray[np.int64], rates: Array) -> Array:
    """The last elements of heads (n, heads, dim), in pairs, turned by the rates times places."""
    size = 2 * len(rates)
    part = x[..., -size:]
    pairs = part[..., ::2] + 1j * part[..., 1::2]
    pairs = pairs * np.exp(1j * places[:, None, None] * rates)
    turned = np.stack([pairs.real, pairs.imag], -1).reshape(*x.shape[:-1], size)
    return np.concatenate([x[..., :-size], turned], -1)
