"""Llama 4 (Meta 2025): three of four layers attend in chunks, with positions, the fourth to
everything, without; experts get their inputs weighted."""

from __future__ import annotations

from ..core.enums import Mask, Route
from .architecture import Architecture
from .decoder import blocks, rope_of
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer

_CHUNK = 8192  # of every model with chunks, whatever its file says
_PERIOD = 4  # the last of so many layers sees everything, and has no positions
_TEMPERATURE = 0.1  # by which queries without positions grow with the logarithm of the chunk
_MAVERICK = 48, 128  # layers and experts of the model whose heads are not normalised


def write(w: Writer) -> None:
    """The plan."""
    w.embed()
    blocks(w, _attention)
    w.head()


def _attention(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    normed = (w.config.layers, w.keys.value("expert_count")) != _MAVERICK
    config, plan, prefix = w.config, w.plan, f"blk.{block}.attn_"
    heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
    q, k, v = (
        w.buffer("q", heads * dim),
        w.buffer("k", kv_heads * dim),
        w.buffer("v", kv_heads * dim),
    )
    w.products(x, (f"{prefix}q", q), (f"{prefix}k", k), (f"{prefix}v", v))
    if (block + 1) % (_PERIOD if any(config.windows) else config.layers):
        rope = w.rope(rope_of(w, block))
        for each, count in ((q, heads), (k, kv_heads)):
            plan.rotate(each, rope, count, config.rope_halves)
            if normed:
                plan.norm(each, each, None, config.norm_epsilon, groups=count)
    else:
        plan.temperature(q, _TEMPERATURE, _CHUNK, 1)
    plan.scale(q, config.attention_scale)
    mixed = w.buffer("heads", heads * dim)
    window = _CHUNK if config.windows[block] else 0
    mask = Mask.MASK_CHUNKED if window else Mask.MASK_CAUSAL
    plan.attention(q, k, v, mixed, kv_heads=kv_heads, k_dim=dim, window=window, mask=mask)
    w.product(mixed, f"{prefix}output", out)


ROWS = {
    "llama4": Architecture(
        "silu",
        write,
        window=_CHUNK,
        full_every=_PERIOD,
        mixture=Mixture(Route.ROUTE_SIGMOID, normalised=False, before=True, shared="width"),
        own_keys=("attention.temperature_scale",),
    )
}
