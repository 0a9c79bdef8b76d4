"""Layers of experts in the core: feed-forward layers side by side, of which a router has chosen a
few for each token."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .._arrays import FloatArray
from ..arch.plan import ExpertLayer
from ..arch.read import read_matrix, read_vector, rows_by_neuron
from ..core.core import Core
from ..core.enums import Cutoff
from ..core.handle import CoreObject, locked
from ..gguf.reader import GgufFile
from ..weights.activation import ActivationType
from ..weights.matrix import Matrix
from .core_layer import DOWN_LAYOUTS
from .files import attach_predictors, read_expert_predictors, set_scales, set_up_parameter
from .low_rank import LowRankPredictor

_CUTOFFS = {"gate": Cutoff.CUTOFF_GATE, "product": Cutoff.CUTOFF_PRODUCT}


class ExpertsFfn(CoreObject):
    """`count` experts of `width` neurons each; neuron i of expert e is neuron e · width + i of the
    layer, which has `hidden` of them.

    gate, up: (count · width, d) or gate None; one matrix for both holds (count · 2 · width, d),
    each expert's gate and below it its up. down: (count · d, width) by output, (count · width, d)
    by neuron. Errors: `ShapeError`, `CoreMemoryError`."""

    def __init__(
        self,
        core: Core,
        count: int,
        gate: Matrix | None,
        up: Matrix,
        down: Matrix,
        activation: ActivationType,
        *,
        down_layout: str = "output",
        parameter: float = 0.0,
        biases: tuple[FloatArray | None, FloatArray | None, FloatArray | None] | None = None,
    ) -> None:
        handle = core.open(
            "sf_experts_open",
            core.context,
            count,
            gate.handle if gate is not None else None,
            up.handle,
            down.handle,
            DOWN_LAYOUTS[down_layout],
            activation.code,
            parameter,
            what=f"{count} experts of {up!r}",
        )
        super().__init__(core, handle, "sf_experts_close")
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.matrices = (gate, up, down)
        self.activation = activation
        self.count = count
        self.hidden = up.rows // 2 if gate is up else up.rows
        self.width = self.hidden // count
        self.down_layout = down_layout
        self.predictor = None
        self.predictors: list[LowRankPredictor] = []  # of a calibrated layer, one an expert
        self.cutoff = self.product_cutoff = 0.0
        if biases is not None:
            pointers = [None if each is None else core.inp(each) for each in biases]
            core.check("sf_experts_set_bias", handle, *pointers, what="biases of experts")

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(each.nbytes for each in {*self.matrices} if each is not None)

    def set_predictors(self, predictors: list[LowRankPredictor]) -> None:
        """Gives each expert its own, which sparse mode asks for its neurons."""
        attach_predictors(self, predictors)
        self.predictors = predictors

    @locked
    def set_cutoff(self, cutoff: float, on: str = "gate") -> None:
        """Leaves out neurons as `SparseFfn.set_cutoff` does, in every expert."""
        self.core.check("sf_experts_set_cutoff", self.handle, _CUTOFFS[on], cutoff, what="cutoff")
        if on == "gate":
            self.cutoff = cutoff
        else:
            self.product_cutoff = cutoff

    def __repr__(self) -> str:
        return f"<ExpertsFfn: {self.count} × {self.width} neurons, {self.activation}>"


def read_experts(core: Core, file: GgufFile, layer: ExpertLayer) -> ExpertsFfn:
    """The experts of a model file. The down matrices of ReLU-like ones are transposed, as skipping
    neurons needs it. Errors: `ModelFileError`, `UnsupportedError`, `NotFiniteError`,
    `CoreMemoryError`."""
    gate = read_matrix(core, file, f"{layer.gate}.weight") if layer.gate else None
    up = gate if layer.gate == layer.up else read_matrix(core, file, f"{layer.up}.weight")
    assert up is not None
    biases = None
    if layer.biases:
        names = [layer.gate, layer.up, layer.down]
        gate_bias, up_bias, down_bias = (
            None if name is None else read_vector(file, f"{name}.bias", 2) for name in names
        )
        biases = (gate_bias, up_bias, down_bias)
    name, layout = f"{layer.down}.weight", "output"
    if layer.activation.is_relu_family:
        layout = "neuron"
        parts = [rows_by_neuron(core, file, name, expert) for expert in range(layer.count)]
        rows = np.concatenate([each[0] for each in parts])
        _, kind, (width, d) = parts[0]
        down = Matrix(core, core.upload(rows), kind, layer.count * width, d)
    else:
        down = read_matrix(core, file, name)
    experts = ExpertsFfn(
        core,
        layer.count,
        gate,
        up,
        down,
        layer.activation,
        down_layout=layout,
        parameter=layer.parameter,
        biases=biases,
    )
    set_up_parameter(experts, layer)
    set_scales(experts, file, layer)
    experts.set_predictors(read_expert_predictors(core, file, layer))
    return experts
