"""Decoders that differ from Llama's kind in their rows, against their forward pass in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import decoder_models
from decoder_reference import DecoderReference
from sparsefire.lm.model import Model

TOKENS = [(37 * i + 11) % decoder_models.VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", decoder_models.DECODERS)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = decoder_models.write(tmp_path / "m.gguf", architecture)
    expected = DecoderReference(path).logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
