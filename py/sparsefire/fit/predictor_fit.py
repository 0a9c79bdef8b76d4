"""Fitting one low-rank predictor to samples: factors, thresholds, and their quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..ffn.factors import Factors
from . import thresholds as cuts
from .lowrank import Descent, operating_point, reduced_rank, refine
from .mass import MassTable

# Thresholds are set for a tenth less than the allowed loss, as a margin for other texts.
_MARGIN = 0.9
_OWN_LEVELS = (0.0, 30.0)  # natural logarithms of the worth of a token's mass, in selections
_BEYOND = 10.0  # further levels, in which all thresholds fall
_MANY_SAMPLES = 30_000


@dataclass(frozen=True)
class Split:
    """Inputs (n, d) of one layer in random order: for fitting, for tuning, and held out."""

    fit: FloatArray
    tune: FloatArray
    held: FloatArray


@dataclass(frozen=True)
class Tables:
    """Their masses."""

    fit: MassTable
    tune: MassTable
    held: MassTable


def _rates(n: int) -> tuple[float, ...]:
    """Learning rates to try with ``n`` samples, relative to `Descent`'s."""
    return (1.0, 0.1) if n < _MANY_SAMPLES else (1.0,)


class Family(NamedTuple):
    """Thresholds (hidden) as a function of a level with which recall rises, and its range."""

    at: Callable[[float], FloatArray]
    low: float
    high: float


class Quality(NamedTuple):
    """The quality of a selection on held-out samples. Shares are of neurons over all samples;
    ``kept`` is the share both active and selected. Recalls and precision are as in `LayerReport`,
    with one of ``masses`` for each kind."""

    active: float
    selected: float
    kept: float
    neurons: float
    masses: tuple[float, ...]
    precision: float

    @classmethod
    def of(cls, mass: MassTable, chosen: npt.NDArray[np.bool_], selected: float) -> Quality:
        """From the selected entries of ``mass`` and the selected share of all neurons."""
        kept = float(np.count_nonzero(chosen)) / (mass.n * mass.hidden)
        return cls(
            active=mass.active_share,
            selected=selected,
            kept=kept,
            neurons=float(chosen.mean()) if mass.entries else 1.0,
            masses=tuple(map(float, mass.recall(chosen))),
            precision=kept / selected if selected else 1.0,
        )


@dataclass
class PredictorFit:
    """The data of one predictor and the steps of fitting it.

    ``weights`` (hidden, d) and ``bias`` (hidden), or 0, are those of the linear map whose large
    values indicate activity: the gate. ``recall`` is the share of the mass to keep.
    """

    data: Split
    tables: Tables
    weights: FloatArray
    bias: npt.ArrayLike
    recall: float
    descent: Descent = field(default_factory=Descent)

    @property
    def target(self) -> float:
        """The recall that fitting aims at."""
        return 1 - _MARGIN * (1 - self.recall)

    def refined(
        self,
        rank: int,
        *,
        epochs: int | None = None,
        n: int | None = None,
        relu: bool = False,
        each_epoch: Callable[..., None] | None = None,
    ) -> Factors:
        """Factors of rank ``rank``, fitted on the first ``n`` samples. With ``relu`` there is one
        between P and Q."""
        x, mass = self.data.fit, self.tables.fit
        if n is not None and n < len(x):
            x, mass = x[:n], mass.head(n)
        start = self.start(rank, relu, x)
        tune = self.data.tune, self.tables.tune
        found = []
        # With few samples, large steps overfit and small ones may not converge.
        for rate in _rates(len(x)):
            settings = replace(
                self.descent,
                epochs=epochs or self.descent.epochs,
                rate=rate * self.descent.rate,
            )
            found.append(refine(start, x, mass, *tune, self.target, settings, each_epoch))
        return min(found, key=self.selected_share)

    def expected_epochs(self) -> int:
        """How often `refined` will call ``each_epoch``."""
        n = len(self.data.fit)
        return self.descent.for_samples(n).epochs * len(_rates(n))

    def start(self, rank: int, relu: bool = False, x: FloatArray | None = None) -> Factors:
        """The closed form, from the samples ``x`` to fit on, by default all."""
        x = self.data.fit if x is None else x
        if not relu:
            return reduced_rank(x, self.weights, self.bias, rank)
        # A ReLU lets half a line through, so each direction takes two rows.
        half = reduced_rank(x, self.weights, self.bias, -(-rank // 2))
        return half.with_relu().resized(rank)

    def selected_share(self, factors: Factors) -> float:
        """The smallest selected share of one threshold that reaches the target on tuning
        samples."""
        scores = factors.scores(self.data.tune)
        return operating_point(scores, self.tables.tune, self.target).selected_share

    def family(self, factors: Factors) -> Family:
        """Thresholds for the factors as stored: one per neuron, or a common one if that selects
        less on other samples."""
        tune = self.data.tune, self.tables.tune
        scores = cuts.entry_scores(factors, *tune)
        highest = float(np.abs(factors.scores(tune[0])).max()) + 1
        hidden = len(factors.q)
        one = Family(lambda level: np.full(hidden, -level, np.float32), -highest, highest)

        spread = float(scores.std()) + 1e-6

        def own(curves: cuts.NeuronCurves) -> Family:
            low, top = _OWN_LEVELS

            def at(level: float) -> FloatArray:
                beyond = np.float32(max(0.0, level - top) * spread)
                return curves.thresholds(float(np.exp(min(level, top)))) - beyond

            return Family(at, low, top + _BEYOND)

        def share(family: Family) -> float:
            level = cuts.least_level(*family, scores, tune[1], self.target)
            if cuts.mass_recall(scores, tune[1], family.at(level)) < self.target:
                return np.inf
            return float(cuts.selected_share(factors, tune[0], family.at(level)).mean())

        if share(own(cuts.neuron_curves(factors, self.data.fit, self.tables.fit))) >= share(one):
            return one
        x = np.concatenate((self.data.fit, self.data.tune))
        both = self.tables.fit.followed_by(self.tables.tune)
        return own(cuts.neuron_curves(factors, x, both))

    def thresholds(
        self, factors: Factors, family: Family, always: npt.NDArray[np.intp] | None = None
    ) -> FloatArray:
        """Thresholds (hidden) that reach the target on tuning samples and the recall on held-out
        ones. Neurons ``always`` are always selected, with a threshold of −∞."""

        def at(level: float) -> FloatArray:
            thresholds = family.at(level)
            if always is not None:
                thresholds[always] = -np.inf
            return thresholds

        scores = cuts.entry_scores(factors, self.data.tune, self.tables.tune)
        level = cuts.least_level(at, family.low, family.high, scores, self.tables.tune, self.target)
        scores = cuts.entry_scores(factors, self.data.held, self.tables.held)
        level = cuts.least_level(at, level, family.high, scores, self.tables.held, self.recall)
        return at(level)

    def quality(self, factors: Factors, thresholds: FloatArray) -> Quality:
        """The quality of a selection on the held-out samples."""
        held = self.tables.held
        chosen = cuts.entry_scores(factors, self.data.held, held) > thresholds[held.neurons]
        selected = cuts.selected_share(factors, self.data.held, thresholds)
        return Quality.of(held, chosen, float(selected.mean(dtype=np.float64)))
