"""Products that leave out inputs against numpy, on every native instruction set; models with
limits against a forward pass in numpy that leaves out the same inputs; and their calibration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sparsefire as sf
import tiny_model
from bench.lib.input_quality import Llama
from conftest import CORES
from sparsefire.arch import screen
from sparsefire.calibrate.companion import write_companion
from sparsefire.calibrate.inputs import calibrate_inputs
from sparsefire.cli import main
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, CalibrationError, ModelFileError, UnsupportedError
from sparsefire.files.inspect import inspect_file
from sparsefire.gguf.reader import GgufFile
from sparsefire.weights.costs import set_column_cost
from sparsefire.weights.matrix import Matrix

SITES = {  # of a layer: the tensor that files name, and the name in the reference
    "attn_q": "attention",
    "attn_output": "attention output",
    "ffn_up": "gate and up",
    "ffn_down": "down",
}
SIZES = {"format": "Q4_0", "activation": "silu", "d": 128, "hidden": 160, "context": 64}
LIMITS = {"attn_q": 0.4, "attn_output": 0.1, "ffn_up": 0.4, "ffn_down": 0.05}
TOKENS = np.random.default_rng(4).integers(33, 127, 60).astype(np.int32)


# WebAssembly has no columns.
NATIVE = [name for name in CORES if name.startswith("native")]
on_native = pytest.mark.parametrize("core", NATIVE, indirect=True)
on_others = pytest.mark.parametrize("core", sorted({*CORES} - {*NATIVE}), indirect=True)


@on_native
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (63, 96), (128, 64), (300, 576)])
def test_a_product_leaves_out_the_small_inputs(core: Core, rows: int, columns: int) -> None:
    random = np.random.default_rng(rows)
    weights = random.standard_normal((rows, columns), np.float32)
    matrix = Matrix.from_array(weights, "q4_0", core).set_scale(0.25)
    assert matrix.column_bytes == 0
    with pytest.raises(UnsupportedError):
        matrix.multiply_above(np.ones(columns), 0.0)
    padded = -(-rows // 128) * 128
    assert matrix.add_columns().column_bytes == padded * columns // 32 * 18
    exact = matrix.dequantize().astype(np.float64)
    for limit in (0.0, 0.5, 1.0, 9.0):
        x = random.standard_normal(columns, np.float32)
        found, count = matrix.multiply_above(x, limit)
        kept = np.abs(x) >= np.float32(limit)
        assert count == kept.sum()
        # Half a step of each input at most, of which the largest of 32 is 127.
        steps = np.repeat(np.abs(np.where(kept, x, 0)).reshape(-1, 32).max(1) / 127, 32)
        most = np.abs(exact) @ np.where(kept, 0.51 * steps, 0) + 1e-5
        assert (np.abs(found - exact @ np.where(kept, x, 0)) <= most).all()


def test_other_formats_are_refused_by_name(core: Core) -> None:
    matrix = Matrix.from_array(np.ones((2, 32)), "q8_0", core)
    with pytest.raises(UnsupportedError, match=r"in q8_0; `sparsefire quantize IN.gguf OUT.gguf"):
        matrix.add_columns()
    other = Matrix.from_array(np.ones((2, 32)), "q4_0", core)
    if core.host == "native":
        with pytest.raises(ArgumentError):
            other.add_columns().multiply_above(np.ones(32), -1.0)
    else:
        with pytest.raises(UnsupportedError, match="only the native core has columns"):
            other.add_columns()
    with pytest.raises(ArgumentError):
        set_column_cost(0.0, 0.0, core=core)


def with_limits(path: Path, limits: dict[str, float] = LIMITS, **changes: object) -> Path:
    """A small model with a companion."""
    tiny_model.write(path, **{**SIZES, **changes})  # type: ignore[arg-type]
    names = [f"blk.{layer}.{name}.weight" for layer in range(2) for name in limits]
    values = np.array([*limits.values()] * 2, np.float32)
    metadata = {screen.NAMES_KEY: names, screen.LIMITS_KEY: values}
    with GgufFile.open(path) as file:
        of = screen.fingerprint(file)
    write_companion(screen.companion_path(path), "llama", of, metadata, {}, force=True)
    return path


@pytest.fixture
def columns_always(core: Core) -> Iterator[Core]:
    """The core, which multiplies by columns wherever inputs have a limit."""
    set_column_cost(1e-6, 0.0, core=core)
    yield core
    set_column_cost(1.05, 0.1, core=core)


@on_native
def test_a_model_leaves_out_what_the_reference_does(columns_always: Core, tmp_path: Path) -> None:
    path = with_limits(tmp_path / "model.gguf")
    shares: list[float] = []

    def some(site: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        name = next(name for name, other in SITES.items() if site.endswith(f".{other}"))
        kept = np.abs(x) >= np.float32(LIMITS[name])
        shares.extend([1 - kept[:-1].mean()] * x.shape[1])
        return np.where(kept, x, np.float32(0))

    with sf.Model.load(path) as model, sf.Model.load(path, inputs="dense") as dense:
        reference = Llama(dense)
        assert (model.config.default_mode, dense.config.default_mode) == ("sparse", "dense")
        expected = np.log(reference.perplexity([TOKENS.tolist()], some))
        plain = np.log(reference.perplexity([TOKENS.tolist()], lambda _, x: x))
        found = np.log(model.perplexity(TOKENS).perplexity)
        assert model.stats.inputs_left_out == pytest.approx(np.mean(shares), abs=0.005)
        # The rounding to 8 bits changes far less than what is left out.
        assert abs(found - expected) < 0.15 * abs(expected - plain)
        assert np.log(dense.perplexity(TOKENS).perplexity) == pytest.approx(plain, abs=0.002)
        assert dense.stats.inputs_left_out == 0
        with pytest.raises(UnsupportedError, match="sparse mode needs a calibrated model"):
            dense.perplexity(TOKENS, mode="sparse")
        # A prompt is dense, and so is dense mode.
        assert (model.logits(TOKENS) == dense.logits(TOKENS)).all()
        assert [*model.generate("ab", 8, mode="dense", temperature=0.0)] == [
            *dense.generate("ab", 8, temperature=0.0)
        ]
        assert model.stats.inputs_left_out == 0
        text = [*model.generate("ab", 8, temperature=0.0)]
        assert 0.1 < model.stats.inputs_left_out < 0.9
        assert "of inputs left out" in model.stats.neurons()
        assert [*model.generate("ab", 8, temperature=0.0)] == text


@on_native
def test_rows_are_multiplied_where_they_are_faster(core: Core, tmp_path: Path) -> None:
    path = with_limits(tmp_path / "model.gguf")
    set_column_cost(1e6, 0.0, core=core)
    try:
        with sf.Model.load(path) as model:
            text = [*model.generate("ab", 8, temperature=0.0)]
            assert model.stats.inputs_left_out == 0
            assert [*model.generate("ab", 8, mode="dense", temperature=0.0)] == text
    finally:
        set_column_cost(1.05, 0.1, core=core)


@on_others
def test_other_hosts_multiply_all_inputs(core: Core, tmp_path: Path) -> None:
    with sf.Model.load(with_limits(tmp_path / "model.gguf")) as model:
        assert model.config.default_mode == "dense"
        assert [*model.generate("ab", 8)]
        assert model.stats.inputs_left_out == 0


def test_damaged_limits_are_refused(tmp_path: Path) -> None:
    names = ["blk.0.attn_q.weight"]
    for metadata, message in (
        ({screen.NAMES_KEY: names}, "must hold names and as many numbers"),
        ({screen.NAMES_KEY: names, screen.LIMITS_KEY: [0.5, 0.5]}, "as many numbers"),
        ({screen.NAMES_KEY: names, screen.LIMITS_KEY: [-0.5]}, "as many numbers"),
        ({screen.NAMES_KEY: ["blk.7.attn_q.weight"], screen.LIMITS_KEY: [0.5]}, "'blk.7.attn_q"),
    ):
        path = tiny_model.write(tmp_path / "model.gguf", **SIZES, keys=metadata)  # type: ignore[arg-type]
        with pytest.raises(ModelFileError, match=message):
            sf.Model.load(path)
        sf.Model.load(path, inputs="dense").close()
    path = with_limits(tmp_path / "other.gguf", format="Q8_0")
    with pytest.raises(UnsupportedError, match=r"blk.0.attn_q.weight: only weights in q4_0"):
        sf.Model.load(path)
    tiny_model.write(path, **{**SIZES, "seed": 9})  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="the companion of another model"):
        sf.Model.load(path)


def test_inspect_says_where_limits_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_limits(tmp_path / "model.gguf")
    found = inspect_file(path).inputs
    assert found is not None
    assert (found.sites, found.left_out) == (2 * len(LIMITS), None)
    assert found.companion == str(tmp_path / "model.sparsefire.gguf")
    assert main(["inspect", str(path)]) == 0
    assert "limits of 8 sites, in " in capsys.readouterr().out
    names = ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
    keys = {screen.NAMES_KEY: names, screen.LIMITS_KEY: [0.5, 0.0]}
    keys[f"{screen.INPUT_KEYS}left_out"] = 0.25
    own = tiny_model.write(tmp_path / "own.gguf", **SIZES, keys=keys)  # type: ignore[arg-type]
    found = inspect_file(own).inputs
    assert found is not None
    assert (found.sites, found.left_out, found.companion) == (1, 0.25, None)
    keys[screen.LIMITS_KEY] = [-0.5, 0.0]
    tiny_model.write(own, **SIZES, keys=keys)  # type: ignore[arg-type]
    assert "calibrate the inputs again" in str(inspect_file(own).problem)


def words(count: int) -> str:
    random = np.random.default_rng(8)
    return " ".join("".join(map(chr, random.integers(97, 105, 4))) for _ in range(count))


def test_calibration_finds_limits_and_writes_a_companion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_model.write(tmp_path / "model.gguf", **SIZES)  # type: ignore[arg-type]
    options = {"tokens": 1_500, "shares": (0.2, 0.5), "perplexity_cost": 9.0}
    report = calibrate_inputs(path, None, words(500), even_if_slower=True, **options)  # type: ignore[arg-type]
    companion = tmp_path / "model.sparsefire.gguf"
    assert report.output == str(companion)
    assert report.sites == 8
    assert [each.share for each in report.settings] == [0.2, 0.5]
    chosen = report.chosen
    assert chosen is not None
    with sf.Model.load(path) as model:
        assert model.session.model.input_limits == pytest.approx(chosen.limits)
        assert set(chosen.limits) <= {f"blk.{i}.{name}.weight" for i in range(2) for name in SITES}
    # Of a layer, rows of q, k, v, the output, gate and up, of 72 bytes each, and of down, of 90.
    assert report.column_bytes == 2 * ((4 * 128 + 2 * 256) * 72 + 128 * 90)
    # Limits are not replaced unasked. A screen is written beside them, and they beside a screen.
    with pytest.raises(ArgumentError, match=r"model\.sparsefire\.gguf"):
        calibrate_inputs(path, None, words(500), **options)  # type: ignore[arg-type]
    with GgufFile.open(path) as file:
        of = screen.fingerprint(file)
    factors = np.zeros((32, 128), np.float32), np.zeros((270, 32), np.float32), np.zeros(270)
    tensors = {
        name: values.astype(np.float32)
        for name, values in zip(screen.TENSORS, factors, strict=True)
    }
    keys = {screen.ROWS_KEY: 20}
    write_companion(companion, "llama", of, keys, tensors, keeps=screen.INPUT_KEYS, force=True)
    with sf.Model.load(path) as model:
        assert model.head == "screened"
        assert model.session.model.input_limits == pytest.approx(chosen.limits)
    command = ["calibrate", "-m", str(path), "--text", str(tmp_path / "text.txt"), "--force"]
    (tmp_path / "text.txt").write_text(words(600))
    capsys.readouterr()
    more = ["--method", "inputs", "--tokens", "1500", "--sparsity", "0.3", "--even-if-slower"]
    assert main([*command, *more]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s, over dense" in shown
    assert "best: limits at" in shown
    assert main([*command, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sites"] == 8
    with sf.Model.load(path) as model:
        assert model.head == "screened"
        assert model.config.leaves_out_inputs


def test_limits_that_leave_out_nothing_are_not_stored(
    core: Core,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the clock says: where rows are faster, sparse decoding is dense decoding."""
    path = tiny_model.write(tmp_path / "model.gguf", **SIZES)  # type: ignore[arg-type]
    monkeypatch.setattr("sparsefire.calibrate.inputs.compare_with_dense", lambda *_: (2.0, 1.0))
    set_column_cost(1e6, 0.0, core=core)
    try:
        (tmp_path / "text.txt").write_text(words(500))
        command = ["calibrate", "-m", str(path), "--text", str(tmp_path / "text.txt")]
        more = ["--method", "inputs", "--tokens", "1500", "--sparsity", "0.3"]
        assert main([*command, *more, "--perplexity-cost", "900", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["left_out"] for each in found["settings"]] == [0]
        assert (found["chosen"], found["output"]) == (None, None)
        assert main([*command, *more, "--perplexity-cost", "900"]) == 0
        assert "every product is faster with all inputs" in capsys.readouterr().out
        assert not (tmp_path / "model.sparsefire.gguf").exists()
    finally:
        set_column_cost(1.05, 0.1, core=core)


def test_limits_of_a_sparse_model_are_compared_with_that_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its neurons gain over dense decoding is no gain of limits."""
    path = tiny_model.write(tmp_path / "model.gguf", **{**SIZES, "activation": "relu"})  # type: ignore[arg-type]
    text = tmp_path / "text.txt"
    text.write_text(words(500))
    command = ["calibrate", "-m", str(path), "--text", str(text), "--method", "inputs"]
    command += ["--tokens", "1500", "--sparsity", "0.3", "--perplexity-cost", "900"]
    turns: list[tuple[str, int]] = []

    def compare(sessions: dict[str, sf.Session], _ids: object, *, before: Any) -> dict[str, float]:
        for name, session in sessions.items():
            before(name)
            session.reset_counts()
            session.step(5)
            turns.append((name, int(session.inputs[0])))
        return {"limits": 1.01, "plain": 1.0}

    monkeypatch.setattr("sparsefire.calibrate.inputs.compare_sessions", compare)
    monkeypatch.setattr("sparsefire.calibrate.inputs.compare_with_dense", lambda *_: (9.0, 1.0))
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "tokens/s, over exact" in shown
    assert "the model as it is, in exact mode, is best: " in shown
    assert not (tmp_path / "model.sparsefire.gguf").exists()
    assert {name for name, _ in turns} == {"limits", "plain"}
    assert all((inputs > 0) == (name == "limits") for name, inputs in turns)


def test_calibration_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model.gguf", **{**SIZES, "format": "Q8_0"})  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"in q8_0; `sparsefire quantize IN.gguf OUT.gguf"):
        calibrate_inputs(path, None, words(500))
    path = tiny_model.write(tmp_path / "other.gguf", **SIZES)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="tokens"):
        calibrate_inputs(path, None, "short")
    for wrong in ({"shares": (1.0,)}, {"perplexity_cost": -1.0}, {"tokens": 3}):
        with pytest.raises(ArgumentError):
            calibrate_inputs(path, None, words(500), **wrong)  # type: ignore[arg-type]
