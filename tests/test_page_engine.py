"""The Python side of the browser page's engine, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixture_models
import moe_model
import recurrent_models
import tiny_model
from sparsefire.arch import screen
from sparsefire.arch.config import read_config
from sparsefire.arch.plan import ExpertLayer, Plan
from sparsefire.arch.tensors import read_plan
from sparsefire.gguf.reader import GgufFile
from sparsefire.gguf.writer import write_gguf
from sparsefire.lm.layer_bytes import LayerBytes
from sparsefire.lm.model import Model
from sparsefire.page import engine as page_engine
from sparsefire.page.engine import Engine, open_files
from sparsefire.weights.activation import ActivationType

OPTIONS = json.dumps({"context": 0, "budget": 0})
# Python's notations for bytes, arrays, objects and constants, and its tracebacks.
NOTATION = re.compile(r"\bb['\"]|array\(|dtype|np\.|<class|object at|Traceback|\bNone\b|\bTrue\b")


class Bytes(bytes):
    """A Uint8Array."""

    def to_bytes(self) -> bytes:  # type: ignore[override]
        """See Pyodide's JsBuffer."""
        return bytes(self)


def files(*parts: bytes) -> Any:
    """The files of a model as JavaScript opens them: in one source, end to end."""
    source = b"".join(parts)
    sizes = [{"name": f"{i}.gguf", "size": len(part)} for i, part in enumerate(parts)]
    return open_files(lambda at, nbytes: Bytes(source[at : at + nbytes]), json.dumps(sizes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("engine") / "whole.gguf")


def test_a_split_model_makes_the_text_of_the_whole(whole: Path, tmp_path: Path) -> None:
    first, second, third = (path.read_bytes() for path in tiny_model.write_parts(tmp_path, 3))
    with Model.load(whole) as model:
        expected = "".join(model.generate("abc", 8, temperature=0, mode="exact"))
    engine = Engine()
    alone = json.loads(engine.inspect(files(whole.read_bytes()), OPTIONS))
    for order in ([first, second, third], [third, first, second]):
        assert json.loads(engine.inspect(files(*order), OPTIONS)) == alone
        about = json.loads(engine.load(files(*order), OPTIONS))
        assert about["hidden"] == [96, 96]
        options = {"max_tokens": 8, "temperature": 0, "mode": "exact"}
        engine.start(json.dumps({"prompt": "abc"}), json.dumps(options))
        text = ""
        while not (report := json.loads(engine.run(1)))["done"]:
            text += report["text"]
        assert text + report["text"] == expected
    engine.unload()
    # Of a download only the first file is there at first; the others count as weights.
    start = json.loads(engine.inspect(files(first), OPTIONS, len(second) + len(third)))
    assert start["weights_bytes"] >= alone["weights_bytes"]
    assert "part 1 of a model in 3 files; give all of them" in engine.inspect(files(first), OPTIONS)
    assert "part 2 is missing" in engine.inspect(files(first, third), OPTIONS)


@pytest.mark.parametrize("page", [b"<!doctype html><title>x", b"\n <!DOCTYPE HTML>", b"<html>"])
def test_a_web_page_is_refused_as_one(page: bytes) -> None:
    answer = json.loads(Engine().inspect(files(page * 50), OPTIONS))
    assert answer["error"].startswith("0.gguf: not a GGUF file but a web page (HTML)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "elmo"}, "0.gguf: the tokeniser 'elmo' is not supported; supported: 'gpt2'"),
        ({"model": [1, 2]}, "0.gguf: the tokeniser a list of 2 is not supported; supported: 'g"),
        ({"model": None}, "0.gguf: key 'tokenizer.ggml.model' is missing"),
        ({"pre": "unheard-of"}, "0.gguf: the vocabulary names the pre-tokeniser rule 'unheard-of'"),
        ({"pre": [1, 2]}, "0.gguf: the vocabulary names the pre-tokeniser rule a list of 2"),
    ],
)
def test_an_unknown_tokeniser_is_refused_from_the_header(
    change: dict[str, Any], said: str, whole: Path, tmp_path: Path
) -> None:
    """As it is when the model is loaded."""
    with GgufFile.open(whole) as file:
        keys = file.typed_metadata()
        keys |= {f"tokenizer.ggml.{name}": value for name, value in change.items()}
        tensors = {
            name: file.tensor_data(name).view(np.float32).reshape(info.shape)
            for name, info in file.tensors.items()
        }
    path = tmp_path / "other.gguf"
    write_gguf(path, {key: value for key, value in keys.items() if value is not None}, tensors)
    data = path.read_bytes()
    refused = json.loads(Engine().inspect(files(data), OPTIONS))
    assert refused["error"].startswith(said)
    assert refused == json.loads(Engine().load(files(data), OPTIONS))


def test_messages_are_free_of_pythons_notation(whole: Path, tmp_path: Path) -> None:
    """For files with bytes of the header changed, and with keys of other types."""
    data = whole.read_bytes()
    engine, random = Engine(), np.random.default_rng(5)
    with GgufFile.open(whole) as file:
        keys = file.typed_metadata()
        tensors = {
            name: file.tensor_data(name).view(np.float32).reshape(info.shape)
            for name, info in file.tensors.items()
        }
    damaged = [b"no model at all" * 100, data[:1000], b"PK\x03\x04" * 20]
    for _ in range(150):
        at = int(random.integers(0, 4000))
        damaged.append(data[:at] + random.bytes(8) + data[at + 8 :])
    others = [[1, 2, 3], ["a", "b"], True, "text", -1, 0.5]
    for index, key in enumerate(key for key in keys if key != "general.architecture"):
        path = tmp_path / f"{index}.gguf"
        write_gguf(path, {**keys, key: others[index % len(others)]}, tensors)
        damaged.append(path.read_bytes())
    messages = set()
    for each in damaged:
        for call in (engine.inspect, engine.load):
            answer = json.loads(call(files(each), OPTIONS))
            if "error" in answer:
                messages.add(answer["error"])
                assert answer["kind"] in ("ModelFileError", "UnsupportedError"), answer
    assert len(messages) > 20
    assert [each for each in messages if NOTATION.search(each) or "\n" in each] == []


def test_an_unexpected_error_has_its_traceback_on_the_console_only(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("sparsefire.page.engine.read_config", fails)
    answer = json.loads(Engine().inspect(files(whole.read_bytes()), OPTIONS))
    assert answer == {
        "error": "an unexpected error in Python, KeyError: the browser's console has the details",
        "kind": "KeyError",
    }
    assert "Traceback" in capsys.readouterr().err


def run(engine: Engine, mode: str) -> dict[str, Any]:
    """The counts of a text of four tokens."""
    options = {"max_tokens": 4, "temperature": 0, "mode": mode}
    engine.start(json.dumps({"prompt": "abc"}), json.dumps(options))
    reports = [json.loads(engine.run(0.1))]
    while not reports[-1]["done"]:
        reports.append(json.loads(engine.run(0.1)))
    return next(report for report in reports if report["evaluated"])


def test_bytes_read_by_a_dense_model(whole: Path) -> None:
    """By its sizes: two layers of 3 · 96 · 64 floats, and all else but one vector's rows."""
    engine = Engine()
    engine.load(files(whole.read_bytes()), OPTIONS)
    report = run(engine, "dense")
    ffn = 2 * 3 * 96 * 64 * 4
    assert report["ffn_bytes"] == report["dense_ffn_bytes"] == ffn
    with GgufFile.open(whole) as file:
        assert report["other_bytes"] == sum(each.nbytes for each in file.tensors.values()) - ffn
    exact = run(engine, "exact")
    assert ffn / 3 < exact["ffn_bytes"] < ffn
    engine.unload()


def test_bytes_read_with_a_screened_head(tmp_path: Path) -> None:
    """Of the output matrix the exact rows alone, and the screen: as the statistics say."""
    random = np.random.default_rng(1)
    shapes = {screen.P: (8, 64), screen.Q: (270, 8), screen.BIAS: (270,)}
    screens = {name: random.standard_normal(each) for name, each in shapes.items()}
    tensors = {name: each.astype(np.float32) for name, each in screens.items()}
    keys = {screen.ROWS_KEY: 40, "sparsefire.version": 1}
    for tied in (True, False):
        path = tiny_model.write(tmp_path / "s.gguf", tied=tied, keys=keys, tensors=tensors)
        with Model.load(path) as model:
            model.logits([97, 5])
            head = model.stats.head_bytes
            bytes_read = LayerBytes(model.file, model.session.model.plan)
            blocks = sum(
                info.nbytes
                for name, info in model.file.tensors.items()
                if (name.startswith("blk.") and ".ffn_" not in name) or "norm" in name
            )
        assert bytes_read.other == pytest.approx(blocks + head)


def test_layers_say_what_they_are(tmp_path: Path) -> None:
    """Every second layer of LFM 2 has a convolution, every fourth of Qwen 3 Next has attention; its
    blocks have experts and shared ones."""
    kinds = {}
    for architecture in ("lfm2moe", "qwen3next"):
        path = recurrent_models.write(tmp_path / f"{architecture}.gguf", architecture)
        with GgufFile.open(path) as file:
            layers = page_engine._layers(read_plan(file, read_config(file, None)))
        kinds[architecture] = [tuple(each.values()) for each in layers]
    width = mixture_models.WIDTH
    convolved, attended = "convolution", "attention"
    mixers = [attended if block % 2 else convolved for block in range(mixture_models.LAYERS)]
    experts = [0, *[width] * (mixture_models.LAYERS - 1)]
    expected = [
        (i, n, False, mixer) for i, (n, mixer) in enumerate(zip(experts, mixers, strict=True))
    ]
    assert kinds["lfm2moe"] == expected
    named = [kind for kind in kinds["qwen3next"] if kind[3]]
    assert [kind[3] for kind in named] == ["recurrence"] * 3 + ["attention", "recurrence"]
    assert {kind[1:3] for kind in kinds["qwen3next"]} == {(width, False), (0, True)}


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_a_mixture_of_experts(tmp_path: Path, activation: str) -> None:
    """Neurons of all experts are on the map, those of the chosen ones are read, also on demand."""
    path = moe_model.write(tmp_path / "m.gguf", "Q8_0", activation)
    neurons = moe_model.EXPERTS * moe_model.WIDTH
    share = moe_model.USED / moe_model.EXPERTS
    data, engine = path.read_bytes(), Engine()
    about = json.loads(engine.load(files(data), OPTIONS))
    assert about["hidden"] == [neurons] * moe_model.LAYERS
    layer = {"expert": moe_model.WIDTH, "shared": False, "mixer": "attention"}
    assert about["layers"] == [{"block": index, **layer} for index in range(moe_model.LAYERS)]
    engine.watch(True)
    report = run(engine, "dense")
    assert report["active"] == pytest.approx([share] * moe_model.LAYERS)
    assert report["ffn_bytes"] == pytest.approx(report["dense_ffn_bytes"])
    assert report["dense_ffn_bytes"] == pytest.approx(share * about["neuron_bytes"])
    counts = np.zeros((moe_model.LAYERS, neurons), np.uint8)

    class Target:
        def assign(self, source: Any) -> None:
            counts[:] = source

    assert engine.fired(Target())
    assert 0 < (counts > 0).mean() < 1
    ids = json.loads(engine.token_ids())
    budget = about["neuron_bytes"] // 2
    options = json.dumps({"context": 0, "budget": budget})
    assert json.loads(engine.inspect(files(data), options))["neuron_bytes"] == about["neuron_bytes"]
    about = json.loads(engine.load(files(data), options))
    assert 0 < about["budget_bytes"] <= budget
    report = run(engine, "dense")
    assert report["cache_wanted"] > 0
    assert json.loads(engine.token_ids()) == ids
    engine.unload()


@pytest.mark.parametrize("architecture", ["deepseek", "afmoe"])
def test_bytes_read_by_models_with_shared_experts(architecture: str, tmp_path: Path) -> None:
    """In dense mode all bytes of the layers, but those of experts that are not chosen."""
    path = mixture_models.write(tmp_path / "m.gguf", architecture)
    with Model.load(path) as model:
        bytes_read = LayerBytes(model.file, model.session.model.plan)
        model.logits(np.arange(1, 9), mode="dense")
        selected, active = (each / 8 for each in (model.session.selected, model.session.active))
        read = bytes_read.read("dense", selected, active)
        assert read == pytest.approx(bytes_read.dense, rel=0.02)
        assert read + bytes_read.other <= sum(each.nbytes for each in model.file.tensors.values())


def test_bytes_read_by_a_model_without_feed_forward_layers(whole: Path) -> None:
    with GgufFile.open(whole) as file:
        bytes_read = LayerBytes(file, Plan(270, 64))
        assert bytes_read.dense == bytes_read.read("dense", np.zeros(0), np.zeros(0)) == 0
        assert bytes_read.other == sum(each.nbytes for each in file.tensors.values())


def test_gate_and_up_of_experts_in_one_matrix() -> None:
    both, down = "blk.0.ffn_gate_up_exps", "blk.0.ffn_down_exps"
    layer = ExpertLayer(0, 4, 8, both, both, down, ActivationType.SILU, False)
    sizes = {f"{both}.weight": 200, f"{down}.weight": 100, "other.weight": 7}
    assert LayerBytes._layer(layer, sizes) == (100, 200, 0)
    assert sizes == {"other.weight": 7}
