"""Fitting a screen of the output matrix: low-rank factors whose scores stand for the logits, but
for the best rows, which are computed exactly (SVD-softmax, Shim et al. 2017, with factors fitted
under the covariance of the hidden states, and stored as QuaRot stores weights, Ashkboos et al.
2024). Only uses numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Core
from ..ffn.factors import Factors
from ..weights.formats import weight_format
from ..weights.quantized import QuantizedWeights
from .lowrank import reduced_rank
from .products import across, times

_LOGITS_AT_ONCE = 8 << 20
_ROWS_AT_ONCE = 8192
_TURNED = 32  # columns of Q that are turned together: those that share a scale
_LEAST_BITS = 8.0  # of P, which is small


@dataclass(frozen=True, eq=False)
class OutputMatrix:
    """Logits (vocab) = cap · tanh(scale · (weights · x + bias) / cap); a cap of 0 is none. Weights
    (vocab, d), bias (vocab) or None."""

    weights: FloatArray
    bias: FloatArray | None
    scale: float = 1.0
    cap: float = 0.0
    multiply: Callable[[FloatArray], FloatArray] | None = None  # products (n, vocab) of x (n, d)

    def logits(self, x: FloatArray) -> FloatArray:
        """The logits (n, vocab) of hidden states x (n, d)."""
        products = self.multiply(x) if self.multiply else times(x, self.weights)
        return self.finished(products if self.bias is None else products + self.bias)

    def finished(self, products: FloatArray) -> FloatArray:
        """Logits of products, or of the scores that stand for them."""
        scaled = products * np.float32(self.scale) if self.scale != 1 else products
        cap = np.float32(self.cap)
        return np.asarray(cap * np.tanh(scaled / cap) if self.cap else scaled, np.float32)


@dataclass(frozen=True)
class ScreenQuality:
    """How far the logits of a screen are from the exact ones: the mean Kullback-Leibler divergence
    in nats, and the share of tokens for which the most likely token is the same."""

    rank: int
    format: str
    rows: int
    kl: float
    agreement: float


@dataclass(frozen=True, eq=False)
class StoredScreen:
    """A screen as a file has it: P (rank, d), Q (vocab, rank) and bias (vocab), float32."""

    p: QuantizedWeights
    q: QuantizedWeights
    bias: FloatArray


@dataclass(frozen=True, eq=False)
class FittedScreens:
    """Factors of each rank, with the mean (d) of the hidden states that they were fitted on and the
    scale of the logits."""

    factors: Mapping[int, Factors]
    mean: FloatArray
    scale: float

    def stored(self, rank: int, format: str, core: Core) -> StoredScreen:
        """The screen of one rank with Q in a format, and P in the same one, or in Q8_0 where that
        has fewer bits.

        In formats with blocks, the columns of Q that share scales are turned by a Hadamard matrix,
        and P's rows with them, which changes no score: all columns then are of one size, where the
        first one, of what many logits have in common, would take most of a block's range. What
        rounding takes from the mean and the variance of a score goes into the bias, as of what the
        rank misses.
        """
        return self.rounded(rank, format, core).screen(rank)

    def rounded(self, rank: int, format: str, core: Core) -> RoundedFactors:
        """The factors of a rank in a format, which have those of smaller ones in them."""
        found, kind = self.factors[rank], weight_format(format)
        p, q = found.p, found.q
        if kind.block > 1 and rank % _TURNED == 0:
            p, q = _turned(p.T).T, _turned(q)
        stored_p = QuantizedWeights.quantize(p, p_format(format), core)
        stored_q = QuantizedWeights.quantize(q, format, core)
        return RoundedFactors(
            self, p, q, stored_p, stored_q, stored_p.dequantize(core), stored_q.dequantize(core)
        )


@dataclass(frozen=True, eq=False)
class RoundedFactors:
    """P (rank, d) and Q (vocab, rank) of the largest rank as they were, in their formats, and as
    they are after rounding."""

    of: FittedScreens
    p: FloatArray
    q: FloatArray
    stored_p: QuantizedWeights
    stored_q: QuantizedWeights
    rounded_p: FloatArray
    rounded_q: FloatArray

    def screen(self, rank: int) -> StoredScreen:
        """That of the largest rank."""
        return StoredScreen(self.stored_p, self.stored_q, self.biases([rank])[rank])

    def biases(self, ranks: Sequence[int]) -> dict[int, FloatArray]:
        """The bias (vocab) of the screen of each rank, ascending."""
        found, mean = {}, self.of.mean
        means = np.zeros(len(self.q), np.float32)
        missed = np.zeros(len(self.q), np.float32)
        for before, rank in pairwise((0, *ranks)):
            some = slice(before, rank)
            q, rounded = self.q[:, some], self.rounded_q[:, some]
            means += q @ (self.p[some] @ mean) - rounded @ (self.rounded_p[some] @ mean)
            missed += np.square(q - rounded).sum(axis=1)
            shift = means + np.float32(self.of.scale / 2) * missed
            found[rank] = np.asarray(self.of.factors[rank].bias + shift, np.float32)
        return found


def p_format(format: str) -> str:
    """The format of P where Q has this one."""
    return format if weight_format(format).bits_per_weight >= _LEAST_BITS else "q8_0"


def _turned(columns: FloatArray) -> FloatArray:
    """Groups of columns (n, rank) times the Hadamard matrix of their number, which is symmetric and
    its own inverse."""
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < _TURNED:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    groups = np.ascontiguousarray(columns).reshape(-1, _TURNED)
    return times(groups, hadamard / np.float32(np.sqrt(_TURNED))).reshape(columns.shape)


def fit_screens(x: FloatArray, matrix: OutputMatrix, ranks: Sequence[int]) -> FittedScreens:
    """The factors of each rank nearest to the logits on hidden states x (n, d), before scale and
    cap: see `reduced_rank`. Those of a rank are the first of any larger one.

    What a screen misses of a logit is taken as normally distributed. Half its variance is added to
    the bias, so that the expected probability of a token, exp of its logit, is the right one
    (without a cap), and a token that is less certain is sooner among the best.
    """
    bias = 0.0 if matrix.bias is None else matrix.bias
    largest = reduced_rank(x, matrix.weights, bias, max(ranks))
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    # P · x is uncorrelated and of unit variance: a screen explains the squares of Q's row.
    variances, explained = _variances(x - mean, matrix.weights), np.square(largest.q)
    found = {}
    for rank in ranks:
        rest = largest.q[:, rank:] @ (largest.p[rank:] @ mean)
        missed = np.maximum(variances - explained[:, :rank].sum(axis=1), 0)
        shift = rest + np.float32(matrix.scale / 2) * missed
        found[rank] = replace(largest.resized(rank), bias=largest.bias + shift)
    return FittedScreens(found, mean, matrix.scale)


def _variances(centred: FloatArray, weights: FloatArray) -> FloatArray:
    """The variance of each product with weights (vocab, d) over centred samples (n, d)."""
    covariance = across(centred, centred) / np.float32(len(centred))
    found = np.empty(len(weights), np.float32)
    for begin in range(0, len(weights), _ROWS_AT_ONCE):
        rows = weights[begin : begin + _ROWS_AT_ONCE]
        found[begin : begin + _ROWS_AT_ONCE] = (times(rows, covariance) * rows).sum(axis=1)
    return found


def qualities(
    x: FloatArray,
    matrix: OutputMatrix,
    screens: FittedScreens,
    formats: Mapping[int, Sequence[str]],
    rows: Sequence[int],
    core: Core,
    announce: Callable[[float], object] = lambda _: None,
) -> list[ScreenQuality]:
    """The quality of screens of each rank, stored in each of its formats, with each number of exact
    rows, ascending, on hidden states x (n, d)."""
    tried = [(rank, kind) for rank, kinds in formats.items() for kind in kinds]
    kl = {each: np.zeros(len(rows)) for each in tried}
    same = {each: np.zeros(len(rows), np.int64) for each in tried}
    stored = _by_format(screens, tried, core)
    step = max(1, _LOGITS_AT_ONCE // len(matrix.weights))
    for begin in range(0, len(x), step):
        piece = x[begin : begin + step]
        exact = [_Exact(each) for each in matrix.logits(piece)]
        for kind, (p, q, biases) in stored.items():
            between = times(piece, p)
            products = np.zeros((len(piece), len(matrix.weights)), np.float32)
            for before, rank in pairwise((0, *biases)):
                some = slice(before, rank)
                products += times(between[:, some], q[:, some])
                scores = matrix.finished(products + biases[rank])
                for each, other in zip(exact, scores, strict=True):
                    divergence, agrees = _compared(each, other, rows)
                    kl[rank, kind] += divergence
                    same[rank, kind] += agrees
        announce((begin + len(piece)) / len(x))
    return [
        ScreenQuality(*each, count, float(kl[each][k]) / len(x), float(same[each][k]) / len(x))
        for each in tried
        for k, count in enumerate(rows)
    ]


def _by_format(
    screens: FittedScreens, tried: Sequence[tuple[int, str]], core: Core
) -> dict[str, tuple[FloatArray, FloatArray, dict[int, FloatArray]]]:
    """The largest P and Q in each format, as they are after rounding, and the biases of the ranks,
    ascending: the factors of a rank begin those of a larger one, since blocks divide ranks."""
    found = {}
    for kind in dict.fromkeys(kind for _, kind in tried):
        ranks = sorted(rank for rank, other in tried if other == kind)
        largest = screens.rounded(ranks[-1], kind, core)
        found[kind] = (largest.rounded_p, largest.rounded_q, largest.biases(ranks))
    return found


class _Exact:
    """One token's exact logits (vocab), with the masses exp(logits - top), their sum, and that of
    their products with these differences."""

    def __init__(self, logits: FloatArray) -> None:
        self.logits, self.top = logits, float(logits.max())
        above = logits - np.float32(self.top)
        self.masses = np.exp(above)
        self.total = float(self.masses.sum(dtype=np.float64))
        self.products = float(self.masses @ above)


def _compared(
    token: _Exact, scores: FloatArray, rows: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """For each number of rows, the divergence of one token's scores (vocab) from the exact logits,
    and whether the most likely token is the same."""
    exact, top, masses, total = token.logits, token.top, token.masses, token.total
    above, at = scores - np.float32(top), np.minimum(rows, len(scores) - 1) - 1
    proposed, count = np.exp(above), at[-1] + 2
    best = above.argpartition(len(above) - count)[-count:]
    best = best[above[best].argsort()[::-1]]

    def of_best(values: FloatArray) -> npt.NDArray[np.float64]:
        return np.asarray(values.cumsum(dtype=np.float64)[at], np.float64)

    of_all = token.products - float(masses @ above)
    errors = of_all - of_best(masses[best] * (exact[best] - scores[best]))
    mass = float(proposed.sum()) - of_best(proposed[best]) + of_best(masses[best])
    found = np.maximum.accumulate(exact[best])[at]
    return errors / total + np.log(mass / total), (found == top) & (scores[best][at + 1] < top)
