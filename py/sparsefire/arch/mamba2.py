"""Mamba-2 (Dao and Gu 2024): a recurrence instead of attention."""

from __future__ import annotations

from collections.abc import Callable

from ..core.enums import Activation, Function, Repeat
from .architecture import Architecture
from .plan import Buffer, Vector
from .writer import Writer


def mixer(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The mixer of a block.

    Keys, queries and values are of the last few tokens; steps, one a head, say how much of a token
    is kept and how much is forgotten for it. The result is gated before its norm."""
    keys, plan, prefix = w.keys, w.plan, f"blk.{block}.ssm_"
    inner = keys.integer("ssm.inner_size", 1 << 20)
    size = keys.integer("ssm.state_size", 1 << 16)
    heads = keys.integer("ssm.time_step_rank", inner)
    groups = keys.integer("ssm.group_count", heads)
    taps = keys.integer("ssm.conv_kernel", 1 << 10)
    if inner % heads or heads % groups:
        raise keys.fail(
            "ssm.inner_size",
            f"is {inner}, which {heads} heads (ssm.time_step_rank) in {groups} groups "
            "(ssm.group_count) cannot share",
        )
    mixed = w.buffer("mixed", inner + 2 * groups * size)
    projected = w.buffer("projected", inner + mixed.width + heads)
    gate, values = w.buffer("gate", inner), w.buffer("values", inner)
    k, q = w.buffer("state keys", groups * size), w.buffer("state queries", groups * size)
    steps, decay = w.buffer("steps", heads), w.buffer("decay", heads)
    w.product(x, f"{prefix}in", projected)
    w.split(projected, gate, mixed, steps)
    weight = plan.vector(f"{prefix}conv1d.weight", (mixed.width, taps))
    plan.convolution(mixed, weight, mixed, w.bias(f"{prefix}conv1d", mixed.width))
    plan.map(mixed, mixed, Activation.SILU)
    w.split(mixed, values, k, q)
    plan.add(steps, plan.vector(f"{prefix}dt.bias", heads), steps)
    plan.map(steps, steps, Function.SOFTPLUS)
    plan.multiply(steps, plan.vector(f"{prefix}a", (heads, 1)), decay)
    factors = plan.vector(f"{prefix}d", (heads, 1))
    scan(w, (q, k, values, gate), steps, decay, factors, heads=heads, keys=size)
    if w.has(f"{prefix}norm.weight"):
        norm = plan.vector(f"{prefix}norm.weight", (groups, inner // groups))
        plan.norm(values, values, norm, w.config.norm_epsilon, groups=groups)
    w.product(values, f"{prefix}out", out)


def scan(
    w: Writer,
    parts: tuple[Buffer, Buffer, Buffer, Buffer],
    steps: Buffer,
    decay: Buffer,
    factors: Vector,
    *,
    heads: int,
    keys: int,
) -> None:
    """Values = (what the recurrence finds + factors · values) · SiLU(gate), of the parts: queries,
    keys, values and gate. `decay` is given as its logarithm."""
    plan, (q, k, values, gate) = w.plan, parts
    scaled, y = w.buffer("scaled", values.width), w.buffer("mixer", values.width)
    plan.map(decay, decay, Function.EXP)
    plan.multiply(values, steps, scaled, Repeat.SPREAD)
    plan.recurrence(q, k, scaled, decay, y, heads=heads, keys=keys)
    plan.multiply(values, factors, values, Repeat.SPREAD)
    plan.add(y, values, y)
    plan.map(gate, gate, Activation.SILU)
    plan.multiply(y, gate, values)


def write(w: Writer, mix: Callable[[Writer, int, Buffer, Buffer], None] = mixer) -> None:
    """The plan of a model of such blocks alone, or of others that ``mix``."""
    w.embed()
    for block in range(w.config.layers):
        w.norm(w.x, f"blk.{block}.attn_norm", w.normed)
        mix(w, block, w.normed, w.added)
        w.residual()
    w.head()


ROWS = {
    "mamba2": Architecture(
        "silu",
        write,
        own_keys=("attention.head_count", "attention.head_count_kv", "feed_forward_length"),
    )
}
