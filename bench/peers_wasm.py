"""WebAssembly in wasmtime: dense against native SSE4.1, sparse against its own dense."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sparsefire as sf
from peer_files import smollm2_as
from rows import Row
from sparsefire.bench.ffn import bench_ffn
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import UnsupportedError
from sparsefire.lm.session import Session
from sparsefire.weights.matrix import Matrix
from timing import interleave

SHAPE = (4096, 4096)
_PROMPT, _TOKENS = 32, 16


def rows() -> Iterator[Row]:
    """Strict SIMD, one thread; then relaxed SIMD against strict, where there is such a module."""
    native = hosts.open_core("native", "sse41", 1)
    strict = hosts.open_core("wasmtime", "wasm128", 1)
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    for format in ("f32", "f16", "q8_0", "q4_0"):
        times = _times({"sse41": native, "strict": strict}, values, format)
        what = f"wasmtime {format} 4096×4096 against native SSE4.1"
        yield Row.compare(
            "wasm", what, 0.7, times["strict"], times["again"], times["sse41"], "sse41"
        )
    for format in ("f32", "q8_0"):
        report = bench_ffn(2048, 5632, gated=True, format=format, rank=128, core=strict)
        what = f"wasmtime 2048×5632 {format}: efficiency ({report.speedup:.2f}×)"
        yield Row("wasm", what, report.efficiency, 0.9)
    for format in ("q8_0", "q4_0"):
        times = _decode_times({"sse41": native, "strict": strict}, format)
        speed = _TOKENS / times["strict"].median
        what = f"wasmtime SmolLM2 {format}, dense, against native SSE4.1: {speed:.0f} tokens/s"
        yield Row.compare(
            "wasm", what, 0.7, times["strict"], times["again"], times["sse41"], "sse41"
        )
    try:
        relaxed = hosts.open_core("wasmtime", "relaxed128", 1)
    except UnsupportedError:
        return
    for format in ("q8_0", "q4_0", "q4_k"):
        times = _times({"relaxed": relaxed, "strict": strict}, values, format)
        value = times["strict"].median / times["relaxed"].median
        what = f"wasmtime {format} 4096×4096, relaxed against strict SIMD"
        yield Row("wasm", what, value, 1.5, times["relaxed"], times["strict"], "strict")


def _times(cores: dict[str, Core], values: np.ndarray, format: str) -> dict:
    x = np.random.default_rng(1).standard_normal(SHAPE[1], np.float32)
    out = np.empty(SHAPE[0], np.float32)
    matrices = {name: Matrix.from_array(values, format, core=core) for name, core in cores.items()}
    runs = {name: lambda _i, m=matrix: m.multiply(x, out=out) for name, matrix in matrices.items()}
    runs["again"] = runs["strict"]
    return interleave(runs, 4.0)


def _decode_times(cores: dict[str, Core], format: str) -> dict:
    """Of `_TOKENS` tokens, evaluated one by one."""
    path = smollm2_as(format)
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
    return interleave(runs, 6.0)
