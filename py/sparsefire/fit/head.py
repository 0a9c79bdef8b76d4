"""Fitting a screen of the output matrix: low-rank factors whose scores stand for the logits, but
for the best rows, which are computed exactly (SVD-softmax, Shim et al. 2017, with factors fitted
under the covariance of the hidden states). Only uses numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Core
from ..ffn.factors import Factors
from .lowrank import reduced_rank
from .products import across, times

_TOKENS_AT_ONCE = 64
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class OutputMatrix:
    """Logits (vocab) = cap · tanh(scale · (weights · x + bias) / cap); a cap of 0 is none. Weights
    (vocab, d), bias (vocab) or None."""

    weights: FloatArray
    bias: FloatArray | None
    scale: float = 1.0
    cap: float = 0.0

    def logits(self, x: FloatArray) -> FloatArray:
        """The logits (n, vocab) of hidden states x (n, d)."""
        products = times(x, self.weights)
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
    screens: dict[int, Factors],
    formats: Sequence[str],
    rows: Sequence[int],
    core: Core,
    announce: Callable[[float], object] = lambda _: None,
) -> list[ScreenQuality]:
    """The quality of screens, rounded to each of the formats, with each number of exact rows,
    ascending, on hidden states x (n, d)."""
    stored = {
        (rank, kind): factors.rounded(kind, core)
        for rank, factors in screens.items()
        for kind in formats
    }
    kl = {key: np.zeros(len(rows)) for key in stored}
    same = {key: np.zeros(len(rows), np.int64) for key in stored}
    for begin in range(0, len(x), _TOKENS_AT_ONCE):
        piece = x[begin : begin + _TOKENS_AT_ONCE]
        exact = matrix.logits(piece)
        for key, factors in stored.items():
            scores = times(factors.between(piece), factors.q) + factors.bias
            scores = matrix.finished(scores)
            for each, other in zip(exact, scores, strict=True):
                divergence, agrees = _compared(each, other, rows)
                kl[key] += divergence
                same[key] += agrees
        announce((begin + len(piece)) / len(x))
    return [
        ScreenQuality(*key, count, float(kl[key][k]) / len(x), float(same[key][k]) / len(x))
        for key in stored
        for k, count in enumerate(rows)
    ]


def _compared(
    exact: FloatArray, scores: FloatArray, rows: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """For each number of rows, the divergence of one token's logits (vocab) from the exact ones,
    and whether the most likely token is the same."""
    most = min(rows[-1], len(scores) - 1)
    best = np.argpartition(-scores, most)[: most + 1]
    best = best[np.argsort(-scores[best], kind="stable")]
    top = float(exact.max())
    masses, proposed = np.exp(exact - top), np.exp(scores - top)
    total = float(masses.sum(dtype=np.float64))
    errors = masses * (exact - scores)
    at = np.minimum(rows, most) - 1

    def before(values: FloatArray) -> npt.NDArray[np.float64]:
        return np.asarray(np.cumsum(values[best], dtype=np.float64)[at], np.float64)

    error = (float(errors.sum(dtype=np.float64)) - before(errors)) / total
    mass = float(proposed.sum(dtype=np.float64)) - before(proposed) + before(masses)
    found = np.maximum.accumulate(exact[best])[at]
    return error + np.log(mass / total), (found == top) & (scores[best][at + 1] < top)
