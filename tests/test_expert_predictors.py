"""Predictors inside experts: what `calibrate` writes, checked on its file with numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import hf_families
import moe_model
from mixture_reference import Array, Reference
from sparsefire import Model
from sparsefire.calibrate import predictors
from sparsefire.calibrate.experts import record, routed_layers
from sparsefire.calibrate.predictors import CalibrationReport, calibrate_model
from sparsefire.calibrate.samples import cut
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, ModelFileError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.fit.lowrank import Descent

RANK, RECALL = 4, 0.95
IDS = np.arange(40) * 37 % moe_model.VOCAB
TEXT = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 1100)))


class SparseReference(Reference):
    """Gates are computed where the predictors of the file select them."""

    selected = 0

    def _place(self, layer: int) -> tuple[int, bool]:
        return 0, True  # without a window, all layers have positions

    def _experts(
        self,
        x: Array,
        chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        weights: Array,
        block: str,
        suffix: str = "_exps",
    ) -> Array:
        p, q = (self.tensors[f"{block}ffn_predictor_exps_{name}.weight"] for name in "pq")
        bias = self.tensors[f"{block}ffn_predictor_exps.bias"]
        gate, up, down = (
            self.tensors[f"{block}ffn_{n}_exps.weight"] for n in ("gate", "up", "down")
        )
        mixed = np.zeros_like(x)
        for token, value in enumerate(x):
            for e, weight in zip(chosen[token], weights[token], strict=True):
                mask = q[e] @ (p[e] @ value) + bias[e] > 0
                self.selected += int(mask.sum())
                inner = np.maximum(gate[e] @ value, 0) * (up[e] @ value) * mask
                mixed[token] += weight * (down[e] @ inner)
        return mixed


@pytest.fixture(autouse=True, scope="module")
def short_fits() -> object:
    with pytest.MonkeyPatch.context() as patch:
        short = replace(Descent(), epochs=2, fewest_steps=40)
        patch.setattr(predictors, "Descent", lambda seed: replace(short, seed=seed))
        yield


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, CalibrationReport]:
    folder = tmp_path_factory.mktemp("experts")
    source = moe_model.write(folder / "m.gguf", gate_rank=RANK)
    out, shares = folder / "out.gguf", [0.0]
    report = calibrate_model(
        source,
        out,
        TEXT,
        rank=RANK,
        recall=RECALL,
        tokens=1000,
        progress=lambda _, share: shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    return source, out, report


def test_report(calibrated: tuple[Path, Path, CalibrationReport]) -> None:
    report = calibrated[2]
    assert len(report.layers) == moe_model.LAYERS
    for layer in report.layers:
        assert layer.rank == RANK
        assert layer.recall_mass > RECALL - 0.02
        assert layer.cost < 0.9 * layer.exact_cost
        assert layer.selected_share < 0.75
    assert 0.9 < report.perplexity_sparse / report.perplexity_dense < 1.1


def test_all_other_tensors_are_copied(calibrated: tuple[Path, Path, CalibrationReport]) -> None:
    with Model.load(calibrated[0]) as old, Model.load(calibrated[1]) as new:
        assert new.config.default_mode == "sparse"
        for name in old.file.tensors:
            assert bytes(old.file.tensor_data(name)) == bytes(new.file.tensor_data(name))
        extra = set(new.file.tensors) - set(old.file.tensors)
        assert len(extra) == 3 * moe_model.LAYERS
        for mode in ("dense", "exact"):
            np.testing.assert_array_equal(new.logits(IDS, mode=mode), old.logits(IDS, mode=mode))


@pytest.mark.usefixtures("float_keys")
def test_sparse_mode_against_float64(
    calibrated: tuple[Path, Path, CalibrationReport], host_core: Core
) -> None:
    reference = SparseReference(calibrated[1])
    reference.keys["rope.dimension_count"] = moe_model.D // reference.keys["attention.head_count"]
    expected = reference.logits(IDS)
    with Model.load(calibrated[1]) as model:
        found = model.logits(IDS)
        exact = model.logits(IDS, mode="exact")
        budget = sum(layer.nbytes for layer in model.layers) // 2
        sessions = [model.new_session(20) for _ in range(2)]
        together = model.evaluate([(sessions[0], IDS[:7]), (sessions[1], IDS[:9])])
        alone = model.new_session(20)
        assert np.array_equal(together[1], model.evaluate([(alone, IDS[:9])])[0])
    bound = 1e-4 if host_core.isa == "amx" else 1e-5  # whose prompts have numbers of 16 bits
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()
    assert np.abs(found - exact).max() > 0
    assert (
        reference.selected < 0.75 * len(IDS) * moe_model.LAYERS * moe_model.USED * moe_model.WIDTH
    )
    with Model.load(calibrated[1], neuron_budget=budget) as model:
        assert np.array_equal(model.logits(IDS), found)


def test_routes_are_those_of_the_router(
    calibrated: tuple[Path, Path, CalibrationReport],
) -> None:
    with Model.load(calibrated[0]) as model:
        windows = cut(model, TEXT, 100)
        found = record(model, routed_layers(model), windows, 0, lambda _: None)
        first = model.ffn_inputs(windows.all[0, :1])
    for each in found:
        assert (each.chosen.sum(1) == moe_model.USED).mean() > 0.99
        assert [int((each.kinds == kind).sum() > 0) for kind in range(3)] == [1, 1, 1]
    assert (found[0].inputs == first[0, 0]).all(1).any()


def test_what_cannot_be_done(
    calibrated: tuple[Path, Path, CalibrationReport], tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="quantise the new file"):
        calibrate_model(calibrated[0], tmp_path / "x.gguf", TEXT, tokens=1000, format="f16")
    elsewhere = tmp_path / "y.gguf"
    with pytest.raises(UnsupportedError, match="recorder"):
        calibrate_model(
            calibrated[0], elsewhere, TEXT, tokens=1000, recorder=lambda *_, **__: np.zeros(0)
        )
    raw = calibrated[1].read_bytes()
    for old, new in (
        (b"ffn_predictor_exps_q", b"ffn_predictor_expz_q"),
        (b"ffn_predictor_exps.bias", b"ffn_predictor_expz.bias"),
    ):
        assert old in raw
        (tmp_path / "bad.gguf").write_bytes(raw.replace(old, new))
        with pytest.raises(ModelFileError, match="predictor_exp"):
            Model.load(tmp_path / "bad.gguf")


def test_experts_of_recurrent_models(tmp_path: Path) -> None:
    """Nemotron 3's, without a gate, beside a shared one and blocks without neurons."""
    entry = hf_families.entries()["nemotron_h-experts"]
    wide = {16: 32}  # its experts see the whole stream here
    shapes = {
        name: [wide.get(size, size) for size in shape] if ".experts." in name else shape
        for name, shape in entry["shapes"].items()
        if "latent" not in name
    }
    folder = hf_families.write(
        tmp_path / "checkpoint", {**entry, "shapes": shapes}, moe_latent_size=None
    )
    convert_checkpoint(folder, tmp_path / "m.gguf")
    report = calibrate_model(
        tmp_path / "m.gguf", tmp_path / "out.gguf", TEXT * 2, rank=8, recall=0.9, tokens=1000
    )
    assert len(report.layers) == 2
    assert all(each.cost <= each.exact_cost for each in report.layers)
    with Model.load(tmp_path / "out.gguf") as model, Model.load(tmp_path / "m.gguf") as old:
        np.testing.assert_array_equal(
            model.logits(IDS, mode="exact"), old.logits(IDS, mode="exact")
        )


def test_predictors_stay_when_a_model_is_quantised(
    calibrated: tuple[Path, Path, CalibrationReport], tmp_path: Path
) -> None:
    from sparsefire.files.quantize import quantize_model

    quantize_model(calibrated[1], tmp_path / "q.gguf", "q8_0")
    names = {each.name: each for each in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert names["blk.0.ffn_predictor_exps_p.weight"].tensor_type.name == "F16"
    with Model.load(tmp_path / "q.gguf") as model:
        assert model.logits(IDS).shape == (len(IDS), moe_model.VOCAB)
