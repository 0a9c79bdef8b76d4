"""`sparsefire quantize` against the `gguf` package's own rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny_model
from sparsefire.cli import main
from sparsefire.errors import ArgumentError, FormatError, ModelFileError, NotFiniteError
from sparsefire.ffn.layer import SparseFfn
from sparsefire.files.quantize import QuantizeReport, quantize_model
from sparsefire.lm.model import Model
from sparsefire.weights.formats import WRITTEN_FORMATS

Q = gguf.GGMLQuantizationType


def stored(path: Path) -> dict[str, tuple[str, Any, Any]]:
    """Format, packed bytes and floats of every tensor, by the gguf package."""
    reader = gguf.GGUFReader(path)
    return {
        each.name: (
            each.tensor_type.name.lower(),
            each.data.reshape(-1).view(np.uint8),
            gguf.dequantize(each.data, each.tensor_type),
        )
        for each in reader.tensors
    }


def fields(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose columns divide into the blocks of every format."""
    path = tmp_path_factory.mktemp("quantize") / "in.gguf"
    keys = {"general.name": "Tiny", "llama.test.text": "ü"}
    return tiny_model.write(path, d=256, hidden=512, tied=False, biases=True, keys=keys)


def by_name(report: QuantizeReport) -> dict[str, Any]:
    return {each.name: each for each in report.tensors}


@pytest.mark.parametrize("format", [each for each in WRITTEN_FORMATS if each != "f32"])
def test_weights_are_rounded_as_gguf_does(format: str, floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    report = quantize_model(floats, out, format, output_format=format)
    before, after = stored(floats), stored(out)
    assert list(after) == list(before)
    for name, (kind, packed, values) in after.items():
        original = before[name][2]
        if original.ndim == 1:
            assert (kind, values.tobytes()) == ("f32", original.tobytes())
            continue
        assert kind == format
        try:
            wanted = gguf.quantize(np.ascontiguousarray(original), Q[format.upper()])
        except NotImplementedError:  # the package cannot pack the formats of 256 weights
            norm = np.linalg.norm(original)
            bound = {"q2_k": 0.32, "q3_k": 0.18}.get(format, 0.12)
            assert np.linalg.norm(values - original) < bound * norm
            continue
        assert np.array_equal(packed, wanted.reshape(-1).view(np.uint8)), name
    assert report.bytes_after == out.stat().st_size
    assert all(each.after == format or each.note == "a vector" for each in report.tensors)
    with Model.load(out) as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def test_metadata_is_kept(floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_model(floats, out, "q8_0")
    before, after = fields(floats), fields(out)
    assert after.pop("general.file_type") == 7
    assert after.pop("general.quantization_version") == 2
    for counts in (before, after):
        for name in list(counts):
            if name.startswith("GGUF."):
                counts.pop(name)
    assert after == before


def test_columns_that_do_not_divide(tmp_path: Path) -> None:
    """A format that does not fit gives way to one that does, and is named."""
    path = tiny_model.write(tmp_path / "in.gguf", d=80, hidden=96, heads=5, kv_heads=1)
    report = quantize_model(path, tmp_path / "out.gguf", "q8_0")
    after = stored(tmp_path / "out.gguf")
    assert after["blk.0.ffn_down.weight"][0] == "q8_0"
    for name in ("blk.0.ffn_gate.weight", "token_embd.weight"):
        assert after[name][0] == "f16"
        assert by_name(report)[name].note == "80 columns do not divide into Q8_0's blocks of 32"
    assert by_name(report)["blk.0.ffn_down.weight"].note == ""
    with Model.load(tmp_path / "out.gguf") as model, Model.load(path) as original:
        close = np.abs(model.logits([5, 6, 7]) - original.logits([5, 6, 7])).max()
    assert close < 0.2


def test_blocks_of_256_give_way_to_blocks_of_32(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "in.gguf", d=96, hidden=256)
    pairs = (("q4_k", "q5_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0"))
    for format, instead in (("q2_k", "q4_0"), ("q3_k", "q4_0"), *pairs):
        quantize_model(path, tmp_path / "out.gguf", format, force=True)
        after = stored(tmp_path / "out.gguf")
        assert after["blk.1.ffn_down.weight"][0] == format
        assert after["blk.1.ffn_up.weight"][0] == instead
        assert after["token_embd.weight"][0] == "q8_0"


def test_the_logits_get_more_bits(floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    report = quantize_model(floats, out, "q4_0")
    assert stored(out)["output.weight"][0] == "q6_k"
    assert stored(out)["token_embd.weight"][0] == "q4_0"
    assert by_name(report)["output.weight"].note == "makes the logits"
    quantize_model(floats, out, "q4_0", output_format="f16", embedding_format="q8_0", force=True)
    assert stored(out)["output.weight"][0] == "f16"
    assert stored(out)["token_embd.weight"][0] == "q8_0"
    assert stored(out)["blk.0.attn_q.weight"][0] == "q4_0"
    tied = tiny_model.write(tmp_path / "tied.gguf", d=64)
    quantize_model(tied, out, "q4_0", force=True)
    assert stored(out)["token_embd.weight"][0] == "q8_0"


def test_calibrated_models(tmp_path: Path) -> None:
    """Each part of a bundle's rows is packed by itself, and predictors stay as they are."""
    path = tiny_model.write(tmp_path / "in.gguf", bundled=True, rank=32)
    out = tmp_path / "out.gguf"
    report = quantize_model(path, out, "q8_0")
    before, after = stored(path), stored(out)
    for name, (kind, packed, _) in after.items():
        if ".ffn_predictor" in name:
            assert (kind, packed.tobytes()) == ("f32", before[name][1].tobytes())
            assert by_name(report)[name].note in ("a predictor", "a vector")
        elif name.endswith("ffn_bundle.weight"):
            assert kind == "q8_0"
            parts = np.split(before[name][2], 3, axis=1)
            packed_parts = [gguf.quantize(np.ascontiguousarray(each), Q.Q8_0) for each in parts]
            assert np.array_equal(packed, np.concatenate(packed_parts, axis=1).reshape(-1))
    with Model.load(path) as original, Model.load(out) as model:
        for mode in ("dense", "exact", "sparse"):
            wanted = original.logits([1, 2, 3, 4], mode=mode)
            error = np.abs(model.logits([1, 2, 3, 4], mode=mode) - wanted).max()
            assert error < 0.1 * np.abs(wanted).max()


def test_parts_of_a_bundle_that_do_not_divide(tmp_path: Path) -> None:
    """Three parts of 80 columns have 240, which 16 divides, but not 32; of 96, 288."""
    path = tiny_model.write(
        tmp_path / "in.gguf", d=48, heads=3, kv_heads=3, bundled=True, gated=False
    )
    report = by_name(quantize_model(path, tmp_path / "out.gguf", "q8_0"))
    bundle = report["blk.0.ffn_bundle.weight"]
    assert bundle.shape[1] == 96  # which 32 divides
    assert bundle.after == "f16"
    assert "48 columns do not divide" in bundle.note
    with Model.load(tmp_path / "out.gguf") as model:
        assert np.isfinite(model.logits([1])).all()


def test_a_single_layer(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    up, gate = random.standard_normal((2, 40, 64)).astype(np.float32)
    ffn = SparseFfn(up, random.standard_normal((32, 40)), "relu", gate=gate)
    ffn.save_bundles(tmp_path / "in.gguf")
    quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", "q8_0")
    small = SparseFfn.load(tmp_path / "out.gguf")
    assert small.format == "q8_0"
    x = random.standard_normal(64).astype(np.float32)
    wanted = ffn.forward(x)
    assert np.abs(small.forward(x) - wanted).max() < 0.02 * np.abs(wanted).max()


def test_from_a_format_that_is_only_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kind = Q["IQ3_S"]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = random.integers(0, 200, (512, 256 // block * size), dtype=np.uint8)
    scales = packed.reshape(512, -1, size)[:, :, :2]
    scales[...] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", "f32")
    values = stored(tmp_path / "out.gguf")["blk.0.ffn_up.weight"][2]
    assert np.array_equal(values, gguf.dequantize(packed, kind))
    with pytest.raises(FormatError, match="iq3_s is only read, not written; written are f32, "):
        quantize_model(tmp_path / "in.gguf", tmp_path / "other.gguf", "iq3_s")


def test_nothing_is_left_of_what_fails(floats: Path, tmp_path: Path) -> None:
    weights = tiny_model.weights(tiny_model.Tiny())["blk.1.ffn_up.weight"]
    for value, format in ((np.nan, "q8_0"), (np.inf, "q8_0"), (1e5, "f16")):
        broken = weights.copy()
        broken[2, 3] = value
        path = tiny_model.write(
            tmp_path / "in.gguf", tensors={"blk.1.ffn_up.weight": broken}, activation=None
        )
        with pytest.raises(NotFiniteError, match=r"in\.gguf: tensor 'blk\.1\.ffn_up\.weight'"):
            quantize_model(path, tmp_path / "out.gguf", format)
        assert [each.name for each in tmp_path.iterdir()] == ["in.gguf"]


def test_outputs_that_are_not_written(floats: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(floats.read_bytes())
    link = tmp_path / "link.gguf"
    link.symlink_to(copy)
    for target in (copy, link):
        with pytest.raises(ArgumentError, match="the output is the input"):
            quantize_model(copy, target, "f16", force=True)
    other = tmp_path / "other.gguf"
    other.write_text("precious")
    with pytest.raises(ArgumentError, match=r"other\.gguf: the file exists; --force"):
        quantize_model(copy, other, "f16")
    assert other.read_text() == "precious"
    with pytest.raises(ArgumentError, match="a directory"):
        quantize_model(copy, tmp_path, "f16", force=True)
    with pytest.raises(FormatError, match="q9"):
        quantize_model(copy, tmp_path / "x.gguf", "q9")
    with pytest.raises(ModelFileError, match="nowhere"):
        quantize_model(tmp_path / "nowhere", tmp_path / "x.gguf", "f16")
    quantize_model(copy, other, "f16", force=True)
    assert stored(other)["output.weight"][0] == "f16"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_model.write(tmp_path / "in.gguf", d=80, hidden=96, heads=5, kv_heads=1)
    out = str(tmp_path / "out.gguf")
    assert main(["quantize", str(path), out, "q8_0"]) == 0
    text = capsys.readouterr()
    assert "bits per weight" in text.out
    assert "F16 (80 columns do not divide into Q8_0's blocks of 32): token_embd" in text.out
    assert text.err == ""
    assert main(["quantize", str(path), out, "q8_0"]) == 2
    assert "the file exists" in capsys.readouterr().err
    arguments = ["--force", "--json", "--backend", "wasmtime", "--embedding-format", "f32"]
    assert main(["quantize", str(path), out, "f16", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "f16"
    assert {each["after"] for each in report["tensors"]} == {"f16", "f32"}
    assert report["bytes_after"] < report["bytes_before"]
    assert main(["quantize", str(path), out, "q9", "--force"]) in (1, 2)
    assert "q9" in capsys.readouterr().err


def test_other_names_of_formats(floats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    for name, format in (("Q4_K_M", "q4_k"), ("q3_k_s", "q3_k"), ("FP16", "f16"), ("Q6_K", "q6_k")):
        assert quantize_model(floats, out, name, force=True).format == format
        assert stored(out)["blk.0.ffn_up.weight"][0] == format
    report = quantize_model(floats, out, "q4_0", embedding_format="Q5_K_M", force=True)
    assert by_name(report)["token_embd.weight"].after == "q5_k"
    for unknown in ("IQ5_S", "Q4_K_L", "q9"):
        with pytest.raises(FormatError, match=f"{unknown}.*known ones: f32, f16, bf16, q8_0"):
            quantize_model(floats, out, unknown, force=True)
