"""Calibrating a model: predictors fitted on a text and stored in its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._files import check_output
from .._options import checked, number, positive, text
from .._progress import Progress
from ..arch.config import SPARSEFIRE_VERSION
from ..arch.screen import TENSORS as SCREEN_TENSORS
from ..arch.screen import is_kept
from ..arch.tensors import FFN_PARTS
from ..errors import ArgumentError, CalibrationError, UnsupportedError
from ..fit.blas import in_parallel
from ..fit.layers import FitOptions, LayerFit, LayerReport, fit_layer
from ..fit.lowrank import Descent
from ..gguf.source import ByteArray
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ..lm.model import Model
from ..text.pretokenizer import PRE_KEY
from ..weights.formats import CALIBRATION_FORMATS, weight_format
from ..weights.matrix import Matrix
from ..weights.quantized import dequantize_rows, quantize_rows
from .experts import ExpertFits, RoutedLayer, fit_experts, most_tokens, record, routed_layers
from .samples import (
    CHECKS,
    Recorder,
    Samples,
    Windows,
    check_wanted,
    cut,
    record_inputs,
    text_windows,
)

if TYPE_CHECKING:
    from ..ffn.layer import SparseFfn

FORMATS = ("keep", *CALIBRATION_FORMATS)
DEFAULT_TOKENS = 100_000


_PERPLEXITY_WINDOWS = 32
_RECORDED, _FITTED = 0.15, 0.9  # shares of the work


@dataclass(frozen=True)
class CalibrationReport:
    """The result of `calibrate_model`. ``perplexity_*`` are those of the new file over the held-out
    windows."""

    source: str
    output: str
    format: str
    recall: float
    tokens: int
    held_out_tokens: int
    active_share: float
    selected_share: float
    cost: float
    perplexity_dense: float
    perplexity_sparse: float
    layers: tuple[LayerReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


@checked(
    **CHECKS,
    rank=positive,
    recall=number,
    format=text,
    predictor_format=text,
)
def calibrate_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    text: str,
    *,
    rank: int | None = None,
    recall: float = 0.99,
    tokens: int = DEFAULT_TOKENS,
    format: str = "keep",
    predictor_format: str | None = None,
    activation: str | None = None,
    pre: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
) -> CalibrationReport:
    """Runs ``text`` through the model in ``source``, fits a predictor for each layer, and writes
    the model with them to ``output``, which may not be the same file. ``force`` replaces another
    file that exists there.

    About ``tokens`` tokens, spread over the text, are divided into windows: 14 of 20 for fitting, 3
    for tuning, and 3 held out, on which thresholds keep ``recall`` of the activation mass at the
    least cost. ``rank`` is the predictors' rank; by default each layer gets the one that reads the
    fewest bytes. ``format`` is the weight format: unchanged ("keep"), "f32", "f16" or "q8_0".
    ``predictor_format`` is by default Q8_0; with "q4_0" the same bytes hold nearly twice the rank,
    which selects fewer neurons. ``pre`` is as for `Model.load`; the new file names it. ``progress``
    is called with the current step and the share of the work that is done. ``recorder`` runs the
    text through the model elsewhere, as `sparsefire.batch.shards.recorder` does on a cluster, with
    the same result.

    In a mixture of ReLU experts each expert gets a predictor of its own, of one rank in a layer,
    fitted on the tokens that go to it; these are as many as memory for the inputs allows. Nothing
    else in the file changes, so that ``format`` has to be "keep".

    Errors: `CalibrationError` (too little text, a model that gains nothing), `ArgumentError`,
    `UnsupportedError`, `BackendError` (the gguf package is not installed), and those of
    `Model.load`.
    """
    _check_arguments(rank, recall, tokens, format)
    if predictor_format is not None:
        weight_format(predictor_format)
    check_output(Path(output), [Path(source)], force=force)
    gguf_package()
    announce = progress or (lambda _stage, _share: None)
    options = FitOptions(recall, rank, "", predictor_format, Descent(seed=seed))
    model = Model.load(source, activation=activation, pre=pre, head="dense", inputs="dense")
    try:
        check_output(Path(output), model.file.paths, force=force)
        if routed := routed_layers(model):
            if recorder is not None:
                raise UnsupportedError(
                    f"{model.file.name}: of a mixture of experts, the inputs cannot be recorded "
                    "elsewhere yet; leave out recorder"
                )
            windows = cut(model, text, min(tokens, most_tokens(model, routed)))
            found = _with_experts(model, routed, windows, options, format, announce)
        else:
            windows = text_windows(model, text, tokens)
            found = _with_layers(model, windows, options, format, recorder, announce)
        announce("writing", _FITTED)
        if pre is not None:
            found.metadata[PRE_KEY] = pre
        write_gguf(output, found.metadata, found.tensors, model.file.paths, force=force)
    finally:
        model.close()
    dense, sparse = _perplexities(Path(output), activation, windows, announce)
    reports = found.reports
    return CalibrationReport(
        source=str(source),
        output=str(output),
        format=found.format,
        recall=recall,
        tokens=windows.size,
        held_out_tokens=int(windows.held.size),
        active_share=_mean(report.active_share for report in reports),
        selected_share=_mean(report.selected_share for report in reports),
        cost=_mean(report.cost for report in reports),
        perplexity_dense=dense,
        perplexity_sparse=sparse,
        layers=reports,
    )


class _Found(NamedTuple):
    """What the new file holds, and what was found out for each of its layers."""

    metadata: dict[str, Any]
    tensors: dict[str, Writable]
    reports: tuple[LayerReport, ...]
    format: str  # of most feed-forward weights


def _with_layers(
    model: Model,
    windows: Windows,
    options: FitOptions,
    format: str,
    recorder: Recorder | None,
    announce: Progress,
) -> _Found:
    """A model with a feed-forward layer in every block."""
    samples = record_inputs(
        model,
        windows,
        options.descent.seed,
        lambda share: announce("reading the text", _RECORDED * share),
        recorder=recorder,
    )
    formats = [_bundle_format(ffn, format) for ffn in model.ffns]
    fits = _fit_layers(model, samples, [replace(options, weights=f) for f in formats], announce)
    _check_gain(model, fits)
    reports = tuple(fit.report for fit in fits)
    hot = [each.hot for each in reports]
    metadata = _metadata(model, reports, hot, format, options.recall, windows.size)
    return _Found(metadata, _tensors(model, fits, formats, format), reports, formats[0])


def _with_experts(
    model: Model,
    routed: Sequence[RoutedLayer],
    windows: Windows,
    options: FitOptions,
    format: str,
    announce: Progress,
) -> _Found:
    """A model with experts, whose tensors stay as they are."""
    if format != "keep":
        raise ArgumentError(
            f"format {format!r}: experts stay as they are stored; quantise the new file"
        )
    samples = record(
        model,
        routed,
        windows,
        options.descent.seed,
        lambda share: announce("reading the text", _FITTED * share / 2),
    )
    fits: list[ExpertFits] = []
    for each, data in zip(routed, samples, strict=True):
        own = replace(options, weights=each.experts.matrices[1].format)
        fits.append(fit_experts(each, data, own))
        announce("fitting predictors", _FITTED * (1 + len(fits) / len(routed)) / 2)
    reports = tuple(each.report for each in fits)
    hot = [0] * model.config.layers
    metadata = _metadata(model, reports, hot, "keep", options.recall, windows.size)
    tensors: dict[str, Writable] = {
        name: _copied(model, name, "keep") for name in model.file.tensors
    }
    for layer, found in zip(routed, fits, strict=True):
        tensors |= found.tensors(layer.layer)
    return _Found(metadata, tensors, reports, routed[0].experts.matrices[1].format)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _fit_layers(
    model: Model, samples: Samples, options: list[FitOptions], announce: Progress
) -> list[LayerFit]:
    """Fits the layers, several in parallel."""
    shares, lock = [0.0] * len(options), threading.Lock()

    def fit(layer: int) -> LayerFit:
        def progress(share: float) -> None:
            with lock:
                shares[layer] = share
                announce("fitting predictors", _RECORDED + (_FITTED - _RECORDED) * _mean(shares))

        split = samples.split(layer)
        result = fit_layer(layer, model.ffns[layer], split, options[layer], progress)
        progress(1.0)
        return result

    return in_parallel(fit, range(len(options)))


def _check_arguments(rank: int | None, recall: float, tokens: int, format: str) -> None:
    if not 0.5 <= recall < 1:
        raise ArgumentError(f"recall must be at least 0.5 and below 1, got {recall}")
    check_wanted(tokens)
    if format not in FORMATS:
        raise ArgumentError(f"format {format!r}: expected one of {', '.join(FORMATS)}")


# ---- The new file ------------------------------------------------------------------------------


def _bundle_format(ffn: SparseFfn, format: str) -> str:
    """The format of a layer's bundle, the same for all its parts."""
    if format != "keep":
        wanted = weight_format(format)
    else:
        kinds = [weight_format(each.format) for each in ffn.matrices if each is not None]
        wanted = max(kinds, key=lambda kind: kind.block_bytes / kind.block)
        if not wanted.written:
            wanted = weight_format("q8_0")
    return wanted.name if ffn.d_in % wanted.block == 0 else "f16"


def _check_gain(model: Model, fits: list[LayerFit]) -> None:
    if all(fit.report.fallback for fit in fits) and not model.config.activation.is_relu_family:
        raise CalibrationError(
            f"no layer of {model.file.name} reads less with a predictor: with "
            f"{model.config.activation} nearly every neuron matters at this recall. Use the "
            f"dense mode, or accept a lower --recall"
        )


def _metadata(
    model: Model,
    reports: Sequence[LayerReport],
    hot: Sequence[int],
    format: str,
    recall: float,
    tokens: int,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        key: value for key, value in model.file.typed_metadata().items() if is_kept(key)
    }
    if format != "keep":
        metadata["general.file_type"] = TypedValue(
            weight_format(format).file_type, ValueType("u32")
        )
        metadata["general.quantization_version"] = TypedValue(2, ValueType("u32"))
    metadata[f"{model.config.architecture}.hidden_activation"] = str(model.config.activation)
    metadata["sparsefire.version"] = TypedValue(SPARSEFIRE_VERSION, ValueType("u32"))
    metadata["sparsefire.hot_counts"] = np.array(hot, np.int32)
    metadata["sparsefire.calibration.recall"] = float(recall)
    metadata["sparsefire.calibration.tokens"] = TypedValue(tokens, ValueType("u32"))
    for name in ("active_share", "selected_share"):
        shares = np.zeros(model.config.layers, np.float32)  # 0 in blocks without neurons
        shares[[each.layer for each in reports]] = [getattr(each, name) for each in reports]
        metadata[f"sparsefire.calibration.{name}"] = shares
    return metadata


def _tensors(
    model: Model, fits: list[LayerFit], formats: list[str], format: str
) -> dict[str, Writable]:
    """The new file's tensors in the order of the old one, each layer's feed-forward tensors in the
    place of the first of them."""
    tensors: dict[str, Writable] = {}
    for name in model.file.tensors:
        prefix, found, rest = name.rpartition(".ffn_")
        if not found or rest.startswith("norm"):
            tensors[name] = _copied(model, name, format)
        elif f"{prefix}.ffn_bundle.weight" not in tensors:
            layer = int(prefix.removeprefix("blk."))
            tensors |= _ffn_tensors(prefix, model.ffns[layer], fits[layer], formats[layer])
    return tensors


def _copied(model: Model, name: str, format: str) -> TensorData:
    """A tensor unchanged, or a matrix in the given format if its columns allow it."""
    info, core = model.file.tensors[name], model.core
    rows_fit = len(info.shape) == 2 and format != "keep" and name not in SCREEN_TENSORS
    if not rows_fit or info.format == format or info.shape[1] % weight_format(format).block:
        return TensorData(info.format, info.shape, model.file.tensor_data(name))

    def converted() -> ByteArray:
        packed = model.file.tensor_data(name).reshape(info.shape[0], -1)
        values = dequantize_rows(packed, info.format, info.shape[1], core)
        return quantize_rows(values, format, core, f"{model.file.name}: tensor {name!r}")

    return TensorData(format, info.shape, converted)


def _ffn_tensors(prefix: str, ffn: SparseFfn, fit: LayerFit, format: str) -> dict[str, Writable]:
    """Bundle, biases and predictor of a layer, its neurons in their new order."""
    parts = [each for each in ffn.matrices if each is not None]
    shape = (ffn.hidden, len(parts) * ffn.d_in)
    by_neuron = ffn.down_layout == "neuron"

    def bundle() -> ByteArray:
        rows = [_packed_rows(each, format) for each in parts[:-1]]
        rows.append(_packed_rows(parts[-1], format, transpose=not by_neuron))
        return np.concatenate(rows, axis=1)[fit.order]

    tensors: dict[str, Writable] = {
        f"{prefix}.ffn_bundle.weight": TensorData(format, shape, bundle)
    }
    for part, matrix in zip(FFN_PARTS[-len(parts) :], parts, strict=True):
        if matrix.scale != 1:
            tensors[f"{prefix}.{part}.scale"] = np.array([matrix.scale], np.float32)
    gate_bias, up_bias, down_bias = ffn.biases
    for name, bias, order in (
        ("gate", gate_bias, fit.order),
        ("up", up_bias, fit.order),
        ("down", down_bias, slice(None)),
    ):
        if bias is not None:
            tensors[f"{prefix}.ffn_{name}.bias"] = bias[order]
    if ffn.sub_norm is not None:
        tensors[f"{prefix}.ffn_sub_norm.weight"] = ffn.sub_norm[fit.order]
    if fit.factors is not None:
        for name, factor in (("p", fit.factors.p), ("q", fit.factors.q)):
            packed = quantize_rows(factor, fit.predictor_format, ffn.core)
            tensors[f"{prefix}.ffn_predictor_{name}.weight"] = TensorData(
                fit.predictor_format, factor.shape, packed
            )
        tensors[f"{prefix}.ffn_predictor.bias"] = fit.factors.bias
    return tensors


def _packed_rows(matrix: Matrix, format: str, transpose: bool = False) -> ByteArray:
    """Packed rows, uint8 (rows, row bytes), without the scale, unchanged if the format is the
    same."""
    if matrix.format == format and not transpose:
        return matrix.packed()
    values = matrix.weights().dequantize(matrix.core)
    return quantize_rows(values.T if transpose else values, format, matrix.core)


def _perplexities(
    path: Path, activation: str | None, windows: Windows, announce: Progress
) -> tuple[float, float]:
    """Perplexity of the new file over the held-out windows, dense and sparse."""

    held = windows.held[:_PERPLEXITY_WINDOWS]
    results = []
    with Model.load(path, activation=activation) as model:
        for index, mode in enumerate(("dense", "sparse")):
            begin = _FITTED + (1 - _FITTED) * index / 2

            def done(tokens: int, total: int, _: float, begin: float = begin) -> None:
                announce("measuring perplexity", begin + (1 - _FITTED) / 2 * tokens / total)

            result = model.perplexity(held.reshape(-1), held.shape[1], mode=mode, progress=done)
            results.append(result.perplexity)
    return results[0], results[1]
