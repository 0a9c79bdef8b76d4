"""Models with several residual streams, and with gates and bounds of their attention, against
their forward passes in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stream_models
from mixture_models import VOCAB
from pooled_reference import PooledReference
from sparsefire.core.core import Core
from sparsefire.files.quantize import quantize_model
from sparsefire.lm.model import Model
from stream_reference import StreamReference

pytestmark = pytest.mark.usefixtures("float_keys")

REFERENCES = {"deepseek4": PooledReference}
TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]


@pytest.mark.parametrize("architecture", stream_models.MODELS)
def test_logits(architecture: str, tmp_path: Path) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    expected = REFERENCES.get(architecture, StreamReference)(path).logits(TOKENS)
    with Model.load(path) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


@pytest.mark.parametrize("architecture", ["glm5-next", "kimi-k3", "deepseek4"])
def test_hosts_agree(architecture: str, tmp_path: Path, host_core: Core) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    expected = REFERENCES.get(architecture, StreamReference)(path).logits(TOKENS)
    with Model.load(path, core=host_core) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


@pytest.mark.parametrize("architecture", ["glm5-next", "hy_v4", "deepseek4"])
def test_a_text_is_no_longer_than_what_the_indexer_chooses(
    architecture: str, tmp_path: Path
) -> None:
    path = stream_models.write(tmp_path / "m.gguf", architecture)
    with Model.load(path) as model:
        assert model.config.context_length == 16


def test_pooled_runs_go_on_in_decoding_and_after_saving(tmp_path: Path) -> None:
    path = stream_models.write(tmp_path / "m.gguf", "deepseek4")
    expected = PooledReference(path).logits(TOKENS)
    with Model.load(path) as model:
        session, other = model.new_session(16), model.new_session(16)
        found = [session.feed(TOKENS[: at + 1], "dense").copy() for at in range(6)]
        saved = session.save()
        found += [session.feed(TOKENS[: at + 1], "dense").copy() for at in range(6, 14)]
        assert ((np.array(found) - expected) ** 2).sum() / (expected**2).sum() < 1e-8
        other.restore(saved)
        assert np.array_equal(other.feed(TOKENS[:7], "dense"), found[6])
        # A text that does not go on is evaluated from its beginning.
        again = other.feed(TOKENS[:5], "dense")
        assert ((again - expected[4]) ** 2).sum() / (expected[4] ** 2).sum() < 1e-8


def test_a_quantised_model_keeps_its_integers(tmp_path: Path) -> None:
    path = stream_models.write(tmp_path / "m.gguf", "deepseek4")
    report = quantize_model(path, tmp_path / "f16.gguf", "f16")
    assert {each.after for each in report.tensors if "tid2eid" in each.name} == {"i32"}
    expected = PooledReference(path).logits(TOKENS)
    with Model.load(tmp_path / "f16.gguf") as model:
        found = model.logits(np.array(TOKENS))
        bound = 1e-3 if model.core.isa == "amx" else 1e-4  # which rounds to 8 bits what is not F32
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < bound
