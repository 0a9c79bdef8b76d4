"""Cutoffs of models without exact zeros: what calibration finds is checked on the file that it
writes; that models with cutoffs compute what they should is checked with the other variants of
test_model.py."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny_model
from reference import Reference
from sparsefire.calibrate import cutoffs as calibration
from sparsefire.calibrate.cutoffs import CutoffCalibration, calibrate_cutoffs
from sparsefire.cli import main
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, CalibrationError, ShapeError, UnsupportedError
from sparsefire.ffn.layer import SparseFfn
from sparsefire.lm import compare
from sparsefire.lm.model import Model
from sparsefire.weights.matrix import Matrix
from sparsefire.weights.quantized import QuantizedWeights
from tiny_model import Tiny

TINY = Tiny(activation="silu", hidden=128, format="F16", seed=3)
TEXT = " ".join("abcd"[i % 4] + "cdab"[i % 3] * (i % 5) for i in range(900))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("cutoffs") / "dense.gguf", TINY)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_SPEED_SECONDS", 0.01)


@cache
def forced(source: Path, on: str) -> tuple[Path, CutoffCalibration]:
    output = source.with_name(f"{on}.gguf")
    report = calibrate_cutoffs(
        source, output, TEXT, sparsities=[0.5], on=[on], even_if_slower=True, tokens=1_000
    )
    return output, report


@pytest.mark.parametrize("on", ["product", "gate"])
def test_what_is_written(on: str, source: Path) -> None:
    output, report = forced(source, on)
    chosen = report.chosen
    assert chosen is not None
    assert (chosen.on, chosen.sparsity, report.output) == (on, 0.5, str(output))
    assert chosen.left_out == pytest.approx(0.5, abs=0.1)
    assert 0 < chosen.output_error < 1
    reader = gguf.GGUFReader(output)
    stored = reader.get_field(f"sparsefire.cutoff.{on}")
    assert stored is not None
    assert stored.contents() == pytest.approx(chosen.cutoffs)
    names = {each.name for each in reader.tensors}
    assert {"blk.0.ffn_down.weight", "blk.1.ffn_down_t.weight"} <= names
    with Model.load(output) as model, Model.load(source) as dense:
        assert model.config.default_mode == "sparse"
        held = model.logits(range(40))
        assert np.array_equal(model.logits(range(40), mode="dense"), dense.logits(range(40)))
        assert not np.array_equal(held, dense.logits(range(40)))
        with pytest.raises(UnsupportedError, match="cutoffs"):
            dense.logits([1], mode="exact")


def test_the_perplexities_are_those_of_the_file(source: Path) -> None:
    """The reported ones against float64 numpy over the held-out windows."""
    output, report = forced(source, "product")
    assert report.chosen is not None
    with Model.load(source) as model:
        windows = calibration.text_windows(model, TEXT, 1_000).all[1::2]
    assert report.held_out_tokens == windows.size
    reference = Reference(output)
    for sparse, found in ((False, report.perplexity_dense), (True, report.chosen.perplexity)):
        losses = []
        for window in windows[:6]:
            logits = reference.logits(window.tolist(), sparse=sparse)
            logits -= logits.max(axis=1, keepdims=True)
            p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            losses += [-p[i, token] for i, token in enumerate(window[1:])]
        with Model.load(output) as model:
            mode = "sparse" if sparse else "dense"
            part = model.perplexity(windows[:6].reshape(-1), windows.shape[1], mode=mode)
            whole = model.perplexity(windows.reshape(-1), windows.shape[1], mode=mode)
        bound = 3e-3 if hosts.open_core("native").isa == "amx" else 1e-3  # which rounds to 8 bits
        assert part.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=bound)
        assert whole.perplexity == pytest.approx(found, rel=1e-3)


def test_dense_is_best_where_nothing_is_faster(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = [101.0, 100.0]  # no more than noise
    monkeypatch.setattr(calibration, "compare_with_dense", lambda *_: speeds)
    output = tmp_path / "none.gguf"
    arguments = {"sparsities": [0.2, 0.4], "perplexity_cost": 10.0, "tokens": 1_000}
    report = calibrate_cutoffs(source, output, TEXT, **arguments)
    assert (report.chosen, report.output, output.exists()) == (None, None, False)
    assert [each.sparsity for each in report.settings] == [0.2, 0.4, 0.2, 0.4]
    # What costs too much is not taken, however fast it is.
    speeds[0] = 200.0
    arguments["perplexity_cost"] = 0.0
    report = calibrate_cutoffs(source, output, TEXT, **arguments, on=["gate"])
    cheap = [each for each in report.settings if report.cost(each) <= 0]
    assert (report.chosen is None) == (not cheap)


def test_sparsities_far_above_the_accepted_cost_are_not_tried(source: Path) -> None:
    """Of each kind, the first that costs more than twice as much is the last; others are measured
    as without the limit."""
    shares = [0.1, 0.3, 0.5, 0.7]
    find = partial(calibrate_cutoffs, source, None, TEXT, sparsities=shares, tokens=1_000)
    everything = find(perplexity_cost=10.0)
    assert [each.sparsity for each in everything.settings] == 2 * shares
    costs = [everything.cost(each) for each in everything.settings]
    accepted = sorted(costs)[2] / 2  # exceeded twice over by some of both kinds, not by all
    wanted = []
    for kind in (everything.settings[:4], everything.settings[4:]):
        over = [place for place, each in enumerate(kind) if everything.cost(each) > 2 * accepted]
        wanted += kind[: over[0] + 1] if over else kind
    report = find(perplexity_cost=accepted)
    for found, each in zip(report.settings, wanted, strict=True):
        assert (found.on, found.sparsity, found.cutoffs) == (each.on, each.sparsity, each.cutoffs)
    assert len(wanted) < 8


def test_layers_that_are_not_faster_stay_dense(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock says that layer 1 takes longer with its cutoff, and layer 0 less."""
    now = [0.0]

    def clock() -> float:
        return now[0]

    def forward(self: object, x: object, *, mode: str, **_: object) -> None:
        layer = model.ffns.index(self)
        now[0] += {("dense", 0): 2.0, ("exact", 0): 1.0, ("dense", 1): 1.0}.get((mode, layer), 2.0)

    with Model.load(source) as model:
        windows = calibration.text_windows(model, TEXT, 1_000)
        trial = calibration._Trial(model, windows, 0, lambda *_: None)
        (setting,) = trial.settings(["product"], [0.5], 10.0)
        monkeypatch.setattr(calibration.time, "perf_counter", clock)
        with monkeypatch.context() as patched:
            patched.setattr(type(model.ffns[0]), "forward", forward)
            monkeypatch.setattr(calibration, "compare_with_dense", lambda *_: (2, 1))
            found = trial.without_slow_layers(setting)
        assert found is not None
        assert found.cutoffs == (setting.cutoffs[0], 0.0)
        assert found.left_out < setting.left_out


def test_a_sparsity_is_shared_out_where_it_costs_least() -> None:
    levels = np.arange(20) * 0.05
    dear = calibration._Curve(levels, levels, 10 * levels**2)
    cheap = calibration._Curve(levels, levels, levels**2)
    shared = calibration._shared_out([dear, cheap, cheap], 0.5)
    assert shared.mean() == pytest.approx(0.5)
    assert shared[0] < 0.2
    assert shared[1] == pytest.approx(shared[2], abs=0.051)
    assert calibration._shared_out([dear, dear], 0.95) == pytest.approx([0.95, 0.95])
    assert calibration._at([dear, cheap], np.array([0.125, 0.5])) == pytest.approx((0.125, 0.5))


def test_curves_become_convex() -> None:
    values = np.array([0.0, 4.0, 5.0, 6.0, 20.0])
    found = calibration._convex(values)
    assert (np.diff(np.diff(found)) >= -1e-12).all()
    assert (found[0], found[-1]) == (0, 20)
    assert np.array_equal(calibration._convex(levels := np.array([0.0, 1.0, 3.0, 6.0])), levels)


def test_wrong_arguments(source: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ({"sparsities": [0.99]}, "0.95"),
        ({"sparsities": []}, "above 0"),
        ({"on": ["up"]}, "'product'"),
        ({"perplexity_cost": -1.0}, "perplexity_cost"),
        ({"tokens": 10}, "tokens"),
    ):
        with pytest.raises(ArgumentError, match=message):
            calibrate_cutoffs(source, None, TEXT, **arguments)
    with pytest.raises(CalibrationError, match="1000 or more"):
        calibrate_cutoffs(source, None, "ab")
    with pytest.raises(ArgumentError, match="cannot be written"):
        calibrate_cutoffs(source, tmp_path / "no" / "such.gguf", TEXT)


def test_on_the_command_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    output = tmp_path / "new.gguf"
    command = ["calibrate", "-m", str(source), "--text", str(text), "--tokens", "1000"]
    command += ["--on", "product", "--sparsity", "0.3"]
    assert main([*command, "-o", str(output), "--even-if-slower", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["chosen"]["sparsity"] == 0.3
    assert main(["inspect", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "cutoffs on the product in 2 of 2 layers" in shown
    assert "sparse mode" in shown
    assert main([*command, "--perplexity-cost", "0"]) == 0
    assert "tokens held out; " in capsys.readouterr().out
    assert main([*command, "--method", "predictors"]) == 2
    assert "-o OUT.gguf" in capsys.readouterr().err
    assert main([*command, "--tokens", "0"]) == 2
    assert "tokens must be 1000 or more, got 0" in capsys.readouterr().err


def test_exact_zeros_need_no_cutoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the neurons of ReLU are zero: a share below that is no cutoff, and no slower."""
    source = tiny_model.write(tmp_path / "relu.gguf", replace(TINY, activation="relu"))
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["calibrate", "-m", str(source), "--text", str(tmp_path / "text.txt")]
    more = ["--method", "cutoffs", "--tokens", "1000", "--sparsity", "0.1"]
    assert main([*command, *more]) == 0
    shown = capsys.readouterr().out
    assert "no cutoff was found: the activation's exact zeros" in shown
    assert "dense is best" not in shown


def test_bundles_get_cutoffs_too(tmp_path: Path) -> None:
    """A file whose layers lie neuron by neuron needs no second down."""
    bundled = tiny_model.write(tmp_path / "b.gguf", replace(TINY, bundled=True))
    output = tmp_path / "c.gguf"
    report = calibrate_cutoffs(
        bundled, output, TEXT, sparsities=[0.4], on=["product"], even_if_slower=True, tokens=1_000
    )
    assert report.chosen is not None
    with Model.load(output) as model:
        assert "blk.0.ffn_down_t.weight" not in model.file.tensors
        assert model.config.default_mode == "sparse"
        assert np.isfinite(model.logits([1, 2, 3])).all()


@pytest.mark.parametrize("format", ["f32", "q8_0"])
@pytest.mark.parametrize("first", ["neuron", "output"])
def test_a_second_down_changes_rounding_alone(first: str, format: str, host_core: Core) -> None:
    """With any cutoff, for one vector and several, whichever layout a pass takes; and it is kept by
    pickling."""
    random = np.random.default_rng(5)
    d, hidden = 64, 160
    gate, up, down = (
        QuantizedWeights.quantize(random.standard_normal(shape), format)
        for shape in ((hidden, d), (hidden, d), (d, hidden))
    )
    by_output = Matrix.from_array(down)
    by_neuron = Matrix.from_array(QuantizedWeights.quantize(down.dequantize().T, format))
    downs = {"neuron": by_neuron, "output": by_output}
    ffn = SparseFfn.from_matrices(
        host_core,
        Matrix.from_array(gate),
        Matrix.from_array(up),
        downs[first],
        activation="silu",
        down_layout=first,
    )
    g, u = gate.dequantize().astype(np.float64), up.dequantize().astype(np.float64)
    x = random.standard_normal((5, d)).astype(np.float32)
    pre = x @ g.T
    values = pre / (1 + np.exp(-pre)) * (x @ u.T)
    other = downs["output" if first == "neuron" else "neuron"]
    with pytest.raises(ShapeError):
        ffn.set_second_down(downs[first])
    ffn.set_second_down(other)
    for share in (0.0, 0.3, 0.9, 0.99, 1.0):
        cutoff = float(np.quantile(np.abs(values), share)) * 1.0001
        ffn.set_cutoff(cutoff, "product")
        kept = np.where(np.abs(values) > cutoff, values, 0.0)
        wanted = kept @ down.dequantize().astype(np.float64).T
        tolerance = (1e-4 if format == "f32" else 0.02) * float(np.abs(values).max()) * d**0.5
        for n in (1, 5):
            found = ffn.forward(x[:n], mode="exact")
            assert np.abs(found - wanted[:n]).max() < tolerance
            assert ffn.counts.active.tolist() == (kept[:n] != 0).sum(axis=1).tolist()
    again = pickle.loads(pickle.dumps(ffn))
    assert np.array_equal(again.forward(x, mode="exact"), ffn.forward(x, mode="exact"))
    assert again.second_down is not None
    ffn.set_second_down(None)
    assert ffn.second_down is None
