"""Fitting low-rank predictors: scores (hidden) = Q · (P · x) + bias.

`reduced_rank` is the closed form: activation-aware reduced-rank regression. `refine` starts from
it and minimises the loss of choosing the wrong neurons. Both only use numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..errors import CalibrationError
from ..ffn.factors import Factors
from .mass import IndexArray, MassTable
from .products import across, orthonormal, times

DoubleArray = npt.NDArray[np.float64]


def _symmetric_top(matrix: DoubleArray, rank: int) -> tuple[DoubleArray, DoubleArray]:
    """The ``rank`` largest eigenvalues of a symmetric matrix and their vectors, as columns."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:rank], vectors[:, ::-1][:, :rank]


def _square_root(covariance: DoubleArray, ridge: float) -> DoubleArray:
    """A root of covariance + λ·I, where λ is `ridge` times the mean variance, or more if inputs
    hardly vary in some directions and were summed in single precision."""
    variance = float(np.trace(covariance)) / len(covariance)
    while variance > 0 and ridge < 1:
        try:
            root = np.linalg.cholesky(covariance + ridge * variance * np.eye(len(covariance)))
            return np.asarray(root, np.float64)
        except np.linalg.LinAlgError:
            ridge *= 10
    raise CalibrationError("all inputs are alike; calibrate on more, or more varied, samples")


def reduced_rank(
    x: FloatArray, weights: FloatArray, bias: npt.ArrayLike, rank: int, ridge: float = 1e-6
) -> Factors:
    """The rank-``rank`` factors nearest to scores = weights · x + bias on the samples.

    With C the covariance of the centred x (n, d), QP minimises ‖(weights − QP) C^½‖, which is
    reduced-rank regression (Izenman 1975) of the scores on x: QP = V Vᵀ weights, V (hidden, rank)
    the leading eigenvectors of weights · C · weightsᵀ. They come from an eigenproblem of size
    min(n, d). Shapes: weights (hidden, d), bias (hidden) or 0.
    """
    n, d = x.shape
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean.astype(np.float32)
    if n < d:
        scores = times(centred, weights)
        gram = times(scores, scores).astype(np.float64)
        _, left = _symmetric_top(gram, rank)
        v = times(scores.T, left.T.astype(np.float32))
    else:
        covariance = across(centred, centred).astype(np.float64) / n
        root = _square_root(covariance, ridge)
        inner = across(weights, weights).astype(np.float64)
        _, right = _symmetric_top(root.T @ inner @ root, rank)
        v = times(weights, (root @ right).T.astype(np.float32))
    # Orthonormal columns; fewer than `rank` when the samples span fewer directions.
    v = orthonormal(v)
    p = np.zeros((rank, d), np.float32)
    q = np.zeros((len(weights), rank), np.float32)
    p[: v.shape[1]] = across(v, weights)
    q[:, : v.shape[1]] = v
    centre = mean.astype(np.float32)  # in double precision, the matrices would be copied
    offset = np.asarray(bias) + weights @ centre - q @ (p @ centre)
    return Factors(p, q, offset.astype(np.float32)).balanced(x)


def ridge_weights(
    x: FloatArray, targets: FloatArray, ridge: float = 1e-3
) -> tuple[FloatArray, FloatArray]:
    """Weights (hidden, d) and bias (hidden) of the ridge regression of targets (n, hidden) on
    x (n, d)."""
    mean, target_mean = x.mean(axis=0), targets.mean(axis=0)
    a, b = (x - mean).astype(np.float64), targets - target_mean
    n, d = x.shape
    if n < d:
        kernel = a @ a.T
        kernel += ridge * max(float(np.trace(kernel)) / n, 1e-30) * np.eye(n)
        weights = (a.T @ np.linalg.solve(kernel, b)).T
    else:
        covariance = a.T @ a
        covariance += ridge * max(float(np.trace(covariance)) / d, 1e-30) * np.eye(d)
        weights = np.linalg.solve(covariance, a.T @ b).T
    return weights.astype(np.float32), (target_mean - weights @ mean).astype(np.float32)


@dataclass(frozen=True)
class OperatingPoint:
    """One global threshold that meets a recall of mass on some samples."""

    threshold: float
    selected_share: float
    worth: float  # selections that one more unit of mass costs here


def operating_point(scores: FloatArray, mass: MassTable, recall: float) -> OperatingPoint:
    """The smallest selection by a single threshold that has at least ``recall`` of the mass."""
    entries = scores[mass.tokens, mass.neurons]
    order = np.argsort(-entries, kind="stable")
    ordered, captured = entries[order], np.cumsum(mass.values[order], dtype=np.float64)

    def at(share: float) -> tuple[float, int]:
        index = min(int(np.searchsorted(captured, share * mass.total)), len(ordered) - 1)
        threshold = float(np.nextafter(ordered[index], np.float32(-np.inf)))
        return threshold, int(np.count_nonzero(scores > threshold))

    band = 0.3 * (1 - recall)
    threshold, selected = at(recall)
    worth = (at(recall + band)[1] - at(recall - band)[1]) / max(2 * band * mass.total, 1e-12)
    return OperatingPoint(threshold, selected / scores.size, max(worth, 1.0))


@dataclass(frozen=True)
class Descent:
    """Settings of `refine` for many samples: epochs, batch size, and the highest learning rate."""

    epochs: int = 10
    batch: int = 512
    rate: float = 2e-2
    largest_weight: float = 200.0
    fewest_steps: int = 500
    seed: int = 0

    def for_samples(self, n: int) -> Descent:
        """The same with smaller batches and more epochs if ``n`` samples give few steps."""
        batch = max(1, min(self.batch, max(32, n // 40), n))
        epochs = max(self.epochs, min(5 * self.epochs, -(-self.fewest_steps * batch // n)))
        return replace(self, batch=batch, epochs=epochs)


class _Adam:
    """Adam (Kingma and Ba 2015) over a few arrays, in place."""

    def __init__(self, parameters: list[FloatArray]) -> None:
        self.parameters = parameters
        self._mean = [np.zeros_like(each) for each in parameters]
        self._square = [np.zeros_like(each) for each in parameters]
        self._step = 0

    def step(self, gradients: list[FloatArray], rate: float) -> None:
        self._step += 1
        first, second = 1 - 0.9**self._step, 1 - 0.99**self._step
        rows = zip(self.parameters, gradients, self._mean, self._square, strict=True)
        for parameter, gradient, mean, square in rows:
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient * gradient - square)
            parameter -= (rate / first) * mean / (np.sqrt(square / second) + 1e-12)


def _selection_gradient(
    scores: FloatArray, mass: MassTable, rows: IndexArray, worth: float, largest: float
) -> FloatArray:
    """Gradient of the loss by the scores (batch, hidden), which it overwrites.

    Computing a neuron costs 1 and saves ``worth`` · mass, so its gain is worth · mass − 1; the
    loss is the logistic one of the gain's sign, weighted by its size.
    """
    np.multiply(scores, np.float32(0.5), out=scores)
    np.tanh(scores, out=scores)
    scores += 1
    scores *= np.float32(0.5)
    position, value = mass.of_tokens(rows)
    gain = np.float32(worth) * value - 1
    flat = scores.reshape(-1)
    weight = np.minimum(np.abs(gain), np.float32(largest))
    flat[position] = weight * (flat[position] - (gain > 0))
    return scores


class _Trained:
    """Factors as `refine` changes them: for inputs of mean 0 (not so with a ReLU between, which
    has no place for the mean) and of unit size, and scores of a spread of 2 with the operating
    point at 0, where the logistic function sees a soft boundary."""

    def __init__(self, start: Factors, x: FloatArray, spread: float, threshold: float) -> None:
        mean = x.mean(axis=0)
        self.mean = np.zeros_like(mean) if start.relu else mean
        self.scale = np.float32(np.sqrt(np.mean((x - mean) ** 2)))
        self.relu = start.relu
        self.inputs = (x - self.mean) / self.scale
        factor = np.float32(2 / max(spread, 1e-12))
        bias = start.bias + start.q @ (start.p @ self.mean) - np.float32(threshold)
        self.parameters = [start.p * self.scale, start.q * factor, bias * factor]

    def factors(self) -> Factors:
        """The factors for inputs that are not normalised."""
        p, q, bias = self.parameters
        p = p / self.scale
        return Factors(p, q.copy(), bias - q @ (p @ self.mean), self.relu)

    def gradients(
        self, rows: IndexArray, mass: MassTable, worth: float, largest: float
    ) -> list[FloatArray]:
        """Gradients of the mean loss over samples ``rows`` by P, Q and bias."""
        p, q, bias = self.parameters
        batch = self.inputs[rows]
        z = batch @ p.T
        if self.relu:
            np.maximum(z, 0, out=z)
        gradient = _selection_gradient(z @ q.T + bias, mass, rows, worth, largest)
        gradient /= np.float32(len(rows))
        by_z = gradient @ q
        if self.relu:
            by_z *= z > 0
        return [by_z.T @ batch, gradient.T @ z, gradient.sum(axis=0)]


def refine(
    start: Factors,
    x: FloatArray,
    mass: MassTable,
    tune_x: FloatArray,
    tune_mass: MassTable,
    recall: float,
    settings: Descent | None = None,
    report: Callable[[int, OperatingPoint], None] | None = None,
) -> Factors:
    """Improves factors for selecting neurons: minimises the selected share at ``recall`` of the
    mass.

    Minibatch Adam on the cost-sensitive logistic loss of `_selection_gradient`. After each epoch
    the operating point on the tuning samples updates the price of a missed unit of mass. Returns
    the epoch with the smallest selected share there, the start included.
    """
    settings = (settings or Descent()).for_samples(len(x))
    random = np.random.default_rng(settings.seed)
    best = start.balanced(x)
    scores = best.scores(tune_x)
    point = operating_point(scores, tune_mass, recall)
    least, worth = point.selected_share, point.worth
    trained = _Trained(best, x, float(scores.std()), point.threshold)
    adam, batches = _Adam(trained.parameters), max(1, len(x) // settings.batch)
    steps = settings.epochs * batches
    for epoch in range(settings.epochs):
        order = random.permutation(len(x))
        for index in range(batches):
            rows = np.sort(order[index * settings.batch : (index + 1) * settings.batch])
            gradients = trained.gradients(rows, mass, worth, settings.largest_weight)
            step = epoch * batches + index
            rate = settings.rate * min(1.0, (step + 1) / 50)
            adam.step(gradients, rate * 0.5 * (1 + np.cos(np.pi * step / steps)))
        current = trained.factors().balanced(x)
        point = operating_point(current.scores(tune_x), tune_mass, recall)
        worth = float(np.sqrt(worth * point.worth))
        if point.selected_share < least:
            best, least = current, point.selected_share
        if report:
            report(epoch, point)
    return best
