"""Random layers in which a given share of the neurons fires."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from sparsefire._core import Core
from sparsefire.ffn import SparseFfn


def random_layer(core: Core, d: int, hidden: int, format: str, active: float) -> SparseFfn:
    """A gated ReLU layer, of whose neurons about the share ``active`` fires for an input of
    independent standard normal numbers: the gates are standard normal too, and their bias shifts
    them."""
    random = np.random.default_rng(0)
    scale = np.float32(d**-0.5)
    gate, up, down_t = (random.standard_normal((hidden, d), np.float32) * scale for _ in range(3))
    bias = np.full(hidden, NormalDist().inv_cdf(active) if active < 1 else 8.0, np.float32)
    return SparseFfn(up, down_t.T, "relu", gate=gate, gate_bias=bias, format=format, core=core)


def passes(layer: SparseFfn, n: int, mode: str) -> Callable[[int], object]:
    """A function that sends n vectors through the layer, others at each repetition."""
    inputs = np.random.default_rng(2).standard_normal((32, n, layer.d_in), np.float32)
    out = np.empty((n, layer.d_out), np.float32)
    return lambda index: layer.forward(inputs[index % len(inputs)], mode=mode, out=out)
