"""Feed-forward layers that compute only the neurons that matter."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._options import checked, count, flag, instance, number, optional, path, share, text
from ..arch.read import upload_tensor
from ..core.core import Core
from ..core.handle import locked
from ..core.hosts import get_core
from ..errors import ArgumentError, ShapeError, UnsupportedError
from ..weights.activation import ActivationType
from ..weights.formats import WeightFormat, format_name, weight_format
from ..weights.matrix import Matrix, bundle_views
from ..weights.quantized import QuantizedWeights, quantize_rows
from .base import FfnLayer
from .bundles import BundleFile, Source, write_bundles
from .core_layer import CoreFfn
from .cutoff import CutoffReport, calibrate_cutoff
from .files import read_predictor
from .forward import ActiveRequest, NeuronCounts, chosen_mode
from .predictor import InCorePredictor, Predictor

Weights = npt.ArrayLike | QuantizedWeights


def bundle(core: Core, parts: Sequence[QuantizedWeights]) -> list[Matrix]:
    """Interleaves the rows of ``parts`` (all with the same number of rows), so that row i of every
    part is contiguous with the others, and returns the strided views."""
    memory = core.upload(np.concatenate([part.packed for part in parts], axis=1))
    columns = [(part.format, part.shape[1]) for part in parts]
    return bundle_views(core, memory, parts[0].shape[0], columns)


def _weights(value: Weights, name: str, meaning: str) -> Weights:
    """A checked weight argument: a float32 (rows, columns) array, or `QuantizedWeights`."""
    return value if isinstance(value, QuantizedWeights) else _arrays.matrix(value, name, meaning)


def _shape(value: Weights) -> tuple[int, int]:
    rows, columns = value.shape if isinstance(value, QuantizedWeights) else np.shape(value)
    return int(rows), int(columns)


def _packed(
    value: Weights, kind: WeightFormat, core: Core, turned: bool, name: str
) -> QuantizedWeights:
    """Weight argument ``name`` in format ``kind``, transposed if ``turned``."""
    if isinstance(value, QuantizedWeights):
        if value.format == kind.name and not turned:
            return value
        value = value.dequantize(core)
    array = np.asarray(value)
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name}: NaN or infinity in {array.shape} weights")
    array = array.T if turned else array
    return QuantizedWeights(quantize_rows(array, kind, core, name), kind, array.shape)


class SparseFfn(FfnLayer):
    """A feed-forward layer, y = w2 · act(w1 · x + b1) + b2, or with a ``gate``
    y = w2 · (act(gate · x + gate_bias) ∘ (w1 · x + b1)) + b2.

    Shapes: w1 (hidden, input), w2 (output, hidden), gate (hidden, input), b1 and gate_bias
    (hidden,), b2 (output,); arrays of any real dtype and strides, or `QuantizedWeights`. ``format``
    is the weight format, one of `sparsefire.weights.quantized.FORMATS`; by default that of ``w1``
    if it is quantised, or else f32. The matrices are stored neuron by neuron, so ``w2`` is
    transposed (and requantised if it is quantised, see `QuantizedWeights.transpose`). ``parameter``
    is the threshold of the activation "fatrelu", or the limit of one that has a limit.

    Several threads may use a layer: calls wait for each other, and `counts` is of the last one,
    whichever thread made it.

    Errors: `ShapeError` naming the argument, `FormatError`, `ArgumentError`.
    """

    _core_ffn: CoreFfn

    @checked(
        activation=ActivationType.of,
        format=format_name,
        parameter=number,
        predictor=instance(InCorePredictor),
        core=instance(Core),
    )
    def __init__(
        self,
        w1: Weights,
        w2: Weights,
        activation: str | ActivationType = "relu",
        *,
        gate: Weights | None = None,
        b1: npt.ArrayLike | None = None,
        b2: npt.ArrayLike | None = None,
        gate_bias: npt.ArrayLike | None = None,
        format: str | None = None,
        parameter: float = 0.0,
        predictor: InCorePredictor | None = None,
        core: Core | None = None,
    ) -> None:
        core = core or get_core()
        if format is None:
            format = w1.format if isinstance(w1, QuantizedWeights) else "f32"
        kind = weight_format(format)
        up = _weights(w1, "w1", "(hidden, input)")
        down = _weights(w2, "w2", "(output, hidden)")
        hidden, d_in = _shape(up)
        if _shape(down)[1] != hidden:
            raise ShapeError(
                f"w2: expected shape (output, {hidden}) for w1 {_shape(up)}, got {_shape(down)}"
            )
        if gate is not None:
            gate = _weights(gate, "gate", "(hidden, input)")
            if _shape(gate) != (hidden, d_in):
                raise ShapeError(f"gate: expected shape {(hidden, d_in)}, got {_shape(gate)}")
        if b1 is not None:
            b1 = _arrays.vector(b1, hidden, "b1")
        if b2 is not None:
            b2 = _arrays.vector(b2, _shape(down)[0], "b2")
        rows = ((gate, "gate"), (up, "w1"))
        parts = [_packed(each, kind, core, False, name) for each, name in rows if each is not None]
        views = bundle(core, [*parts, _packed(down, kind, core, True, "w2")])
        self._core_ffn = CoreFfn(
            core,
            None if gate is None else views[0],
            views[-2],
            views[-1],
            activation=activation,
            down_layout="neuron",
            parameter=parameter,
        )
        self._finish(gate_bias, b1, b2, predictor)

    @classmethod
    def from_matrices(
        cls,
        core: Core,
        gate: Matrix | None,
        up: Matrix,
        down: Matrix,
        *,
        activation: str | ActivationType,
        down_layout: str = "neuron",
        parameter: float = 0.0,
        gate_bias: npt.ArrayLike | None = None,
        up_bias: npt.ArrayLike | None = None,
        down_bias: npt.ArrayLike | None = None,
        predictor: InCorePredictor | None = None,
    ) -> SparseFfn:
        """A layer of matrices that are already in core memory: gate and up (hidden, input), down
        (hidden, output) with ``down_layout`` "neuron", or (output, hidden) with "output", which
        every pass reads completely."""
        self = cls.__new__(cls)
        self._core_ffn = CoreFfn(
            core,
            gate,
            up,
            down,
            activation=activation,
            down_layout=down_layout,
            parameter=parameter,
        )
        self._finish(gate_bias, up_bias, down_bias, predictor)
        return self

    def _finish(
        self,
        gate_bias: npt.ArrayLike | None,
        up_bias: npt.ArrayLike | None,
        down_bias: npt.ArrayLike | None,
        predictor: InCorePredictor | None,
    ) -> None:
        if any(bias is not None for bias in (gate_bias, up_bias, down_bias)):
            self._core_ffn.set_bias(gate_bias, up_bias, down_bias)
        self.lock = threading.RLock()  # a model's layers share its lock
        self.set_predictor(predictor)
        self.counts = NeuronCounts.of((), ())

    @property
    def hidden(self) -> int:
        """Number of neurons."""
        return self._core_ffn.hidden

    @property
    def d_in(self) -> int:
        """Elements of an input vector."""
        return self._core_ffn.d_in

    @property
    def d_out(self) -> int:
        """Elements of an output vector."""
        return self._core_ffn.d_out

    @property
    def activation(self) -> ActivationType:
        """The activation function."""
        return self._core_ffn.activation

    @property
    def format(self) -> str:
        """Weight format; "mixed" if the matrices differ."""
        ffn = self._core_ffn
        formats = {each.format for each in (ffn.gate, ffn.up, ffn.down) if each is not None}
        return formats.pop() if len(formats) == 1 else "mixed"

    @property
    def gated(self) -> bool:
        """True if the layer has a gate matrix."""
        return self._core_ffn.gate is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight matrices."""
        ffn = self._core_ffn
        return sum(each.nbytes for each in (ffn.gate, ffn.up, ffn.down) if each is not None)

    @property
    def matrices(self) -> tuple[Matrix | None, Matrix, Matrix]:
        """The gate (or None), up and down matrices; down in the layout `down_layout`."""
        return self._core_ffn.gate, self._core_ffn.up, self._core_ffn.down

    @property
    def biases(
        self,
    ) -> tuple[_arrays.FloatArray | None, _arrays.FloatArray | None, _arrays.FloatArray | None]:
        """The biases of gate and up (hidden,) and of down (output,), or None for each."""
        ffn = self._core_ffn
        return ffn.gate_bias, ffn.up_bias, ffn.down_bias

    @property
    def parameter(self) -> float:
        """The threshold of the activation "fatrelu", or the limit of one that has a limit; 0 for
        others."""
        return self._core_ffn.parameter

    @property
    def up_parameter(self) -> float:
        """The limit of what beside a gate becomes of up, see `set_up_parameter`."""
        return self._core_ffn.up_parameter

    @locked
    @checked(parameter=number)
    def set_up_parameter(self, parameter: float) -> None:
        """Sets the limit of what beside a gate becomes of up, where it is another one than the
        gate's, as in Kimi K3. `ArgumentError` for a layer without a gate."""
        self._core_ffn.set_up_parameter(parameter)

    @property
    def down_layout(self) -> str:
        """ "neuron" if down has one row per neuron, "output" if it has one row per output."""
        return self._core_ffn.down_layout

    @property
    def second_down(self) -> Matrix | None:
        """See `set_second_down`."""
        return self._core_ffn.second_down

    @locked
    @checked(down=optional(instance(Matrix)))
    def set_second_down(self, down: Matrix | None) -> None:
        """Adds the down matrix in the other layout: (output, hidden) if `down_layout` is "neuron",
        (hidden, output) if it is "output". Each pass uses the one that is estimated to be faster,
        based on the numbers of neurons and vectors; a dense pass uses (output, hidden). Results
        differ by rounding. None removes it. Raises `ShapeError`."""
        self._core_ffn.set_second_down(down)

    @property
    def both_active(self) -> bool:
        """See `set_both_active`."""
        return self._core_ffn.both_active

    @locked
    @checked(both=flag)
    def set_both_active(self, both: bool) -> None:
        """With True, the activation is applied to the products of w1 too: act(gate · x) ∘
        act(w1 · x), as in dReLU (Song et al. 2024). `ArgumentError` for a layer without a gate."""
        self._core_ffn.set_both_active(both)

    @property
    def gate_deviations(self) -> float:
        """See `set_gate_deviations`."""
        return self._core_ffn.gate_deviations

    @locked
    @checked(deviations=number)
    def set_gate_deviations(self, deviations: float) -> None:
        """Cuts the gates of each vector by how they are spread, as Gemma 3n does (Google 2025):
        max(g - mean - ``deviations`` · standard deviation, 0) before the activation, so that about
        the same share of neurons fires for every vector; 1.645 leaves 5 % of normally distributed
        ones. Every gate is needed for it, so there is no predictor beside it. 0 undoes it.

        Errors: `ArgumentError` (negative, or a layer without a gate), `UnsupportedError` (a layer
        with a predictor)."""
        self._core_ffn.set_gate_deviations(deviations)

    @property
    def sub_norm(self) -> _arrays.FloatArray | None:
        """The weights of `set_sub_norm`, or None."""
        return self._core_ffn.sub_norm

    @locked
    @checked(epsilon=number)
    def set_sub_norm(self, weight: npt.ArrayLike | None, epsilon: float = 1e-5) -> None:
        """Applies an RMS norm with these weights (hidden,) to act(gate · x) ∘ (w1 · x) before w2,
        as in BitNet b1.58 (Ma et al. 2025); None removes it. In sparse mode skipped neurons count
        as zeros. Raises `ShapeError`, `ArgumentError`, `NotFiniteError`."""
        values = None if weight is None else _arrays.vector(weight, self.hidden, "weight")
        self._core_ffn.set_sub_norm(values, epsilon)

    @checked(max_error=share, on=text, seed=count)
    def calibrate_cutoff(
        self,
        samples: npt.ArrayLike,
        max_error: float = 0.05,
        *,
        on: str = "product",
        seed: int = 0,
    ) -> CutoffReport:
        """Sets the largest cutoff for which the output error of exact mode, ‖difference‖ /
        ‖dense output‖, is at most ``max_error`` over a random 4 in 5 of the samples (n, input), and
        reports on the others.

        This makes layers sparse whose activation has no exact zeros. ``on`` "product" sets
        `product_cutoff` and skips the neurons that contribute least, but computes gate and up of
        all neurons, so that at most a third of the weights is saved. "gate" sets `cutoff`, which
        saves up too, and skips fewer neurons for the same error (CATS; Lee et al. 2024). The other
        cutoff is not changed.

        Errors: `CalibrationError` (too few samples), `ShapeError`, `ArgumentError`,
        `NotFiniteError`.
        """
        return calibrate_cutoff(self, samples, max_error, on, seed)

    def forward(
        self,
        x: npt.ArrayLike,
        predictor: Predictor | None = None,
        *,
        mode: str | None = None,
        out: npt.NDArray[np.floating] | None = None,
    ) -> npt.NDArray[np.floating]:
        """The layer's output (output,) for x (input,), or (n, output) for (n, input), float32 or
        written to ``out``.

        ``mode`` "dense" computes every neuron, "exact" skips those whose activation is zero, and
        "sparse" computes those that ``predictor`` (or else the attached one) selects. The default
        is sparse with a predictor, otherwise exact for the ReLU family or with a cutoff, otherwise
        dense. A predictor is any object with a ``predict`` method; those of this package run inside
        the core. Afterwards `counts` has the number of neurons computed.

        Errors: `ShapeError`, `ArgumentError`, `NotFiniteError` (NaN or infinity in ``x``).
        """
        with self.lock:  # as `locked`, without a further call for each vector
            ffn = self._core_ffn
            attached = ffn.predictor
            chosen = attached if predictor is None else predictor
            mode = chosen_mode(mode, chosen, self._mode_without_predictor)
            values, single = _arrays.vectors(x, self.d_in)
            attached_is_used = mode != "sparse" or chosen is attached
            if not attached_is_used and not isinstance(chosen, InCorePredictor):
                assert chosen is not None
                given = values[0] if single else values
                return self.forward_sparse(given, chosen.predict(given), out=out)
            result = _arrays.Result(len(values), self.d_out, single, out, values)
            if attached_is_used:
                ffn.set_predictor(attached)  # it may have been recalibrated
                self.counts = ffn.forward(mode, values, result.buffer)
                return result.finish()
            assert isinstance(chosen, InCorePredictor)
            self.set_predictor(chosen)
            try:
                self.counts = ffn.forward(mode, values, result.buffer)
            finally:
                ffn.set_predictor(attached)
            return result.finish()

    def _mode_without_predictor(self) -> str:
        ffn = self._core_ffn
        zeros = self.activation.is_relu_family or ffn.gate_deviations or any(ffn.cutoffs.values())
        return "exact" if zeros else "dense"

    @locked
    def forward_sparse(
        self,
        x: npt.ArrayLike,
        active: npt.ArrayLike | Sequence[npt.ArrayLike],
        *,
        out: npt.NDArray[np.floating] | None = None,
    ) -> npt.NDArray[np.floating]:
        """The output of only the neurons ``active``: ids in any order, or a boolean mask
        (hidden,); for x (n, input) a list of n of them. For an empty set the output is ``b2``, or
        zeros.

        Errors: `ShapeError`, `ArgumentError` (an id out of range), `NotFiniteError`.
        """
        request = ActiveRequest(x, active, self.d_in, self.hidden, self.d_out, out)
        rows = zip(request.x, request.ids, request.result.buffer, strict=True)
        used = [self._core_ffn.forward_active(ids, vector, y) for vector, ids, y in rows]
        return request.finish(self, used)

    @checked(path=path)
    def save_bundles(self, path: str | os.PathLike[str]) -> None:
        """Writes weights and biases to a GGUF file, neuron by neuron, from which `CachedFfn` reads
        single neurons. The predictor is not included.

        Errors: `UnsupportedError` (mixed formats, or down by output), `BackendError` (the gguf
        package is not installed), OSError.
        """
        matrices = [each for each in self.matrices if each is not None]
        if self.down_layout != "neuron":
            raise UnsupportedError(
                "the layer's down matrix has one row per output, so neurons are not contiguous: "
                "create the layer with SparseFfn(w1, w2, …), which transposes w2"
            )
        apart = self.both_active or self.up_parameter != self.parameter
        if self.sub_norm is not None or apart or self.gate_deviations:
            raise UnsupportedError(
                "a layer with a norm before its down matrix, with both gate and up activated, with "
                "another limit for up, or with gates that are cut by their deviation cannot be "
                "saved by itself"
            )
        if any(each.scale != 1 for each in matrices):
            raise UnsupportedError("a layer whose matrices have scales cannot be saved by itself")
        if self.format == "mixed":
            formats = ", ".join(each.format for each in matrices)
            raise UnsupportedError(f"a bundle has one weight format, but the layer has {formats}")
        write_bundles(path, matrices, self.biases, self.activation, self.parameter)

    @classmethod
    @checked(layer=count, activation=ActivationType.of, core=instance(Core))
    def load(
        cls,
        source: Source,
        *,
        layer: int = 0,
        activation: str | ActivationType | None = None,
        core: Core | None = None,
    ) -> SparseFfn:
        """Loads a file written by `save_bundles`, or layer ``layer`` of a model written by
        `sparsefire calibrate` with its predictor, into memory. Arguments and errors as
        `CachedFfn.open`."""
        core = core or get_core()
        file = BundleFile(source, layer, activation)
        try:
            shape = file.shape
            memory = upload_tensor(core, file.header, file.tensor)
            columns = [shape.d_in] * (1 + file.gated) + [shape.d_out]
            parts = [(file.format, each) for each in columns]
            views = bundle_views(core, memory, shape.hidden, parts)
            ffn = cls.from_matrices(
                core,
                views[0] if file.gated else None,
                views[-2],
                views[-1],
                activation=shape.activation,
                parameter=shape.parameter,
                predictor=read_predictor(core, file.header, layer, shape.hot),
                gate_bias=file.biases.get("gate_bias"),
                up_bias=file.biases.get("up_bias"),
                down_bias=file.biases.get("down_bias"),
            )
            if shape.both_active:
                ffn.set_both_active(True)
            for on, cutoff in shape.cutoffs:
                ffn.set_cutoff(cutoff, on)
            return ffn
        finally:
            file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        ffn = self._core_ffn
        matrices = (ffn.gate, ffn.up, ffn.down, ffn.second_down)
        weights = [each and each.weights() for each in matrices[:3]]
        scales = tuple(each.scale if each else 1.0 for each in matrices)
        options = {
            "activation": str(self.activation),
            "down_layout": self.down_layout,
            "parameter": self.parameter,
        }
        second = ffn.second_down and ffn.second_down.weights()
        norm = ffn.sub_norm, ffn.sub_norm_epsilon
        extras = (ffn.both_active, ffn.up_parameter, ffn.gate_deviations, *norm, second)
        state = (weights, scales, self.biases, extras, options, dict(ffn.cutoffs), self.predictor)
        return _unpickled, state

    def __repr__(self) -> str:
        gate = ", gated" if self.gated else ""
        return (
            f"SparseFfn({self.d_in}→{self.hidden}→{self.d_out}{gate}, {self.activation}, "
            f"{self.format}, {self.nbytes:,} bytes)"
        )


def _unpickled(
    weights: tuple[QuantizedWeights | None, QuantizedWeights, QuantizedWeights],
    scales: tuple[float, float, float, float],
    biases: tuple[_arrays.FloatArray | None, ...],
    extras: tuple[bool, float, float, _arrays.FloatArray | None, float, QuantizedWeights | None],
    options: dict[str, Any],
    cutoffs: dict[str, float],
    predictor: InCorePredictor | None,
) -> SparseFfn:
    """A pickled layer, in the current core; ``options`` as of `SparseFfn.from_matrices`."""
    core = get_core()
    gate, up, down = weights
    if options["down_layout"] == "neuron":
        parts = [each for each in weights if each is not None]
        views = bundle(core, parts)
        matrices = (views[0] if gate else None, views[-2], views[-1])
    else:
        first = Matrix.from_array(gate, core=core) if gate else None
        matrices = (first, Matrix.from_array(up, core=core), Matrix.from_array(down, core=core))
    for matrix, scale in zip(matrices, scales, strict=False):
        if matrix is not None:
            matrix.set_scale(scale)
    gate_bias, up_bias, down_bias = biases
    layer = SparseFfn.from_matrices(
        core,
        *matrices,
        gate_bias=gate_bias,
        up_bias=up_bias,
        down_bias=down_bias,
        predictor=predictor,
        **options,
    )
    both_active, up_parameter, deviations, sub_norm, epsilon, second_down = extras
    if both_active:
        layer.set_both_active(True)
    if up_parameter != layer.parameter:
        layer.set_up_parameter(up_parameter)
    layer.set_gate_deviations(deviations)
    layer.set_sub_norm(sub_norm, epsilon)
    if second_down is not None:
        layer.set_second_down(Matrix.from_array(second_down, core=core).set_scale(scales[3]))
    for on, cutoff in cutoffs.items():
        layer.set_cutoff(cutoff, on)
    return layer
