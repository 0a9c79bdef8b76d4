"""MiniMax-01 (MiniMax 2025): lightning attention, whose state decays at a rate of each head and
layer (Qin et al. 2024), in most blocks, and softmax attention in the others; a mixture of experts.
What a block adds is added to the norm that it reads, times a factor."""

from __future__ import annotations

import math

import numpy as np

from .._arrays import FloatArray
from ..core.enums import Activation, Function
from .architecture import Architecture
from .decoder import attention
from .mixture import Mixture, mixture
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan. The tensors of a block say which of the two it is."""
    w.embed()
    for block in range(w.config.layers):
        prefix = f"blk.{block}."
        w.norm(w.x, f"{prefix}attn_norm", w.normed)
        if w.has(f"{prefix}attn_gate.weight"):
            _lightning(w, block, w.normed, w.added)
        else:
            attention(w, block, w.normed, w.added)
        _add(w)
        w.norm(w.x, f"{prefix}ffn_norm", w.normed)
        mixture(w, block, w.normed, w.added)
        _add(w)
    w.head()


def _add(w: Writer) -> None:
    """x = added + factor · normed."""
    w.plan.scale(w.normed, w.config.residual_scale)
    w.plan.add(w.added, w.normed, w.x)


def _lightning(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    plan, prefix, heads, size = w.plan, f"blk.{block}.", w.config.heads, w.config.head_dim
    inner = heads * size
    together = w.buffer("qkv", 3 * inner)
    w.product(x, f"{prefix}attn_qkv", together)
    plan.map(together, together, Activation.SILU)
    q, k, v = (w.buffer(name, inner) for name in "qkv")
    for place, part in enumerate((q, k, v)):  # of each head one after the other
        first, stride = (place * size, 0), (3 * size, size)
        plan.copy(together, part, count=heads, width=size, first=first, stride=stride)
    decay = w.buffer("decay", heads)
    plan.copy(together, decay, width=heads)
    plan.scale(decay, 0.0)
    plan.add(decay, plan.constant(_decays(heads, block, w.config.layers)), decay)
    mixed = w.buffer("heads", inner)
    plan.recurrence(q, k, v, decay, mixed, heads=heads, keys=size)
    w.norm(mixed, f"{prefix}attn_norm_2", mixed)
    gate = w.buffer("attention gate", inner)
    w.product(x, f"{prefix}attn_gate", gate)
    plan.map(gate, gate, Function.SIGMOID)
    plan.multiply(mixed, gate, mixed)
    w.product(mixed, f"{prefix}attn_output", out)


def _decays(heads: int, block: int, layers: int) -> FloatArray:
    """What is left of the state after a token, of each head."""
    slope = 2.0 ** -(2.0 ** -(math.log2(heads) - 3))
    share = 1 - block / max(1, layers - 1) + 1e-5
    rates = share * slope ** np.arange(1, heads + 1)
    return np.asarray(np.exp(-rates), np.float32)


ROWS = {
    "minimax-01": Architecture(
        "silu",
        write,
        rope_halves=True,
        mixture=Mixture(own_width=False, scaled=True),
    )
}
