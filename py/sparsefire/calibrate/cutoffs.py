"""Calibrating a model whose activation has no exact zeros (SwiGLU, GeGLU): cutoffs below which
neurons are skipped, their cost in perplexity, and whether they pay."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._files import check_output
from .._options import checked, flag, number, several, text
from .._progress import Progress
from ..arch.config import CUTOFF_KEYS, SPARSEFIRE_VERSION
from ..arch.read import read_scale, rows_by_neuron
from ..arch.screen import is_kept
from ..errors import ArgumentError
from ..ffn.core_layer import CUTOFFS
from ..ffn.cutoff import neuron_values
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ..lm.compare import compare_with_dense
from ..lm.model import Model
from ..text.pretokenizer import PRE_KEY
from ..weights.matrix import Matrix
from .report import PerplexityReport, is_hopeless
from .samples import CHECKS, Windows, check_wanted, record_inputs, text_windows

DEFAULT_TOKENS = 8_192
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


_STEP = 0.05  # of a layer's sparsity
_LEVELS = 19  # 0.05 … 0.95
_PROBED = 12  # the level at which a layer's errors are weighed
_PROBE_TOKENS = 128  # for that
_FIT_TOKENS, _TRIED_TOKENS = 1_024, 256  # for a layer's cutoffs, and for the errors of each
_JUDGED_WINDOWS = 2  # on which ways to share a sparsity are compared
_TIMED_TOKENS = 24  # for which single layers are timed
_LEAST_GAIN = 1.03  # less is noise
_RECORDED = 0.1  # share of the work


@dataclass(frozen=True)
class CutoffSetting:
    """Cutoffs ``on`` "product" or "gate", one per layer, and their effect on held-out text.

    ``sparsity`` is the intended share of skipped neurons over all layers, ``left_out`` the actual
    one. ``output_error`` is ‖difference‖ / ‖output‖ of the layers' outputs, as root mean square
    over tokens and layers. The two speeds are of token-by-token decoding, measured alternately.
    """

    on: str
    sparsity: float
    left_out: float
    output_error: float
    perplexity: float
    tokens_per_s: float
    dense_tokens_per_s: float
    cutoffs: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Speed over that of dense decoding."""
        return self.tokens_per_s / self.dense_tokens_per_s


@dataclass(frozen=True, kw_only=True)
class CutoffCalibration(PerplexityReport[CutoffSetting]):
    """The result of `calibrate_cutoffs`."""


@checked(
    **CHECKS,
    sparsities=several(number),
    on=several(text),
    perplexity_cost=number,
    even_if_slower=flag,
)
def calibrate_cutoffs(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    text: str,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    on: Sequence[str] = ("product", "gate"),
    perplexity_cost: float = 0.01,
    even_if_slower: bool = False,
    tokens: int = DEFAULT_TOKENS,
    activation: str | None = None,
    pre: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> CutoffCalibration:
    """Finds cutoffs on |activation(gate) · up| ("product") and on |activation(gate)| ("gate") that
    skip given shares of the neurons, measures their effect on perplexity and on the speed of this
    machine, and writes the model with the fastest setting that costs at most ``perplexity_cost``
    (0.01: 1 %) to ``output``, if it is faster than dense.

    A sparsity is allocated greedily across layers, as in TEAL (Liu et al. 2024): in each step, the
    layer skips more whose additional output error costs least, measured as the divergence of the
    model's output; or evenly, as in CATS (Lee et al. 2024), if that is better for the text. Cutoffs
    on the gate save up and down of a neuron; those on the product save only down and change far
    less. Sparsities are tried in rising order, up to one that costs more than twice
    ``perplexity_cost``. Layers that do not get faster on this machine keep no cutoff. About
    ``tokens`` tokens of the text are used, half for fitting and half held out. ``even_if_slower``
    writes the best setting even if dense is better. ``force`` replaces a file that exists at
    ``output``, which may not be ``source``. ``pre`` is as for `Model.load`; the new file names it.

    Errors: `CalibrationError` (too little text), `ArgumentError`, `BackendError` (the gguf package
    is not installed), and those of `Model.load`.
    """
    _check_arguments(sparsities, on, perplexity_cost, tokens)
    if output is not None:
        check_output(Path(output), [Path(source)], force=force)
        gguf_package()
    announce = progress or (lambda _stage, _share: None)
    with Model.load(source, activation=activation, pre=pre, head="dense", inputs="dense") as model:
        if output is not None:
            check_output(Path(output), model.file.paths, force=force)
        windows = text_windows(model, text, tokens)
        trial = _Trial(model, windows, seed, announce)
        settings = trial.settings(on, sorted(sparsities), perplexity_cost)
        best = _best(settings, trial.perplexity_dense, perplexity_cost, even_if_slower)
        chosen = best
        if best is not None and not even_if_slower:
            # Measured again: the best of many may have been lucky.
            chosen = trial.without_slow_layers(best)
            chosen = chosen if chosen is not None and chosen.speedup >= _LEAST_GAIN else None
        if chosen is not None and output is not None:
            announce("writing", 0.99)
            cost = chosen.perplexity / trial.perplexity_dense - 1
            keys = {key: value for key, value in file_keys(model).items() if is_kept(key)}
            metadata = keys | cutoff_keys(chosen, windows.size, cost)
            if pre is not None:
                metadata[PRE_KEY] = pre
            tensors = file_tensors(model, chosen.cutoffs)
            write_gguf(output, metadata, tensors, model.file.paths, force=force)
    return CutoffCalibration(
        source=str(source),
        output=None if output is None or chosen is None else str(output),
        tokens=windows.size,
        held_out_tokens=trial.held.size,
        perplexity_dense=trial.perplexity_dense,
        perplexity_cost=perplexity_cost,
        settings=tuple(settings),
        chosen=chosen,
    )


def _check_arguments(
    sparsities: Sequence[float], on: Sequence[str], perplexity_cost: float, tokens: int
) -> None:
    if not sparsities or not all(0 < each <= _STEP * _LEVELS for each in sparsities):
        raise ArgumentError(f"sparsities must be above 0 and at most 0.95, got {list(sparsities)}")
    if not on or any(each not in CUTOFFS for each in on):
        raise ArgumentError(f"on {list(on)}: expected 'product', 'gate' or both")
    check_wanted(tokens, perplexity_cost)


def _best(
    settings: Sequence[CutoffSetting], dense: float, most_cost: float, even_if_slower: bool
) -> CutoffSetting | None:
    """The fastest setting within the accepted cost that is faster than dense. With
    ``even_if_slower`` there is always one, if necessary the one that costs least."""
    cheap = [each for each in settings if each.perplexity <= dense * (1 + most_cost)]
    best = max(cheap, key=lambda each: each.speedup, default=None)
    if even_if_slower:
        return best or min(settings, key=lambda each: each.perplexity)
    return best if best is not None and best.speedup >= _LEAST_GAIN else None


# ---- Curves of the layers, and their budget ------------------------------------------------------


@dataclass(frozen=True)
class _Curve:
    """The cutoffs that skip 0, 0.05, … 0.95 of one layer's neurons; the squared error of its
    output, relative to the output, as mean over tokens; and the resulting cost for the model."""

    cutoffs: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]


def _curve(
    model: Model, layer: int, x: FloatArray, on: str, divergence: Callable[[], float]
) -> _Curve:
    """The curve of a layer for inputs x (n, d). ``divergence`` measures how far the model's output
    is from the dense one: with only this layer's cutoff set, that is the cost of its error."""
    ffn = model.ffns[layer]
    levels = np.arange(_LEVELS + 1) * _STEP
    cutoffs = np.quantile(neuron_values(ffn, x, on), levels).astype(np.float64)
    cutoffs[0] = 0.0
    x = x[:_TRIED_TOKENS]
    dense = ffn.forward(x, mode="dense")
    sizes = np.maximum((dense**2).sum(axis=1), 1e-30)
    errors = np.zeros(len(levels))
    for level in range(1, len(levels)):
        ffn.set_cutoff(float(cutoffs[level]), on)
        difference = ffn.forward(x, mode="exact") - dense
        errors[level] = ((difference**2).sum(axis=1) / sizes).mean()
    ffn.set_cutoff(float(cutoffs[_PROBED]), on)
    worth = divergence() / max(float(errors[_PROBED]), 1e-30)
    ffn.set_cutoff(0.0, on)
    return _Curve(cutoffs, errors, worth * _convex(errors))


def _convex(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The curve with its steps averaged until none is smaller than the one before, so that the
    greedy search is not misled by a layer whose later steps look cheap."""
    runs: list[tuple[float, int]] = []
    for step in np.diff(values):
        mean, count = float(step), 1
        while runs and runs[-1][0] > mean:
            before, length = runs.pop()
            mean = (before * length + mean * count) / (length + count)
            count += length
        runs.append((mean, count))
    steps = np.concatenate([np.full(count, mean) for mean, count in runs])
    return np.concatenate(([0.0], np.cumsum(steps))).astype(np.float64)


def _shared_out(curves: Sequence[_Curve], sparsity: float) -> npt.NDArray[np.float64]:
    """Sparsities of the layers (layers) with the given mean: in each step, the layer for which it
    costs least skips more."""
    levels = np.zeros(len(curves), np.intp)
    growth = np.array([curve.costs[1] for curve in curves])
    for _ in range(round(sparsity / _STEP * len(curves))):
        layer = int(np.argmin(growth))
        levels[layer] += 1
        level, costs = levels[layer], curves[layer].costs
        growth[layer] = costs[level + 1] - costs[level] if level < _LEVELS else np.inf
    return levels.astype(np.float64) * _STEP


def _at(curves: Sequence[_Curve], sparsities: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The cutoffs at these sparsities (layers)."""
    grid = np.arange(_LEVELS + 1) * _STEP
    pairs = zip(curves, sparsities, strict=True)
    return tuple(float(np.interp(sparsity, grid, curve.cutoffs)) for curve, sparsity in pairs)


class _Trial:
    """Tries settings on a model."""

    def __init__(self, model: Model, windows: Windows, seed: int, announce: Progress) -> None:
        self.model, self.windows, self.announce = model, windows, announce
        self.fit, self.held = windows.all[::2], windows.all[1::2]
        samples = record_inputs(
            model,
            Windows(self.fit),
            seed,
            lambda share: announce("reading the text", _RECORDED * share),
            _FIT_TOKENS,
        )
        self.inputs = samples.inputs
        add_second_downs(model)
        self._dense_log_p = self._log_p("dense")
        self.perplexity_dense = self._perplexity(self.held, "dense")

    def _log_p(self, mode: str) -> FloatArray:
        """Log probabilities of the model for some tokens of the text (n, vocab)."""
        tokens = self.fit.reshape(-1)[: min(_PROBE_TOKENS, self.model.context)]
        logits = self.model.logits(tokens, mode=mode)
        for row in logits:  # each by itself: with a large vocabulary all of them take much memory
            row -= row.max()
            row -= np.float32(np.log(np.exp(row).sum(dtype=np.float64)))
        return logits

    def _divergence(self) -> float:
        """Kullback-Leibler divergence of the output from the dense one, in nats."""
        pairs = zip(self._dense_log_p, self._log_p("exact"), strict=True)
        each = [(np.exp(dense) * (dense - found)).sum(dtype=np.float64) for dense, found in pairs]
        return float(np.mean(each))

    def settings(
        self, on: Sequence[str], sparsities: Sequence[float], most_cost: float
    ) -> list[CutoffSetting]:
        """All settings, measured; of each kind in rising sparsity, up to one that costs far more
        than is accepted."""
        layers = len(self.model.ffns)
        found: list[CutoffSetting] = []
        for kind in on:
            begin = _RECORDED + (0.98 - _RECORDED) * on.index(kind) / len(on)
            part = (0.98 - _RECORDED) / len(on)
            curves = []
            for layer in range(layers):
                self.announce("trying cutoffs", begin + 0.5 * part * layer / layers)
                x = self._inputs_of(layer)
                curves.append(_curve(self.model, layer, x, kind, self._divergence))
            for place, sparsity in enumerate(sparsities):
                share = begin + part * (0.5 + 0.5 * place / len(sparsities))
                self.announce("measuring perplexity and speed", share)
                shared = self._best_shared(curves, kind, sparsity)
                found.append(self._measured(kind, sparsity, curves, shared))
                if is_hopeless(found[-1].perplexity, self.perplexity_dense, most_cost):
                    break
        return found

    def _best_shared(
        self, curves: Sequence[_Curve], on: str, sparsity: float
    ) -> npt.NDArray[np.float64]:
        """The layers' sparsities, allocated greedily or evenly, whichever is better for the text
        that the cutoffs are fitted on."""
        ways = (_shared_out(curves, sparsity), np.full(len(curves), sparsity))
        costs = []
        for way in ways:
            set_cutoffs(self.model, on, _at(curves, way))
            costs.append(self._perplexity(self.fit[:_JUDGED_WINDOWS], "exact"))
        return ways[int(np.argmin(costs))]

    def _inputs_of(self, layer: int) -> FloatArray:
        return np.ascontiguousarray(self.inputs[:, layer])

    def _perplexity(self, windows: npt.NDArray[np.int32], mode: str) -> float:
        result = self.model.perplexity(windows.reshape(-1), windows.shape[1], mode=mode)
        return result.perplexity

    def _measured(
        self,
        on: str,
        sparsity: float,
        curves: Sequence[_Curve],
        shared: npt.NDArray[np.float64],
    ) -> CutoffSetting:
        """A setting with its error, perplexity and speed."""
        grid = np.arange(_LEVELS + 1) * _STEP
        errors = [np.interp(each, grid, c.errors) for each, c in zip(shared, curves, strict=True)]
        return self._with_cutoffs(on, sparsity, float(np.mean(errors) ** 0.5), _at(curves, shared))

    def _with_cutoffs(
        self, on: str, sparsity: float, error: float, cutoffs: tuple[float, ...]
    ) -> CutoffSetting:
        model = self.model
        set_cutoffs(model, on, cutoffs)
        perplexity = self._perplexity(self.held, "exact")
        active = model.stats.active_share
        speed, dense = compare_with_dense(model, self.held.reshape(-1).tolist(), "exact")
        return CutoffSetting(
            on,
            sparsity,
            1 - active.mean,
            error,
            perplexity,
            speed,
            dense,
            cutoffs,
        )

    def without_slow_layers(self, setting: CutoffSetting) -> CutoffSetting | None:
        """The setting without the cutoffs of layers that are no faster with them, measured again;
        None if no layer is faster. Layers are timed in sequence, so that their weights are in the
        same level of cache as during decoding."""
        set_cutoffs(self.model, setting.on, setting.cutoffs)
        spent = np.zeros((2, len(setting.cutoffs), _TIMED_TOKENS))
        for token in range(_TIMED_TOKENS):
            for place in (0, 1) if token % 2 else (1, 0):
                for layer, ffn in enumerate(self.model.ffns):
                    x = self.inputs[token, layer]
                    began = time.perf_counter()
                    ffn.forward(x, mode=("dense", "exact")[place])
                    spent[place, layer, token] = time.perf_counter() - began
        dense, sparse = np.median(spent, axis=2)
        cutoffs = np.where(sparse < dense, setting.cutoffs, 0.0).tolist()
        if not any(cutoffs):
            return None
        error = setting.output_error
        return self._with_cutoffs(setting.on, setting.sparsity, error, tuple(cutoffs))


def add_second_downs(model: Model) -> None:
    """Adds down by neuron to down by output, as in a new file with cutoffs."""
    for layer, ffn in enumerate(model.ffns):
        if ffn.down_layout == "output" and ffn.second_down is None:
            name = f"blk.{layer}.ffn_down.weight"
            rows, kind, shape = rows_by_neuron(model.core, model.file, name)
            second = Matrix(model.core, model.core.upload(rows), kind, *shape)
            ffn.set_second_down(second.set_scale(read_scale(model.file, name)))


def set_cutoffs(model: Model, on: str, cutoffs: Sequence[float]) -> None:
    """Sets the cutoffs of all layers, and no others."""
    for ffn, cutoff in zip(model.ffns, cutoffs, strict=True):
        for each in CUTOFFS:
            ffn.set_cutoff(cutoff if each == on else 0.0, each)


# ---- The new file --------------------------------------------------------------------------------


def file_keys(model: Model) -> dict[str, Any]:
    """The keys of a model's file that a new one has too, but for those of its parts."""
    keys = model.file.typed_metadata().items()
    metadata: dict[str, Any] = {key: value for key, value in keys if not key.startswith("split.")}
    metadata[f"{model.config.architecture}.hidden_activation"] = str(model.config.activation)
    metadata["sparsefire.version"] = TypedValue(SPARSEFIRE_VERSION, ValueType("u32"))
    return metadata


def cutoff_keys(setting: CutoffSetting, tokens: int, cost: float) -> dict[str, Any]:
    """The keys of a file with these cutoffs, found on so many tokens, at this cost in
    perplexity."""
    return {
        CUTOFF_KEYS[setting.on]: np.array(setting.cutoffs, np.float32),
        "sparsefire.calibration.tokens": TypedValue(tokens, ValueType("u32")),
        "sparsefire.calibration.left_out": setting.left_out,
        "sparsefire.calibration.perplexity_cost": cost,
    }


def file_tensors(model: Model, cutoffs: Sequence[float] = ()) -> dict[str, Writable]:
    """The file's tensors unchanged, and down by neuron for layers with a cutoff, if there are
    cutoffs."""
    tensors: dict[str, Writable] = {}
    for name, info in model.file.tensors.items():
        tensors[name] = TensorData(info.format, info.shape, model.file.tensor_data(name))
    for layer, (ffn, cutoff) in enumerate(zip(model.ffns if cutoffs else (), cutoffs, strict=True)):
        second = ffn.second_down
        if cutoff > 0 and second is not None and ffn.down_layout == "output":
            name = f"blk.{layer}.ffn_down_t.weight"
            tensors[name] = TensorData(second.format, second.shape, second.packed)
    return tensors
