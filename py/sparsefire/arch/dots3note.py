"""dots.note 3 (rednote 2026): latent attention with a gate for each head, of other sizes in layers
with a window, and a mixture of experts. The layers without one attend to a choice of tokens in
texts of more than `attention.indexer.top_k` tokens, and it runs up to that."""

from __future__ import annotations

from ..core.enums import Function
from .architecture import Architecture
from .decoder import BY_KEYS, blocks
from .deepseek2 import Latent, attention
from .plan import Buffer
from .writer import Writer

_MOST = 1 << 16


def write(w: Writer) -> None:
    """The plan."""
    keys = w.keys
    names = "kv_lora_rank", "key_length_mla", "value_length_mla"
    whole, windowed = (
        Latent(*(keys.integer(f"attention.{name}{suffix}", _MOST) for name in names))
        for suffix in ("", "_swa")
    )
    w.embed()

    def mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        attention(w, block, x, out, sizes=windowed if w.config.windows[block] else whole)

    blocks(w, mix)
    w.head()


ROWS = {
    "dots3note": Architecture(
        "silu",
        write,
        vectors=("attn_k_norm.weight",),
        window_rope_base=0.0,
        gated_heads=Function.SIGMOID,
        mixture=BY_KEYS,
        own_keys=(
            *("attention.head_count", "attention.head_count_kv", "attention.value_length"),
            *("attention.key_length_swa", "attention.value_length_swa"),
        ),
    )
}
