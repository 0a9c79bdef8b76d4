"""GLM-5.3-Flash (Z.ai 2026): delta attention with bounded decays in most blocks, latent attention
without positions in the others, a mixture of experts with limits, and residual streams that are
mixed. It attends to a choice of tokens in texts of more than `attention.indexer.top_k` tokens, and
runs up to that."""

from __future__ import annotations

from ..weights.activation import ActivationType
from .architecture import Architecture
from .decoder import BY_KEYS, feed_forward
from .deepseek2 import attention
from .kimi_linear import delta_attention
from .plan import Buffer
from .streams import Streams
from .writer import Writer

_EPSILON = 1e-6  # of the norms of keys and queries of delta attention


def write(w: Writer) -> None:
    """The plan. The tensors of a block say which of the two it is."""
    keys, tail = w.keys, "attention.indexer.kpool_select_tail"
    if not keys.value(tail, False):
        raise keys.unsupported(tail)
    w.embed()
    streams = Streams(w, mixed=True)
    streams.blocks(_mix, feed_forward)
    streams.mean()
    w.head()


def _mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    if w.has(f"blk.{block}.ssm_conv1d_q.weight"):
        bound = w.keys.number("kda.gate_lower_bound", -1e6, 0.0)
        delta_attention(w, f"blk.{block}.", x, out, bound=bound, epsilon=_EPSILON)
    else:
        attention(w, block, x, out, rotary=False)


ROWS = {
    "glm5-next": Architecture(
        "silu",
        write,
        rotary=lambda _: False,
        mixture=BY_KEYS._replace(limits=ActivationType.SILU_LIMITED, same_limits=True),
        unused=("attn_q.bias", "attn_k.bias", "attn_v.bias"),
        own_keys=(
            *("attention.head_count_kv", "rope.dimension_count"),
            *("attention.value_length", "attention.value_length_swa"),
        ),
    )
}
