"""`sparsefire inspect`, on models that run, that cannot, and that are damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

import mixture_models
import tiny_model
from sparsefire.cli import main
from sparsefire.errors import ArgumentError, ModelFileError, UnsupportedError
from sparsefire.files.inspect import inspect_file
from sparsefire.lm.model import Model


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {
        "general.name": "Tiny",
        "sparsefire.calibration.active_share": [0.125, 0.25],
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_templates": ["tool_use"],
    }
    path = tmp_path_factory.mktemp("inspect") / "model.gguf"
    return tiny_model.write(path, bundled=True, rank=32, context=64, format="Q8_0", keys=keys)


def test_header_against_the_gguf_package(calibrated: Path) -> None:
    found = inspect_file(calibrated)
    reader = gguf.GGUFReader(calibrated)
    assert [each.name for each in found.tensors] == [each.name for each in reader.tensors]
    for ours, theirs in zip(found.tensors, reader.tensors, strict=True):
        assert ours.shape == tuple(map(int, theirs.shape[::-1]))
        assert ours.nbytes == theirs.n_bytes
        assert ours.format.upper() == theirs.tensor_type.name
        assert ours.bits == pytest.approx(8 * theirs.n_bytes / theirs.n_elements)
    assert found.parameters == sum(int(each.n_elements) for each in reader.tensors)
    assert sum(found.bytes_by_format.values()) == sum(each.n_bytes for each in reader.tensors)
    assert set(found.bytes_by_format) == {"q8_0", "f32"}
    assert found.nbytes == calibrated.stat().st_size
    assert set(found.metadata) == {name for name in reader.fields if not name.startswith("GGUF.")}
    assert found.metadata["tokenizer.ggml.tokens"]["length"] == 270


def test_a_calibrated_model(calibrated: Path) -> None:
    found = inspect_file(calibrated)
    with Model.load(calibrated) as model:
        for name, value in found.sizes.items():
            assert getattr(model.config, name) == value
        assert found.mode == model.config.default_mode == "sparse"
    assert (found.runs, found.problem, found.damage) == (True, None, None)
    assert (found.architecture, found.name, found.version) == ("llama", "Tiny", 3)
    assert found.activation is not None
    assert found.activation.name == "relu"
    assert found.activation.resolved_by == "llama.hidden_activation"
    assert found.tokenizer is not None
    assert found.tokenizer.tokens == 270
    assert found.tokenizer.eos == tiny_model.END
    assert found.tokenizer.chat_templates == ("default", "tool_use")
    assert [each.rank for each in found.sparsity] == [32, 32]
    assert [each.hot for each in found.sparsity] == [3, 3]
    assert [each.active_share for each in found.sparsity] == [0.125, 0.25]
    assert found.sparsity[0].bundle_bytes == 96 * 3 * 64 // 32 * 34
    assert found.calibration["hot_counts"] == [3, 3]
    assert found.memory is not None
    # 2 layers, keys and values, 2 heads of 16, 2 bytes, 64 tokens
    assert found.memory.key_value_cache == 2 * 2 * 2 * 16 * 2 * 64
    # predictors of rank 32 in Q8_0, a second time: 2 layers, (32, 64) and (96, 32)
    assert found.memory.made == 2 * (32 * 64 + 96 * 32) // 32 * 34
    assert found.memory.weights == sum(each.nbytes for each in found.tensors)
    assert json.loads(json.dumps(found.as_dict()))["memory"]["wasm"] == found.memory.wasm


def test_how_the_activation_was_found(tmp_path: Path) -> None:
    for number, (keys, chosen, name, by) in enumerate(
        [
            ({}, None, "silu", "the architecture"),
            ({"llama.hidden_act": "gelu"}, None, "gelu_erf", "llama.hidden_act"),
            (
                {"llama.hidden_activation": "relu", "llama.hidden_act": "gelu"},
                None,
                "relu",
                "llama.hidden_activation",
            ),
            ({"llama.hidden_activation": "relu"}, "swish", "silu", "chosen"),
        ]
    ):
        path = tiny_model.write(tmp_path / f"{number}.gguf", activation=None, keys=keys)
        found = inspect_file(path, activation=chosen)
        assert found.activation is not None
        assert (found.activation.name, found.activation.resolved_by) == (name, by)
        with Model.load(path, activation=chosen) as model:
            assert found.activation.name == model.config.activation
    with pytest.raises(ArgumentError, match="unknown activation"):
        inspect_file(path, activation="sine")


def test_what_a_token_reads(tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "a.gguf", "deepseek")
    found = inspect_file(path)
    d, width, used = mixture_models.D, mixture_models.WIDTH, mixture_models.USED
    mixture = found.mixtures[0]
    assert found.mixtures == [mixture]  # the first of 5 layers is dense
    assert (mixture.layers, mixture.experts, mixture.width) == (4, mixture_models.EXPERTS, width)
    assert mixture.used == used
    assert found.reading is not None
    assert found.reading.experts == 4 * used * 3 * width * d * 4
    assert found.reading.all_experts * used == found.reading.experts * mixture_models.EXPERTS
    assert found.reading.neurons == (3 * mixture_models.HIDDEN + 4 * 3 * width) * d * 4
    assert found.reading.head == mixture_models.VOCAB * d * 4
    matrices = {each.name: each.nbytes for each in found.tensors if len(each.shape) > 1}
    left_out = matrices["token_embd.weight"] + found.reading.all_experts - found.reading.experts
    assert found.reading.total == sum(matrices.values()) - left_out
    assert found.as_dict()["reading"]["total"] == found.reading.total


def test_memory_of_layers_that_are_laid_out_anew(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "a.gguf", activation="relu")
    relu = inspect_file(path, context=10).memory
    silu = inspect_file(path, activation="silu").memory
    assert relu is not None
    assert silu is not None
    down = 2 * 96 * 64 * 4
    assert (relu.made, silu.made) == (down, 0)
    assert relu.weights + down == silu.weights
    assert relu.context == 10
    assert silu.context == 48
    assert relu.key_value_cache * 48 == silu.key_value_cache * 10
    assert relu.native == down + relu.key_value_cache
    assert inspect_file(path).sparsity == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"keys": {"general.architecture": "bort"}}, "architecture 'bort' is not supported"),
        ({"keys": {"general.architecture": ""}}, "architecture"),
        ({"tensors": {"blk.1.attn_k.weight": None}}, "tensor 'blk.1.attn_k.weight' is missing"),
        ({"keys": {"tokenizer.ggml.pre": "other"}}, "rule 'other'"),
        ({"activation": "sine"}, "unknown activation 'sine'"),
        ({"keys": {"llama.block_count": None}}, "'llama.block_count' is missing"),
    ],
)
def test_models_that_cannot_run(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    found = inspect_file(tiny_model.write(tmp_path / "a.gguf", **changes))
    assert not found.runs
    assert found.problem is not None
    assert problem in found.problem
    assert "a.gguf" not in found.problem  # it stands in the first line already
    assert len(found.tensors) > 15
    assert found.damage is None


def test_damaged_files(calibrated: Path, tmp_path: Path) -> None:
    whole = calibrated.read_bytes()
    path = tmp_path / "cut.gguf"
    reached = set()
    for size in [*range(4, 24), 100, 1000, 5000, 9000, len(whole) - 40_000, len(whole) - 1]:
        path.write_bytes(whole[:size])
        try:
            found = inspect_file(path)
        except ModelFileError as error:
            assert "cut.gguf" in str(error)  # noqa: PT017 (either is right for a short file)
            continue
        assert not found.runs
        assert found.damage is not None
        assert "byte" in found.damage
        json.dumps(found.as_dict())
        reached.add("tensors" if found.tensors else "metadata" if found.metadata else "nothing")
    assert reached == {"tensors", "metadata", "nothing"}
    assert found.architecture == "llama"
    for place in range(30, 6000, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        try:
            json.dumps(inspect_file(path).as_dict())
        except (ModelFileError, UnsupportedError) as error:
            assert "cut.gguf" in str(error)  # noqa: PT017


def test_sizes_whose_product_no_integer_of_64_bits_holds(calibrated: Path, tmp_path: Path) -> None:
    changed = bytearray(calibrated.read_bytes())
    label = b"blk.0.ffn_bundle.weight"
    at = changed.index(label) + len(label) + 4
    struct.pack_into("<2Q", changed, at, 2**40, 2**40)
    path = tmp_path / "large.gguf"
    path.write_bytes(changed)
    found = inspect_file(path)
    assert found.damage is not None
    assert "go past the end of the file" in found.damage
    (shown,) = (each for each in found.tensors if each.name == label.decode())
    assert (shown.shape, shown.bits) == ((2**40, 2**40), pytest.approx(8.5))
    assert found.parameters > 2**80


# -- the command -------------------------------------------------------------------------------


def test_command(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(calibrated)]) == 0
    text = capsys.readouterr().out
    for part in (
        "name         Tiny",
        "2 layers, d 64, 96 neurons per layer, 4 heads (2 key/value heads) of 16",
        "Q8_0 ",
        "activation   relu (key 'llama.hidden_activation')",
        "chat template (default, tool_use)",
        "calibrated: predictors in 2 of 2 layers, rank 32",
        "18.8 % of the neurons active",
        "for 64 tokens",
        "runs         yes",
    ):
        assert part in text
    assert "blk.0" not in text
    assert main(["inspect", str(calibrated), "--tensors", "--metadata", "--context", "7"]) == 0
    text = capsys.readouterr().out
    for part in ("blk.0.ffn_bundle.weight", "96 × 192", "llama.block_count", "for 7 tokens"):
        assert part in text
    assert main(["inspect", str(calibrated), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runs"] is True
    assert report["sparsity"][1]["rank"] == 32


def test_command_on_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "-"]) == 0
    assert "runs         yes" in capsys.readouterr().out
    path = tiny_model.write(tmp_path / "a.gguf", activation=None)
    assert main(["inspect", str(path), "--activation", "fatrelu"]) == 0
    text = capsys.readouterr().out
    assert "runs         no: key 'llama.hidden_activation_threshold' is missing" in text
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "silu (default of the architecture; the file names none)" in text
    assert "not calibrated; runs in dense mode" in text
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["inspect", str(path)]) == 1
    assert "runs         no, the file is damaged: " in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: No such file" in capsys.readouterr().err
    assert main(["inspect", __file__]) == 1
    assert "not a GGUF file" in capsys.readouterr().err
