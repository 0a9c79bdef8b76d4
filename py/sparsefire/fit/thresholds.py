"""Choosing the thresholds of neurons: most mass for the fewest selections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..ffn.factors import Factors
from .mass import IndexArray, MassTable

_NEURONS_AT_ONCE = 64
_PIECE = 16 << 20  # scores at a time


@dataclass(frozen=True)
class NeuronCurves:
    """For each neuron, what each candidate threshold selects and captures on some samples.

    The candidates of neuron i, ``starts[i]`` ≤ e < ``starts[i + 1]``, lie just below the scores of
    the tokens for which it is active, highest first: candidate e selects ``counts[e]`` tokens and
    captures ``captured[e]`` of the mass.
    """

    starts: IndexArray  # (hidden + 1)
    cuts: FloatArray  # (candidates)
    counts: npt.NDArray[np.float64]
    captured: npt.NDArray[np.float64]
    highest: FloatArray  # (hidden): the highest score seen

    def thresholds(self, worth: float) -> FloatArray:
        """Thresholds (hidden) that maximise ``worth`` · mass − selections, neuron by neuron. A
        neuron that never pays gets the highest score seen."""
        result = self.highest.copy()
        used = np.flatnonzero(np.diff(self.starts))
        if not len(used):
            return result
        value = worth * self.captured - self.counts
        first = self.starts[used]
        best = np.maximum.reduceat(value, first)
        lengths = np.diff(self.starts)[used]
        at_best = np.where(value == np.repeat(best, lengths), np.arange(len(value)), len(value))
        index = np.minimum.reduceat(at_best, first)
        pays = best > 0
        result[used[pays]] = self.cuts[index[pays]]
        return result


def neuron_curves(factors: Factors, x: FloatArray, mass: MassTable) -> NeuronCurves:
    """The curves of ``factors`` on samples x (n, d) with their masses."""
    n, hidden = len(x), mass.hidden
    z = factors.between(x).T
    order, starts = mass.by_neuron
    cuts = np.empty(mass.entries, np.float32)
    counts = np.empty(mass.entries)
    captured = np.empty(mass.entries)
    highest = np.empty(hidden, np.float32)
    for begin in range(0, hidden, _NEURONS_AT_ONCE):
        end = min(begin + _NEURONS_AT_ONCE, hidden)
        block = factors.q[begin:end] @ z + factors.bias[begin:end, None]
        ascending = np.sort(block, axis=1)
        highest[begin:end] = ascending[:, -1]
        for row, neuron in enumerate(range(begin, end)):
            where = slice(int(starts[neuron]), int(starts[neuron + 1]))
            entries = order[where]
            scores = block[row, mass.tokens[entries]]
            by_score = np.argsort(-scores, kind="stable")
            place = np.searchsorted(ascending[row], scores[by_score], side="left")
            counts[where] = n - place
            captured[where] = np.cumsum(mass.values[entries[by_score]], dtype=np.float64)
            # Half way to the next lower score, so that rounding does not matter.
            below = ascending[row, np.maximum(place - 1, 0)]
            middle = (scores[by_score] + below) / 2
            lowest = np.nextafter(scores[by_score], np.float32(-np.inf))
            cuts[where] = np.where(place > 0, np.minimum(middle, lowest), lowest)
    return NeuronCurves(starts, cuts, counts, captured, highest)


def entry_scores(factors: Factors, x: FloatArray, mass: MassTable) -> FloatArray:
    """The score of every entry of ``mass``."""
    scores = np.empty(mass.entries, np.float32)
    step = max(1, _PIECE // mass.hidden)
    for begin in range(0, len(x), step):
        end = min(begin + step, len(x))
        where = slice(int(mass.starts[begin]), int(mass.starts[end]))
        block = factors.scores(x[begin:end])
        scores[where] = block[mass.tokens[where] - begin, mass.neurons[where]]
    return scores


def mass_recall(scores: FloatArray, mass: MassTable, thresholds: FloatArray) -> float:
    """The smallest share, over the kinds of mass, held by the entries that score above their
    neuron's threshold."""
    return float(mass.recall(scores > thresholds[mass.neurons]).min())


def selected_share(factors: Factors, x: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Share of the tokens x (n, d) for which each neuron scores above its threshold (hidden)."""
    counts = np.zeros(len(thresholds), np.intp)
    step = max(1, _PIECE // len(thresholds))
    for begin in range(0, len(x), step):
        counts += (factors.scores(x[begin : begin + step]) > thresholds).sum(axis=0)
    return np.asarray(counts / max(len(x), 1), np.float32)


def least_level(
    family: Callable[[float], FloatArray],
    low: float,
    high: float,
    scores: FloatArray,
    mass: MassTable,
    recall: float,
) -> float:
    """The lowest level between ``low`` and ``high`` whose thresholds reach ``recall``; ``high``
    if none does. Recall must rise with the level."""
    if mass_recall(scores, mass, family(high)) < recall:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        if mass_recall(scores, mass, family(middle)) < recall:
            low = middle
        else:
            high = middle
    return high
