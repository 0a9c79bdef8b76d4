"""Mamba (Gu and Dao 2023): a recurrence in which each element of a vector has a state of its own;
and Jamba (AI21 2024) and PLaMo 2, whose other blocks are attention."""

from __future__ import annotations

from ..core.enums import Activation, Function, Repeat
from . import mamba2
from .architecture import Architecture
from .decoder import HEAD_NORMS, LLAMA, POST_NORMS, attention, blocks
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer

_FEWEST_STEPS = 64  # of PLaMo 2: width of what steps are made of, unless a 16th of d is more


def mixer(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The mixer of a block: steps, keys and queries are products of values of the last few tokens;
    steps say how much of a token each element keeps, and what it forgets for it."""
    plan, prefix = w.plan, f"blk.{block}.ssm_"
    inner, size = _sizes(w)
    values, gate = w.buffer("values", inner), w.buffer("gate", inner)
    projected = w.buffer("projected", 2 * inner)
    w.product(x, f"{prefix}in", projected)
    w.split(projected, values, gate)
    _convolve(w, prefix, values)
    rank, k, q = _selected(w, prefix, values, w.keys.integer("ssm.time_step_rank", inner), size)
    steps, decay = w.buffer("steps", inner), w.buffer("decay", inner * size)
    w.product(rank, f"{prefix}dt", steps)
    plan.map(steps, steps, Function.SOFTPLUS)
    plan.multiply(steps, plan.vector(f"{prefix}a", (inner, size)), decay, Repeat.SPREAD)
    factors = plan.vector(f"{prefix}d", inner)
    mamba2.scan(w, (q, k, values, gate), steps, decay, factors, heads=inner, keys=size)
    w.product(values, f"{prefix}out", out)


def mixer_of_heads(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """PLaMo 2's, with a step and a rate of decay for each head."""
    plan, prefix = w.plan, f"blk.{block}.ssm_"
    inner, size = _sizes(w)
    heads = w.keys.integer("ssm.time_step_rank", inner)
    dim = inner // heads
    values, gate = w.buffer("values", inner), w.buffer("gate", inner)
    projected = w.buffer("projected", 2 * inner)
    w.product(x, f"{prefix}in", projected)
    for first, part in ((0, gate), (dim, values)):  # each head has both
        plan.copy(projected, part, count=heads, width=dim, first=(first, 0), stride=(2 * dim, dim))
    _convolve(w, prefix, values)
    rank, k, q = _selected(w, prefix, values, max(_FEWEST_STEPS, w.config.d // 16), size, last=True)
    steps, decay = w.buffer("steps", heads), w.buffer("decay", heads)
    w.product(rank, f"{prefix}dt", steps)
    plan.map(steps, steps, Function.SOFTPLUS)
    plan.multiply(steps, plan.vector(f"{prefix}a", heads), decay)
    factors = plan.vector(f"{prefix}d", heads)
    mamba2.scan(w, (q, k, values, gate), steps, decay, factors, heads=heads, keys=size)
    w.product(values, f"{prefix}out", out)


def _sizes(w: Writer) -> tuple[int, int]:
    return w.keys.integer("ssm.inner_size", 1 << 20), w.keys.integer("ssm.state_size", 1 << 16)


def _convolve(w: Writer, prefix: str, values: Buffer) -> None:
    taps = w.keys.integer("ssm.conv_kernel", 1 << 10)
    weight = w.plan.vector(f"{prefix}conv1d.weight", (values.width, taps))
    w.plan.convolution(values, weight, values, w.bias(f"{prefix}conv1d", values.width))
    w.plan.map(values, values, Activation.SILU)


def _selected(
    w: Writer, prefix: str, values: Buffer, rank: int, size: int, *, last: bool = False
) -> tuple[Buffer, Buffer, Buffer]:
    """What steps are made of, keys and queries, in the order of the matrix unless it has the first
    `last`. Some models normalise them."""
    selected = w.buffer("selected", rank + 2 * size)
    parts = w.buffer("rank", rank), w.buffer("state keys", size), w.buffer("state queries", size)
    w.product(values, f"{prefix}x", selected)
    w.split(selected, *((*parts[1:], parts[0]) if last else parts))
    for part, name in zip(parts, ("dt", "b", "c"), strict=True):
        norm = f"{prefix}{name}_norm"
        if w.has(f"{norm}.weight") or w.has(norm):
            w.norm(part, norm, part)
        elif w.keys.value("ssm.dt_b_c_rms", False):
            w.plan.norm(part, part, None, w.config.norm_epsilon)
    return parts


def write(w: Writer) -> None:
    """The plan of a model of such blocks alone."""
    mamba2.write(w, mixer)


def write_jamba(w: Writer) -> None:
    """That of one with attention in some blocks, and a feed-forward part in all."""
    w.embed()
    blocks(
        w, lambda w, block, x, out: (attention if w.kv_heads(block) else mixer)(w, block, x, out)
    )
    w.head()


def write_plamo(w: Writer) -> None:
    """The same with PLaMo 2's mixer."""
    w.embed()
    blocks(
        w,
        lambda w, block, x, out: (attention if w.kv_heads(block) else mixer_of_heads)(
            w, block, x, out
        ),
    )
    w.head()


_HEADS = ("attention.head_count", "attention.head_count_kv")

ROWS = {
    "mamba": Architecture("silu", write, own_keys=(*_HEADS, "feed_forward_length")),
    "jamba": LLAMA._replace(
        write=write_jamba,
        rotary=lambda _: False,
        mixture=Mixture(normalised=False, own_width=False, found=True),
        own_keys=_HEADS,
    ),
    "plamo2": LLAMA._replace(
        write=write_plamo,
        rope_halves=True,
        gate_up=True,
        own_norms=True,
        vectors=(*HEAD_NORMS, *POST_NORMS),
        mixture=None,
        own_keys=_HEADS,
    ),
}
