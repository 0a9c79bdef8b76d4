"""Calibration by all methods together: the search alone, on methods whose costs are known; and on
small models, whose numbers are computed again from the file that was written."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny_model
from sparsefire.arch import screen
from sparsefire.arch.config import CUTOFF_KEYS
from sparsefire.calibrate import combination, combined, head, inputs, parts, samples
from sparsefire.calibrate.combination import (
    Combination,
    MethodMeasure,
    Rung,
    Trial,
    cheaper,
    shared_out,
)
from sparsefire.calibrate.combined import CombinedCalibration, calibrate_all
from sparsefire.calibrate.samples import divided
from sparsefire.cli import main
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, CalibrationError
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm import compare
from sparsefire.lm.model import Model
from sparsefire.weights.costs import set_column_cost

SIZES = {"activation": "silu", "d": 128, "hidden": 160, "context": 64, "vocab": 300}
# A model of random weights knows nothing of a text, and its screens are poor: costs are large.
OPTIONS = {"tokens": 1_100, "perplexity_cost": 9.0, "agreement": 0.0, "shares": (0.2, 0.4)}


def words(count: int) -> str:
    random = np.random.default_rng(8)
    return " ".join("".join(map(chr, random.integers(97, 105, 4))) for _ in range(count))


TEXT = words(500)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short timings, and products that leave out inputs wherever they may."""
    for module in (combination, compare, head):
        monkeypatch.setattr(module, "_SPEED_SECONDS", 0.01)
    monkeypatch.setattr(parts, "SCREEN_PART", 1e5)
    set_column_cost(1e-6, 0.0)
    yield
    set_column_cost(1.05, 0.1)


def fast(monkeypatch: pytest.MonkeyPatch, **gains: float) -> None:
    """The clock says that each method is so much faster."""

    def speeds(_self: Trial, combinations: list[Combination]) -> list[tuple[float, float]]:
        found = (math.prod(gains.get(name, 1.0) for name in c.methods) for c in combinations)
        return [(100 * each, 100.0) for each in found]

    monkeypatch.setattr(Trial, "speeds", speeds)


def rungs(method: str, *pairs: tuple[float, float]) -> list[Rung]:
    return [Rung(method, cost, saved, (method, cost)) for cost, saved in pairs]


def test_a_budget_is_spent_where_it_saves_most() -> None:
    found = [*rungs("inputs", (0.01, 0.1), (0.03, 0.2)), *rungs("head", (0.001, 0.2))]
    chosen = shared_out(found, 0.012)
    assert {name: each.cost for name, each in chosen.items()} == {"inputs": 0.01, "head": 0.001}
    assert shared_out(found, 0.0105) == {"head": found[2]}
    assert shared_out(found, 0.0) == {}
    # What saves no time is not taken, and what costs nothing always is.
    assert shared_out(rungs("head", (0.001, -0.1)), 1.0) == {}
    assert len(shared_out(rungs("head", (-0.001, 0.1)), 0.0)) == 1


def test_any_budget_is_kept_and_near_the_best() -> None:
    random = np.random.default_rng(5)
    for _ in range(50):
        found: list[Rung] = []
        for method in ("cutoffs", "inputs", "head"):
            costs, saved = np.sort(random.random((2, 3)), axis=1)
            found += rungs(method, *zip(costs.tolist(), (saved / 3).tolist(), strict=True))
        budget = float(random.uniform(0, 2))
        chosen = shared_out(found, budget)
        assert sum(each.cost for each in chosen.values()) <= budget
        own = [
            [None, *(each for each in found if each.method == m)]
            for m in ("cutoffs", "inputs", "head")
        ]
        ways = [[each for each in way if each] for way in itertools.product(*own)]
        allowed = [way for way in ways if sum(each.cost for each in way) <= budget]
        best = max(sum(each.saved for each in way) for way in allowed)
        single = max((each.saved for each in found if each.cost <= budget), default=0.0)
        greedy = sum(each.saved for each in chosen.values())
        assert max(greedy, single) >= best / 2 - 1e-12  # as greedy filling of a knapsack does
        # Step by step everything is given up, and no step costs more.
        while chosen:
            less = cheaper(chosen, found)
            assert sum(e.cost for e in less.values()) < sum(e.cost for e in chosen.values())
            chosen = less


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("all") / "model.gguf"
    return tiny_model.write(path, format="Q4_0", **SIZES)  # type: ignore[arg-type]


def check(path: Path, source: Path, report: CombinedCalibration) -> None:
    """The file that was written, loaded as anyone does, has what was reported of it."""
    assert report.chosen is not None
    with Model.load(source, head="dense", inputs="dense") as dense:
        _, held = divided(dense, TEXT, combined._HELD_TOKENS)
        assert held.size == report.held_out_tokens
        exact = np.concatenate([dense.logits(each[:-1], mode="dense") for each in held])
    with Model.load(path) as model:
        assert model.config.default_mode == report.chosen.mode
        assert (model.head == "screened") == ("head" in report.chosen.methods)
        assert model.config.leaves_out_inputs == ("inputs" in report.chosen.methods)
        assert bool(model.config.cutoffs) == ("cutoffs" in report.chosen.methods)
        found = model.perplexity(held.reshape(-1), held.shape[1])
        bound = 1e-2 if model.core.isa == "amx" else 2e-3  # which rounds prompts to 8 bits
        assert found.perplexity == pytest.approx(report.chosen.perplexity, rel=bound)
        if "inputs" not in report.chosen.methods:  # which prompts do not leave out
            logits = np.concatenate([model.logits(each[:-1]) for each in held])
            p, q = (each - np.log(np.exp(each).sum(1, keepdims=True)) for each in (exact, logits))
            kl = (np.exp(p) * (p - q)).sum(axis=1).mean()
            assert report.chosen.kl == pytest.approx(kl, rel=0.02, abs=1e-4)
            same = (p.argmax(1) == q.argmax(1)).mean()
            assert report.chosen.agreement == pytest.approx(same, abs=0.01)


def test_head_and_inputs_share_a_companion(
    source: Path, host_core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch, head=1.5, inputs=1.3)
    native = host_core.host == "native"
    set_column_cost(1e-6 if native else 1.0, 0.0)
    report = calibrate_all(source, None, TEXT, force=True, even_if_slower=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == (("inputs", "head") if native else ("head",))
    assert report.cost(report.chosen) <= report.perplexity_cost
    assert report.chosen.speedup == pytest.approx(1.5 * 1.3 if native else 1.5)
    assert {each.methods for each in report.settings} == {(m,) for m in report.chosen.methods}
    assert report.chosen.read_bytes < report.dense_bytes
    assert report.output == str(screen.companion_path(source))
    assert "silu has hardly any exact zeros" in report.unused["predictors"]
    assert "-o OUT.gguf" in report.unused["cutoffs"]
    if not native:
        assert report.unused["inputs"] == "only the native core leaves out inputs"
    check(source, source, report)
    assert not [*source.parent.glob(".sparsefire-*")]
    with pytest.raises(ArgumentError, match="exists"):
        calibrate_all(source, None, TEXT)


def test_a_screen_costs_its_divergence(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the perplexity, which unlikely tokens of the text change by chance; that of the rest
    counts beside it."""
    fast(monkeypatch, head=1.5, inputs=1.3)
    measured = Trial.measured
    worse = {"head": 1e6}

    def chance(self: Trial, wanted: Combination) -> tuple[MethodMeasure, float]:
        found, dense = measured(self, wanted)
        times = math.prod(worse.get(name, 1.0) for name in wanted.methods)
        return replace(found, perplexity=found.perplexity * times), dense

    monkeypatch.setattr(Trial, "measured", chance)
    report = calibrate_all(source, None, TEXT, force=True, even_if_slower=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == ("inputs", "head")
    worse["inputs"] = 1e6
    report = calibrate_all(source, None, TEXT, force=True, even_if_slower=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == ("head",)


@pytest.mark.parametrize("faster", ["", "ffn_"])
def test_everything_goes_into_a_new_file(
    faster: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``faster``: in the names of the sites that are faster with fewer inputs. Layers with a cutoff
    leave out no inputs."""

    def kept(_self: object, limits: dict[str, float]) -> dict[str, float]:
        return {name: limit for name, limit in limits.items() if faster in name}

    monkeypatch.setattr(inputs._Trial, "_faster", kept)
    path = tmp_path / "new.gguf"
    report = calibrate_all(source, path, TEXT, even_if_slower=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert {"cutoffs", "head"} <= set(report.chosen.methods)
    check(path, source, report)
    with GgufFile.open(path) as file:
        assert screen.OF_KEY not in file.metadata
        assert screen.has_screen(file)
        assert screen.has_limits(file) == ("inputs" in report.chosen.methods)
        names = file.metadata.get(screen.NAMES_KEY, [])
        (cut,) = (file.metadata[key] for key in CUTOFF_KEYS.values() if key in file.metadata)
    limited = {int(name.split(".")[1]) for name in names if "ffn_" in name}
    assert limited == {layer for layer in (0, 1) if not cut[layer]}
    if faster:
        assert ("inputs" in report.chosen.methods) == (not cut.all())
        if cut.all():
            assert report.unused["inputs"] == "its products have cutoffs or predictors"
    else:
        assert report.chosen.methods == ("cutoffs", "inputs", "head")


def test_a_model_with_relu_gets_predictors(tmp_path: Path) -> None:
    sizes = {**SIZES, "activation": "relu", "format": "F16"}
    source = tiny_model.write(tmp_path / "model.gguf", **sizes)  # type: ignore[arg-type]
    path = tmp_path / "new.gguf"
    report = calibrate_all(source, path, TEXT, even_if_slower=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.free is not None
    assert report.free.mode == "exact"
    # With AMX dense prompts are rounded to 8 bits, and exact ones are not.
    assert report.free.kl < (2e-4 if hosts.open_core("native").isa == "amx" else 1e-6)
    assert report.chosen is not None
    assert report.chosen.methods == ("predictors", "head")
    assert "exact zeros, which predictors find" in report.unused["cutoffs"]
    assert "needs weights in q4_0" in report.unused["inputs"]
    check(path, source, report)


def test_nothing_is_written_where_dense_is_best(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.gguf"
    fast(monkeypatch, head=0.9, inputs=1.02, cutoffs=0.8)
    report = calibrate_all(source, path, TEXT, **OPTIONS)  # type: ignore[arg-type]
    assert (report.chosen, report.output, path.exists()) == (None, None, False)
    assert report.unused["head"] == "not faster on this machine: 0.90× the speed without"
    # A cost that nothing keeps.
    fast(monkeypatch, head=2.0, inputs=2.0, cutoffs=2.0)
    report = calibrate_all(source, path, TEXT, **{**OPTIONS, "kl": 1e-9})  # type: ignore[arg-type]
    assert (report.chosen, path.exists()) == (None, False)
    assert report.unused["inputs"] == "no setting is within the acceptable cost"


def test_a_method_alone_can_be_better_than_what_the_budget_was_spent_on(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch, head=2.0, inputs=1.1)
    spent = combined.shared_out

    def badly(rungs: Sequence[Rung], budget: float) -> dict[str, Rung]:
        return {name: each for name, each in spent(rungs, budget).items() if name != "head"}

    monkeypatch.setattr(combined, "shared_out", badly)
    report = calibrate_all(source, None, TEXT, force=True, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == ("head",)
    assert report.unused["inputs"] == "the other methods are faster without it"
    assert "head" not in report.unused


def test_only_methods_that_pay_are_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch, head=1.5, inputs=1.3, cutoffs=0.9)
    path = tmp_path / "both.gguf"
    report = calibrate_all(source, path, TEXT, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == ("inputs", "head")
    assert report.unused["cutoffs"] == "not faster on this machine: 0.90× the speed without"
    check(path, source, report)
    # With inputs that make nothing faster beside a head.
    alone = Trial.speeds

    def speeds(self: Trial, combinations: list[Combination]) -> list[tuple[float, float]]:
        fewer = [c.without("inputs") if c.head is not None else c for c in combinations]
        return alone(self, fewer)

    monkeypatch.setattr(Trial, "speeds", speeds)
    path = tmp_path / "one.gguf"
    report = calibrate_all(source, path, TEXT, **OPTIONS)  # type: ignore[arg-type]
    assert report.chosen is not None
    assert report.chosen.methods == ("head",)
    assert report.unused["inputs"] == "the other methods are as fast without it"
    check(path, source, report)


def test_the_embedded_model_keeps_its_predictors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsefire.lm.opening import default_model

    source = tmp_path / "model.gguf"
    source.write_bytes(default_model().read_bytes())
    text = "The people of the United States have seen the work of their Congress. " * 300
    fast(monkeypatch, head=1.2)
    report = calibrate_all(source, None, text, tokens=2_000, kl=0.05)
    assert report.free is not None
    assert report.free.mode == "sparse"
    assert report.unused["predictors"] == "the model is calibrated already"
    if report.chosen is not None:
        assert report.chosen.kl <= 0.05
        assert report.chosen.methods == ("head",)


def test_on_the_command_line(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["calibrate", "-m", str(source), "--text", str(tmp_path / "text.txt"), "--force"]
    command += ["--method", "all", "--tokens", "1100", "--sparsity", "0.2", "--agreement", "0"]
    fast(monkeypatch, head=1.5, inputs=1.3)
    assert main([*command, "--perplexity-cost", "900", "--even-if-slower"]) == 0
    shown = capsys.readouterr().out
    assert "together" in shown
    assert "without cutoffs: is stored in a new model file alone" in shown
    assert "1.95× the speed of dense; wrote" in shown
    assert main([*command, "--perplexity-cost", "900", "--even-if-slower", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["methods"] == ["inputs", "head"]
    assert main([*command, "--kl", "0.000000001"]) == 0
    assert "dense is best: nothing that costs at most 1e-09 nats" in capsys.readouterr().out
    assert main([*command, "--workers", "2"]) == 2
    assert "not for all methods" in capsys.readouterr().err


def test_wrong_arguments(source: Path) -> None:
    for wrong in ({"perplexity_cost": -1.0}, {"tokens": 3}, {"kl": 0.0}, {"kl": float("nan")}):
        with pytest.raises(ArgumentError):
            calibrate_all(source, None, TEXT, force=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="tokens"):
        calibrate_all(source, None, "short", force=True)


def test_a_text_is_long_enough_by_its_tokens(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few characters are looked at first; the parts are the same."""
    with Model.load(source) as model:
        wanted = divided(model, TEXT, 512)
        monkeypatch.setattr(samples, "_START", 10)
        found = divided(model, TEXT, 512)
        assert found[0] == wanted[0]
        assert np.array_equal(found[1], wanted[1])
        with pytest.raises(CalibrationError, match=r"the text has \d+ tokens"):
            divided(model, TEXT[:400], 512)
