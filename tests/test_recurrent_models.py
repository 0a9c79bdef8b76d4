"""Models with recurrent layers, and Gemma 3n, against their forward passes in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recurrent_models
from bench.lib.further_models import write_further
from gemma3n_reference import Gemma3nReference
from mixture_models import VOCAB
from recurrent_reference import RecurrentReference
from sparsefire.errors import UnsupportedError
from sparsefire.lm.model import Model

TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]
# What must run. Others may be refused, which names the architecture or the part that is missing.
SUPPORTED: tuple[str, ...] = (
    "nemotron_h_moe-experts",
    "nemotron_h_moe-latent",
    "nemotron_h_moe-layers",
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    found = {path.stem: path for path in write_further(folder)}
    for name in recurrent_models.MODELS:
        found[name] = recurrent_models.write(folder / f"{name}.gguf", name)
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("rwkv6", "rwkv6-halving", "rwkv7", "arwkv7", "arwkv7-plain"),
        *(f"nemotron_h_moe-{kind}" for kind in ("experts", "latent", "layers")),
        *recurrent_models.MODELS,
        "gemma3n",
    ],
)
def test_logits(name: str, paths: dict[str, Path]) -> None:
    try:
        model = Model.load(paths[name])
    except UnsupportedError as refusal:
        if name in SUPPORTED or not str(refusal).startswith(f"{paths[name]}: "):
            raise
        return
    reference = Gemma3nReference if name == "gemma3n" else RecurrentReference
    expected = reference(paths[name]).logits(TOKENS)
    with model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8
