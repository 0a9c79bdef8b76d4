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
# What must run. Others may be refused, which names the architecture or the part that is missing.
SUPPORTED = (
    "afmoe",
    "bailingmoe",
    "bailingmoe2",
    "deepseek",
    "deepseek2",
    "dots1",
    "glm4moe",
    "gpt-oss",
    "granitemoe",
    "hunyuan-moe",
    "llama",
    "llama4",
    "mellum",
    "minimax-m2",
    "mistral4",
    "olmoe",
    "qwen2moe",
    "qwen3moe",
    "smallthinker",
)


@pytest.mark.parametrize("architecture", mixture_models.MIXTURES)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = mixture_models.write(tmp_path / "m.gguf", architecture)
    try:
        model = Model.load(path)
    except UnsupportedError as refusal:
        if architecture in SUPPORTED or not str(refusal).startswith(f"{path}: "):
            raise
        return
    expected = Reference(path).logits(TOKENS)
    with model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
