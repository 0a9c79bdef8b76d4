"""Mixtures of experts against their forward pass in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mixture_models
from mixture_reference import Reference
from sparsefire.errors import UnsupportedError
from sparsefire.lm.model import Model

TOKENS = [(37 * i + 11) % mixture_models.VOCAB for i in range(14)]
# What the core does not compute yet.
REFUSED = ("phimoe",)


@pytest.mark.parametrize("architecture", mixture_models.MIXTURES)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "m.gguf", architecture)
    if architecture in REFUSED:
        with pytest.raises(UnsupportedError, match=f"the architecture '{architecture}'"):
            Model.load(path)
        return
    model = Model.load(path)
    expected = Reference(path).logits(TOKENS)
    with model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
