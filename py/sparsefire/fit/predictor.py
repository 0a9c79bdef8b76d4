"""Calibrating a `LowRankPredictor` on samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._arrays import FloatArray
from ..core.enums import Rule
from ..errors import ArgumentError, CalibrationError, NotFiniteError, ShapeError
from ..ffn.factors import Factors
from ..ffn.layer import SparseFfn
from ..ffn.sparsity import SparsityConfig
from .blas import one_blas_thread
from .layers import LayerMath
from .lowrank import Descent, ridge_weights
from .mass import MassTable
from .predictor_fit import PredictorFit, Quality, Split, Tables

if TYPE_CHECKING:
    from ..ffn.low_rank import LowRankPredictor


_FEWEST_SAMPLES = 50
_SAMPLES_AT_ONCE = 2048


@dataclass(frozen=True)
class PredictorReport:
    """The quality of a calibrated predictor, on ``held_out`` of the ``samples``.

    Shares are of the neurons, over all held-out samples. ``recall_neurons`` is the share of active
    neurons that are selected, ``recall_mass`` that of the activation mass Σ |activation|, and
    ``recall_output`` that of the norms of the neurons' contributions to the output, None without a
    layer; ``precision`` is the share of selected neurons that are active. ``predictor_share``
    is the predictor's bytes over the layer's.
    """

    samples: int
    held_out: int
    active_share: float
    selected_share: float
    recall_neurons: float
    recall_mass: float
    recall_output: float | None
    precision: float
    predictor_bytes: int
    predictor_share: float | None


@dataclass(frozen=True)
class _Problem:
    """The prediction problem: inputs (n, input), and functions for the masses of a slice of them
    and for the initial linear map."""

    x: FloatArray
    table: Callable[[npt.NDArray[np.intp]], MassTable]
    start: Callable[[npt.NDArray[np.intp]], tuple[FloatArray, npt.ArrayLike]]
    layer_bytes: int | None


def calibrate_predictor(
    predictor: LowRankPredictor, of: Any, samples: npt.ArrayLike, recall: float, seed: int
) -> tuple[Factors, PredictorReport]:
    """New factors for ``predictor`` and their quality; see `LowRankPredictor.calibrate`."""
    if not 0.5 <= recall < 1:
        raise ArgumentError(f"recall must be at least 0.5 and below 1, got {recall}")
    if isinstance(of, SparseFfn):
        problem = _of_layer(predictor, of, samples, recall)
    else:
        problem = _of_activations(predictor, of, samples)
    n = len(problem.x)
    order = np.random.default_rng(seed).permutation(n)
    held, tune = n // 5, n // 5
    parts = order[held + tune :], order[held : held + tune], order[:held]
    tables = Tables(*map(problem.table, parts))
    if not all(each.entries for each in (tables.fit, tables.tune, tables.held)):
        raise CalibrationError(
            f"no neuron is active in one fifth of the {n} samples: give more, or other samples"
        )
    data = Split(*(problem.x[part] for part in parts))
    fit = PredictorFit(data, tables, *problem.start(parts[0]), recall, Descent(seed=seed))
    factors = _fitted(predictor, fit)
    quality = _quality(factors, predictor, fit)
    report = PredictorReport(
        samples=n,
        held_out=held,
        active_share=quality.active,
        selected_share=quality.selected,
        recall_neurons=quality.neurons,
        recall_mass=quality.masses[0],
        recall_output=quality.masses[1] if len(quality.masses) > 1 else None,
        precision=quality.precision,
        predictor_bytes=predictor.nbytes,
        predictor_share=predictor.nbytes / problem.layer_bytes if problem.layer_bytes else None,
    )
    return factors, report


def _fitted(predictor: LowRankPredictor, fit: PredictorFit) -> Factors:
    """Factors as they will be stored, their scores right for the predictor's sparsity."""
    rank, relu = predictor.rank, predictor.relu_between
    rule = predictor.sparsity.rule(predictor.hidden_dim)
    if rule.kind == Rule.RULE_TOP_K:
        start = fit.start(rank, relu)
        fit = replace(fit, recall=_recall_of_share(fit, start, rule.most / predictor.hidden_dim))
    with one_blas_thread():
        factors = fit.refined(rank, relu=relu)
    factors = factors.rounded(predictor.format, predictor.core)
    thresholds = fit.thresholds(factors, fit.family(factors))
    return factors.with_thresholds(thresholds - np.float32(rule.threshold))


def _recall_of_share(fit: PredictorFit, factors: Factors, share: float) -> float:
    """The recall on tuning samples where one threshold selects ``share`` of the neurons."""
    scores, mass = factors.scores(fit.data.tune), fit.tables.tune
    cut = np.quantile(scores, 1 - min(max(share, 0.0), 1.0))
    found = mass.recall(scores[mass.tokens, mass.neurons] > cut)
    return float(np.clip(found.min(), 0.5, 0.999))


def _quality(factors: Factors, predictor: LowRankPredictor, fit: PredictorFit) -> Quality:
    """The quality of the predictor's own selection on the held-out samples."""
    held, sparsity = fit.tables.held, predictor.sparsity
    chosen = np.zeros(held.entries, np.bool_)
    selected = 0
    for token, (begin, x) in enumerate(zip(held.starts, fit.data.held, strict=False)):
        ids = _selected(sparsity, factors.scores(x[None])[0], predictor)
        entries = slice(int(begin), int(held.starts[token + 1]))
        chosen[entries] = np.isin(held.neurons[entries], ids, assume_unique=True)
        selected += len(ids)
    return Quality.of(held, chosen, selected / (held.n * held.hidden))


def _selected(
    sparsity: SparsityConfig, scores: FloatArray, predictor: LowRankPredictor
) -> _arrays.IntArray:
    ids = sparsity.select(scores, predictor.core)
    assert isinstance(ids, np.ndarray)
    return ids


def _of_layer(
    predictor: LowRankPredictor, ffn: SparseFfn, samples: npt.ArrayLike, recall: float
) -> _Problem:
    wanted, got = (ffn.d_in, ffn.hidden), (predictor.input_dim, predictor.hidden_dim)
    if wanted != got:
        raise ShapeError(
            f"the predictor has {got[0]} inputs and {got[1]} neurons, the layer {wanted[0]} and "
            f"{wanted[1]}"
        )
    x = _checked_samples(samples, ffn.d_in)
    math = LayerMath(ffn)
    drop = 0.0 if ffn.activation.is_relu_family else (1 - recall) / 2
    return _Problem(
        x,
        lambda part: math.table(x[part], drop),
        lambda _: (math.gate, math.gate_bias),
        ffn.nbytes,
    )


def _of_activations(
    predictor: LowRankPredictor, samples: npt.ArrayLike, activations: npt.ArrayLike
) -> _Problem:
    x = _checked_samples(samples, predictor.input_dim)
    values = _arrays.real_array(activations, "activations")
    if values.shape != (len(x), predictor.hidden_dim):
        raise ShapeError(
            f"activations: expected shape {(len(x), predictor.hidden_dim)}, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise NotFiniteError("activations: NaN or infinity")

    def pieces(part: npt.NDArray[np.intp]) -> Iterator[tuple[FloatArray]]:
        for begin in range(0, len(part), _SAMPLES_AT_ONCE):
            yield (np.abs(values[part[begin : begin + _SAMPLES_AT_ONCE]]),)

    return _Problem(
        x,
        lambda part: MassTable.from_pieces(pieces(part)),
        lambda part: ridge_weights(x[part], np.abs(values[part])),
        None,
    )


def _checked_samples(samples: npt.ArrayLike, d: int) -> FloatArray:
    x = _arrays.matrix(samples, "samples", f"(n, {d})")
    if x.shape[1] != d:
        raise ShapeError(f"samples: expected shape (n, {d}), got {x.shape}")
    if len(x) < _FEWEST_SAMPLES:
        raise CalibrationError(
            f"{len(x)} samples are too few to calibrate a predictor; give {_FEWEST_SAMPLES} or "
            f"more, and thousands for a good one"
        )
    if not np.isfinite(x).all():
        raise NotFiniteError("samples: NaN or infinity")
    if float(np.ptp(x, axis=0).max()) == 0:
        raise CalibrationError("all samples are identical")
    return x
