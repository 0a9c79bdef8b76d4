"""AFMoE (Trinity; Arcee AI 2025): attention with gated heads, a window and positions in three of
four layers, and a mixture of experts."""

from __future__ import annotations

from ..core.enums import Function, Route
from .architecture import Architecture
from .decoder import HEAD_NORMS, POST_NORMS, blocks, heads_of
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer

_PERIOD = 4  # the last of so many layers sees everything, and has no positions


def write(w: Writer) -> None:
    """The plan."""
    w.embed()
    blocks(w, _attention)
    w.head()


def _attention(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    mixed, _ = heads_of(w, block, x, rotary=(block + 1) % _PERIOD != 0)
    gate = w.buffer("gate", mixed.width)
    w.product(x, f"blk.{block}.attn_gate", gate)
    w.plan.map(gate, gate, Function.SIGMOID)
    w.plan.multiply(mixed, gate, mixed)
    w.product(mixed, f"blk.{block}.attn_output", out)


ROWS = {
    "afmoe": Architecture(
        "silu",
        write,
        rope_halves=True,
        vectors=(*HEAD_NORMS, *POST_NORMS),
        embedding_scale=lambda sizes: sizes.d**0.5,
        full_every=_PERIOD,
        mixture=Mixture(
            Route.ROUTE_SIGMOID, by_key=True, normalised=None, scaled=True, shared="count"
        ),
    )
}
