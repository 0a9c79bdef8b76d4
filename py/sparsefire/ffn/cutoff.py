"""Skipping neurons with a small activation, for a given error of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..errors import ArgumentError, CalibrationError, NotFiniteError, ShapeError
from ..weights.matrix import Matrix
from .core_layer import CUTOFFS

if TYPE_CHECKING:
    from .layer import SparseFfn

_FEWEST_SAMPLES = 20
_MOST_SAMPLES = 500  # tried per cutoff
_TRIALS = 24


@dataclass(frozen=True)
class CutoffReport:
    """The effect of a cutoff ``on`` "gate" or "product" on ``held_out`` samples that it was not
    fitted on: the error of the output, ‖difference‖ / ‖output‖, and the share of neurons that
    contribute to the output."""

    on: str
    cutoff: float
    error: float
    active_share: float
    held_out: int


def calibrate_cutoff(
    ffn: SparseFfn, samples: npt.ArrayLike, max_error: float, on: str, seed: int
) -> CutoffReport:
    """See `SparseFfn.calibrate_cutoff`."""
    if not 0 < max_error < 1:
        raise ArgumentError(f"max_error must be between 0 and 1, got {max_error}")
    if on not in CUTOFFS:
        raise ArgumentError(f"on {on!r}: expected 'gate' or 'product'")
    x = _arrays.matrix(samples, "samples", f"(n, {ffn.d_in})")
    if x.shape[1] != ffn.d_in:
        raise ShapeError(f"samples: expected shape (n, {ffn.d_in}), got {x.shape}")
    if len(x) < _FEWEST_SAMPLES:
        raise CalibrationError(
            f"{len(x)} samples are too few to choose a cutoff; give {_FEWEST_SAMPLES} or more"
        )
    if not np.isfinite(x).all():
        raise NotFiniteError("samples: NaN or infinity")
    order = np.random.default_rng(seed).permutation(len(x))
    held = x[order[: len(x) // 5]]
    fit = x[order[len(held) : len(held) + _MOST_SAMPLES]]
    before, chosen = (ffn.cutoff if on == "gate" else ffn.product_cutoff), None
    try:
        wanted = ffn.forward(fit, mode="dense")
        low, high = 0.0, float(neuron_values(ffn, fit, on).max())
        for _ in range(_TRIALS):
            middle = (low + high) / 2
            ffn.set_cutoff(middle, on)
            if _error(ffn, fit, wanted) <= max_error:
                low = middle
            else:
                high = middle
        ffn.set_cutoff(low, on)
        found = _error(ffn, held, ffn.forward(held, mode="dense"))
        chosen = low
    finally:
        if chosen is None:
            ffn.set_cutoff(before, on)
    share = float(ffn.counts.active.mean()) / ffn.hidden
    return CutoffReport(on, chosen, found, share, len(held))


def _error(ffn: SparseFfn, x: _arrays.FloatArray, wanted: npt.NDArray[np.floating]) -> float:
    """Error of the exact mode, with the cutoff as it is, against the dense outputs ``wanted``:
    ‖difference‖ / ‖wanted‖."""
    difference = ffn.forward(x, mode="exact") - wanted
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30))


def neuron_values(ffn: SparseFfn, x: _arrays.FloatArray, on: str) -> _arrays.FloatArray:
    """The values that a cutoff ``on`` is compared with, for inputs x (n, d): |activation(gate)|, or
    the product with up, float32 (n, hidden)."""
    (gate, up, _), (gate_bias, up_bias, _) = ffn.matrices, ffn.biases
    raised = _products(up, up_bias, x)
    first = raised if gate is None else _products(gate, gate_bias, x)
    values = ffn.activation.apply(first, ffn.parameter, ffn.core)
    if gate is not None and on == "product":
        if ffn.both_active:
            raised = ffn.activation.apply(raised, ffn.parameter, ffn.core)
        else:
            raised = ffn.activation.apply_to_up(raised, ffn.up_parameter, ffn.core)
        values = values * raised
    return np.abs(values, dtype=np.float32)


def _products(
    matrix: Matrix, bias: _arrays.FloatArray | None, x: _arrays.FloatArray
) -> _arrays.FloatArray:
    values = matrix.multiply(x)
    return values if bias is None else values + bias
