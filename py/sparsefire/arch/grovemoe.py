"""GroveMoE (Wu et al. 2025): a mixture of experts in groups, each with a small expert that its
members have together. It gets what they get, as in the published model; llama.cpp gives it what
they made of that."""

from __future__ import annotations

from .architecture import Architecture
from .decoder import HEAD_NORMS, write
from .mixture import Mixture

ROWS = {
    "grovemoe": Architecture(
        "silu", write, rope_halves=True, vectors=HEAD_NORMS, mixture=Mixture(adjugates=True)
    )
}
