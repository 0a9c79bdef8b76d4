"""Matrices with a scale of their own, a tensor of one number: against weights that are times it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import sparsefire as sf
import tiny_model
from sparsefire.arch.config import read_config
from sparsefire.calibrate.predictors import calibrate_model
from sparsefire.errors import ArgumentError, ModelFileError, UnsupportedError
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model
from sparsefire.weights.matrix import Matrix
from tiny_model import Tiny

Array = npt.NDArray[np.float32]
SUB_NORMS = ("attn_sub_norm.weight", "ffn_sub_norm.weight")
BITNET = Tiny(arch="bitnet-b1.58", activation=None, vectors=SUB_NORMS, tied=False)
IDS = [1, 2, 3, 40, 50]
TEXT = "".join(np.random.default_rng(0).choice(list("abcdefgh ,."), 8_000))


def scaled(tmp_path: Path, tiny: Tiny) -> tuple[Path, Path]:
    """A model whose matrices all have scales, and the one that it must be equal to."""
    random = np.random.default_rng(1)
    scales: dict[str, Array] = {}
    whole: dict[str, Array] = {}
    for name, values in tiny_model.weights(tiny).items():
        if values.ndim == 2:
            part = name.removesuffix("weight")
            scales[f"{part}scale"] = random.uniform(0.3, 3, 1).astype(np.float32)
            scales[f"{part}input_scale"] = np.full(1, 0.01, np.float32)  # of no account
            whole[name] = values * scales[f"{part}scale"]
    found = tiny_model.write(tmp_path / "scales.gguf", tiny, tensors=scales)
    return found, tiny_model.write(tmp_path / "whole.gguf", tiny, tensors=whole)


def close(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "tiny", [BITNET, Tiny(activation="silu"), Tiny(gated=False, arch="arcee", activation=None)]
)
def test_all_weights_are_multiplied(tiny: Tiny, tmp_path: Path) -> None:
    found, whole = scaled(tmp_path, tiny)
    modes = ("dense",) if tiny.activation == "silu" else ("dense", "exact")
    with Model.load(found) as model, Model.load(whole) as wanted:
        for mode in modes:
            assert close(model.logits(IDS, mode=mode), wanted.logits(IDS, mode=mode))
        ffn, other = model.ffns[0], wanted.ffns[0]
        for matrix, same in zip(ffn.matrices, other.matrices, strict=True):
            if matrix is not None and same is not None:
                assert np.allclose(matrix.dequantize(), same.dequantize(), rtol=1e-6)
        x = np.random.default_rng(2).standard_normal((3, ffn.d_in)).astype(np.float32)
        again = pickle.loads(pickle.dumps(ffn))
        assert np.array_equal(again.forward_dense(x), ffn.forward_dense(x))
        with pytest.raises(UnsupportedError, match=r"by itself|one row per output"):
            ffn.save_bundles(tmp_path / "bundles.gguf")


def test_calibrated_models_keep_them(tmp_path: Path) -> None:
    found, _ = scaled(tmp_path, Tiny(seed=3))
    path = tmp_path / "calibrated.gguf"
    calibrate_model(found, path, TEXT, tokens=2_000, rank=16, predictor_format="f16")
    with Model.load(found) as before, Model.load(path) as after:
        assert close(after.logits(IDS, mode="dense"), before.logits(IDS, mode="dense"))
    with pytest.raises(UnsupportedError, match=r"scales.*without a neuron budget"):
        Model.load(path, neuron_budget=100_000)


def test_a_matrix_by_itself() -> None:
    values = np.random.default_rng(4).standard_normal((5, 64)).astype(np.float32)
    x = np.ones(64, np.float32)
    for format in ("f32", "q8_0"):
        matrix = Matrix.from_array(values, format)
        one = matrix.multiply(x)
        assert matrix.scale == 1
        matrix.set_scale(-0.5)
        assert np.array_equal(matrix.multiply(x), one * -0.5)
        # What guesses from the signs of the weights takes the scale's sign along.
        guess = sf.SignPredictor(matrix).predict(x)
        assert np.array_equal(guess, sf.SignPredictor(Matrix.from_array(-values)).predict(x))
    with pytest.raises(ArgumentError):
        matrix.set_scale(float("inf"))


def test_scales_that_are_refused(tmp_path: Path) -> None:
    two = {"blk.0.attn_q.scale": np.ones(2, np.float32)}
    path = tiny_model.write(tmp_path / "a.gguf", Tiny(), tensors=two)
    with pytest.raises(ModelFileError, match=r"attn_q.scale.*\(2,\)"):
        Model.load(path)
    one = {"blk.0.attn_norm.scale": np.ones(1, np.float32)}
    path = tiny_model.write(tmp_path / "b.gguf", Tiny(), tensors=one)
    with pytest.raises(UnsupportedError, match=r"attn_norm\.scale.*not part"):
        Model.load(path)


def test_bitnets_of_known_sizes_have_a_known_activation(tmp_path: Path) -> None:
    tiny = Tiny(arch="bitnet", activation=None, vectors=SUB_NORMS)
    with pytest.raises(UnsupportedError, match="--activation"):
        Model.load(tiny_model.write(tmp_path / "a.gguf", tiny))
    for (layers, d, hidden, heads, kv_heads), wanted in {
        (30, 2560, 6912, 20, 5): "relu2",
        (26, 3200, 8640, 32, 32): "silu",
    }.items():
        keys = {
            "bitnet.block_count": layers,
            "bitnet.embedding_length": d,
            "bitnet.feed_forward_length": hidden,
            "bitnet.attention.head_count": heads,
            "bitnet.attention.head_count_kv": kv_heads,
            "bitnet.rope.dimension_count": d // heads,
        }
        path = tiny_model.write(tmp_path / "b.gguf", tiny, keys=keys)
        with GgufFile.open(path) as file:
            assert str(read_config(file).activation) == wanted
