"""Nemotron-H and Nemotron 3 (NVIDIA 2025): blocks of Mamba-2, of attention without positions, or of
squared ReLU, dense or in experts, each with a norm and a residual of its own."""

from __future__ import annotations

from ..core.enums import Route
from . import mamba2
from .architecture import Architecture
from .decoder import attention
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
    plan, keys, prefix, layers = w.plan, w.keys, f"blk.{block}.", w.config.layers
    count = keys.integer("expert_count", 1 << 16)
    used = keys.per_layer("expert_used_count", layers, count)[block]
    if used == 0:
        raise keys.fail("expert_used_count", f"is 0 for layer {block}; expected 1 or more")
    width = keys.per_layer("expert_feed_forward_length", layers, 1 << 22, 0)[block]
    shared = keys.integer("expert_shared_feed_forward_length", 1 << 22, 0, least=0)
    latent = keys.integer("moe_latent_size", 1 << 17, 0, least=0)
    groups = keys.integer("expert_group_count", count, 1)
    scores, routes = w.buffer("scores", count), w.buffer("routes", 2 * used)
    w.product(x, f"{prefix}ffn_gate_inp", scores)
    plan.route(
        scores,
        routes,
        Route.ROUTE_SIGMOID,
        bias=w.bias(f"{prefix}exp_probs_b", count),
        groups=groups,
        groups_used=keys.integer("expert_group_used_count", groups, groups),
        normalised=bool(keys.value("expert_weights_norm", False)),
        scale=keys.number("expert_weights_scale", 0.0, 1e6, 1.0) or 1.0,
    )
    inputs, sums = x, out
    if latent:
        inputs, sums = w.buffer("latent", latent), w.buffer("latent sums", latent)
        w.product(x, f"{prefix}ffn_latent_down", inputs)
    width = width or hidden // used
    w.experts(block, inputs, routes, sums, count=count, width=width, gated=False)
    if latent:
        w.product(sums, f"{prefix}ffn_latent_up", out)
    if shared:
        added = w.buffer("shared", out.width)
        w.ffn(block, x, added, suffix="_shexp", hidden=shared)
        plan.add(out, added, out)


_NEMOTRON_H = Architecture(
    "relu2",
    write,
    gated=False,
    own_keys=(
        "attention.head_count",
        "attention.head_count_kv",
        "attention.layer_norm_epsilon",
        "feed_forward_length",
        "expert_count",
    ),
)

ROWS = {"nemotron_h": _NEMOTRON_H, "nemotron_h_moe": _NEMOTRON_H}
