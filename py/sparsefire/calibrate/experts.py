"""Predictors inside experts: each expert of ReLU's kind gets its own, fitted on the tokens that its
router sends to it. Routers, shared experts and dense layers stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..arch.plan import ExpertLayer
from ..ffn.experts import ExpertsFfn
from ..ffn.factors import Factors
from ..ffn.layer import SparseFfn
from ..fit.blas import in_parallel
from ..fit.layers import FitOptions, LayerFit, LayerReport, fit_layer, predictor_format
from ..fit.predictor_fit import Split
from ..gguf.writer import TensorData, Writable
from ..lm.model import Model
from ..weights.quantized import quantize_rows
from .samples import Windows

_FEWEST = (64, 16, 16)  # tokens of an expert to fit on, tune on, and hold out
_SAMPLE_BYTES = 2 << 30  # of inputs, all layers together


@dataclass(frozen=True)
class RoutedLayer:
    """A layer of experts that can have predictors. `place`: its number in the plan."""

    place: int
    layer: ExpertLayer
    experts: ExpertsFfn

    def split(self) -> list[SparseFfn]:
        """Each expert as a layer of its own, over the same weights."""
        count = self.layer.count
        parts = [[None] * count if m is None else m.parts(count) for m in self.experts.matrices]
        layers = []
        for gate, up, down in zip(*parts, strict=True):
            assert up is not None
            assert down is not None
            layers.append(
                SparseFfn.from_matrices(
                    self.experts.core,
                    gate,
                    up,
                    down,
                    activation=self.layer.activation,
                    down_layout=self.experts.down_layout,
                )
            )
        return layers


def routed_layers(model: Model) -> list[RoutedLayer]:
    """The layers of experts whose neurons are exactly 0 for many tokens: with a usual name, on
    inputs as wide as the stream, and without biases."""
    found = []
    for place, layer in enumerate(model.session.model.plan.layers):
        experts = model.layers[place]
        if not isinstance(layer, ExpertLayer) or not isinstance(experts, ExpertsFfn):
            continue
        wide = experts.matrices[1].columns == model.config.d
        if layer.usual and layer.skips and wide and not layer.biases:
            found.append(RoutedLayer(place, layer, experts))
    return found


@dataclass(frozen=True)
class Routed:
    """Inputs (tokens, d) of one layer in random order, which experts each token went to, bool
    (tokens, count), and its use (tokens), as `Windows.kinds` numbers them."""

    inputs: FloatArray
    chosen: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.intp]

    def of(self, expert: int) -> Split | None:
        """The inputs of an expert, or None if they are too few."""
        mine = self.chosen[:, expert]
        parts = [
            np.ascontiguousarray(self.inputs[mine & (self.kinds == kind)]) for kind in (0, 1, 2)
        ]
        if any(len(part) < least for part, least in zip(parts, _FEWEST, strict=True)):
            return None
        return Split(*parts)


def most_tokens(model: Model, layers: Sequence[RoutedLayer]) -> int:
    """How many tokens there is memory for."""
    return _SAMPLE_BYTES // (4 * len(layers) * model.config.d)


def record(
    model: Model,
    layers: Sequence[RoutedLayer],
    windows: Windows,
    seed: int,
    announce: Callable[[float], object],
) -> list[Routed]:
    """Runs the windows through the model token by token. A token went to the experts of which a
    neuron fired."""
    (count, length), d = windows.all.shape, model.config.d
    inputs = np.empty((len(layers), count, length, d), np.float32)
    chosen = [np.zeros((count, length, each.layer.count), np.bool_) for each in layers]
    places = [each.place for each in layers]
    for index, window in enumerate(windows.all):
        with contextlib.closing(model.new_session(length)) as session:
            session.rewind(0, "exact")
            activity = session.watch()
            for token in range(length):
                found = session.ffn_inputs(window[token : token + 1])
                inputs[:, index, token] = found[0, places]
                fired = activity.take()
                for into, each in zip(chosen, layers, strict=True):
                    neurons = fired[each.place, : each.layer.hidden]
                    into[index, token] = neurons.reshape(each.layer.count, -1).any(1)
        announce((index + 1) / count)
    order = np.random.default_rng(seed).permutation(count * length)
    kinds = np.repeat(windows.kinds, length)[order]
    return [
        Routed(each.reshape(-1, d)[order], went.reshape(count * length, -1)[order], kinds)
        for each, went in zip(inputs, chosen, strict=True)
    ]


@dataclass(frozen=True)
class ExpertFits:
    """The predictors of a layer's experts, in the order of its neurons: those of experts without
    one select all of them."""

    factors: list[Factors] | None  # None: the layer has none
    format: str
    report: LayerReport

    def tensors(self, layer: ExpertLayer) -> dict[str, Writable]:
        """For the new file."""
        if self.factors is None:
            return {}
        found: dict[str, Writable] = {}
        for name in ("p", "q"):
            whole = np.stack([getattr(each, name) for each in self.factors])
            packed = quantize_rows(whole.reshape(-1, whole.shape[-1]), self.format)
            data = TensorData(self.format, whole.shape, packed.reshape(-1))
            found[layer.predictor(f"{name}.weight")] = data
        found[layer.predictor("bias")] = np.stack([each.bias for each in self.factors])
        return found


def fit_experts(routed: RoutedLayer, data: Routed, options: FitOptions) -> ExpertFits:
    """Fits the experts of a layer. All predictors have the rank that reads least for the expert
    that most tokens go to; if it gains nothing, the layer has none."""
    busiest = np.argsort(-data.chosen.sum(0), kind="stable").tolist()
    fits: dict[int, LayerFit] = {}
    experts, rank = routed.split(), options.rank

    def fit(expert: int) -> None:
        samples, block = data.of(expert), routed.layer.block
        if samples is not None:
            own = replace(options, rank=rank, hot=False)
            fits[expert] = fit_layer(block, experts[expert], samples, own)

    fit(busiest[0])
    if busiest[0] in fits and fits[busiest[0]].factors is not None:
        rank = fits[busiest[0]].report.rank
        in_parallel(fit, busiest[1:])
    kind = predictor_format(rank or 1, experts[0].d_in, options.predictor)
    report = _summed(routed, data, fits)
    if report.fallback:
        return ExpertFits(None, kind, report)
    shape = routed.layer.width, experts[0].d_in, report.rank
    found = [_in_order(fits.get(expert), *shape) for expert in range(routed.layer.count)]
    return ExpertFits(found, kind, report)


def _in_order(fit: LayerFit | None, width: int, d: int, rank: int) -> Factors:
    """The factors in the order of the neurons in the file; without any, all scores are 1."""
    p, q = np.zeros((rank, d), np.float32), np.zeros((width, rank), np.float32)
    bias = np.ones(width, np.float32)
    if fit is None or fit.factors is None:
        return Factors(p, q, bias)
    q[fit.order], bias[fit.order] = fit.factors.q, fit.factors.bias
    return Factors(fit.factors.p, q, bias)


def _summed(routed: RoutedLayer, data: Routed, fits: dict[int, LayerFit]) -> LayerReport:
    """The report of a layer: the means over its fitted experts, by the held-out tokens of each."""
    reports = {expert: fit.report for expert, fit in fits.items()}
    if not reports:
        return _unfitted(routed.layer.block)
    held = data.chosen[data.kinds == 2].sum(0)
    weights = np.array([held[expert] for expert in reports], np.float64)

    def mean(name: str) -> float:
        values = [getattr(each, name) for each in reports.values()]
        return float(np.average(values, weights=weights))

    first = next(iter(reports.values()))
    ffns = routed.layer.count
    return LayerReport(
        layer=first.layer,
        fallback=first.fallback,
        rank=first.rank,
        active_share=mean("active_share"),
        selected_share=mean("selected_share"),
        computed_share=mean("computed_share"),
        recall_neurons=mean("recall_neurons"),
        recall_mass=mean("recall_mass"),
        recall_output=mean("recall_output"),
        precision=mean("precision"),
        hot=0,
        predictor_bytes=first.predictor_bytes * ffns,
        ffn_bytes=first.ffn_bytes * ffns,
        predictor_share=first.predictor_share,
        cost=mean("cost"),
        exact_cost=mean("exact_cost"),
    )


def _unfitted(block: int) -> LayerReport:
    """The report of a layer to whose experts too few tokens went."""
    return LayerReport(block, True, 0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0, 0, 0, 0.0, 1.0, 1.0)
