"""Nemotron-H and Nemotron 3 (NVIDIA 2025): blocks of Mamba-2, of attention without positions, or of
squared ReLU, dense or in experts, each with a norm and a residual of its own."""

from __future__ import annotations

from ..core.enums import Route
from . import mamba2
from .architecture import Architecture
from .decoder import attention
from .mixture import Mixture, add_shared, experts_used, route
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan. A block with neurons is a feed-forward layer, one with keys and values attention,
    and one with neither Mamba-2."""
    config, keys = w.config, w.keys
    kv_heads = keys.per_layer("attention.head_count_kv", config.layers, config.heads, config.heads)
    hidden = keys.per_layer("feed_forward_length", config.layers, 1 << 22)
    w.embed()
    for block in range(config.layers):
        w.norm(w.x, f"blk.{block}.attn_norm", w.normed)
        if hidden[block] and keys.integer("expert_count", 1 << 16, 0, least=0):
            _experts(w, block, hidden[block], w.normed, w.added)
        elif hidden[block]:
            w.ffn(block, w.normed, w.added, hidden=hidden[block])
        elif kv_heads[block]:
            attention(w, block, w.normed, w.added, kv_heads=kv_heads[block], rotary=False)
        else:
            mamba2.mixer(w, block, w.normed, w.added)
        w.residual()
    w.head()


def _experts(w: Writer, block: int, hidden: int, x: Buffer, out: Buffer) -> None:
    """The chosen experts, perhaps on fewer dimensions than the stream has, and a shared one."""
    keys, prefix = w.keys, f"blk.{block}.ffn_latent_"
    count = keys.integer("expert_count", 1 << 16)
    width = keys.per_layer("expert_feed_forward_length", w.config.layers, 1 << 22, 0)[block]
    width = width or hidden // experts_used(w, block)
    latent = keys.integer("moe_latent_size", 1 << 17, 0, least=0)
    routes, inputs, sums = route(w, block, x), x, out
    if latent:
        inputs, sums = w.buffer("latent", latent), w.buffer("latent sums", latent)
        w.product(x, f"{prefix}down", inputs)
    w.experts(block, inputs, routes, sums, count=count, width=width, gated=False)
    if latent:
        w.product(sums, f"{prefix}up", out)
    add_shared(w, block, x, out)


_NEMOTRON_H = Architecture(
    "relu2",
    write,
    gated=False,
    mixture=Mixture(Route.ROUTE_SIGMOID, normalised=None, scaled=True, shared="key"),
    own_keys=(
        "attention.head_count",
        "attention.head_count_kv",
        "attention.layer_norm_epsilon",
        "feed_forward_length",
        "expert_count",
    ),
)

ROWS = {"nemotron_h": _NEMOTRON_H, "nemotron_h_moe": _NEMOTRON_H}
