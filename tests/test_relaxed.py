"""Relaxed SIMD in wasmtime: what its 8-bit products compute, and how far that is from exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsefire as sf
from conftest import ROOT, missing
from pyodide_harness import PyodideRuntime, build_modules
from sparsefire.core import hosts
from sparsefire.core import wasm as _wasm
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix

Array = np.ndarray[Any, Any]

# The largest integer of an input, by format; None: floats.
MOST = {
    "f32": None,
    "f16": None,
    "q4_0": 127,
    "q4_1": 127,
    "q2_k": 32767,
    "q3_k": 32767,
    "q4_k": 127,
    "q8_0": 63,
    "q5_0": 32767,
    "q6_k": 32767,
    "iq4_nl": 32767,
    "iq4_xs": 32767,
    "tq1_0": 32767,
    "tq2_0": 127,
    "mxfp4": 32767,
}


@pytest.fixture(scope="module")
def relaxed() -> Core:
    build_modules(ROOT)
    if not (ROOT / "py/sparsefire/wasm/sparsefire_core_relaxed.wasm").exists():
        missing("clang-19 and wasm-ld-19 are not installed; ./scripts/test.sh installs them")
    return hosts.open_core("wasmtime", "relaxed128", 1)


def rounded(x: Array, most: int | None) -> Array:
    """x as integers of at most that magnitude in blocks of 32, times their scales."""
    if most is None:
        return x.astype(np.float64)
    blocks = x.reshape(-1, 32).astype(np.float64)
    scale = np.abs(blocks).max(1, keepdims=True) / most
    return (np.rint(blocks / np.where(scale == 0, 1, scale)) * scale).reshape(x.shape)


def random_rows(rows: int, columns: int, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, columns), dtype=np.float32)


@pytest.mark.parametrize("format", MOST)
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (37, 512), (64, 1280)])
def test_products_are_those_of_rounded_inputs(
    relaxed: Core, format: str, count: int, rows: int, columns: int
) -> None:
    matrix = Matrix.from_array(random_rows(rows, columns, 1), format, core=relaxed)
    weights = matrix.dequantize().astype(np.float64)
    x = random_rows(count, columns, 2) * np.float32(3)
    found = matrix.multiply(x)
    size = np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(weights, axis=1)
    error = np.abs(found - rounded(x, MOST[format]) @ weights.T) / size
    # An input halfway between two integers may be rounded either way.
    assert error.max() <= 1e-3
    assert np.median(error) <= 1e-6


@pytest.mark.parametrize(
    ("format", "most"),
    [("f32", 1e-6), ("f16", 1e-6), ("q4_0", 0.01), ("q4_k", 0.01), ("q8_0", 0.02)],
)
def test_the_error_of_8_bit_inputs_is_what_the_documentation_says(
    relaxed: Core, format: str, most: float
) -> None:
    matrix = Matrix.from_array(random_rows(500, 2048, 3), format, core=relaxed)
    x = random_rows(20, 2048, 4)
    exact = x.astype(np.float64) @ matrix.dequantize().T.astype(np.float64)
    error = np.linalg.norm(matrix.multiply(x) - exact) / np.linalg.norm(exact)
    assert error <= most


@pytest.mark.parametrize("format", MOST)
def test_several_vectors_give_the_bits_of_one(relaxed: Core, format: str) -> None:
    matrix = Matrix.from_array(random_rows(70, 768, 5), format, core=relaxed)
    x = random_rows(34, 768, 6)
    together = matrix.multiply(x)
    assert all((matrix.multiply(x[i]) == together[i]).all() for i in range(len(x)))


@pytest.mark.parametrize("level", [-128, -127, 127])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_do_not_overflow(relaxed: Core, level: int, sign: int) -> None:
    block = np.float16(1).tobytes() + np.full(32, level, np.int8).tobytes()
    packed = np.frombuffer(block * 2, np.uint8).reshape(1, 68).copy()
    weights = sf.QuantizedWeights(packed, "q8_0", (1, 64))
    matrix = Matrix.from_array(weights, core=relaxed)
    x = np.full(64, sign, np.float32)
    assert matrix.multiply(x)[0] == pytest.approx(64 * level * sign, rel=1e-6)


def test_nan_and_zero_blocks(relaxed: Core) -> None:
    matrix = Matrix.from_array(random_rows(9, 256, 7), "q8_0", core=relaxed)
    assert (matrix.multiply(np.zeros(256, np.float32)) == 0).all()
    x = np.ones(256, np.float32)
    x[100] = np.nan
    with pytest.raises(sf.NotFiniteError):
        matrix.multiply(x)


@pytest.mark.parametrize("formats", [("q8_0", "q4_0"), ("q4_0", "q8_0"), ("f32", "q4_0")])
def test_a_layer_may_mix_formats(relaxed: Core, formats: tuple[str, str]) -> None:
    gate, up = (
        sf.QuantizedWeights.quantize(random_rows(320, 256, seed), kind)
        for seed, kind in zip((8, 9), formats, strict=True)
    )
    down = random_rows(256, 320, 10)
    x = random_rows(3, 256, 11)
    there = sf.SparseFfn(up, down, "silu", gate=gate, core=relaxed).forward_dense(x)
    here = sf.SparseFfn(up, down, "silu", gate=gate, core=hosts.open_core("native"))
    exact = here.forward_dense(x)
    assert np.linalg.norm(there - exact) <= 0.03 * np.linalg.norm(exact)


def test_strict_simd_is_the_default() -> None:
    assert hosts.open_core("wasmtime").isa == "wasm128"


def test_devices_tells_of_it(relaxed: Core) -> None:
    (host,) = (host for host in sf.devices().hosts if host.name == "wasmtime")
    assert "isa='relaxed128' is faster" in host.note
    assert relaxed.faster() == ""


def test_where_it_cannot_be_had_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(sf.UnsupportedError, match="this engine has no relaxed SIMD"):
        _wasm.choose_module("relaxed128", False, lambda module: False)
    monkeypatch.setattr(_wasm, "_MODULES", tmp_path)
    with pytest.raises(sf.UnsupportedError, match="built without the module"):
        _wasm.choose_module("relaxed128", False, lambda module: True)


@pytest.mark.pyodide
def test_in_pyodide_with_threads_where_the_engine_has_it(
    relaxed: Core, pyodide: PyodideRuntime
) -> None:
    code = """
import numpy as np, sparsefire as sf
from sparsefire.weights.matrix import Matrix
generator = np.random.default_rng(14)
weights = generator.standard_normal((600, 512), dtype=np.float32)
x = generator.standard_normal(512, dtype=np.float32)
found = []
for threads in (1, 2):
    try:
        b = await sf.enable_threads(threads, isa="relaxed128")
    except sf.UnsupportedError as error:
        found.append(str(error))
    else:
        found.append([b.isa, b.threads, Matrix.from_array(weights, "q4_0").multiply(x).tolist()])
sf.use_backend("auto", threads=1)
found
"""
    one, two = pyodide.run(code)
    if isinstance(one, str):
        assert "this engine has no relaxed SIMD" in one
        assert one == two
        assert pyodide.name == "node"
        return
    generator = np.random.default_rng(14)
    weights = generator.standard_normal((600, 512), dtype=np.float32)
    x = generator.standard_normal(512, dtype=np.float32)
    here = Matrix.from_array(weights, "q4_0", core=relaxed).multiply(x)
    assert one == ["relaxed128", 1, here.tolist()]
    assert two == ["relaxed128", 2, here.tolist()]
