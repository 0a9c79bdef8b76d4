"""Models with several residual streams, and with gates and bounds of their attention, against
their forward passes in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stream_models
from mixture_models import VOCAB
from sparsefire.core.core import Core
from sparsefire.lm.model import Model
from stream_reference import StreamReference

TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", stream_models.MODELS)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    expected = StreamReference(path).logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


@pytest.mark.parametrize("architecture", ["glm5-next", "kimi-k3"])
def test_hosts_agree(architecture: str, tmp_path: Path, host_core: Core) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    expected = StreamReference(path).logits(TOKENS)
    with Model.load(path, core=host_core) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


@pytest.mark.parametrize("architecture", ["glm5-next", "hy_v4"])
def test_a_text_is_no_longer_than_what_the_indexer_chooses(
    architecture: str, tmp_path: Path
) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    with Model.load(path) as model:
        assert model.config.context_length == 16
