"""Hunyuan 4 (Tencent 2026): latent attention with gates and sinks, a mixture of experts with
limits, and residual streams whose shares are sigmoids. It attends to a choice of tokens in texts of
more than `attention.indexer.top_k` tokens, and runs up to that."""

from __future__ import annotations

from ..core.enums import Function
from ..weights.activation import ActivationType
from .architecture import Architecture
from .decoder import BY_KEYS, SINKS, feed_forward
from .deepseek2 import attention
from .streams import Streams
from .writer import Writer


def write(w: Writer) -> None:
    """The plan."""
    w.embed()
    streams = Streams(w, mixed=False)
    streams.blocks(attention, feed_forward)
    streams.sum_by_shares("output_hc")
    w.head()


ROWS = {
    "hy_v4": Architecture(
        "silu",
        write,
        vectors=(SINKS,),
        gated_heads=Function.SIGMOID,
        mixture=BY_KEYS._replace(limits=ActivationType.SILU_LIMITED, shared_limited=False),
        own_keys=("attention.value_length", "attention.value_length_swa"),
    )
}
