"""Weights that a format cannot hold: an error that names the largest, never infinity, and never
less than it was."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import hf_checkpoint
import sparsefire as sf
import tiny_model
from sparsefire.core.core import Core
from sparsefire.errors import NotFiniteError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.files.quantize import quantize_model
from sparsefire.weights.formats import FORMATS, WRITTEN_FORMATS
from sparsefire.weights.quantized import quantize_rows

# The largest weight of a block, if the others are small, by what the format stores: a half float
# times the greatest scale of a block of 32 or 16, times the greatest step (at least, of Q3_K).
HALF = 65504.0
MOST = {
    "f16": HALF,
    "q8_0": HALF * 127,
    "q4_0": HALF * 8,
    "q4_1": HALF * 15,
    "q5_0": HALF * 16,
    "q5_1": HALF * 31,
    "q2_k": HALF * 15 * 3,
    "q3_k": HALF * 31 * 3,
    "q4_k": HALF * 63 * 15,
    "q5_k": HALF * 63 * 31,
    "q6_k": HALF * 127 * 32,
    "iq4_nl": HALF * 127,
    "iq4_xs": HALF * 31 * 127,
    "tq1_0": HALF,
    "tq2_0": HALF,
}


def row(largest: float, seed: int = 0) -> np.ndarray:
    """Small weights with one of that size among them."""
    values = np.random.default_rng(seed).standard_normal((2, 256)) * 1e-3
    values[1, 37] = largest
    return values.astype(np.float32)


def by_gguf(packed: np.ndarray, format: str) -> np.ndarray:
    return gguf.dequantize(packed, gguf.GGMLQuantizationType(FORMATS[format].code))


@pytest.mark.parametrize("format", MOST)
def test_each_format_has_its_range(format: str, host_core: Core) -> None:
    inside = row(0.9 * MOST[format])
    stored = by_gguf(quantize_rows(inside, format, host_core), format)
    assert stored[1, 37] == pytest.approx(
        inside[1, 37], rel=max(2.0 ** -FORMATS[format].bits_per_weight, 2.0**-10)
    )
    for factor in (2, 1e3, 1e20, 1e30):
        outside = row(factor * MOST[format])
        message = rf"w1: the weight {outside[1, 37]:g} is too large for {format.upper()}".replace(
            "+", r"\+"
        )
        with pytest.raises(NotFiniteError, match=message):
            quantize_rows(outside, format, host_core, "w1")


@pytest.mark.parametrize("format", WRITTEN_FORMATS)
def test_ordinary_weights_are_never_refused(format: str) -> None:
    """Below the limit from which results are checked, and above it."""
    random = np.random.default_rng(1)
    for size in (1.0, 3e4, 4e4, 6e4):
        for seed in range(20):
            spread = random.standard_normal((4, 256)) ** (1 + 2 * (seed % 3))
            values = (spread / np.abs(spread).max() * size).astype(np.float32)
            assert np.isfinite(by_gguf(quantize_rows(values, format), format)).all()


def test_numbers_beyond_f32() -> None:
    for format in ("f32", "bf16", "q8_0"):
        with pytest.raises(NotFiniteError, match=r"the weight -1e\+39 is too large for F32$"):
            quantize_rows(np.full((1, 32), -1e39), format)
    with pytest.raises(NotFiniteError, match=r"3\.4e\+38 is too large for BF16; F32 holds it"):
        quantize_rows(np.full((1, 32), 3.4e38, np.float32), "bf16")


def test_layers_name_their_argument() -> None:
    small, large = np.ones((40, 32)), np.ones((40, 32))
    large[3, 4] = 1e5
    for arguments, name in (((large, small.T), "w1"), ((small, large.T), "w2")):
        with pytest.raises(
            NotFiniteError, match=rf"^{name}: the weight 100000 is too large for F16"
        ):
            sf.SparseFfn(*arguments, format="f16")
        sf.SparseFfn(*arguments, format="bf16")


@pytest.mark.parametrize("format", ["f16", "q4_0"])
def test_files_name_the_tensor(format: str, tmp_path: Path) -> None:
    weights = tiny_model.weights(tiny_model.Tiny())["blk.1.ffn_up.weight"].copy()
    weights[2, 3] = -7e5
    path = tiny_model.write(
        tmp_path / "in.gguf", tensors={"blk.1.ffn_up.weight": weights}, activation=None
    )
    with pytest.raises(
        NotFiniteError,
        match=rf"in\.gguf: tensor 'blk\.1\.ffn_up\.weight': the weight -700000 is too large for "
        rf"{format.upper()}",
    ):
        quantize_model(path, tmp_path / "out.gguf", format)

    folder = hf_checkpoint.write(tmp_path / "checkpoint")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = dict(hf_checkpoint.weights(hf_checkpoint.Hf()))
    tensors[name] = tensors[name].copy()
    tensors[name][0, 1] = 7e5
    hf_checkpoint.write_safetensors(folder / "model.safetensors", tensors, "F32")
    with pytest.raises(NotFiniteError, match=rf"'{name}': the weight 700000 is too large"):
        convert_checkpoint(folder, tmp_path / "out.gguf", format=format)
    assert not (tmp_path / "out.gguf").exists()


def test_a_down_matrix_that_is_transposed_at_load(tmp_path: Path) -> None:
    """Q6_K holds more than Q8_0, which it becomes."""
    down = np.zeros((256, 256), np.float32)
    down[5, 6] = 1e8
    path = tiny_model.write(
        tmp_path / "in.gguf", d=256, hidden=256, tensors={"blk.0.ffn_down.weight": down}
    )
    out = tmp_path / "out.gguf"
    quantize_model(path, out, "q6_k")
    with pytest.raises(NotFiniteError, match=r"'blk\.0\.ffn_down\.weight': the weight .*Q8_0"):
        sf.Model.load(out)
