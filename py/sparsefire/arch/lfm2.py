"""LFM 2 (Liquid AI 2025): gated convolutions over the last few tokens instead of attention in most
blocks."""

from __future__ import annotations

from ..core.enums import Route
from .architecture import Architecture
from .decoder import HEAD_NORMS, attention, blocks
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan. A block without heads of keys and values is a convolution."""
    config = w.config
    kv_heads = w.keys.per_layer(
        "attention.head_count_kv", config.layers, config.heads, config.heads
    )

    def mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        if kv_heads[block]:
            attention(w, block, x, out, kv_heads=kv_heads[block])
        else:
            _convolution(w, f"blk.{block}.shortconv.", x, out)

    w.embed()
    blocks(w, mix)
    named = "output_norm" if w.has("output_norm.weight") else "token_embd_norm"
    w.head(norm=named)


def _convolution(w: Writer, prefix: str, x: Buffer, out: Buffer) -> None:
    """Products of x are multiplied before the convolution and after it."""
    plan, d = w.plan, x.width
    taps = w.keys.integer("shortconv.l_cache", 1 << 10)
    projected = w.buffer("projected", 3 * d)
    w.product(x, f"{prefix}in_proj", projected)
    first, second, mixed = (w.buffer(name, d) for name in ("gate", "second gate", "mixed"))
    w.split(projected, first, second, mixed)
    plan.multiply(mixed, first, mixed)
    plan.convolution(mixed, plan.vector(f"{prefix}conv.weight", (d, taps)), mixed)
    plan.multiply(mixed, second, mixed)
    w.product(mixed, f"{prefix}out_proj", out)


_LFM2 = Architecture(
    "silu",
    write,
    rope_halves=True,
    vectors=HEAD_NORMS,
    own_keys=("attention.head_count", "attention.head_count_kv"),
)

ROWS = {
    "lfm2": _LFM2,
    "lfm2moe": _LFM2._replace(mixture=Mixture(Route.ROUTE_SIGMOID, by_key=True)),
}
