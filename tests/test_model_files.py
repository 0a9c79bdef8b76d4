"""Model files that are damaged, incomplete or not supported, and what is said about them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_model
from model_variants import IDS, variant_path
from sparsefire.core.core import Core
from sparsefire.errors import (
    ModelFileError,
    NotFiniteError,
    SparsefireError,
    UnsupportedError,
)
from sparsefire.lm.model import Model
from tiny_model import Tiny

VECTOR = np.ones(64, np.float32)
NAN_VECTOR = np.where(np.arange(64) == 5, np.nan, VECTOR).astype(np.float32)


def nan_matrix(rows: int, columns: int, value: float = np.nan) -> np.ndarray:
    matrix = np.ones((rows, columns), np.float32)
    matrix[rows // 2, columns // 3] = value
    return matrix


BAD_KEYS: list[tuple[dict[str, Any], type[SparsefireError], str]] = [
    ({"general.architecture": "t6"}, UnsupportedError, "architecture 't6'.*supported: llama"),
    ({"general.architecture": "clip"}, UnsupportedError, "'clip' is one of images and sound; only"),
    ({"general.architecture": "eagle3"}, UnsupportedError, "e3' do not run yet.* hidden states"),
    ({"general.architecture": "t5"}, UnsupportedError, "'t5' do not run yet.* t5encoder, runs"),
    ({"llama.block_count": None}, ModelFileError, "block_count' is missing"),
    ({"llama.block_count": 0}, ModelFileError, "block_count' is 0"),
    ({"llama.block_count": 2**31}, ModelFileError, "block_count' is 2147483648"),
    ({"llama.block_count": "two"}, ModelFileError, "block_count' is 'two'"),
    ({"llama.block_count": 3}, ModelFileError, "tensor 'blk.2.attn_norm.weight' is missing"),
    ({"llama.block_count": 1}, UnsupportedError, "tensor 'blk.1..*' is not part"),
    ({"llama.embedding_length": None}, ModelFileError, "embedding_length' is missing"),
    ({"llama.embedding_length": 32}, ModelFileError, "shape .270, 64., expected .270, 32."),
    ({"llama.embedding_length": 2**30}, ModelFileError, "embedding_length' is 1073741824"),
    ({"llama.attention.head_count": 0}, ModelFileError, "head_count' is 0"),
    ({"llama.attention.head_count": 3}, ModelFileError, "head_count_kv' is 2.*the 3 heads"),
    ({"llama.attention.head_count_kv": 5}, ModelFileError, "head_count_kv' is 5"),
    ({"llama.attention.head_count_kv": [2, 1]}, UnsupportedError, "differs between layers"),
    ({"llama.attention.key_length": 8}, ModelFileError, "'blk.0.attn_q.weight' has shape"),
    ({"llama.attention.value_length": 8}, ModelFileError, "value_length' is not"),
    ({"llama.feed_forward_length": 95}, ModelFileError, "'blk.0.ffn_gate.weight' has shape"),
    ({"llama.rope.dimension_count": 7}, ModelFileError, "even"),
    ({"llama.rope.dimension_count": 99}, ModelFileError, "dimension_count' is 99"),
    ({"llama.rope.freq_base": 0.0}, ModelFileError, "freq_base' is 0.0"),
    ({"llama.rope.freq_base": float("nan")}, ModelFileError, "freq_base' is nan"),
    ({"llama.rope.freq_base": float("inf")}, ModelFileError, "freq_base' is inf"),
    ({"llama.rope.scaling.type": "longrope"}, UnsupportedError, "scaling of type 'longrope'"),
    (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_ext_factor": 0.5},
        UnsupportedError,
        "yarn_ext_factor' is 0.5",
    ),
    (
        {"llama.rope.scaling.type": "yarn", "llama.rope.freq_base": 1.0},
        ModelFileError,
        "freq_base' is 1",
    ),
    ({"llama.rope.dimension_count_swa": 8}, UnsupportedError, "dimension_count_swa' is 8"),
    ({"llama.attention.key_length_swa": 8}, ModelFileError, "key_length_swa' is not the key"),
    ({"llama.attention.sliding_window": 2**30}, ModelFileError, "sliding_window' is"),
    ({"llama.attention.sliding_window": "wide"}, ModelFileError, "sliding_window' is 'wide'"),
    (
        {
            "llama.attention.sliding_window": 4,
            "llama.attention.sliding_window_pattern": [True],
        },
        ModelFileError,
        "has 1 entries for 2 layers",
    ),
    ({"llama.logit_scale": 2.0}, UnsupportedError, "logit_scale' is 2.0"),
    ({"llama.embedding_scale": float("nan")}, ModelFileError, "embedding_scale' is nan"),
    ({"llama.residual_scale": float("inf")}, ModelFileError, "residual_scale' is inf"),
    ({"llama.attention.scale": "big"}, ModelFileError, "attention.scale' is 'big'"),
    ({"llama.attn_logit_softcapping": -1.0}, ModelFileError, "attn_logit_softcapping' is -1.0"),
    ({"llama.rope.scaling.type": "llama3"}, UnsupportedError, "rope_freqs.weight"),
    (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": -1.0},
        ModelFileError,
        "scaling.factor",
    ),
    ({"llama.attention.layer_norm_rms_epsilon": None}, ModelFileError, "rms_epsilon' is missing"),
    ({"llama.attention.layer_norm_rms_epsilon": 2.0}, ModelFileError, "rms_epsilon' is 2.0"),
    ({"llama.context_length": None}, ModelFileError, "context_length' is missing"),
    ({"llama.context_length": 2**30}, ModelFileError, "context_length' is"),
    ({"llama.hidden_activation": "sine"}, UnsupportedError, "unknown activation 'sine'"),
    ({"llama.hidden_activation": 3}, ModelFileError, "hidden_activation' is 3"),
    ({"llama.expert_count": 8}, ModelFileError, "expert_used_count' is missing"),
    ({"sparsefire.version": 2}, UnsupportedError, "version 2"),
    ({"sparsefire.version": 1}, ModelFileError, "hot_counts"),
    ({"sparsefire.version": 1, "sparsefire.cutoff.gate": [0.1]}, ModelFileError, "2 numbers"),
    ({"sparsefire.version": 1, "sparsefire.cutoff.gate": [0.1, -0.1]}, ModelFileError, "from 0"),
    ({"sparsefire.version": 1, "sparsefire.cutoff.product": "x"}, ModelFileError, "2 numbers"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [1]}, ModelFileError, "2 counts"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [1, 97]}, ModelFileError, "to 96"),
    ({"sparsefire.version": 1, "sparsefire.hot_counts": [-1, 9]}, ModelFileError, "from 0"),
    (
        {
            "tokenizer.ggml.tokens": [f"t{i}" for i in range(271)],
            "tokenizer.ggml.token_type": None,
        },
        ModelFileError,
        "names 271 tokens.*270 rows",
    ),
]


@pytest.mark.parametrize(("keys", "error", "message"), BAD_KEYS)
def test_bad_keys(
    keys: dict[str, Any], error: type[SparsefireError], message: str, tmp_path: Path
) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", keys=keys)
    with pytest.raises(error, match=message) as caught:
        Model.load(path)
    assert str(caught.value).startswith(str(path))


BAD_TENSORS: list[tuple[dict[str, Any], type[SparsefireError], str]] = [
    ({"token_embd.weight": None}, ModelFileError, "'token_embd.weight' is missing"),
    ({"token_embd.weight": VECTOR}, ModelFileError, r"'token_embd.weight' has shape \(64,\)"),
    ({"output_norm.weight": None}, ModelFileError, "'output_norm.weight' is missing"),
    ({"output_norm.weight": VECTOR[:63]}, ModelFileError, r"shape \(63,\), expected \(64,\)"),
    ({"output.weight": np.ones((9, 64))}, ModelFileError, "'output.weight' has shape"),
    ({"blk.1.attn_k.weight": None}, ModelFileError, "'blk.1.attn_k.weight' is missing"),
    ({"blk.1.attn_k.weight": np.ones((64, 64))}, ModelFileError, r"expected \(32, 64\)"),
    ({"blk.0.ffn_gate.weight": None}, ModelFileError, "'blk.0.ffn_gate.weight' is missing"),
    ({"blk.0.ffn_down.weight": np.ones((96, 64))}, ModelFileError, r"expected \(64, 96\)"),
    ({"blk.0.attn_k.bias": VECTOR}, ModelFileError, r"'blk.0.attn_k.bias' has shape \(64,\)"),
    ({"blk.0.attn_q_norm.weight": VECTOR[:16]}, UnsupportedError, "attn_q_norm.weight' is not"),
    ({"blk.0.attn_norm.bias": VECTOR}, UnsupportedError, "'blk.0.attn_norm.bias' is not part"),
    ({"blk.0.attn_qkv.weight": np.ones((128, 64))}, UnsupportedError, "attn_q, attn_k and attn_v"),
    ({"blk.0.ffn_gate_inp.weight": np.ones((4, 64))}, UnsupportedError, "ffn_gate_inp"),
    ({"blk.0.ffn_up.bias": VECTOR}, ModelFileError, r"'blk.0.ffn_up.bias' has shape"),
    ({"rope_freqs.weight": VECTOR}, ModelFileError, r"expected \(8,\)"),
    ({"rope_freqs.weight": np.zeros(8)}, NotFiniteError, "'rope_freqs.weight'"),
    ({"blk.0.ffn_bundle.weight": np.ones((96, 100))}, ModelFileError, r"expected \(96, 192\)"),
    ({"blk.0.ffn_predictor_p.weight": np.ones((8, 64))}, ModelFileError, "predictor_q.*missing"),
    ({"blk.0.ffn_predictor_q.weight": np.ones((96, 8))}, ModelFileError, "predictor_p.*missing"),
    ({"blk.1.attn_norm.weight": NAN_VECTOR}, NotFiniteError, "'blk.1.attn_norm.weight' holds NaN"),
    ({"blk.1.ffn_down.weight": nan_matrix(64, 96)}, NotFiniteError, "'blk.1.ffn_down.weight'"),
]


@pytest.mark.parametrize(("tensors", "error", "message"), BAD_TENSORS)
def test_bad_tensors(
    tensors: dict[str, Any], error: type[SparsefireError], message: str, tmp_path: Path
) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", tensors=tensors)
    with pytest.raises(error, match=message):
        Model.load(path)


@pytest.mark.parametrize("bad", ["Q8_K", "Q1_0"])
def test_unsupported_formats_are_named(bad: str, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", hidden=256, down_format=bad)
    message = (
        f"'blk.0.ffn_down.weight' is {bad}.*supported: F32, F16, BF16, Q8_0.*sparsefire quantize"
    )
    with pytest.raises(UnsupportedError, match=message):
        Model.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.attn_v.weight", (32, 64)),
        ("blk.0.ffn_gate.weight", (96, 64)),
        ("blk.1.ffn_up.weight", (96, 64)),
        ("output.weight", (270, 64)),
    ],
)
def test_not_finite_weights_are_named(
    name: str, shape: tuple[int, int], value: float, core: Core, tmp_path: Path
) -> None:
    tensors = {name: nan_matrix(*shape, value)}
    path = tiny_model.write(tmp_path / "bad.gguf", tensors=tensors)
    with Model.load(path, core=core) as model:
        for mode in ("dense", "exact"):
            with pytest.raises(NotFiniteError, match=f"'{name}' holds NaN or infinity"):
                model.logits(IDS, mode=mode)
            with pytest.raises(NotFiniteError, match=name):
                "".join(model.generate(IDS, mode=mode))


def test_model_whose_tokeniser_is_unknown(tmp_path: Path) -> None:
    """Token ids still work; text says why it does not."""
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.pre": "odd"})
    with Model.load(path) as model:
        assert model.logits([1, 2]).shape == (2, 270)
        with pytest.raises(UnsupportedError, match="'odd'"):
            model.generate("text")


def test_every_truncation_of_a_model() -> None:
    data = variant_path("f32").read_bytes()
    for length in np.linspace(0, len(data) - 40, 60).astype(int):
        with pytest.raises(ModelFileError, match=r"cut off|empty"):
            Model.load(data[:length])


@settings(max_examples=60)
@given(flips=st.lists(st.integers(0, 8 * 4000 - 1), min_size=1, max_size=3))
def test_flipped_bits_in_the_header(flips: list[int], tmp_path_factory: Any) -> None:
    data = bytearray(_small_model())
    for flip in flips:
        data[flip // 8] ^= 1 << flip % 8
    try:
        model = Model.load(bytes(data))
        model.logits([1, 2, 3])
        "".join(model.generate("ab", 3))
    except SparsefireError as error:
        assert len(str(error)) > 10  # noqa: PT017


@cache
def _small_model() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return tiny_model.write(Path(name) / "a.gguf", layers=1, bundled=True, rank=8).read_bytes()


@pytest.mark.parametrize("name", ["ReluLLaMA-7B", "prosparse-llama-2-7b", "TurboSparse Mistral"])
def test_a_relu_model_is_never_run_with_silu_silently(name: str, tmp_path: Path) -> None:
    """By the name in the file, or by the file's own."""
    keys = {"general.name": name}
    inside = tiny_model.write(tmp_path / "a.gguf", Tiny(activation=None, keys=keys))
    outside = tiny_model.write(tmp_path / f"{name}.gguf", Tiny(activation=None))
    for path in (inside, outside):
        with pytest.raises(UnsupportedError, match="--activation"):
            Model.load(path)
        for chosen in ("relu", "silu"):
            with Model.load(path, activation=chosen) as model:
                assert str(model.config.activation) == chosen
    said = tiny_model.write(tmp_path / "b.gguf", Tiny(activation="silu", keys=keys))
    with Model.load(said) as model:
        assert str(model.config.activation) == "silu"
