"""MiniMax-M3 (MiniMax 2026): MiniMax-M2's kind of decoder with gpt-oss's activation, leading dense
blocks and a shared expert. It attends to a choice of blocks of tokens in longer texts than those of
`attention.indexer.top_k` blocks, and runs up to that."""

from __future__ import annotations

from . import decoder
from .architecture import Architecture
from .decoder import BY_KEYS, HEAD_NORMS
from .writer import Writer

_INDEXER = "q_proj", "k_proj", "q_norm", "k_norm"


def write(w: Writer) -> None:
    """The plan."""
    decoder.write(w)
    for block in range(w.config.layers):
        for name in _INDEXER:
            w.unused(f"blk.{block}.indexer.{name}.weight")


ROWS = {
    "minimax-m3": Architecture(
        "silu_clamped",
        write,
        rope_halves=True,
        vectors=HEAD_NORMS,
        mixture=BY_KEYS,
        chosen_blocks=True,
    )
}
