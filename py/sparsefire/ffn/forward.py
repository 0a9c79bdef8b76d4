"""The common part of the forward passes of layers in memory and in files: modes and neuron
lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..core.enums import Mode
from ..errors import ArgumentError, ShapeError

MODES = {mode.name.lower(): mode for mode in Mode}


class NeuronCounts(NamedTuple):
    """Neurons that a forward pass computed for each of n vectors, int32 (n,)."""

    selected: _arrays.IntArray  # whose gate (ungated: up) was computed
    active: _arrays.IntArray  # whose contribution to the output was added

    @classmethod
    def of(cls, selected: npt.ArrayLike, active: npt.ArrayLike) -> NeuronCounts:
        """From numbers, n of each."""
        return cls(np.array(selected, np.int32), np.array(active, np.int32))


class _Counting(Protocol):
    counts: NeuronCounts


def chosen_mode(mode: str | None, predictor: object | None, otherwise: Callable[[], str]) -> str:
    """The requested mode; for None, sparse with a predictor and the result of ``otherwise`` without
    one. `ArgumentError` for an unknown mode, or for sparse without a predictor."""
    if mode is None:
        mode = otherwise() if predictor is None else "sparse"
    if not isinstance(mode, str) or mode not in MODES:
        raise ArgumentError(f"mode {mode!r}: expected 'dense', 'exact' or 'sparse'")
    if predictor is not None and not callable(getattr(predictor, "predict", None)):
        raise ArgumentError(f"predictor: expected an object with predict(x), got {predictor!r}")
    if mode == "sparse" and predictor is None:
        raise ArgumentError("sparse mode needs a predictor: pass one, or set_predictor first")
    return mode


class ActiveRequest:
    """Checked arguments of a ``forward_sparse``: ``x`` float32 (n, d_in), ``ids`` a list of n
    ascending id arrays, and the result (n, d_out) to fill."""

    def __init__(
        self,
        x: npt.ArrayLike,
        active: npt.ArrayLike | Sequence[npt.ArrayLike],
        d_in: int,
        hidden: int,
        d_out: int,
        out: npt.NDArray[np.floating] | None,
    ) -> None:
        self.x, single = _arrays.vectors(x, d_in)
        if not single and not hasattr(active, "__len__"):
            raise ShapeError(f"active: expected {len(self.x)} id lists, got {active!r}")
        lists: list[Any] = [active] if single else list(active)  # type: ignore[arg-type]
        if len(lists) != len(self.x):
            raise ShapeError(f"active: expected {len(self.x)} id lists, got {len(lists)}")
        self.result = _arrays.Result(len(self.x), d_out, single, out, self.x)
        self.ids = [_arrays.active_ids(each, hidden) for each in lists]

    def finish(self, layer: _Counting, active: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Returns the filled result and records the counts in the layer, ``active`` (n) being the
        neurons that were not skipped."""
        layer.counts = NeuronCounts.of([len(each) for each in self.ids], active)
        return self.result.finish()
