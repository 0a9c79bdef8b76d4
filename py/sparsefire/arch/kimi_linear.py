"""Kimi Linear (Kimi team 2025): delta attention, whose state decays by itself in each of its rows,
in most blocks, and latent attention without positions in the others; a mixture of experts."""

from __future__ import annotations

from ..core.enums import Activation, Function, Repeat, Route
from .architecture import Architecture
from .decoder import blocks
from .deepseek2 import attention
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer

_MOST = 1 << 16


def write(w: Writer) -> None:
    """The plan. The tensors of a block say which of the two it is."""
    w.embed()

    def mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        if w.has(f"blk.{block}.ssm_conv1d_q.weight"):
            delta_attention(w, f"blk.{block}.", x, out)
        else:
            attention(w, block, x, out, rotary=False)

    blocks(w, mix)
    w.head()


def delta_attention(
    w: Writer,
    prefix: str,
    x: Buffer,
    out: Buffer,
    *,
    bound: float | None = None,
    sign: float = -1.0,
    epsilon: float | None = None,
) -> None:
    """What the state has for a token's key moves towards the token's value, at the token's rate.
    ``bound``: decays are e^(bound · sigmoid(sign · ssm_a · …)); ``epsilon``: that of the norms of
    keys and queries."""
    plan, heads = w.plan, w.config.heads
    size = w.keys.integer("kda.head_dim", _MOST)
    inner = heads * size
    q, k, v = (_convolved(w, prefix, x, each, inner) for each in "qkv")
    # x / √(Σ x² + ε), and queries are divided by √size beside.
    for each, factor in ((q, 1 / size), (k, size**-0.5)):
        least = (w.config.norm_epsilon if epsilon is None else epsilon) / size
        plan.norm(each, each, plan.repeated((factor,), size), least, groups=heads)
    decay = _decay(w, prefix, x, size, bound, sign)
    rate = w.buffer("rate", heads)
    w.product(x, f"{prefix}ssm_beta", rate)
    plan.map(rate, rate, Function.SIGMOID)
    known, taken = w.buffer("known", inner), w.buffer("taken", inner)
    plan.multiply(k, decay, known)
    plan.multiply(k, rate, taken, Repeat.SPREAD)
    plan.scale(taken, -1.0)
    plan.multiply(v, rate, v, Repeat.SPREAD)
    y = w.buffer("mixer", inner)
    plan.recurrence(q, k, v, decay, y, heads=heads, keys=size, removed=(known, taken))
    w.norm(y, f"{prefix}ssm_norm", y, groups=heads)
    gate = _products(w, prefix, x, "ssm_g", size, inner)
    plan.map(gate, gate, Function.SIGMOID)
    plan.multiply(y, gate, y)
    w.product(y, f"{prefix}attn_output", out)


def _decay(
    w: Writer, prefix: str, x: Buffer, size: int, bound: float | None, sign: float
) -> Buffer:
    """How much stays of each row of the state of each head."""
    plan, heads = w.plan, w.config.heads
    decay = _products(w, prefix, x, "ssm_f", size, heads * size)
    plan.add(decay, plan.vector(f"{prefix}ssm_dt.bias", decay.width), decay)
    if bound is None:
        plan.map(decay, decay, Function.SOFTPLUS)
    name = f"{prefix}ssm_a"
    flat = w.has(name) and len(w.file.tensor(name).shape) == 1
    factors = plan.vector(name, heads if flat else (heads, 1))
    plan.multiply(decay, factors, decay, Repeat.SPREAD)
    if bound is not None:
        plan.scale(decay, sign)
        plan.map(decay, decay, Function.SIGMOID)
        plan.scale(decay, bound)
    plan.map(decay, decay, Function.EXP)
    return decay


def _convolved(w: Writer, prefix: str, x: Buffer, name: str, inner: int) -> Buffer:
    plan, y = w.plan, w.buffer(f"state {name}", inner)
    w.product(x, f"{prefix}attn_{name}", y)
    taps = w.keys.integer("ssm.conv_kernel", 1 << 10)
    weight = plan.vector(f"{prefix}ssm_conv1d_{name}.weight", (inner, 1, taps))
    plan.convolution(y, weight, y)
    plan.map(y, y, Activation.SILU)
    return y


def _products(w: Writer, prefix: str, x: Buffer, name: str, rank: int, width: int) -> Buffer:
    """A product with one matrix, or with two of low rank."""
    low, y = w.buffer("low", rank), w.buffer(name, width)
    if w.has(f"{prefix}{name}.weight"):
        w.product(x, f"{prefix}{name}", y)
    elif w.has(f"{prefix}{name}_b.weight"):
        w.product(x, f"{prefix}{name}_a", low)
        w.product(low, f"{prefix}{name}_b", y)
    else:
        w.product(x, f"{prefix}{name}_a", y)
    return y


ROWS = {
    "kimi-linear": Architecture(
        "silu",
        write,
        mixture=Mixture(Route.ROUTE_SIGMOID, by_key=True, scaled=True, shared="count"),
        unused=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
        own_keys=(
            *("attention.head_count", "attention.head_count_kv"),
            *("attention.value_length", "attention.value_length_swa"),
        ),
    )
}
