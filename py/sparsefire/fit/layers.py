"""Calibrating one feed-forward layer: predictor, order of neurons, hot prefix and thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..errors import CalibrationError
from ..ffn.factors import Factors
from ..ffn.layer import SparseFfn
from ..weights.formats import weight_format
from . import thresholds as cuts
from .lowrank import Descent
from .mass import MassTable
from .predictor_fit import PredictorFit, Split, Tables

Progress = Callable[[float], None]

_TOKENS_AT_ONCE = 2048
_RANK_STEP = 32
_BIAS_BYTES = 4
_QUICK_EPOCHS = 3
_QUICK_TOKENS = 4096


class LayerMath:
    """A layer's mathematics in numpy, from its weights as they are stored."""

    def __init__(self, ffn: SparseFfn) -> None:
        gate, up, down = ffn.matrices
        self.ffn = ffn
        self.hidden, self.d = ffn.hidden, ffn.d_in
        gate_bias, up_bias, _ = ffn.biases
        self.up = up.dequantize()
        self.up_bias = np.float32(0) if up_bias is None else up_bias
        self.gate = self.up if gate is None else gate.dequantize()
        self.gate_bias = np.float32(0) if gate_bias is None else gate_bias
        if gate is None:
            self.gate_bias = self.up_bias
        axis = 1 if ffn.down_layout == "neuron" else 0
        self.down_norms = np.linalg.norm(down.dequantize(), axis=axis).astype(np.float32)

    def masses(self, x: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """For pieces of x (n, d) two masses (tokens, hidden): |activation|, and the length of
        what each neuron adds to the output."""
        for begin in range(0, len(x), _TOKENS_AT_ONCE):
            piece = x[begin : begin + _TOKENS_AT_ONCE]
            pre = piece @ self.gate.T + self.gate_bias
            active = np.abs(self.ffn.activation.apply(pre, self.ffn.parameter, self.ffn.core))
            added = active * self.down_norms
            if self.ffn.gated:
                added *= np.abs(piece @ self.up.T + self.up_bias)
            yield active, added

    def table(self, x: FloatArray, drop: float) -> MassTable:
        """The masses of x (n, d)."""
        return MassTable.from_pieces(self.masses(x), drop)


@dataclass(frozen=True)
class Costs:
    """Bytes of a neuron's rows, and of a predictor's."""

    gate: int
    rest: int  # up and down, or down alone without a gate
    p_row: int
    q_row: int  # with its bias

    @classmethod
    def of(cls, ffn: SparseFfn, weights: str, predictor: str, rank: int) -> Costs:
        """For a layer stored in format ``weights`` with a predictor in ``predictor``."""
        kind, factors = weight_format(weights), weight_format(predictor)
        first = kind.row_bytes(ffn.d_in)
        rest = kind.row_bytes(ffn.d_out) + (first if ffn.gated else 0)
        return cls(first, rest, factors.row_bytes(ffn.d_in), factors.row_bytes(rank) + _BIAS_BYTES)

    @property
    def neuron(self) -> int:
        """All bytes of a neuron."""
        return self.gate + self.rest

    def predictor(self, rank: int, hidden: int) -> int:
        """Bytes of a predictor for ``hidden`` neurons."""
        return rank * self.p_row + hidden * self.q_row

    def sparse(self, rank: int, hidden: int, hot: int, selected: float, active: float) -> float:
        """Bytes read for a token over those of the whole layer, given the selected and the
        active share."""
        read = self.predictor(rank, hidden - hot) + hidden * (
            selected * self.gate + active * self.rest
        )
        return read / (hidden * self.neuron)

    def exact(self, active: float) -> float:
        """The same without a predictor."""
        return (self.gate + active * self.rest) / self.neuron


@dataclass(frozen=True)
class LayerReport:
    """What calibration found for one layer, on held-out tokens.

    Shares are of the layer's neurons, over all held-out tokens. ``recall_*`` are shares of what
    the layer would compute that the selection keeps: active neurons, activation mass
    (Σ |activation|), and output mass (Σ of the lengths of the neurons' parts of the output).
    ``predictor_share`` is predictor bytes over feed-forward bytes, and ``cost`` and ``exact_cost``
    the bytes read for a token over the layer's, with the predictor and without.
    """

    layer: int
    fallback: bool
    rank: int
    active_share: float
    selected_share: float
    computed_share: float
    recall_neurons: float
    recall_mass: float
    recall_output: float
    precision: float
    hot: int
    predictor_bytes: int
    ffn_bytes: int
    predictor_share: float
    cost: float
    exact_cost: float


@dataclass(frozen=True)
class LayerFit:
    """A calibrated layer: neuron i of the new layer is neuron ``order[i]`` of the old one. The
    factors, None for a layer that does without, are in the new order, their thresholds folded
    into the bias: a neuron is selected when its score is above 0, or it is one of the first
    ``hot``."""

    order: npt.NDArray[np.intp]
    factors: Factors | None
    predictor_format: str
    report: LayerReport


@dataclass(frozen=True)
class FitOptions:
    """Settings of `fit_layer`."""

    recall: float = 0.99
    rank: int | None = None
    weights: str = "q8_0"  # format that the layer will be stored in
    predictor: str | None = None  # and the predictor, None: see `predictor_format`
    descent: Descent = field(default_factory=Descent)
    hot: bool = True  # the most frequent neurons may be computed always


def predictor_format(rank: int, d: int, wanted: str | None = None) -> str:
    """The wanted format, Q8_0 by default, where its blocks divide the rows, else F16."""
    kind = weight_format(wanted or "q8_0")
    return kind.name if rank % kind.block == 0 and d % kind.block == 0 else "f16"


def fit_layer(
    layer: int,
    ffn: SparseFfn,
    data: Split,
    options: FitOptions,
    progress: Progress | None = None,
) -> LayerFit:
    """Calibrates a layer on its inputs, whose order must be random.

    A layer that would read as much with a predictor as without one gets none. `CalibrationError`
    when the inputs are constant.
    """
    math = LayerMath(ffn)
    if float(np.ptp(data.fit, axis=0).max()) == 0:
        raise CalibrationError(f"layer {layer}: all inputs are the same, nothing can be learnt")
    drop = 0.0 if ffn.activation.is_relu_family else (1 - options.recall) / 2
    tables = Tables(*(math.table(x, drop) for x in (data.fit, data.tune, data.held)))
    fitting = _Fitting(layer, math, data, tables, options)
    if not tables.tune.entries or not tables.fit.entries:
        return fitting.without_predictor()
    found = fitting.with_predictor(progress or (lambda _: None))
    if found.report.cost >= found.report.exact_cost:
        return fitting.without_predictor()
    return found


class _Fitting:
    """One run of `fit_layer`."""

    def __init__(
        self, layer: int, math: LayerMath, data: Split, tables: Tables, options: FitOptions
    ) -> None:
        self.layer, self.math, self.tables, self.options = layer, math, tables, options
        weights, bias = math.gate, math.gate_bias
        self.fit = PredictorFit(data, tables, weights, bias, options.recall, options.descent)
        frequency = tables.fit.frequency + tables.tune.frequency
        self.order = np.argsort(-frequency, kind="stable")

    def with_predictor(self, progress: Progress) -> LayerFit:
        """The layer with the predictor that reads least."""
        ranks = self._ranks()
        planned = self.fit.expected_epochs() + (0 if len(ranks) == 1 else 3 * _QUICK_EPOCHS)
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            progress(min(done / planned, 1.0))

        rank = ranks[0] if len(ranks) == 1 else self._best_rank(ranks, count)
        factors = self.fit.refined(rank, each_epoch=count)
        kind = predictor_format(rank, self.math.d, self.options.predictor)
        factors = factors.rounded(kind, self.math.ffn.core)
        family = self.fit.family(factors)
        thresholds = self.fit.thresholds(factors, family)
        hot = self._hot(factors, thresholds) if self.options.hot else 0
        if hot:
            thresholds = self.fit.thresholds(factors, family, self.order[:hot])
        return self._result(factors, kind, thresholds, hot)

    def _ranks(self) -> list[int]:
        most = min(self.math.d, self.math.hidden)
        if self.options.rank is not None:
            return [min(self.options.rank, most)]
        return list(range(_RANK_STEP, most // 2 + 1, _RANK_STEP)) or [max(1, most // 2)]

    def _best_rank(self, ranks: list[int], count: Callable[..., None]) -> int:
        """The rank that reads least. They are tried upwards, on some of the tokens and with few
        epochs, until the cost on the tuning tokens rises."""
        n = max(_QUICK_TOKENS, len(self.fit.data.fit) // 4)
        best, best_cost = ranks[0], np.inf
        active = self.tables.tune.active_share
        for rank in ranks:
            factors = self.fit.refined(rank, epochs=_QUICK_EPOCHS, n=n, each_epoch=count)
            selected = self.fit.selected_share(factors)
            cost = self._costs(rank).sparse(rank, self.math.hidden, 0, selected, active)
            if cost >= best_cost:
                break
            best, best_cost = rank, cost
        return best

    def _costs(self, rank: int) -> Costs:
        kind = predictor_format(rank, self.math.d, self.options.predictor)
        return Costs.of(self.math.ffn, self.options.weights, kind, rank)

    def _hot(self, factors: Factors, thresholds: FloatArray) -> int:
        """How many leading neurons cost less when they are always computed: no row of Q is read
        for them."""
        costs = self._costs(factors.rank)
        share = cuts.selected_share(factors, self.fit.data.tune, thresholds)[self.order]
        saved = np.cumsum(costs.q_row - (1 - share.astype(np.float64)) * costs.gate)
        best = int(saved.argmax())
        return best + 1 if saved[best] > 0 else 0

    def _result(self, factors: Factors, kind: str, thresholds: FloatArray, hot: int) -> LayerFit:
        quality = self.fit.quality(factors, thresholds)
        # Without exact zeros, what is selected is computed whole.
        exact_zeros = self.math.ffn.activation.is_relu_family
        computed = quality.kept if exact_zeros else quality.selected
        rank, hidden = factors.rank, self.math.hidden
        costs = self._costs(rank)
        predictor_bytes = costs.predictor(rank, hidden)
        report = LayerReport(
            layer=self.layer,
            fallback=False,
            rank=rank,
            active_share=quality.active,
            selected_share=quality.selected,
            computed_share=computed,
            recall_neurons=quality.neurons,
            recall_mass=quality.masses[0],
            recall_output=quality.masses[1],
            precision=quality.precision,
            hot=hot,
            predictor_bytes=predictor_bytes,
            ffn_bytes=hidden * costs.neuron,
            predictor_share=predictor_bytes / (hidden * costs.neuron),
            cost=costs.sparse(rank, hidden, hot, quality.selected, computed),
            exact_cost=self._exact_cost(costs),
        )
        folded = factors.with_thresholds(thresholds)
        ordered = Factors(folded.p, folded.q[self.order], folded.bias[self.order])
        return LayerFit(self.order, ordered, kind, report)

    def without_predictor(self) -> LayerFit:
        """The layer as it is, in the new order."""
        held = self.tables.held
        costs = self._costs(_RANK_STEP)
        cost = self._exact_cost(costs)
        selected = 1.0
        computed = held.active_share if self.math.ffn.activation.is_relu_family else 1.0
        report = LayerReport(
            layer=self.layer,
            fallback=True,
            rank=0,
            active_share=held.active_share,
            selected_share=selected,
            computed_share=computed,
            recall_neurons=1.0,
            recall_mass=1.0,
            recall_output=1.0,
            precision=computed,
            hot=0,
            predictor_bytes=0,
            ffn_bytes=self.math.hidden * costs.neuron,
            predictor_share=0.0,
            cost=cost,
            exact_cost=cost,
        )
        return LayerFit(self.order, None, "", report)

    def _exact_cost(self, costs: Costs) -> float:
        """Without a predictor: gate first where the activation has zeros, else everything."""
        if self.math.ffn.activation.is_relu_family:
            return costs.exact(self.tables.held.active_share)
        return 1.0
