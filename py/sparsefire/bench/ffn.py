"""Benchmarks of feed-forward layers: dense, predicted, and the limit by bytes read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._arrays import FloatArray
from .._progress import Progress
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ArgumentError
from ..ffn.layer import SparseFfn
from ..ffn.low_rank import LowRankPredictor
from ..ffn.sparsity import SparsityConfig
from ..fit.layers import predictor_format
from ..weights.formats import weight_format
from ..weights.matrix import bundle_views
from ..weights.quantized import quantize_rows
from .report import Report

_SECONDS = 5.0  # total time when the number of repetitions is not given
_FEWEST, _MOST = 7, 201
_ROWS_AT_ONCE = 1024
ALL_ACTIVE = 8.0  # a bias that keeps every gate of a `random_layer` positive


@dataclass(frozen=True, kw_only=True)
class FfnBench(Report):
    """A layer's times, medians over ``repeats`` in milliseconds, for one vector at a time.

    ``sparse_ms`` includes the predictor, which by itself takes ``predictor_ms``. ``limit`` is the
    largest speed-up that reading fewer bytes allows, 1 / (active share + predictor bytes / layer
    bytes), and ``efficiency`` the speed-up over it. ``max_rel_err`` is the largest error of the
    sparse output against float64 with the same neurons, over its largest element.
    """

    shape: str
    gated: bool
    format: str
    rank: int
    dense_ms: float
    predictor_ms: float
    sparse_ms: float
    speedup: float
    limit: float
    efficiency: float
    active_share: float
    bytes_dense: int
    bytes_sparse: int
    max_rel_err: float


def bench_ffn(
    d: int,
    hidden: int,
    *,
    gated: bool = False,
    format: str = "q8_0",
    active: float = 0.1,
    rank: int = 128,
    repeats: int | None = None,
    seed: int = 0,
    core: Core | None = None,
    progress: Progress | None = None,
) -> FfnBench:
    """Times a layer of ``d`` inputs and outputs and ``hidden`` neurons with random weights.

    Each repetition has a new input, for which the predictor selects a different ``active`` share of
    the neurons. Dense, predictor and sparse alternate, in a changing order. Every selected neuron
    is computed completely: gate biases keep all gates positive. ``repeats`` defaults to about 5
    seconds' worth. ``progress`` is called after each repetition.

    Errors: `ArgumentError`, `FormatError` (sizes not a multiple of the format's block).
    """
    count = round(active * hidden)
    if d < 1 or hidden < 1 or rank < 1:
        raise ArgumentError(f"shape and rank must be 1 or more, got {d}x{hidden}, rank {rank}")
    if not 0 < active <= 1 or count < 1:
        raise ArgumentError(f"active: {active} of {hidden} neurons is none, or more than all")
    if repeats is not None and repeats < 1:
        raise ArgumentError(f"repeats must be 1 or more, got {repeats}")
    core = core or get_core()
    random = np.random.default_rng(seed)
    bench = LayerRuns(core, random, d, hidden, gated, format, rank, count)
    times = bench.measure(random, repeats, progress or (lambda _what, _share: None))
    dense, predictor, sparse = (1000 * statistics.median(each) for each in times)
    active_share = count / hidden
    predictor_bytes, layer_bytes = bench.predictor.nbytes, bench.ffn.nbytes
    limit = 1 / (active_share + predictor_bytes / layer_bytes)
    return FfnBench(
        shape=f"{d}x{hidden}",
        gated=gated,
        format=bench.ffn.format,
        rank=rank,
        dense_ms=dense,
        predictor_ms=predictor,
        sparse_ms=sparse,
        speedup=dense / sparse,
        limit=limit,
        efficiency=dense / sparse / limit,
        active_share=active_share,
        bytes_dense=layer_bytes,
        bytes_sparse=predictor_bytes + count * layer_bytes // hidden,
        max_rel_err=bench.error(random),
        backend=core.host,
        isa=core.isa,
        threads=core.threads,
        repeats=len(times[0]),
    )


def random_layer(
    core: Core,
    random: np.random.Generator,
    d: int,
    hidden: int,
    gated: bool,
    format: str,
    bias: float = ALL_ACTIVE,
) -> SparseFfn:
    """A ReLU layer of ``d`` inputs and outputs with random weights. For a standard normal input,
    gates (ungated: ups) are normal with mean ``bias`` and deviation 1: by default all are
    positive, so that every selected neuron is active."""
    kind, parts = weight_format(format), 2 + gated
    row = kind.row_bytes(d)
    bundle = np.empty((hidden, parts * row), np.uint8)
    for begin in range(0, hidden, _ROWS_AT_ONCE):
        piece = bundle[begin : begin + _ROWS_AT_ONCE]
        values = random.standard_normal((len(piece), parts * d), np.float32)
        values *= np.float32(d**-0.5)
        piece[:] = quantize_rows(values, kind, core)
    memory = core.upload(bundle)
    views = bundle_views(core, memory, hidden, [(kind, d)] * parts)
    shift = np.full(hidden, bias, np.float32)
    return SparseFfn.from_matrices(
        core,
        views[0] if gated else None,
        views[-2],
        views[-1],
        activation="relu",
        gate_bias=shift if gated else None,
        up_bias=None if gated else shift,
    )


class LayerRuns:
    """A layer with random weights and its predictor, which selects ``count`` neurons."""

    def __init__(
        self,
        core: Core,
        random: np.random.Generator,
        d: int,
        hidden: int,
        gated: bool,
        format: str,
        rank: int,
        count: int,
    ) -> None:
        self.d, self.hidden = d, hidden
        self.ffn = random_layer(core, random, d, hidden, gated, format)
        self.predictor = LowRankPredictor(
            d,
            hidden,
            rank,
            SparsityConfig.with_top_k(count),
            format=predictor_format(rank, d),
            core=core,
        )
        self.ffn.set_predictor(self.predictor)

    def _input(self, random: np.random.Generator) -> FloatArray:
        return random.standard_normal(self.d, np.float32)

    def measure(
        self, random: np.random.Generator, repeats: int | None, progress: Progress
    ) -> tuple[list[float], list[float], list[float]]:
        """Seconds of the dense pass, of the predictor and of the sparse pass in each
        repetition."""
        out = np.empty(self.ffn.d_out, np.float32)
        runs: tuple[Callable[[FloatArray], object], ...] = (
            lambda x: self.ffn.forward(x, mode="dense", out=out),
            lambda x: self.predictor.predict(x),
            lambda x: self.ffn.forward(x, mode="sparse", out=out),
        )
        times: tuple[list[float], list[float], list[float]] = ([], [], [])
        warm = self._input(random)
        started = time.perf_counter()
        for run in runs:
            run(warm)
        if repeats is None:
            spent = time.perf_counter() - started
            repeats = int(min(max(_SECONDS / spent, _FEWEST), _MOST))
        order = [0, 1, 2]
        for index in range(repeats):
            x = self._input(random)
            for place in order:
                began = time.perf_counter()
                runs[place](x)
                times[place].append(time.perf_counter() - began)
            order = order[1:] + order[:1]
            progress(f"{index + 1} of {repeats} repetitions", (index + 1) / repeats)
        return times

    def error(self, random: np.random.Generator) -> float:
        """Largest error of a sparse pass against float64."""
        x = self._input(random)
        ids = self.predictor.predict(x)
        assert isinstance(ids, np.ndarray)
        y = self.ffn.forward(x, mode="sparse")
        gate, up, down = self.ffn.matrices
        gate_bias, up_bias, _ = self.ffn.biases
        values = up.dequantize()[ids].astype(np.float64) @ x
        if up_bias is not None:
            values = np.maximum(values + up_bias[ids], 0)
        if gate is not None and gate_bias is not None:
            gates = gate.dequantize()[ids].astype(np.float64) @ x + gate_bias[ids]
            values *= np.maximum(gates, 0)
        wanted = values @ down.dequantize()[ids].astype(np.float64)
        return float(np.abs(y - wanted).max() / np.abs(wanted).max())
