"""The contribution of each neuron to each token: the mass that a predictor should not miss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .. import _arrays

IndexArray = npt.NDArray[np.intp]
DoubleArray = npt.NDArray[np.float64]

_HISTOGRAM_BINS = 4096


@dataclass(frozen=True)
class MassTable:
    """The entries of mass matrices (tokens, neurons) that are not zero, by token.

    Entry e of token t, ``starts[t]`` ≤ e < ``starts[t + 1]``, says that neuron ``neurons[e]`` has
    the masses ``kinds[:, e]``. There may be more than one kind, such as the activation itself and
    its part in the output; each is scaled so that a token has a mass of 1 on average, entries
    that were dropped included.
    """

    n: int
    hidden: int
    starts: IndexArray  # (n + 1)
    neurons: _arrays.IntArray  # (entries), ascending within a token
    kinds: _arrays.FloatArray  # (kinds, entries)
    totals: DoubleArray  # (kinds): total mass, including dropped entries

    @classmethod
    def from_pieces(
        cls, pieces: Iterable[tuple[_arrays.FloatArray, ...]], drop: float = 0.0
    ) -> MassTable:
        """From consecutive dense mass matrices (tokens, neurons), each a tuple with one matrix of
        each kind. The first kind determines which entries are zero.

        ``drop``: omit the smallest entries, which together hold at most this share of the first
        kind's mass. Activations without exact zeros need it.
        """
        counts, neurons, values, hidden = [], [], [], 0
        for piece in pieces:
            hidden = piece[0].shape[1]
            token, neuron = np.nonzero(piece[0] > 0)
            counts.append(np.bincount(token, minlength=len(piece[0])))
            neurons.append(neuron.astype(np.int32))
            values.append(np.stack([each[token, neuron] for each in piece]))
        starts = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.intp)
        kinds = np.concatenate(values, axis=1).astype(np.float32)
        n = len(starts) - 1
        totals = kinds.sum(axis=1, dtype=np.float64)
        scales = np.where(totals > 0, n / np.maximum(totals, 1e-300), 1.0)
        kinds *= scales.astype(np.float32)[:, None]
        table = cls(n, hidden, starts, np.concatenate(neurons), kinds, totals * scales)
        return table._without_smallest(drop) if drop > 0 else table

    def _without_smallest(self, drop: float) -> MassTable:
        """Without the entries below the largest cut that omits at most ``drop``."""
        first, hold = self.kinds[0], drop * self.totals[0]
        edges = np.geomspace(1e-12, max(float(first.max(initial=0)), 1e-11), _HISTOGRAM_BINS)
        bins = np.searchsorted(edges, first)
        below = np.cumsum(np.bincount(bins, weights=first, minlength=_HISTOGRAM_BINS + 1))
        cut = int(np.searchsorted(below, hold, side="right"))
        kept = bins >= cut
        counts = np.bincount(self.tokens[kept], minlength=self.n)
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.intp)
        return MassTable(
            self.n, self.hidden, starts, self.neurons[kept], self.kinds[:, kept], self.totals
        )

    @cached_property
    def values(self) -> _arrays.FloatArray:
        """The mean of the kinds (entries)."""
        return np.asarray(self.kinds.mean(axis=0), np.float32)

    @property
    def entries(self) -> int:
        """Pairs of a token and a neuron active for it."""
        return len(self.neurons)

    @property
    def active_share(self) -> float:
        """Share of the neurons that are active, over all tokens."""
        return self.entries / (self.n * self.hidden)

    @property
    def total(self) -> float:
        """Total mass, the mean of the kinds, including dropped entries."""
        return float(self.totals.mean())

    @cached_property
    def tokens(self) -> IndexArray:
        """Token of each entry."""
        return np.repeat(np.arange(self.n), np.diff(self.starts))

    @cached_property
    def frequency(self) -> npt.NDArray[np.float64]:
        """Share of the tokens for which each neuron is active (hidden)."""
        return np.bincount(self.neurons, minlength=self.hidden) / self.n

    @cached_property
    def by_neuron(self) -> tuple[IndexArray, IndexArray]:
        """Entries in order of neuron, and where each neuron's begin (hidden + 1)."""
        order = np.argsort(self.neurons, kind="stable")
        counts = np.bincount(self.neurons, minlength=self.hidden)
        return order, np.concatenate(([0], np.cumsum(counts))).astype(np.intp)

    def of_tokens(self, rows: IndexArray) -> tuple[IndexArray, _arrays.FloatArray]:
        """Flat positions in a (len(rows), hidden) array of the entries of tokens ``rows``, and
        their masses."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        entry = np.arange(ends[-1]) + np.repeat(self.starts[rows] - (ends - lengths), lengths)
        row = np.repeat(np.arange(len(rows)), lengths)
        return row * self.hidden + self.neurons[entry], self.values[entry]

    def head(self, n: int) -> MassTable:
        """The first ``n`` tokens; masses keep their scale."""
        end = int(self.starts[n])
        kinds = self.kinds[:, :end]
        held = self.kinds.sum(axis=1, dtype=np.float64)
        part = kinds.sum(axis=1, dtype=np.float64) / np.maximum(held, 1e-300)
        neurons, starts = self.neurons[:end], self.starts[: n + 1]
        return MassTable(n, self.hidden, starts, neurons, kinds, self.totals * part)

    def followed_by(self, other: MassTable) -> MassTable:
        """These tokens followed by those of ``other``."""
        return MassTable(
            self.n + other.n,
            self.hidden,
            np.concatenate((self.starts, other.starts[1:] + self.starts[-1])),
            np.concatenate((self.neurons, other.neurons)),
            np.concatenate((self.kinds, other.kinds), axis=1),
            self.totals + other.totals,
        )

    def recall(self, chosen: npt.NDArray[np.bool_]) -> DoubleArray:
        """Share of the mass in the entries ``chosen`` (entries), for each kind; 1 if there is no
        mass."""
        if not self.entries:
            return np.ones(len(self.kinds))
        kept: DoubleArray = self.kinds[:, chosen].sum(axis=1, dtype=np.float64)
        return kept / np.maximum(self.totals, 1e-300)
