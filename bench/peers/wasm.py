"""WebAssembly in wasmtime: dense against native SSE4.1, sparse against its own dense."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sparsefire as sf
from sparsefire.bench.ffn import bench_ffn
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import UnsupportedError
from sparsefire.lm.opening import default_model
from sparsefire.lm.session import Session
from sparsefire.weights.matrix import Matrix

from ..lib.command import Effort
from ..lib.layers import MIDDLE
from ..lib.peer_files import smollm2_as
from ..lib.rows import Row
from ..lib.timing import Times, interleave

SHAPE = (4096, 4096)
_PROMPT, _TOKENS = 32, 16


def rows(effort: Effort) -> Iterator[Row]:
    """Strict SIMD, one thread; then relaxed SIMD against strict, where there is such a module."""
    native = hosts.open_core("native", "sse41", 1)
    strict = hosts.open_core("wasmtime", "wasm128", 1)
    rows, columns = effort.shape(SHAPE)
    size = f"{rows}×{columns}"
    values = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    for format in ("f32", "f16", "q8_0", "q4_0"):
        times = _times({"sse41": native, "strict": strict}, values, format, effort)
        what = f"wasmtime {format} {size} against native SSE4.1"
        yield Row.compare("wasm", what, times, "strict", "sse41")
    d, hidden = effort.shape(MIDDLE)
    for format in ("f32", "q8_0"):
        report = bench_ffn(
            d, hidden, gated=True, format=format, repeats=7 if effort.quick else None, core=strict
        )
        what = f"wasmtime {d}×{hidden} {format}: efficiency ({report.speedup:.2f}×)"
        yield Row("wasm", what, report.efficiency)
    for format in ("q8_0", "q4_0"):
        times = _decode_times({"sse41": native, "strict": strict}, format, effort)
        speed = _TOKENS / times["strict"].median
        name = "the embedded model" if effort.quick else f"SmolLM2 {format}"
        what = f"wasmtime {name}, dense, against native SSE4.1: {speed:.0f} tokens/s"
        yield Row.compare("wasm", what, times, "strict", "sse41")
    try:
        relaxed = hosts.open_core("wasmtime", "relaxed128", 1)
    except UnsupportedError:
        return
    for format in ("q8_0", "q4_0", "q4_k"):
        times = _times({"strict": strict, "relaxed": relaxed}, values, format, effort)
        what = f"wasmtime {format} {size}, relaxed against strict SIMD"
        yield Row.compare("wasm", what, times, "relaxed", "strict")


def _times(
    cores: dict[str, Core], values: np.ndarray, format: str, effort: Effort
) -> dict[str, Times]:
    """Of a product on each core; "again" is the last of them."""
    x = np.random.default_rng(1).standard_normal(values.shape[1], np.float32)
    out = np.empty(len(values), np.float32)
    matrices = {name: Matrix.from_array(values, format, core=core) for name, core in cores.items()}
    runs = {name: lambda _i, m=matrix: m.multiply(x, out=out) for name, matrix in matrices.items()}
    runs["again"] = list(runs.values())[-1]
    return interleave(runs, effort.seconds(4.0))


def _decode_times(cores: dict[str, Core], format: str, effort: Effort) -> dict[str, Times]:
    """Of `_TOKENS` tokens, evaluated one by one."""
    path = default_model() if effort.quick else smollm2_as(format)
    runs = {}
    for name, core in cores.items():
        model = sf.Model.load(path, context=_PROMPT + _TOKENS, core=core)
        ids = np.random.default_rng(0).integers(0, model.config.vocab, _PROMPT + _TOKENS).tolist()
        session = model.new_session(_PROMPT + _TOKENS)
        session.feed(ids[:_PROMPT], "dense")

        def run(_i: int, session: Session = session, ids: list[int] = ids) -> None:
            session.rewind(_PROMPT, "dense")
            for token in ids[_PROMPT:]:
                session.step(token)

        runs[name] = run
    runs["again"] = runs["strict"]
    return interleave(runs, effort.seconds(6.0))
