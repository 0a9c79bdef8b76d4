"""Checkpoints in GPTQ, AWQ and 8-bit floats: every weight of the file is the one that the layout's
definition gives, bit for bit."""

from __future__ import annotations

import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import hf_checkpoint
from hf_checkpoint import Hf
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert import packed_integers
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

Array = npt.NDArray[Any]
LLAMA = Hf(d=64, hidden=128)  # rows of q and k move
TOKENS = [5, 17, 300, 2]


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Array]) -> Path:
    """A checkpoint with these tensors; uint8 ones are 8-bit floats."""
    hf_checkpoint.write(folder, replace(LLAMA, config=config))
    header: dict[str, Any] = {}
    body = b""
    kinds = {"float32": "F32", "float16": "F16", "int32": "I32", "uint8": "F8_E4M3"}
    for name, values in tensors.items():
        place = [len(body), len(body) + values.nbytes]
        kind = kinds[values.dtype.name]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": place}
        body += np.ascontiguousarray(values).tobytes()
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return folder


def words(fields: Array, bits: int) -> Array:
    """Whole numbers along the last axis in words, the first in the lowest bits."""
    each = 32 // bits
    parts = fields.astype(np.uint32).reshape(*fields.shape[:-1], -1, each)
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    found: Array = (parts << shifts).sum(-1, dtype=np.uint32).view(np.int32)
    return found


def packed(
    method: str, *, bits: int = 4, group: int = 32, symmetric: bool = False, **changes: Any
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """Config, stored tensors, and the weights that they stand for."""
    random = np.random.default_rng(3)
    stored: dict[str, Array] = {}
    plain: dict[str, Array] = {}
    for name, values in hf_checkpoint.weights(LLAMA).items():
        if not name.endswith("_proj.weight"):
            stored[name] = plain[name] = values
            continue
        outputs, inputs = values.shape
        quants = random.integers(0, 1 << bits, (outputs, inputs))
        shape = outputs, inputs // group
        zeros = np.full(shape, 1 << (bits - 1)) if symmetric else random.integers(1, 16, shape)
        scales = (random.random(shape) / 40).astype(np.float16)
        spread = [np.repeat(each, group, 1) for each in (zeros, scales.astype(np.float32))]
        plain[name] = ((quants - spread[0]) * spread[1]).astype(np.float32)
        part = name.removesuffix("weight")
        stored[f"{part}scales"] = scales.T
        if method == "awq":
            order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
            for key, each in (("qweight", quants), ("qzeros", zeros)):
                fields = each.T.reshape(len(each.T), -1, 8)[:, :, order]
                stored[part + key] = words(fields.reshape(each.T.shape), bits)
        else:
            stored[f"{part}qweight"] = words(quants, bits).T
            offset = 1 if changes.get("checkpoint_format", "gptq") == "gptq" else 0
            stored[f"{part}qzeros"] = words(zeros.T - offset, bits)
            stored[f"{part}g_idx"] = (np.arange(inputs) // group).astype(np.int32)
    given = {"quant_method": method, "bits": bits, "group_size": group, **changes}
    return {"quantization_config": given}, stored, plain


def weights_of(path: Path) -> dict[str, tuple[str, Array]]:
    """Format and values of each tensor of a file."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = tensor.tensor_type.name, values
    return found


@pytest.mark.parametrize(
    ("format", "method", "options"),
    [
        ("Q4_0", "gptq", {"symmetric": True}),
        ("Q4_0", "gptq", {"symmetric": True, "group": 64, "checkpoint_format": "gptq_v2"}),
        ("Q5_0", "gptq", {}),
        ("Q8_0", "gptq", {"bits": 8, "symmetric": True}),
        ("Q5_0", "awq", {"version": "GEMM"}),
        ("Q4_0", "awq", {"symmetric": True, "group": 64}),
    ],
)
def test_weights_are_not_rounded(
    format: str, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config, stored, plain = packed(method, **options)
    convert_checkpoint(write(tmp_path / "packed", config, stored), tmp_path / "packed.gguf")
    convert_checkpoint(write(tmp_path / "plain", {}, plain), tmp_path / "plain.gguf")
    found, expected = weights_of(tmp_path / "packed.gguf"), weights_of(tmp_path / "plain.gguf")
    assert found.keys() == expected.keys()
    for name, (kind, values) in found.items():
        linear = name.startswith("blk.") and "norm" not in name
        assert kind == (format if linear else "F32"), name
        assert np.array_equal(values, expected[name][1]), name
    with Model.load(tmp_path / "packed.gguf") as model, Model.load(tmp_path / "plain.gguf") as same:
        wanted = same.logits(TOKENS)
        bound = 3e-2 if model.core.isa == "amx" else 1e-3  # which rounds to 8 bits what is not F32
        assert np.abs(model.logits(TOKENS) - wanted).max() < bound * np.abs(wanted).max()
    convert_checkpoint(tmp_path / "packed", tmp_path / "f32.gguf", format="f32")
    again = weights_of(tmp_path / "f32.gguf")
    assert all(np.array_equal(again[name][1], values) for name, (_, values) in expected.items())


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_integers, "_PIECE", 1 << 12)
    large = replace(LLAMA, d=256, hidden=1024, heads=4, head_dim=64)
    monkeypatch.setattr(sys.modules[__name__], "LLAMA", large)
    for method in ("gptq", "awq"):
        config, stored, plain = packed(method, group=64)
        folder = write(tmp_path / method, config, stored)
        convert_checkpoint(folder, tmp_path / "first.gguf", force=True)
        tracemalloc.start()
        convert_checkpoint(folder, tmp_path / f"{method}.gguf")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found = weights_of(tmp_path / f"{method}.gguf")["blk.1.ffn_down.weight"][1]
        assert np.array_equal(found, plain["model.layers.1.mlp.down_proj.weight"])
        assert peak < 2 * max(values.nbytes for values in plain.values())


def eight_bits(values: Array) -> tuple[Array, Array]:
    """Bytes of F8_E4M3 near some values, and what they stand for."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    table = np.where(
        exponent > 0, (8 + fraction) * 2.0 ** (exponent - 10), fraction * 2.0**-9
    ) * np.where(code < 128, 1, -1)
    table[code & 127 == 127] = np.inf
    order = np.argsort(table[:127])
    nearest = order[np.searchsorted(table[order], np.abs(values)).clip(0, 126)]
    found = (nearest + 128 * (values < 0)).astype(np.uint8)
    return found, table[found].astype(np.float32)


def test_eight_bit_floats_with_scales_of_blocks(tmp_path: Path) -> None:
    block = [48, 32]  # the last blocks of rows are smaller
    stored: dict[str, Array] = {}
    plain: dict[str, Array] = {}
    random = np.random.default_rng(3)
    for name, values in hf_checkpoint.weights(LLAMA).items():
        stored[name] = plain[name] = values
        if name.endswith("_proj.weight"):
            stored[name], values = eight_bits(values)
            counts = [-(-size // each) for size, each in zip(values.shape, block, strict=True)]
            scales = random.random(counts, np.float32) + 0.5
            spread = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)
            plain[name] = values * spread[: values.shape[0], : values.shape[1]]
            stored[f"{name}_scale_inv"] = scales
    given = {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": "dynamic"}
    config = {"quantization_config": given}
    folder = write(tmp_path / "a", config, stored)
    convert_checkpoint(folder, tmp_path / "a.gguf", format="f32")
    convert_checkpoint(write(tmp_path / "b", {}, plain), tmp_path / "b.gguf")
    expected = weights_of(tmp_path / "b.gguf")
    for name, (_, values) in weights_of(tmp_path / "a.gguf").items():
        assert np.array_equal(values, expected[name][1]), name
    convert_checkpoint(folder, tmp_path / "kept.gguf")
    for name, (kind, values) in weights_of(tmp_path / "kept.gguf").items():
        linear = name.startswith("blk.") and "norm" not in name
        assert kind == ("BF16" if linear else "F32"), name
        assert np.allclose(values, expected[name][1], rtol=2**-8, atol=0)
    lost = "model.layers.0.mlp.up_proj.weight_scale_inv"
    write(folder, config, {**stored, lost: stored[lost][:1]})
    with pytest.raises(ModelFileError, match="weight_scale_inv' has shape"):
        convert_checkpoint(folder, tmp_path / "c.gguf")
    given["weight_block_size"] = None
    write(folder, config, stored)
    with pytest.raises(UnsupportedError, match="weight_block_size"):
        convert_checkpoint(folder, tmp_path / "c.gguf")


def test_eight_bit_floats_alone_fit_in_half_floats(tmp_path: Path) -> None:
    stored = hf_checkpoint.weights(LLAMA)
    name = "model.layers.0.mlp.up_proj.weight"
    stored[name], wanted = eight_bits(stored[name])
    convert_checkpoint(write(tmp_path / "a", {}, stored), tmp_path / "a.gguf")
    kind, values = weights_of(tmp_path / "a.gguf")["blk.0.ffn_up.weight"]
    assert kind == "F16"
    assert np.array_equal(values, wanted)


PART = "model.layers.0.mlp.up_proj."


@pytest.mark.parametrize(
    ("changes", "lost", "error", "message"),
    [
        ({"bits": 3}, {}, UnsupportedError, "bits' is 3.* as it was before it was quantised"),
        ({"group_size": 48}, {}, UnsupportedError, "group_size' is 48"),
        ({"quant_method": "awq", "version": "gemv"}, {}, UnsupportedError, "version' is 'gemv'"),
        ({"group_size": 96}, {}, ModelFileError, "do not suit groups of 96"),
        ({}, {"qzeros": None}, ModelFileError, "qzeros' is missing"),
        ({}, {"scales": np.ones((2, 3), np.float16)}, ModelFileError, r"shapes .*\(2, 3\)"),
        ({}, {"scales": np.full((2, 128), 0.1, np.float32)}, UnsupportedError, "half floats"),
        ({}, {"g_idx": np.zeros(64, np.int32)}, UnsupportedError, "desc_act"),
        ({"quant_method": "other"}, {}, UnsupportedError, "is I32"),
    ],
)
def test_what_is_refused(
    changes: dict[str, Any],
    lost: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    config, stored, _ = packed("gptq")
    config["quantization_config"] |= changes
    for name, values in lost.items():
        stored[PART + name] = values
    kept = {name: values for name, values in stored.items() if values is not None}
    with pytest.raises(error, match=message):
        convert_checkpoint(write(tmp_path / "a", config, kept), tmp_path / "a.gguf")
