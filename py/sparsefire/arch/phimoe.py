"""Phi-3.5-MoE (Abdin et al. 2024): norms of mean and variance, and experts weighted by SparseMixer
(Liu et al. 2024), as in the published model; llama.cpp computes RMS norms and a plain softmax."""

from __future__ import annotations

from ..core.enums import Route
from .architecture import Architecture
from .decoder import NORM_BIASES, write
from .mixture import Mixture

ROWS = {
    "phimoe": Architecture(
        "silu",
        write,
        layer_norm=True,
        rope_halves=True,
        vectors=NORM_BIASES,
        mixture=Mixture(Route.ROUTE_SPARSE_MIXER, normalised=False, own_width=False),
    )
}
