"""Granite 4 (IBM 2025) and Falcon-H1 (TII 2025): decoders with Mamba-2 instead of attention in most
blocks, or beside it in all."""

from __future__ import annotations

from . import mamba2
from .decoder import GRANITE, LLAMA, attention, blocks
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan: blocks with keys and values are attention, the others Mamba-2."""
    w.embed()
    blocks(w, _either)
    w.head()


def _either(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    if w.kv_heads(block):
        attention(w, block, x, out, rotary=bool(w.keys.value("rope.scaling.finetuned", True)))
    else:
        mamba2.mixer(w, block, x, out)


def write_both(w: Writer) -> None:
    """The plan with both in each block."""
    w.embed()
    blocks(w, _both)
    w.head()


def _both(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    also = w.buffer("mixed too", out.width)
    attention(w, block, x, out)
    mamba2.mixer(w, block, x, also)
    w.plan.add(out, also, out)


ROWS = {
    "granitehybrid": GRANITE._replace(
        write=write, own_keys=("attention.head_count", "attention.head_count_kv")
    ),
    "falcon-h1": LLAMA._replace(
        write=write_both,
        rope_halves=True,
        rotary_factors=False,
        mixture=None,
        unused=("attn_output.bias",),
    ),
}
