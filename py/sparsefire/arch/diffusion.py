"""Models that fill in masked tokens (Nie et al. 2025, Ye et al. 2025): decoders whose tokens see
both sides. Their logits and vectors can be had; texts are not generated, since that takes another
way than one token after the other."""

from __future__ import annotations

from .decoder import HEAD_NORMS, LLAMA, QWEN3_MOE
from .mixture import Mixture

_LLADA = LLAMA._replace(mixture=None, both_sides=True)

ROWS = {
    "dream": _LLADA._replace(rope_halves=True, unused=("output.bias",)),
    "llada": _LLADA._replace(
        rotary_factors=False,
        unused=("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"),
    ),
    "llada-moe": _LLADA._replace(
        rope_halves=True, vectors=HEAD_NORMS, mixture=Mixture(normalised=False)
    ),
    "rnd1": QWEN3_MOE._replace(both_sides=True),
}
