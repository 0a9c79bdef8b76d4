"""Calibration: what it finds is checked on the file that it writes, with numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from model_variants import variant_path
from sparsefire import Model
from sparsefire.calibrate.predictors import CalibrationReport, calibrate_model
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, CalibrationError, SparsefireError
from sparsefire.fit.layers import FitOptions, fit_layer
from sparsefire.fit.lowrank import Descent, reduced_rank
from sparsefire.fit.predictor_fit import Split
from tiny_model import write

TOKENS = 2_500
RECALL = 0.97


@dataclass(frozen=True)
class Calibrated:
    """The embedded model, calibrated anew on text that it made itself."""

    path: Path
    text: str
    report: CalibrationReport


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    path = tmp_path_factory.mktemp("calibrate") / "again.gguf"
    with Model.load() as model:
        texts = ["".join(model.generate("", 400, seed=seed)) for seed in range(8)]
        source = model.file.name
        assert source
    text = "\n\n".join(texts)
    stages: list[tuple[str, float]] = []
    from sparsefire.lm.opening import default_model

    report = calibrate_model(
        default_model(),
        path,
        text,
        rank=32,
        recall=RECALL,
        tokens=TOKENS,
        progress=lambda stage, share: stages.append((stage, share)),
    )
    shares = [share for _, share in stages]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    return Calibrated(path, text, report)


def test_the_report_is_plausible(calibrated: Calibrated) -> None:
    report = calibrated.report
    assert report.tokens <= len(calibrated.text)
    assert 0 < report.held_out_tokens < report.tokens
    assert len(report.layers) == 4
    for layer in report.layers:
        assert 0 < layer.active_share < 0.2
        assert layer.cost <= layer.exact_cost
        assert layer.recall_mass >= RECALL - 1e-6
        if not layer.fallback:
            assert layer.active_share * 0.9 < layer.selected_share < 0.6
            assert layer.predictor_share == pytest.approx(layer.predictor_bytes / layer.ffn_bytes)
    assert json.loads(json.dumps(report.as_dict()))["recall"] == RECALL


def test_recall_on_fresh_text(calibrated: Calibrated) -> None:
    """On text that calibration has not seen, with gates and masses computed in float64 from the
    weights in the new file."""
    with Model.load(calibrated.path) as model:
        ids = model.tokenize("".join(model.generate("", 300, seed=99)))[:300]
        inputs = model.ffn_inputs(ids, mode="exact")
        for layer, ffn in enumerate(model.ffns):
            if ffn.predictor is None:
                continue
            x = inputs[:, layer]
            gate = ffn.matrices[0]
            assert gate is not None
            mass = np.maximum(x.astype(np.float64) @ gate.dequantize().T.astype(np.float64), 0)
            chosen = ffn.predictor.predict(x)
            kept = sum(row[ids].sum() for row, ids in zip(mass, chosen, strict=True))
            assert kept / mass.sum() > RECALL - 0.05
            share = np.mean([len(each) for each in chosen]) / ffn.hidden
            assert share < 2 * calibrated.report.layers[layer].selected_share + 0.02


def test_neurons_are_only_put_in_order(calibrated: Calibrated) -> None:
    """The new file computes the same in dense mode, and its neurons are the old ones, hottest
    first; all other tensors are copied byte for byte."""
    ids = list(range(40, 90))
    with Model.load() as old, Model.load(calibrated.path) as new:
        wanted, found = old.logits(ids, mode="dense"), new.logits(ids, mode="dense")
        assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()  # now in Q8_0
        sparse = new.logits(ids, mode="sparse")
        assert 0 < np.abs(sparse - wanted).max() < 0.5 * np.abs(wanted).max()
        for name, info in old.file.tensors.items():
            before, after = old.file.tensor_data(name), new.file.tensor_data(name)
            if "ffn_bundle" in name:
                rows = info.shape[0]
                assert sorted(row.tobytes() for row in before.reshape(rows, -1)) == sorted(
                    row.tobytes() for row in after.reshape(rows, -1)
                )
            elif "predictor" not in name:
                assert bytes(before) == bytes(after)
        inputs = new.ffn_inputs(new.tokenize(calibrated.text)[:500], mode="exact")
        gate = new.ffns[0].matrices[0]
        assert gate is not None
        fires = (inputs[:, 0] @ gate.dequantize().T > 0).mean(axis=0)
        assert fires[:100].mean() > 3 * fires[-100:].mean()


def test_the_file_is_an_ordinary_gguf(calibrated: Calibrated) -> None:
    reader = gguf.GGUFReader(calibrated.path)
    names = {tensor.name for tensor in reader.tensors}
    assert "blk.0.ffn_bundle.weight" in names
    assert reader.fields["sparsefire.version"].contents() == 1
    assert len(reader.fields["sparsefire.hot_counts"].contents()) == 4
    assert not list(calibrated.path.parent.glob("*.part"))


def test_the_new_file_runs_alike_on_every_host(calibrated: Calibrated, host_core: object) -> None:
    assert isinstance(host_core, Core)
    with Model.load(calibrated.path, core=host_core) as model:
        text = "".join(model.generate("The people of", 24, mode="sparse", temperature=0))
    with Model.load(calibrated.path, core=hosts.open_core("native", "scalar")) as model:
        assert "".join(model.generate("The people of", 24, mode="sparse", temperature=0)) == text


def test_reduced_rank_regression_is_the_best_of_its_rank() -> None:
    """Against the definition: a truncated SVD of the whitened matrix."""
    random = np.random.default_rng(0)
    n, d, hidden, rank = 4000, 24, 60, 7
    x = (random.standard_normal((n, d)) @ random.standard_normal((d, d)) + 1).astype(np.float32)
    weights = random.standard_normal((hidden, d)).astype(np.float32)
    targets = x.astype(np.float64) @ weights.T
    factors = reduced_rank(x, weights, 0.0, rank)
    assert factors.p.shape == (rank, d)
    assert factors.q.shape == (hidden, rank)
    found = ((factors.scores(x) - targets) ** 2).sum()
    singular = np.linalg.svd(targets - targets.mean(axis=0), compute_uv=False)
    assert found == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-3)


def test_inputs_that_vary_in_few_directions() -> None:
    """As those of a text that repeats itself: fitted still, or refused when they are all alike."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((30, 16)).astype(np.float32)
    few = (random.standard_normal((500, 2)) @ random.standard_normal((2, 16))).astype(np.float32)
    scores = reduced_rank(few, weights, 0.0, 4).scores(few)
    assert np.abs(scores - few @ weights.T).max() < 1e-2 * np.abs(scores).max()
    with pytest.raises(CalibrationError, match="alike"):
        reduced_rank(np.ones((500, 16), np.float32), weights, 0.0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 1.5}, "recall"),
        ({"rank": 0}, "rank"),
        ({"tokens": 10}, "tokens"),
        ({"format": "q3_x"}, "q3_x"),
        ({"predictor_format": "q3_x"}, "q3_x"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "tiny.gguf")
    with pytest.raises(SparsefireError, match=message):
        calibrate_model(source, tmp_path / "out.gguf", "text", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out.gguf").exists()


def test_a_model_that_no_predictor_helps_goes_without(tmp_path: Path) -> None:
    """Random weights fire for half of the tokens, and a predictor of full rank has half of the
    layer's bytes: reading every gate is less."""
    source, path = write(tmp_path / "random.gguf"), tmp_path / "calibrated.gguf"
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh ,."), 8_000))
    report = calibrate_model(source, path, text, tokens=2_000, format="q8_0", rank=64)
    for layer in report.layers:
        assert (layer.fallback, layer.rank, layer.predictor_bytes) == (True, 0, 0)
        assert layer.active_share > 0.3
        assert layer.cost == layer.exact_cost == pytest.approx((1 + 2 * layer.active_share) / 3)
        assert (layer.recall_mass, layer.selected_share) == (1.0, 1.0)
    with Model.load(source) as before, Model.load(path) as after:
        assert [ffn.predictor for ffn in after.ffns] == [None, None]
        ids = before.tokenize(text)[:40]
        wanted, found = before.logits(ids, mode="dense"), after.logits(ids)
        assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()  # now in Q8_0
        # Neurons are ordered all the same: the ones that fire most come first.
        gate = after.ffns[0].matrices[0]
        assert gate is not None
        fires = (after.ffn_inputs(ids)[:, 0] @ gate.dequantize().T > 0).mean(axis=0)
        assert fires[:32].mean() > fires[-32:].mean()


def test_a_norm_before_down_goes_along(tmp_path: Path) -> None:
    """Its weights are one a neuron, so they are put in the neurons' new order."""
    source, path = variant_path("bitnet"), tmp_path / "calibrated.gguf"
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh ,."), 8_000))
    calibrate_model(source, path, text, tokens=2_000, rank=16, predictor_format="f16")
    with Model.load(source) as before, Model.load(path) as after:
        ids = before.tokenize(text)[:40]
        wanted, found = before.logits(ids, mode="dense"), after.logits(ids, mode="dense")
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_predictors_in_four_bits() -> None:
    """Of twice the rank in the same bytes: the file says so, and every layer can use them."""
    with Model.load() as model:
        ids = model.tokenize("".join(model.generate("The people of", 300, seed=1)))
        x = model.ffn_inputs(ids)[:, 1]
        ffn = model.ffns[1]
        parts = np.array_split(np.random.default_rng(0).permutation(len(x)), 3)
        split = Split(*(np.ascontiguousarray(x[part]) for part in parts))
        quick = Descent(epochs=1)
        costs = {}
        for rank, kind in ((32, None), (64, "q4_0")):
            found = fit_layer(1, ffn, split, FitOptions(0.9, rank, "q8_0", kind, quick))
            assert found.predictor_format == (kind or "q8_0")
            costs[rank] = found.report.predictor_bytes
        assert costs[64] < 1.06 * costs[32]


def test_too_little_text(tmp_path: Path) -> None:
    source = write(tmp_path / "tiny.gguf")
    with pytest.raises(CalibrationError, match="text"):
        calibrate_model(source, tmp_path / "out.gguf", "a few words")


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "tiny.gguf")
    with pytest.raises(ArgumentError, match="cannot be written"):
        calibrate_model(source, tmp_path / "nowhere" / "out.gguf", "text")


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    source = write(tmp_path / "tiny.gguf")
    text = tmp_path / "text.txt"
    text.write_text("too short")
    command = [sys.executable, "-m", "sparsefire", "calibrate", "-m", str(source)]
    command += ["-o", str(tmp_path / "out.gguf"), "--text", str(text)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("sparsefire: error: ")
    assert not (tmp_path / "out.gguf").exists()
