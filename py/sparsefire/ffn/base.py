"""What feed-forward layers in memory and in files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._options import checked, instance, number, optional, text
from ..core.core import Core
from ..core.handle import locked
from .core_layer import CoreLayer, check_predictor
from .forward import NeuronCounts
from .predictor import InCorePredictor, Predictor


class FfnLayer(ABC):
    """A feed-forward layer: its handle, predictor and cutoffs."""

    _core_ffn: CoreLayer
    counts: NeuronCounts
    lock: AbstractContextManager[Any]  # which calls hold

    @property
    def core(self) -> Core:
        """The core that holds the layer."""
        return self._core_ffn.core

    @property
    def handle(self) -> SupportsIndex:
        """The layer's handle in the core."""
        return self._core_ffn.handle

    @property
    @abstractmethod
    def hidden(self) -> int:
        """Number of neurons."""

    @property
    @abstractmethod
    def d_in(self) -> int:
        """Elements of an input vector."""

    @property
    def predictor(self) -> InCorePredictor | None:
        """The attached predictor."""
        return self._core_ffn.predictor

    @locked
    @checked(predictor=optional(instance(InCorePredictor)))
    def set_predictor(self, predictor: InCorePredictor | None) -> None:
        """Attaches a predictor for sparse mode; None removes it. `ShapeError` if its input or
        hidden size is not the layer's."""
        if predictor is not None:
            check_predictor(predictor, self.core, self.d_in, self.hidden)
        self._core_ffn.set_predictor(predictor)

    @property
    def cutoff(self) -> float:
        """Except in dense mode, neurons with |activation(gate)| ≤ cutoff are skipped: neither up
        nor down is computed. 0, the default, skips only exact zeros. For an ungated layer the
        quantity is |activation(w1)|, also for `product_cutoff`."""
        return self._core_ffn.cutoffs["gate"]

    @property
    def product_cutoff(self) -> float:
        """Except in dense mode, neurons with |activation(gate) · up| ≤ product_cutoff are skipped
        in the down product. 0, the default, skips none."""
        return self._core_ffn.cutoffs["product"]

    @locked
    @checked(cutoff=number, on=text)
    def set_cutoff(self, cutoff: float, on: str = "gate") -> None:
        """Sets `cutoff`, or with ``on`` "product" `product_cutoff`; `ArgumentError` if it is
        negative or not finite."""
        self._core_ffn.set_cutoff(cutoff, on)

    @abstractmethod
    def forward(
        self,
        x: npt.ArrayLike,
        predictor: Predictor | None = None,
        *,
        mode: str | None = None,
        out: npt.NDArray[np.floating] | None = None,
    ) -> npt.NDArray[np.floating]:
        """The layer's output for x (input,), or for each row of (n, input)."""

    def forward_dense(
        self, x: npt.ArrayLike, *, out: npt.NDArray[np.floating] | None = None
    ) -> npt.NDArray[np.floating]:
        """`forward` with every neuron."""
        return self.forward(x, mode="dense", out=out)
