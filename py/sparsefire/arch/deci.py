"""DeciLM (NVIDIA's Nemotron models by architecture search): blocks may have fewer heads and neurons
than others, none, or one matrix instead of attention; and Arctic (Snowflake 2024), whose experts
look at what comes into a block."""

from __future__ import annotations

from .decoder import LLAMA, attention
from .mixture import Mixture, mixture
from .writer import Writer


def write(w: Writer) -> None:
    """DeciLM's plan."""
    w.embed()
    for block in range(w.config.layers):
        prefix = f"blk.{block}."
        if w.heads(block):
            w.norm(w.x, f"{prefix}attn_norm", w.normed)
            if w.kv_heads(block):
                attention(w, block, w.normed, w.added)
            else:
                w.product(w.normed, f"{prefix}attn_output", w.added)
            w.residual()
        if w.hidden(block):
            w.norm(w.x, f"{prefix}ffn_norm", w.normed)
            w.ffn(block, w.normed, w.added, hidden=w.hidden(block))
            w.residual()
    w.head()


def write_arctic(w: Writer) -> None:
    """Arctic's: experts beside attention and a dense layer of d neurons, which are in a row."""
    w.embed()
    chosen = w.buffer("of experts", w.config.d)
    for block in range(w.config.layers):
        prefix = f"blk.{block}."
        w.norm(w.x, f"{prefix}ffn_norm_exps", w.normed)
        mixture(w, block, w.normed, chosen)
        w.norm(w.x, f"{prefix}attn_norm", w.normed)
        attention(w, block, w.normed, w.added)
        w.residual()
        w.norm(w.x, f"{prefix}ffn_norm", w.normed)
        w.ffn(block, w.normed, w.added, hidden=w.config.d)
        w.plan.add(w.added, chosen, w.added)
        w.residual()
    w.head()


ROWS = {
    "deci": LLAMA._replace(
        write=write,
        mixture=None,
        own_keys=("attention.head_count", "attention.head_count_kv", "feed_forward_length"),
    ),
    "arctic": LLAMA._replace(write=write_arctic, mixture=Mixture(own_width=False)),
}
