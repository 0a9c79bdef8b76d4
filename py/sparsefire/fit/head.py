"""Fitting a screen of the output matrix: low-rank factors whose scores stand for the logits, but
for the best rows, which are computed exactly (SVD-softmax, Shim et al. 2017, with factors fitted
under the covariance of the hidden states). Only uses numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Core
from ..ffn.factors import Factors
from .lowrank import reduced_rank
from .products import across, times

_LOGITS_AT_ONCE = 8 << 20
_ROWS_AT_ONCE = 8192


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


def fit_screens(x: FloatArray, matrix: OutputMatrix, ranks: Sequence[int]) -> dict[int, Factors]:
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
    return found


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
    screens: Mapping[int, Factors],
    formats: Mapping[int, str],
    rows: Sequence[int],
    core: Core,
    announce: Callable[[float], object] = lambda _: None,
) -> list[ScreenQuality]:
    """The quality of screens as `fit_screens` returns them, by rank, each rounded to its format,
    with each number of exact rows, ascending, on hidden states x (n, d)."""
    kl = {rank: np.zeros(len(rows)) for rank in screens}
    same = {rank: np.zeros(len(rows), np.int64) for rank in screens}
    # The factors of a rank begin those of a larger one, also rounded, since blocks divide ranks.
    groups = {
        kind: sorted(rank for rank in screens if formats[rank] == kind)
        for kind in set(formats.values())
    }
    stored = {kind: screens[ranks[-1]].rounded(kind, core) for kind, ranks in groups.items()}
    step = max(1, _LOGITS_AT_ONCE // len(matrix.weights))
    for begin in range(0, len(x), step):
        piece = x[begin : begin + step]
        exact = [_Exact(each) for each in matrix.logits(piece)]
        for kind, ranks in groups.items():
            between = stored[kind].between(piece)
            products = np.zeros((len(piece), len(matrix.weights)), np.float32)
            for before, rank in pairwise((0, *ranks)):
                some = slice(before, rank)
                products += times(between[:, some], stored[kind].q[:, some])
                scores = matrix.finished(products + screens[rank].bias)
                for each, other in zip(exact, scores, strict=True):
                    divergence, agrees = _compared(each, other, rows)
                    kl[rank] += divergence
                    same[rank] += agrees
        announce((begin + len(piece)) / len(x))
    return [
        ScreenQuality(
            rank, formats[rank], count, float(kl[rank][k]) / len(x), float(same[rank][k]) / len(x)
        )
        for rank in screens
        for k, count in enumerate(rows)
    ]


class _Exact:
    """One token's exact logits (vocab), with the masses exp(logits - top) and their sum."""

    def __init__(self, logits: FloatArray) -> None:
        self.logits, self.top = logits, float(logits.max())
        self.masses = np.exp(logits - self.top)
        self.total = float(self.masses.sum(dtype=np.float64))


def _compared(
    token: _Exact, scores: FloatArray, rows: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """For each number of rows, the divergence of one token's scores (vocab) from the exact logits,
    and whether the most likely token is the same."""
    exact, top, masses, total = token.logits, token.top, token.masses, token.total
    most = min(rows[-1], len(scores) - 1)
    best = np.argpartition(-scores, most)[: most + 1]
    best = best[np.argsort(-scores[best], kind="stable")]
    proposed = np.exp(scores - top)
    errors = masses * (exact - scores)
    at = np.minimum(rows, most) - 1

    def before(values: FloatArray) -> npt.NDArray[np.float64]:
        return np.asarray(np.cumsum(values[best], dtype=np.float64)[at], np.float64)

    error = (float(errors.sum(dtype=np.float64)) - before(errors)) / total
    mass = float(proposed.sum(dtype=np.float64)) - before(proposed) + before(masses)
    found = np.maximum.accumulate(exact[best])[at]
    return error + np.log(mass / total), (found == top) & (scores[best][at + 1] < top)
