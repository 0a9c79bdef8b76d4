"""Apertus (Swiss AI Initiative 2025): feed-forward layers without a gate, whose activation is xIELU
(Huang and Schlag 2024), with numbers of its own in each layer."""

from __future__ import annotations

import math

import numpy as np

from ..core.enums import Activation, Function, Repeat
from .architecture import Architecture
from .decoder import HEAD_NORMS, attention
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan: Llama's, but for the feed-forward part."""
    w.embed()
    for block in range(w.config.layers):
        w.norm(w.x, f"blk.{block}.attn_norm", w.normed)
        attention(w, block, w.normed, w.added)
        w.residual()
        w.norm(w.x, f"blk.{block}.ffn_norm", w.normed)
        _feed_forward(w, block)
        w.residual()
    w.head()


def _feed_forward(w: Writer, block: int) -> None:
    hidden = w.buffer("hidden", w.config.hidden)
    w.product(w.normed, f"blk.{block}.ffn_up", hidden)
    _xielu(w, block, hidden)
    w.product(hidden, f"blk.{block}.ffn_down", w.added)


def _xielu(w: Writer, block: int, x: Buffer) -> None:
    """x = p · max(x, 0)² + n · (e^m - 1 - m) + β · x, of m = min(x, 0). Published models compute
    e^min(m, ε) of ε = -1e-6 instead, which makes a difference of that size."""
    plan, width = w.plan, x.width
    beta = _number(w, "beta", block)
    positive = _softplus(_number(w, "alpha_p", block))
    negative = beta + _softplus(_number(w, "alpha_n", block))
    _number(w, "eps", block)
    above, below, grown = (w.buffer(name, width) for name in ("above", "below", "grown"))
    plan.map(x, above, Activation.RELU)
    plan.copy(x, below, width=width)
    plan.scale(below, -1.0)
    plan.add(below, above, below)  # -m
    plan.copy(below, grown, width=width)
    plan.scale(grown, -1.0)
    plan.map(grown, grown, Function.EXP)
    plan.add(grown, below, grown)
    plan.add(grown, plan.repeated((-1.0,), 1), grown, Repeat.TILE)
    plan.scale(grown, negative)
    plan.multiply(above, above, above)
    plan.scale(above, positive)
    plan.scale(x, beta)
    plan.add(x, above, x)
    plan.add(x, grown, x)


def _number(w: Writer, name: str, block: int) -> float:
    """A number of a layer; its key has none of the architecture's name before it."""
    key, file = f"xielu.{name}", w.file
    value = file.metadata.get(key)
    values = list(value) if isinstance(value, np.ndarray) else [value] * w.config.layers
    number = values[block] if block < len(values) else None
    known = isinstance(number, (int, float, np.floating))
    if number is None or not known or not math.isfinite(number) or abs(number) > 1e3:
        raise w.keys.fail(key, f"has {number!r} for layer {block}; expected a number")
    return float(number)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


ROWS = {
    "apertus": Architecture(
        "silu",
        write,
        gated=False,
        rope_halves=True,
        vectors=HEAD_NORMS,
        own_activation="xielu",
    )
}
