"""Kimi K3 (Kimi team 2026): the blocks of Kimi Linear with bounded decays and gates, experts in a
space of fewer dimensions, SiTU as activation, and attention to the streams of earlier blocks: what
a part of a block reads is a mean of the stream and of those that every so many blocks have kept."""

from __future__ import annotations

from ..core.enums import Function, Route
from .architecture import Architecture
from .decoder import feed_forward
from .deepseek2 import attention
from .kimi_linear import delta_attention
from .mixture import Mixture, add_shared, expert_count, expert_width, has_experts, route
from .plan import Buffer
from .writer import Writer

_MOST = 1 << 17


def write(w: Writer) -> None:
    """The plan. Where a stream is kept, it begins anew with what attention makes."""
    plan, config = w.plan, w.config
    every = w.keys.integer("attn_res.block_size", _MOST, 0, least=0)
    w.embed()
    kept: list[Buffer] = []
    read = w.buffer("mean", config.d)
    for block in range(config.layers):
        prefix = f"blk.{block}."
        x = _mean(w, kept, f"{prefix}attn_res_score", read)
        w.norm(x, f"{prefix}attn_norm", w.normed)
        _mix(w, block, w.normed, w.added)
        if every and block % every == 0:
            kept.append(plan.buffer(config.d))
            plan.copy(w.x, kept[-1], width=config.d)
            plan.copy(w.added, w.x, width=config.d)
        else:
            plan.add(w.x, w.added, w.x)
        x = _mean(w, kept, f"{prefix}ffn_res_score", read)
        w.norm(x, f"{prefix}ffn_norm", w.normed)
        _feed_forward(w, block, w.normed, w.added)
        plan.add(w.x, w.added, w.x)
    x = _mean(w, kept, "output_res_score", read)
    if x is not w.x:
        plan.copy(x, w.x, width=config.d)
    w.head()


def _mean(w: Writer, kept: list[Buffer], name: str, out: Buffer) -> Buffer:
    """The mean of the streams that are kept and of x, weighted by a softmax of the products of
    their norms with a vector; x if none is kept."""
    if not kept:
        w.unused(f"{name}.weight")
        return w.x
    plan, d, streams = w.plan, w.config.d, (*kept, w.x)
    count, width = len(streams), len(streams) * d
    together, normed, ones = (w.buffer(each, width) for each in ("kept", "kept normed", "ones"))
    for place, each in enumerate(streams):
        plan.copy(each, together, width=d, first=(0, place * d))
    plan.norm(together, normed, w.vector(name, d), w.config.norm_epsilon, groups=count)
    plan.copy(together, ones, width=width)
    plan.scale(ones, 0.0)
    plan.add(ones, plan.repeated((1.0,), 1), ones)
    shares = w.buffer("shares", count)
    plan.head_dots(normed, ones, shares)
    plan.softmax(shares, shares, count)
    plan.mix(together, shares, out, count)
    return out


def _mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The tensors of a block say which of the two it is."""
    if w.has(f"blk.{block}.ssm_conv1d_q.weight"):
        name = "kda.gate_lower_bound"
        bound = None if w.keys.value(name) is None else w.keys.number(name, -1e6, 0.0)
        delta_attention(w, f"blk.{block}.", x, out, bound=bound)
    else:
        attention(w, block, x, out, rotary=False)


def _feed_forward(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The feed-forward layer of a block, or its experts, on fewer dimensions than the stream."""
    if not has_experts(w, block):
        feed_forward(w, block, x, out)
        return
    prefix = f"blk.{block}.ffn_routed_"
    latent = w.keys.integer("expert_latent_length", _MOST, 0, least=0)
    routes, inputs, sums = route(w, block, x), x, out
    if latent:
        inputs, sums = w.buffer("latent", latent), w.buffer("latent sums", latent)
        w.product(x, f"{prefix}down", inputs)
    w.experts(block, inputs, routes, sums, count=expert_count(w), width=expert_width(w))
    if w.has(f"{prefix}norm.weight"):
        w.norm(sums, f"{prefix}norm", sums)
    if latent:
        w.product(sums, f"{prefix}up", out)
    add_shared(w, block, x, out)


ROWS = {
    "kimi-k3": Architecture(
        "situ",
        write,
        gated_heads=Function.SIGMOID,
        mixture=Mixture(
            Route.ROUTE_SIGMOID, by_key=True, normalised=None, scaled=True, shared="count"
        ),
        unused=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
        own_keys=(
            *("attention.head_count", "attention.head_count_kv"),
            *("attention.value_length", "attention.value_length_swa"),
        ),
    )
}
