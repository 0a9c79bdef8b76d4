"""Ling 3 (inclusionAI 2026): delta attention with bounded decays in most blocks, latent attention
with gates in the others, a mixture of experts with limits."""

from __future__ import annotations

from ..core.enums import Function
from ..weights.activation import ActivationType
from .architecture import Architecture
from .decoder import BY_KEYS, blocks
from .deepseek2 import attention
from .kimi_linear import delta_attention
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan. The tensors of a block say which of the two it is."""
    keys = w.keys
    if not keys.value("kda.safe_gate", True):
        raise keys.unsupported("kda.safe_gate")
    bound = keys.number("kda.gate_lower_bound", -1e6, 0.0)
    w.embed()

    def mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        if w.has(f"blk.{block}.ssm_conv1d_q.weight"):
            delta_attention(w, f"blk.{block}.", x, out, bound=bound, sign=1.0)
        else:
            attention(w, block, x, out)

    blocks(w, mix)
    w.head()


ROWS = {
    "bailingmoe3": Architecture(
        "silu",
        write,
        rope_halves=None,
        gated_heads=Function.SIGMOID,
        mixture=BY_KEYS._replace(shared="total", limits=ActivationType.SILU_CAPPED),
        unused=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
        own_keys=(
            *("attention.head_count", "attention.head_count_kv"),
            *("attention.value_length", "attention.value_length_swa"),
        ),
    )
}
