"""A feed-forward layer in the core, over matrices that are in core memory already."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..core.core import Core
from ..core.enums import Cutoff, DownLayout
from ..core.handle import CoreObject
from ..errors import ArgumentError, ShapeError
from ..weights.activation import ActivationType
from ..weights.matrix import Matrix
from .forward import MODES, NeuronCounts
from .predictor import CorePredictor, InCorePredictor

DOWN_LAYOUTS = {"neuron": DownLayout.DOWN_BY_NEURON, "output": DownLayout.DOWN_BY_OUTPUT}
CUTOFFS = {"gate": Cutoff.CUTOFF_GATE, "product": Cutoff.CUTOFF_PRODUCT}


class CoreLayer(CoreObject):
    """A feed-forward layer in the core, wherever its weights are: its predictor and cutoffs."""

    def __init__(self, core: Core, handle: int) -> None:
        super().__init__(core, handle, "sf_ffn_close")
        self.predictor: InCorePredictor | None = None
        self.cutoffs = dict.fromkeys(CUTOFFS, 0.0)
        self._attached: CorePredictor | None = None  # borrowed by the handle

    def set_predictor(self, predictor: InCorePredictor | None) -> None:
        """Attaches ``predictor``, or none."""
        # A recalibrated predictor is a new object in the core.
        wanted = None if predictor is None else predictor.in_core
        if wanted is not self._attached:
            handle = None if wanted is None else wanted.handle
            self.core.check(
                "sf_ffn_set_predictor", self.handle, handle, what="attaching a predictor"
            )
            self._attached = wanted
        self.predictor = predictor

    def set_cutoff(self, cutoff: float, on: str) -> None:
        """See `FfnLayer.set_cutoff`."""
        if on not in CUTOFFS:
            raise ArgumentError(f"on {on!r}: expected 'gate' or 'product'")
        what = f"cutoff {cutoff}"
        self.core.check("sf_ffn_set_cutoff", self.handle, CUTOFFS[on], cutoff, what=what)
        self.cutoffs[on] = cutoff


class CoreFfn(CoreLayer):
    """A feed-forward layer in the core, over matrices in core memory."""

    def __init__(
        self,
        core: Core,
        gate: Matrix | None,
        up: Matrix,
        down: Matrix,
        *,
        activation: str | ActivationType,
        down_layout: str,
        parameter: float,
    ) -> None:
        if down_layout not in DOWN_LAYOUTS:
            raise ArgumentError(f"down_layout {down_layout!r}: expected 'neuron' or 'output'")
        by_neuron = down_layout == "neuron"
        self.activation = ActivationType(activation)
        if not 0 <= parameter < float("inf"):
            raise ArgumentError(
                f"parameter: a threshold or limit is 0 or more, and finite, got {parameter}"
            )
        if parameter == 0 and self.activation.has_limit:
            raise ArgumentError(f"parameter: {self.activation} has a limit, which is above 0")
        self.parameter = self.up_parameter = parameter
        self.hidden, self.d_in = up.shape
        self.d_out = down.columns if by_neuron else down.rows
        if gate is not None and gate.shape != up.shape:
            raise ShapeError(f"gate {gate.shape} and up {up.shape} must have one shape")
        if (down.rows if by_neuron else down.columns) != self.hidden:
            wanted = f"({self.hidden}, output)" if by_neuron else f"(output, {self.hidden})"
            raise ShapeError(f"down: expected shape {wanted} for up {up.shape}, got {down.shape}")
        handle = core.open(
            "sf_ffn_open",
            core.context,
            None if gate is None else gate.handle,
            up.handle,
            down.handle,
            DOWN_LAYOUTS[down_layout],
            self.activation.code,
            float(parameter),
            what=f"feed-forward layer, up {up.shape}, down {down.shape}",
        )
        super().__init__(core, handle)
        self.gate, self.up, self.down = gate, up, down
        self.second_down: Matrix | None = None
        self.down_layout = down_layout
        self.both_active = False
        self.gate_deviations = 0.0
        self.sub_norm: _arrays.FloatArray | None = None
        self.sub_norm_epsilon = 0.0
        self.gate_bias: _arrays.FloatArray | None = None
        self.up_bias: _arrays.FloatArray | None = None
        self.down_bias: _arrays.FloatArray | None = None

    def set_bias(
        self,
        gate_bias: npt.ArrayLike | None,
        up_bias: npt.ArrayLike | None,
        down_bias: npt.ArrayLike | None,
    ) -> None:
        """Sets the biases: gate_bias and up_bias (hidden,), down_bias (d_out,); None for none."""
        if gate_bias is not None and self.gate is None:
            raise ArgumentError("gate_bias: the layer has no gate")
        sizes = (self.hidden, self.hidden, self.d_out)
        names = ("gate_bias", "up_bias", "down_bias")
        given = (gate_bias, up_bias, down_bias)
        biases = [
            None if bias is None else _arrays.vector(bias, size, name).copy()
            for bias, size, name in zip(given, sizes, names, strict=True)
        ]
        arguments = [None if bias is None else self.core.inp(bias) for bias in biases]
        self.core.check("sf_ffn_set_bias", self.handle, *arguments, what="feed-forward biases")
        self.gate_bias, self.up_bias, self.down_bias = biases

    def set_second_down(self, down: Matrix | None) -> None:
        """See `SparseFfn.set_second_down`."""
        handle = None if down is None else down.handle
        what = f"second down matrix {down}"
        self.core.check("sf_ffn_set_second_down", self.handle, handle, what=what)
        self.second_down = down

    def set_both_active(self, both: bool) -> None:
        """See `SparseFfn.set_both_active`."""
        self.core.check("sf_ffn_set_both_active", self.handle, int(both), what="both active")
        self.both_active = both

    def set_up_parameter(self, parameter: float) -> None:
        """See `SparseFfn.set_up_parameter`."""
        what = f"parameter {parameter} of up"
        self.core.check("sf_ffn_set_up_parameter", self.handle, parameter, what=what)
        self.up_parameter = parameter

    def set_gate_deviations(self, deviations: float) -> None:
        """See `SparseFfn.set_gate_deviations`."""
        if deviations and self.gate is None:
            raise ArgumentError("deviations: the layer has no gate")
        if self.gate is not None:
            what = f"gates cut at {deviations} standard deviations"
            self.core.check("sf_ffn_set_gate_deviations", self.handle, deviations, what=what)
        self.gate_deviations = deviations

    def set_sub_norm(self, weight: _arrays.FloatArray | None, epsilon: float) -> None:
        """See `SparseFfn.set_sub_norm`."""
        values = None if weight is None else _arrays.vector(weight, self.hidden, "sub_norm")
        given = None if values is None else self.core.inp(values)
        self.core.check("sf_ffn_set_sub_norm", self.handle, given, epsilon, what="sub_norm")
        self.sub_norm, self.sub_norm_epsilon = values, epsilon

    def forward(self, mode: str, x: _arrays.FloatArray, y: _arrays.FloatArray) -> NeuronCounts:
        """Fills y (n, d_out) from x (n, d_in)."""
        n, core = len(x), self.core
        selected, active = np.empty(n, np.int32), np.empty(n, np.int32)
        if n:
            status = core.call(
                "sf_ffn_forward",
                self.handle,
                MODES[mode],
                core.inp(x),
                n,
                core.out(y),
                core.out(selected),
                core.out(active),
            )
            if status < 0:
                raise core.error(status, f"{mode} forward of {n} vectors")
        return NeuronCounts(selected, active)

    def forward_active(
        self, ids: _arrays.IntArray, x: _arrays.FloatArray, y: _arrays.FloatArray
    ) -> int:
        """Fills y (d_out) from x (d_in) with the neurons ``ids``, ascending and unique, and returns
        how many of them were active."""
        return self.core.check(
            "sf_ffn_forward_active",
            self.handle,
            self.core.inp(ids),
            len(ids),
            self.core.inp(x),
            self.core.out(y),
            what=f"forward with {len(ids)} neurons",
        )


def check_predictor(predictor: InCorePredictor, core: Core, d_in: int, hidden: int) -> None:
    """Refuses a predictor of another core, or for a layer of other sizes."""
    if predictor.core is not core:
        raise ArgumentError(
            f"the predictor is in {predictor.core!r} and the layer in {core!r}: create both with "
            f"the same backend"
        )
    wanted, got = (d_in, hidden), (predictor.input_dim, predictor.hidden_dim)
    if wanted != got:
        raise ShapeError(
            f"predictor: expected {wanted[0]} inputs and {wanted[1]} neurons, "
            f"got {got[0]} and {got[1]}"
        )
