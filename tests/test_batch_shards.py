"""Calibration and perplexity of a text in shards are those of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_variants import variant_path
from sparsefire.batch import close_models, shards
from sparsefire.calibrate.predictors import calibrate_model
from sparsefire.cli import main
from sparsefire.errors import ArgumentError
from sparsefire.lm.model import Model

TEXT = " ".join(str(7 * place % 1000) for place in range(900))


def test_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_SHARD_TOKENS", 300)
    source = str(variant_path("f32"))
    options: dict[str, Any] = {"rank": 8, "tokens": 2000, "recall": 0.9}
    alone, sharded = tmp_path / "alone.gguf", tmp_path / "sharded.gguf"
    calibrate_model(source, alone, TEXT, **options)
    recorder = shards.recorder(source, workers=2, threads=1)
    shares: list[float] = []
    calibrate_model(
        source,
        sharded,
        TEXT,
        recorder=recorder,
        progress=lambda what, share: shares.append(share) if "reading" in what else None,
        **options,
    )
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert sharded.read_bytes() == alone.read_bytes()
    close_models()


def test_perplexity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shards, "_SHARD_TOKENS", 100)
    source = str(variant_path("f32"))
    with Model.load(source, context=40) as model:
        expected = model.perplexity(TEXT[:1500])
    found = shards.perplexity(TEXT[:1500], source, context=40, threads=1)
    assert (found.loss, found.n_scored) == (expected.loss, expected.n_scored)
    assert found.perplexity == expected.perplexity == np.exp(found.loss)
    with pytest.raises(ArgumentError, match="2 tokens"):
        shards.perplexity("1", source)
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:1500])
    command = ["perplexity", "-m", source, "--text", str(text), "--context", "40", "--workers", "2"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["loss"], report["n_scored"]) == (expected.loss, expected.n_scored)
    assert main([*command, "--neuron-budget", "40%"]) == 2
    assert "in percent" in capsys.readouterr().err
    close_models()
