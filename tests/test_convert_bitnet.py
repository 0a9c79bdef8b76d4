"""BitNet checkpoints, packed and with master weights, against numpy in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

import hf_checkpoint
from hf_checkpoint import Hf
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

Array = npt.NDArray[Any]
TOKENS = [5, 17, 300, 2, 44, 44, 9]
BITNET = Hf(
    model_type="bitnet",
    d=256,
    hidden=512,
    heads=4,
    head_dim=64,
    activation="relu2",
    sub_norms=True,
    tied=True,
)
LLAMA = replace(BITNET, model_type="llama", activation="silu", sub_norms=False, tied=False)


def quantization(kind: str, mode: str) -> dict[str, Any]:
    return {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": mode}


def ternary(values: Array) -> tuple[Array, np.float32]:
    """Weights of -1, 0 and 1, and their scale."""
    scale = np.float32(np.abs(values).mean(dtype=np.float64))
    return np.clip(np.rint(values / scale), -1, 1).astype(np.float32), scale


def packed(values: Array) -> npt.NDArray[np.uint8]:
    """A quarter of the rows in each two bits of a byte."""
    numbers = (values + 1).astype(np.uint8).reshape(4, len(values) // 4, -1)
    return numbers[0] | numbers[1] << 2 | numbers[2] << 4 | numbers[3] << 6


def write(folder: Path, hf: Hf, kind: str, mode: str, **missing: Any) -> tuple[Path, Hf]:
    """A checkpoint, and one in plain numbers that computes the same."""
    same = {}
    stored: dict[str, Array] = {}
    for name, values in hf_checkpoint.weights(hf).items():
        if not name.endswith("_proj.weight"):
            stored[name] = values
            continue
        quants, scale = ternary(values)
        same[name] = quants * scale
        if mode == "online":
            stored[name] = values
            continue
        stored[name] = packed(quants)
        given = 1 / scale if kind == "bitlinear" else scale
        stored[name.replace(".weight", ".weight_scale")] = np.array([given], np.float32)
    config = replace(hf, config={"quantization_config": quantization(kind, mode)})
    hf_checkpoint.write(folder, config)
    kept = {name: values for name, values in stored.items() if name not in missing}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")
    return folder, replace(hf, tensors=same)


@pytest.mark.parametrize(
    ("hf", "kind", "mode"),
    [
        (BITNET, "autobitlinear", "offline"),
        (BITNET, "autobitlinear", "online"),
        (LLAMA, "bitlinear", "offline"),  # rows of q and k move
    ],
)
def test_logits(hf: Hf, kind: str, mode: str, tmp_path: Path) -> None:
    folder, same = write(tmp_path / "checkpoint", hf, kind, mode)
    report = convert_checkpoint(folder, tmp_path / "out.gguf")
    assert (report.format, report.activation) == ("tq2_0", hf.activation)
    wanted = hf_checkpoint.logits(same, TOKENS)
    with Model.load(tmp_path / "out.gguf") as model:
        for way in ("dense", "exact") if hf.activation == "relu2" else ("dense",):
            error = np.abs(model.logits(TOKENS, mode=way) - wanted).max()
            # AMX rounds to 8 bits in prompts what is not F32.
            bound = 1e-2 if model.core.isa == "amx" else 2e-4
            assert error < bound * np.abs(wanted).max()


def test_weights_are_exact_in_every_format(tmp_path: Path) -> None:
    folder, same = write(tmp_path / "checkpoint", BITNET, "autobitlinear", "offline")
    wanted = same.tensors["model.layers.1.mlp.down_proj.weight"]
    for format, kind in (("tq1_0", "tq1_0"), ("q4_0", "tq2_0"), ("f16", "f16")):
        convert_checkpoint(folder, tmp_path / "out.gguf", format=format, force=True)
        with GgufFile.open(tmp_path / "out.gguf") as file:
            assert file.tensors["blk.1.ffn_down.weight"].format == kind
            # What is not ternary is not made so.
            embedding = file.tensors["token_embd.weight"].format
            assert embedding == ("f32" if format == "tq1_0" else format)
        with Model.load(tmp_path / "out.gguf") as model:
            assert np.array_equal(model.ffns[1].matrices[-1].dequantize(), wanted.T)


def test_what_is_refused(tmp_path: Path) -> None:
    lost = "model.layers.0.mlp.up_proj.weight_scale"
    folder, _ = write(tmp_path / "a", BITNET, "autobitlinear", "offline", **{lost: None})
    with pytest.raises(ModelFileError, match=rf"up_proj.*{lost}.* is not one positive number"):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    folder, _ = write(tmp_path / "b", BITNET, "autobitlinear", "offline")
    hf_checkpoint.write(tmp_path / "plain", BITNET)
    (folder / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    with pytest.raises(UnsupportedError, match="is U8, and 'quantization_config' does not say"):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    norms = {"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}}
    folder = hf_checkpoint.write(tmp_path / "c", replace(BITNET, config=norms))
    with pytest.raises(UnsupportedError, match="use_rms_norm"):
        convert_checkpoint(folder, tmp_path / "out.gguf")
