"""Quantised weights: what they hold, what they refuse, and integers of other schemes."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefire as sf
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, FormatError, NotFiniteError, ShapeError
from sparsefire.weights.formats import FORMATS, WRITTEN_FORMATS, weight_format
from sparsefire.weights.matrix import Matrix


def test_formats_are_numbered_as_in_gguf() -> None:
    for name, kind in FORMATS.items():
        number = gguf.GGMLQuantizationType[name.upper()]
        assert kind.code == number
        assert (kind.block, kind.block_bytes) == gguf.GGML_QUANT_SIZES[number]
        assert weight_format(kind.code) is weight_format(name.upper()) is kind
        # Of files in a K format GGUF tells how the rest is mixed: the small and medium mixtures.
        types = gguf.LlamaFileType
        endings = ("_M", "") if name.endswith("_k") else ("", "_MOE")
        prefix = "ALL_F32" if name == "f32" else f"MOSTLY_{name.upper()}"
        assert kind.file_type in {
            types[prefix + ending] for ending in endings if prefix + ending in types.__members__
        }
        assert FORMATS[kind.fallbacks[-1]].block == 1
        assert set(kind.fallbacks) <= set(FORMATS)
    assert weight_format("q4_K") is FORMATS["q4_k"]
    for unknown in ("q8_1", "", 77):
        with pytest.raises(FormatError, match="known"):
            weight_format(unknown)


def kind_of(format: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(FORMATS[format].code)


def by_gguf(packed: Any, format: str, columns: int) -> Any:
    """What the gguf package reads in packed bytes (rows, row bytes)."""
    with np.errstate(all="ignore"):
        return gguf.dequantize(np.ascontiguousarray(packed), kind_of(format)).reshape(-1, columns)


def odd_rows(columns: int) -> Any:
    """Rows of every kind that a quantiser could stumble over."""
    random = np.random.default_rng(columns)
    rows = random.standard_normal((20, columns)).astype(np.float32)
    rows[0] = 0
    rows[1] = 1
    rows[2] = -3
    rows[3] = np.abs(rows[3])
    rows[4] = -np.abs(rows[4])
    rows[5] *= np.float32(1e-6)
    rows[6] *= np.float32(1e4)
    rows[7, ::2] = 0
    rows[8, 5] = 1000
    rows[9] = rows[9] * np.float32(1e-3) + 10
    rows[10] = np.float32(1e-36)
    rows[11, 1:] = 0
    rows[12] = np.round(rows[12] * 4)
    rows[13, :16] *= np.float32(1e-3)
    return rows


PLAIN = ("f32", "f16", "bf16")
SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
WRITTEN_BY_GGUF = tuple(each for each in WRITTEN_FORMATS if each not in SEARCHED)
ONLY_READ = tuple(each for each in FORMATS if each not in WRITTEN_FORMATS)


@pytest.mark.parametrize("format", WRITTEN_BY_GGUF)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 5),
    scale=st.floats(-30, 24),
)
def test_quantised_as_by_the_gguf_package(
    format: str, seed: int, rows: int, blocks: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    columns = blocks * max(32, FORMATS[format].block)
    values = random.standard_normal((rows, columns)) * 2.0 ** (scale / 2)
    values[random.random(values.shape) < 0.1] = 0
    single = values.astype(np.float32)
    weights = sf.QuantizedWeights.quantize(values, format)
    assert weights.packed.tobytes() == gguf.quantize(single, kind_of(format)).tobytes()
    again = sf.QuantizedWeights(weights.packed, format, weights.shape)
    assert np.array_equal(again.dequantize(), by_gguf(weights.packed, format, columns))


@pytest.mark.parametrize("format", WRITTEN_BY_GGUF)
def test_odd_rows_are_quantised_as_by_the_gguf_package(format: str, host_core: Core) -> None:
    rows = odd_rows(3 * max(32, FORMATS[format].block))
    if format in PLAIN:
        rows[14] = np.float32(3.389e38) if format == "bf16" else np.float32(65519)
        rows[15] = np.float32(1e-45)
        rows[16] = -0.0
    with np.errstate(all="ignore"):
        wanted = gguf.quantize(rows, kind_of(format))
    assert sf.QuantizedWeights.quantize(rows, format).packed.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_any_bytes_are_read_as_by_the_gguf_package(format: str, host_core: Core) -> None:
    kind = FORMATS[format]
    columns = 2 * kind.block
    packed = np.random.default_rng(9).integers(0, 256, (400, 2 * kind.block_bytes), np.uint8)
    found = sf.QuantizedWeights(packed, format, (400, columns)).dequantize()
    assert np.array_equal(found, by_gguf(packed, format, columns), equal_nan=True)


def only_read(format: str, rows: int, columns: int, seed: int) -> sf.QuantizedWeights:
    """Random weights, with scales of ordinary size, of a format that is only read."""
    kind = FORMATS[format]
    blocks = columns // kind.block
    packed = np.random.default_rng(seed).integers(
        0, 256, (rows, blocks, kind.block_bytes), np.uint8
    )
    if format == "iq1_m":
        packed[..., 49::2] %= 16  # a half in the upper bits of four bytes: about 0.01
        packed[..., 49::2] |= np.array([0x10, 0x20, 0x10, 0x20], np.uint8)
    elif format == "nvfp4":
        packed[..., :4] %= 0x28
    else:
        packed[..., :2] = np.array([0.01], np.float16).view(np.uint8)
    return sf.QuantizedWeights(packed.reshape(rows, -1), format, (rows, columns))


@pytest.mark.parametrize("format", ONLY_READ)
def test_formats_that_are_only_read_are_computed_on(format: str, core: Core) -> None:
    """Dense, for one input and several, and sparse, by neurons; as stored."""
    columns = 512 if FORMATS[format].block == 256 else 320
    gate, up, down = (only_read(format, 67, columns, seed) for seed in range(3))
    exact = [by_gguf(each.packed, format, columns).astype(np.float64) for each in (gate, up, down)]
    x = np.random.default_rng(4).standard_normal((7, columns)).astype(np.float32)
    matrix = Matrix.from_array(gate, core=core)
    assert matrix.format == format
    wanted = x @ exact[0].T
    found = matrix.multiply(x)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.array_equal(found[3], matrix.multiply(x[3]))
    matrices = [Matrix.from_array(each, core=core) for each in (gate, up, down)]
    ffn = sf.SparseFfn.from_matrices(core, *matrices, activation="relu")
    values = np.maximum(wanted, 0) * (x @ exact[1].T)
    for y in (ffn.forward_dense(x), ffn.forward(x, mode="exact")):
        assert np.abs(y - values @ exact[2]).max() < 2e-4 * np.abs(values @ exact[2]).max()
    with pytest.raises(FormatError, match=f"{format} is only read, not written"):
        sf.QuantizedWeights.quantize(np.ones((1, 256)), format)


@pytest.mark.parametrize("format", SEARCHED)
def test_searching_quantisers(format: str, host_core: Core) -> None:
    """The gguf package cannot write these formats: it reads what ours writes, and the error is
    below that of the format with as many bits a level and plain scales."""
    rows = odd_rows(512)
    weights = sf.QuantizedWeights.quantize(rows, format)
    found = weights.dequantize()
    assert np.array_equal(found, by_gguf(weights.packed, format, 512))
    assert np.isfinite(found).all()
    levels = {"q2_k": 3, "q3_k": 7, "q4_k": 15, "q5_k": 31, "q6_k": 63}.get(format, 11)
    for row, back in zip(rows, found, strict=True):
        # Half a step, and what rounding the scales and mins to 6 or 8 bits may add: at most half
        # of a 63rd (or 128th) of the largest range in each, all for each run of 256 weights.
        for start in (0, 256):
            part = row[start : start + 256]
            reach = part.max(initial=0) - part.min(initial=0)
            bound = 2.2 * reach / levels
            if format not in ("q2_k", "q4_k", "q5_k"):  # no mins: levels on both sides of 0
                bound = 2 * np.abs(part).max() / ((levels + 1) / 2)
            assert np.abs(back[start : start + 256] - part).max() <= bound + 2.0**-16
    plain = {"q4_k": "q4_1", "q5_k": "q5_1", "q6_k": "q5_1"}.get(format)
    plain = "q4_0" if format.startswith("iq4") else plain
    normal = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    error = sf.QuantizedWeights.quantize(normal, format).error(normal).relative
    if plain is not None:
        assert error < 0.95 * sf.QuantizedWeights.quantize(normal, plain).error(normal).relative
    assert error < 1.03 * ERRORS[format]


@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_extreme_weights_do_no_harm(format: str, host_core: Core) -> None:
    """Beyond what halves hold there is an error, and no crash or hang."""
    rows = np.full((4, 256), 3e38, np.float32)
    rows[1] *= -1
    rows[2, ::2] *= -1
    rows[3] = np.float32(1e-45)
    if format in ("f32", "bf16", "mxfp4"):
        assert np.isfinite(sf.QuantizedWeights.quantize(rows, format).dequantize()).all()
    else:
        with pytest.raises(NotFiniteError, match=r"the weight .*3e\+38 is too large"):
            sf.QuantizedWeights.quantize(rows, format)


ERRORS = {"bf16": 0.0017, "q8_0": 0.0054, "q4_0": 0.087, "q4_1": 0.079, "q5_0": 0.043}
ERRORS |= {"q5_1": 0.038, "q4_k": 0.072, "q5_k": 0.036, "q6_k": 0.018, "f16": 0.00021, "f32": 0}
ERRORS |= {"q2_k": 0.27, "q3_k": 0.145, "iq4_nl": 0.073, "mxfp4": 0.115}
ERRORS |= {"iq4_xs": 0.074, "tq1_0": 0.81, "tq2_0": 0.81}


@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_the_error_of_a_transposed_matrix(format: str) -> None:
    """Turned around, blocks are rounded anew: √2 times the error, for Q8_0 and below a bit more,
    since rounded weights are not random. Plain numbers stay as they are."""
    values = np.random.default_rng(4).standard_normal((256, 512)).astype(np.float32)
    once = sf.QuantizedWeights.quantize(values, format)
    twice = once.transpose()
    assert twice.shape == (512, 256)
    first = once.error(values).relative
    assert first <= ERRORS[format] * 1.02
    if format in PLAIN:
        assert np.array_equal(twice.dequantize().T, once.dequantize())
    else:
        assert first < twice.error(values.T).relative < 1.6 * first


def test_errors_are_measured() -> None:
    values = np.random.default_rng(0).standard_normal((40, 64))
    exact = sf.QuantizedWeights.from_f32(values)
    assert exact.error(values.astype(np.float32)).max_abs == 0
    for format, bound in (("f16", 2**-11), ("q8_0", 1 / 127)):
        weights = sf.QuantizedWeights.quantize(values, format)
        error = weights.error(values)
        difference = weights.dequantize() - values
        assert error.max_abs == pytest.approx(np.abs(difference).max())
        assert error.rms == pytest.approx(np.sqrt((difference**2).mean()))
        assert error.relative == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(values))
        assert 0 < error.relative < bound
    assert sf.QuantizedWeights.from_f32(np.zeros((2, 2))).error(np.zeros((2, 2))).relative == 0
    with pytest.raises(ShapeError):
        exact.error(values.T)


def test_sizes_and_rows() -> None:
    values = np.arange(5 * 64).reshape(5, 64)
    sizes = {"f32": 5 * 64 * 4, "bf16": 5 * 64 * 2, "q8_0": 5 * 2 * 34, "q4_0": 5 * 2 * 18}
    for format, nbytes in sizes.items():
        weights = sf.QuantizedWeights.quantize(values[:, ::-1], format)
        assert (weights.shape, weights.nbytes, weights.format) == ((5, 64), nbytes, format)
        assert weights.bits_per_weight == nbytes * 8 / 320
        assert format in repr(weights)
        assert f"{nbytes:,}" in repr(weights)
        whole = weights.dequantize()
        for row in (0, 4, -1, -5):
            assert np.array_equal(weights.dequantize_row(row), whole[row])
        for row in (5, -6):
            with pytest.raises(ArgumentError, match="row"):
                weights.dequantize_row(row)


@pytest.mark.parametrize(
    ("values", "format", "error"),
    [
        (np.ones((3, 33)), "q8_0", FormatError),
        (np.ones((3, 128)), "q4_k", FormatError),
        (np.ones((3, 32)), "q5_9", FormatError),
        (np.ones(32), "f32", ShapeError),
        (np.ones((0, 32)), "f32", ShapeError),
        (np.full((2, 32), np.nan), "q8_0", ArgumentError),
        (np.full((2, 32), np.inf), "f16", ArgumentError),
        (np.full((2, 32), 1j), "f32", ArgumentError),
    ],
)
def test_what_cannot_be_quantised(values: Any, format: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        sf.QuantizedWeights.quantize(values, format)


def test_packed_bytes_must_fit_the_shape() -> None:
    packed = np.zeros((3, 34), np.uint8)
    sf.QuantizedWeights(packed, "q8_0", (3, 32))
    for shape in ((4, 32), (3, 64), (0, 32), (3,)):
        with pytest.raises((ShapeError, FormatError)):
            sf.QuantizedWeights(packed, "q8_0", shape)


# -- 8- and 4-bit integers with zero points --------------------------------------------------------


@pytest.mark.parametrize("zero_point", [0, 5, -60, 128])
def test_int8(zero_point: int, core: Core) -> None:
    random = np.random.default_rng(zero_point + 200)
    low = max(-128, zero_point - 128)
    data = random.integers(low, min(127, zero_point + 127) + 1, (9, 64)).astype(np.int8)
    data[0, :3] = low  # the core must cope with -128, which GGUF's own quantiser never makes
    scale = 0.0123
    weights = sf.QuantizedWeights.int8(data, scale, zero_point)
    wanted = (data.astype(np.float64) - zero_point) * scale
    assert weights.format == "q8_0"
    # Only the scale is rounded.
    assert np.allclose(weights.dequantize(), wanted, rtol=2**-11, atol=0)
    x = random.standard_normal(64)
    assert np.allclose(Matrix.from_array(weights).multiply(x), wanted @ x, atol=2e-3)


def test_int8_beyond_the_range_of_q8_0() -> None:
    data = np.arange(-128, 128, dtype=np.int8).reshape(4, 64)
    weights = sf.QuantizedWeights.int8(data, 0.5, 100)
    wanted = (data.astype(np.float64) - 100) * 0.5
    assert np.abs(weights.dequantize() - wanted).max() <= np.abs(wanted).max() / 254 * 1.01
    assert sf.QuantizedWeights.int8(data[:, :33], 0.5).format == "f16"
    assert np.array_equal(
        sf.QuantizedWeights.int8(data, 0.5, 100, format="f32").dequantize(), wanted
    )
    unsigned = np.arange(256, dtype=np.uint8).reshape(4, 64)
    assert np.array_equal(
        sf.QuantizedWeights.int8(unsigned, 1.0, 128).dequantize(), unsigned.astype(int) - 128
    )


def int4(random: np.random.Generator, shape: tuple[int, int], group: int) -> tuple[Any, ...]:
    """Packed halves, scales, zero points, and the weights that they stand for, one by one."""
    count = shape[0] * shape[1]
    q = random.integers(0, 16, count)
    groups = -(-count // group)
    scales = random.uniform(0.01, 0.1, groups).astype(np.float32)
    zeros = random.integers(0, 16, groups)
    packed = np.zeros((count + 1) // 2, np.uint8)
    wanted = np.empty(count)
    for i in range(count):
        packed[i // 2] |= q[i] << (4 * (i % 2))
        wanted[i] = (q[i] - zeros[i // group]) * float(scales[i // group])
    return packed, scales, zeros, wanted.reshape(shape)


@pytest.mark.parametrize(
    ("shape", "group", "format"),
    [
        ((6, 64), 32, "q8_0"),
        ((6, 64), 64, "q8_0"),
        ((6, 64), 128, "q8_0"),
        ((4, 96), 48, "q8_0"),
        ((3, 33), 16, "f16"),
        ((5, 7), 100, "f16"),
    ],
)
def test_int4(shape: tuple[int, int], group: int, format: str, core: Core) -> None:
    packed, scales, zeros, wanted = int4(np.random.default_rng(group), shape, group)
    weights = sf.QuantizedWeights.int4(packed, scales, zeros, group, shape)
    assert (weights.shape, weights.format) == (shape, format)
    if group % 32 == 0:
        assert np.allclose(weights.dequantize(), wanted, rtol=2**-11, atol=0)
    else:
        assert np.abs(weights.dequantize() - wanted).max() <= np.abs(wanted).max() / 254 * 1.01
    x = np.random.default_rng(1).standard_normal(shape[1])
    assert np.allclose(Matrix.from_array(weights).multiply(x), wanted @ x, atol=2e-2)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_as_q4_1(group: int, core: Core) -> None:
    """The integers are kept: only scale and offset are rounded, each to 11 bits."""
    shape = (6, 128)
    packed, scales, zeros, wanted = int4(np.random.default_rng(group), shape, group)
    weights = sf.QuantizedWeights.int4(packed, scales, zeros, group, shape, format="q4_1")
    assert (weights.format, weights.bits_per_weight) == ("q4_1", 5)
    each = np.repeat(scales * (15 + zeros), group).reshape(shape)
    assert (np.abs(weights.dequantize() - wanted) <= each * 2.0**-11).all()
    kind = gguf.GGMLQuantizationType.Q4_1
    reference = gguf.dequantize(weights.packed, kind).reshape(shape)
    assert np.array_equal(weights.dequantize(), reference)
    x = np.random.default_rng(1).standard_normal(shape[1])
    assert np.allclose(Matrix.from_array(weights).multiply(x), wanted @ x, atol=2e-2)
    with pytest.raises(ArgumentError, match="half"):
        sf.QuantizedWeights.int4(packed, scales * 1e6, zeros, group, shape, format="q4_1")


# The largest error of a weight over the largest weight, of integers that fit no better.
STEPS = {
    "bf16": 2**-8,
    "iq4_nl": 1 / 8,
    "iq4_xs": 1 / 8,
    "tq1_0": 1 / 2,
    "tq2_0": 1 / 2,
    "mxfp4": 1 / 4,
    "q2_k": 1 / 2,
    "q3_k": 1 / 3,
    "q4_0": 1 / 7,
    "q4_1": 1 / 14,
    "q5_0": 1 / 15,
    "q5_1": 1 / 30,
}


@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_integers_in_every_format(format: str, core: Core) -> None:
    """Converted, and computed on while quantised: dense, and sparse with the same neurons."""
    random = np.random.default_rng(9)
    shape = (256, 256)
    packed, scales, zeros, meant4 = int4(random, shape, 64)
    data = random.integers(-128, 128, shape, dtype=np.int8)
    meant8 = (data.astype(np.float64) - 7) * 0.01
    four = sf.QuantizedWeights.int4(packed, scales, zeros, 64, shape, format=format)
    eight = sf.QuantizedWeights.int8(data, 0.01, 7, format=format)
    for weights, meant in ((four, meant4), (eight, meant8)):
        assert weights.format == format
        error = np.abs(weights.dequantize() - meant).max() / np.abs(meant).max()
        assert error <= STEPS.get(format, 0.16 if "k" in format else 1 / 240) * 1.02
    ffn = sf.SparseFfn(eight, four, "relu", gate=four)
    assert ffn.format == format
    gate, up, down = (each.dequantize().astype(np.float64) for each in ffn.matrices if each)
    x = random.standard_normal(256)
    values = np.maximum(gate @ x, 0) * (up @ x)
    wanted = values @ down
    assert np.abs(ffn.forward_dense(x) - wanted).max() < 2e-4 * np.abs(wanted).max()
    some = np.flatnonzero(random.random(256) < 0.3)
    wanted = values[some] @ down[some]
    assert np.abs(ffn.forward_sparse(x, some) - wanted).max() < 2e-4 * np.abs(wanted).max()


def test_int4_with_zero_points_between_integers() -> None:
    packed, scales, zeros, wanted = int4(np.random.default_rng(0), (2, 64), 32)
    moved = sf.QuantizedWeights.int4(packed, scales, zeros + 0.25, 32, (2, 64), format="f32")
    shift = 0.25 * np.repeat(scales, 32).reshape(2, 64)
    assert np.allclose(moved.dequantize(), wanted - shift, atol=1e-6)


def test_bad_integers() -> None:
    data = np.zeros((2, 32), np.int8)
    make8, make4 = sf.QuantizedWeights.int8, sf.QuantizedWeights.int4
    for scale in (np.nan, np.inf):
        with pytest.raises(ArgumentError, match="scale"):
            make8(data, scale)
    with pytest.raises(ShapeError):
        make8(data[0], 1.0)
    with pytest.raises(ShapeError):
        make8(data.astype(float), 1.0)
    with pytest.raises(ArgumentError, match="8 bits"):
        make8(data.astype(np.int32) + 300, 1.0)
    packed = np.zeros(32, np.uint8)
    with pytest.raises(ShapeError, match="packed"):
        make4(packed[:-1], np.ones(2), np.zeros(2), 32, (2, 32))
    with pytest.raises(ShapeError, match="scales"):
        make4(packed, np.ones(3), np.zeros(2), 32, (2, 32))
    with pytest.raises(ShapeError, match="zero_points"):
        make4(packed, np.ones(2), np.zeros(1), 32, (2, 32))
    with pytest.raises(ShapeError):
        make4(packed, np.ones(2), np.zeros(2), 0, (2, 32))


def test_a_layer_of_quantised_weights(core: Core) -> None:
    """Computed on as they are packed: gate and up bit for bit, down turned around."""
    random = np.random.default_rng(3)
    gate, up, down = random.standard_normal((3, 64, 64))
    packed = [sf.QuantizedWeights.quantize(each, "q8_0") for each in (gate, up, down)]
    ffn = sf.SparseFfn(packed[1], packed[2], "silu", gate=packed[0])
    assert ffn.format == "q8_0"
    stored = ffn.matrices
    for index in (0, 1):
        matrix = stored[index]
        assert matrix is not None
        assert np.array_equal(matrix.packed(), packed[index].packed)
    assert np.array_equal(stored[2].packed(), packed[2].transpose().packed)
    other = sf.SparseFfn(packed[1], packed[2], "silu", gate=packed[0], format="f32")
    x = random.standard_normal(64)
    g, u, d = (each.dequantize().astype(np.float64) for each in packed)
    wanted = d @ ((g @ x) / (1 + np.exp(-(g @ x))) * (u @ x))
    assert np.allclose(other.forward_dense(x), wanted, rtol=1e-5, atol=1e-4)
    near = np.linalg.norm(ffn.forward_dense(x) - wanted) / np.linalg.norm(wanted)
    assert near < 0.01
