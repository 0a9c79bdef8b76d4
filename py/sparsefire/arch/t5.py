"""T5's encoder (Raffel et al. 2020): products of attention get a bias by how far apart the tokens
are, which all layers share."""

from __future__ import annotations

import math

import numpy as np

from ..errors import UnsupportedError
from .architecture import Architecture
from .keys import Keys
from .plan import Vector
from .writer import Writer

_FARTHEST = 128  # positions; tokens further apart count as that far


def write(w: Writer) -> None:
    """The plan of the encoder."""
    config, plan = w.config, w.plan
    w.embed()
    biases = _biases(w)
    heads, dim = config.heads, config.head_dim
    q, k, v, mixed = (w.buffer(name, heads * dim) for name in ("q", "k", "v", "heads"))
    for block in range(config.layers):
        prefix = f"enc.blk.{block}."
        w.norm(w.x, f"{prefix}attn_norm", w.normed)
        w.products(w.normed, (f"{prefix}attn_q", q), (f"{prefix}attn_k", k), (f"{prefix}attn_v", v))
        plan.attention(q, k, v, mixed, kv_heads=heads, k_dim=dim, mask=w.mask, biases=biases)
        w.product(mixed, f"{prefix}attn_o", w.added)
        w.residual()
        w.norm(w.x, f"{prefix}ffn_norm", w.normed)
        gated = w.has(f"{prefix}ffn_gate.weight")
        w.ffn(block, w.normed, w.added, gated=gated, stack="enc.")
        w.residual()
    w.finish(norm="enc.output_norm")


def _biases(w: Writer) -> Vector:
    """Of each head, those of -farthest … farthest positions, of the file's buckets: half of them
    are for tokens before, the first half of those each for one distance, the rest for ever wider
    ranges."""
    name = "enc.blk.0.attn_rel_b.weight"
    for block in range(1, w.config.layers):
        if w.has(f"enc.blk.{block}.attn_rel_b.weight"):
            raise UnsupportedError(
                f"{w.file.name}: layer {block} has biases of its own, which is not supported"
            )
    buckets = w.keys.integer("attention.relative_buckets_count", 1 << 12, least=4)
    heads, places = w.config.heads, range(-_FARTHEST, _FARTHEST + 1)
    rows = np.array([bucket(place, buckets) for place in places])
    taken = rows * heads + np.arange(heads)[:, None]
    return w.plan.vector(name, (buckets, heads), taken.ravel())


def bucket(place: int, buckets: int) -> int:
    """The bucket of a key that is `place` positions further on than the query."""
    half, distance = buckets // 2, abs(place)
    exact = half // 2
    if distance >= exact:
        share = math.log(distance / exact) / math.log(_FARTHEST / exact)
        distance = min(exact + int(share * (half - exact)), half - 1)
    return distance + (half if place > 0 else 0)


def _activation(keys: Keys) -> str:
    """Those of the first version have no gate, and ReLU (Shazeer 2020 for the others)."""
    return "gelu_tanh" if keys.has_tensor("enc.blk.0.ffn_gate.weight") else "relu"


ROWS = {
    "t5encoder": Architecture(
        None,
        write,
        rotary=lambda _: False,
        both_sides=True,
        output=False,
        attention_scale=lambda _: 1.0,
        activation_by_keys=_activation,
    )
}
