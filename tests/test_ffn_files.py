"""Layers in files, and neurons left out for being small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparsefire as sf
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, CalibrationError, NotFiniteError, ShapeError
from sparsefire.lm.opening import default_model


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("format", ["f32", "q8_0"])
def test_a_layer_comes_back_as_it_was(
    format: str, gated: bool, tmp_path: Path, host_core: Core
) -> None:
    random = np.random.default_rng(0)
    gate, up = random.standard_normal((2, 70, 64))
    ffn = sf.SparseFfn(
        up,
        random.standard_normal((32, 70)),
        "fatrelu",
        gate=gate if gated else None,
        b1=random.standard_normal(70),
        b2=random.standard_normal(32),
        format=format,
        parameter=0.5,
    )
    path = tmp_path / "layer.gguf"
    ffn.save_bundles(path)
    loaded = sf.SparseFfn.load(path)
    assert repr(loaded) == repr(ffn)
    assert loaded.parameter == 0.5
    x = random.standard_normal((3, 64))
    for mode in ("dense", "exact"):
        assert np.array_equal(loaded.forward(x, mode=mode), ffn.forward(x, mode=mode))


def test_a_layer_of_a_model(host_core: Core) -> None:
    with sf.Model.load() as model:
        inputs = model.ffn_inputs(list(range(60, 90)))[:, 2]
        wanted = model.ffns[2].forward(inputs)
        loaded = sf.SparseFfn.load(default_model(), layer=2)
        assert loaded.predictor is not None
        assert np.array_equal(loaded.forward(inputs), wanted)
    assert np.array_equal(loaded.forward(inputs), wanted)  # the model is closed now
    with pytest.raises(ArgumentError, match="layer"):
        sf.SparseFfn.load(default_model(), layer=9)


@pytest.mark.parametrize("on", ["gate", "product"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_a_cutoff_keeps_the_error_that_was_wanted(
    activation: str, gated: bool, on: str, host_core: Core
) -> None:
    random = np.random.default_rng(1)
    gate, up = random.standard_normal((2, 200, 40))
    down = random.standard_normal((30, 200))
    ffn = sf.SparseFfn(up, down, activation, gate=gate if gated else None)
    samples, fresh = random.standard_normal((400, 40)), random.standard_normal((100, 40))
    shares = []
    for error in (0.02, 0.1, 0.3):
        report = ffn.calibrate_cutoff(samples, error, on=on)
        assert (ffn.cutoff if on == "gate" else ffn.product_cutoff) == report.cutoff > 0
        assert report.on == on
        assert report.held_out == 80
        assert 0.5 * error < report.error < 1.3 * error
        # By its definition, in float64.
        gates = fresh @ (gate if gated else up).T
        if activation == "relu":
            active = np.maximum(gates, 0)
        else:
            active = np.asarray(sf.ActivationType(activation).apply(gates), np.float64)
        values = active * (fresh @ up.T) if gated else active
        kept = np.abs(active if on == "gate" else values) > report.cutoff
        wanted, found = values @ down.T, ffn.forward(fresh)
        assert np.allclose(found, np.where(kept, values, 0) @ down.T, atol=2e-3)
        assert np.linalg.norm(found - wanted) < 1.4 * error * np.linalg.norm(wanted)
        assert ffn.counts.active.mean() / 200 == pytest.approx(kept.mean(), abs=1e-3)
        assert report.active_share == pytest.approx(kept.mean(), abs=0.05)
        shares.append(report.active_share)
    assert shares == sorted(shares, reverse=True)
    ffn.set_cutoff(0, on)
    assert np.allclose(ffn.forward(fresh), wanted, atol=2e-3)


def test_bad_cutoffs() -> None:
    ffn = sf.SparseFfn(np.ones((4, 3)), np.ones((2, 4)), "silu")
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ArgumentError, match="cutoff"):
            ffn.set_cutoff(bad)
        with pytest.raises(ArgumentError, match="cutoff"):
            ffn.set_cutoff(bad, "product")
    with pytest.raises(ArgumentError, match="sideways"):
        ffn.set_cutoff(1.0, "sideways")
    samples = np.random.default_rng(0).standard_normal((50, 3))
    for error in (0.0, 1.0, np.nan):
        with pytest.raises(ArgumentError, match="error"):
            ffn.calibrate_cutoff(samples, error)
    with pytest.raises(CalibrationError, match="few"):
        ffn.calibrate_cutoff(samples[:5])
    with pytest.raises(ShapeError, match="samples"):
        ffn.calibrate_cutoff(samples[:, :2])
    with pytest.raises(NotFiniteError, match="samples"):
        ffn.calibrate_cutoff(np.full((50, 3), np.nan))
    with pytest.raises(ArgumentError, match="sideways"):
        ffn.calibrate_cutoff(samples, on="sideways")
    assert ffn.cutoff == ffn.product_cutoff == 0
