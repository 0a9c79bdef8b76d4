"""Decoders that differ from Llama's kind in their rows, against their forward pass in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import decoder_models
import mixed_models
from decoder_reference import DecoderReference
from mixed_reference import MixedReference
from sparsefire.lm.model import Model

TOKENS = [(37 * i + 11) % decoder_models.VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", decoder_models.DECODERS)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = decoder_models.write(tmp_path / "m.gguf", architecture)
    compare(path, DecoderReference(path))


@pytest.mark.parametrize("architecture", mixed_models.MIXED)
def test_logits_of_mixed_models(architecture: str, tmp_path: Path) -> None:
    path = mixed_models.write(tmp_path / "m.gguf", architecture)
    compare(path, MixedReference(path))


def compare(path: Path, reference: DecoderReference) -> None:
    """The model's logits are the reference's."""
    expected = reference.logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
