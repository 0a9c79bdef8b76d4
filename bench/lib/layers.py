"""Random layers of which a given share of the neurons fires, and the shapes that are timed."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from sparsefire.bench.ffn import ALL_ACTIVE, random_layer
from sparsefire.core.core import Core
from sparsefire.ffn.forward import MODES
from sparsefire.ffn.layer import SparseFfn
from sparsefire.ffn.low_rank import LowRankPredictor
from sparsefire.ffn.sparsity import SparsityConfig
from sparsefire.fit.layers import predictor_format

# Inputs and neurons of the feed-forward layers of Llama 2 7B, TinyLlama and SmolLM2 135M.
LARGE, MIDDLE, SMALL = (4096, 11008), (2048, 5632), (576, 1536)


def firing_layer(core: Core, d: int, hidden: int, format: str, active: float) -> SparseFfn:
    """A gated ReLU layer, of whose neurons about the share ``active`` fires for an input of
    independent standard normal numbers: the gates are standard normal too, and their bias shifts
    them."""
    bias = NormalDist().inv_cdf(active) if active < 1 else ALL_ACTIVE
    return random_layer(core, np.random.default_rng(0), d, hidden, True, format, bias)


def predicted_layer(
    core: Core, d: int, hidden: int, format: str, active: float, rank: int
) -> tuple[SparseFfn, float]:
    """A gated layer whose predictor, of random weights too, selects the share ``active`` of its
    neurons, each of which is then computed in full; and the limit of its speed-up over dense,
    1 / (active share + predictor bytes / layer bytes)."""
    layer = random_layer(core, np.random.default_rng(0), d, hidden, True, format)
    count = round(active * hidden)
    rule = SparsityConfig.with_top_k(count)
    predictor = LowRankPredictor(d, hidden, rank, rule, format=predictor_format(rank, d), core=core)
    layer.set_predictor(predictor)
    return layer, 1 / (count / hidden + predictor.nbytes / layer.nbytes)


def passes(layer: SparseFfn, n: int, mode: str, seed: int = 2) -> Callable[[int], object]:
    """A function that sends n vectors through the layer, others at each repetition. It calls the
    core, as a model does, since a small layer takes little longer than Python's part in
    `SparseFfn.forward`."""
    inputs = np.random.default_rng(seed).standard_normal((32, n, layer.d_in), np.float32)
    core = layer.core
    xs, y = [core.inp(x) for x in inputs], core.out(np.empty((n, layer.d_out), np.float32))
    return lambda index: core.check(
        "sf_ffn_forward", layer.handle, MODES[mode], xs[index % len(xs)], n, y, None, None
    )
