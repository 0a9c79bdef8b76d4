"""Decoders that differ from Llama's kind in their rows, against their forward pass in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import decoder_models
import mixed_models
from decoder_reference import DecoderReference
from mixed_reference import MixedReference
from sparsefire.errors import ModelFileError
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [(37 * i + 11) % decoder_models.VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", decoder_models.DECODERS)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = decoder_models.write(tmp_path / "m.gguf", architecture)
    compare(path, DecoderReference(path))


@pytest.mark.parametrize("architecture", mixed_models.MIXED)
def test_logits_of_mixed_models(architecture: str, tmp_path: Path) -> None:
    path = mixed_models.write(tmp_path / "m.gguf", architecture)
    compare(path, MixedReference(path))


@pytest.mark.parametrize(
    ("architecture", "keys", "named"),
    [
        ("nanbeige", {"num_loops": 1000}, "num_loops"),
        ("hrm_text", {"hrm.h_cycles": 1000, "hrm.l_cycles": 1000}, "hrm.h_cycles"),
    ],
)
def test_blocks_that_run_too_often_are_refused(
    architecture: str,
    keys: dict[str, int],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = mixed_models.MIXED[architecture]
    often = replace(model, keys={**model.keys, **keys})
    monkeypatch.setitem(mixed_models.MIXED, architecture, often)
    path = mixed_models.write(tmp_path / "m.gguf", architecture)
    with pytest.raises(ModelFileError, match=f"{named}' makes .* blocks run"):
        Model.load(path)


def compare(path: Path, reference: DecoderReference) -> None:
    """The model's logits are the reference's."""
    expected = reference.logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
