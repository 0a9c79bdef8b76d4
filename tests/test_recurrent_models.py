"""Models with recurrent layers against their forward passes in float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recurrent_models
from bench.lib.further_models import write_further
from mixture_models import VOCAB
from recurrent_reference import RecurrentReference
from sparsefire.calibrate.predictors import calibrate_model
from sparsefire.core.core import Core
from sparsefire.errors import ArgumentError, ContextFullError, UnsupportedError
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]

FURTHER = (
    *("rwkv6", "rwkv6-halving", "rwkv6qwen2", "rwkv7", "arwkv7", "arwkv7-plain"),
    "plm",
    *(f"nemotron_h_moe-{kind}" for kind in ("experts", "latent", "layers")),
)


class Paths(dict[str, Path]):
    """Models by name, each written when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        if name in FURTHER:
            (self[name],) = write_further(self.folder, [name])
        else:
            self[name] = recurrent_models.write(self.folder / f"{name}.gguf", name)
        return self[name]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return Paths(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", [*FURTHER, *recurrent_models.MODELS])
def test_logits(name: str, paths: Paths) -> None:
    expected = RecurrentReference(paths[name]).logits(TOKENS)
    with Model.load(paths[name]) as model:
        found = model.logits(np.array(TOKENS))
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-8


@pytest.mark.parametrize("name", ["rwkv7", "nemotron_h_moe-experts", "qwen3next"])
def test_text_that_does_not_go_on_is_evaluated_from_its_beginning(
    name: str, paths: Paths, host_core: Core
) -> None:
    with Model.load(paths[name]) as model:
        whole, session = model.logits(TOKENS), model.new_session(32)
        for length in (9, 14, 5, 6, 6):
            found = session.feed(TOKENS[:length], model.config.default_mode)
            assert session.tokens == TOKENS[:length]
            # Short turns are multiplied as in decoding, and with AMX prompts by numbers of 16 bits.
            bound = 1e-5 if model.core.isa == "amx" else 1e-6
            assert np.abs(found - whole[length - 1]).max() < bound * np.abs(whole).max()


@pytest.mark.parametrize("name", ["rwkv7", "nemotron_h_moe-experts", "qwen3next"])
def test_sessions_in_one_batch_do_not_see_each_other(name: str, paths: Paths) -> None:
    texts = [TOKENS[:4], TOKENS[3:9], TOKENS[5:6]]
    with Model.load(paths[name]) as model:
        alone = [model.evaluate([(model.new_session(16), text)]) for text in texts]
        sessions = [model.new_session(16) for _ in texts]
        together = model.evaluate(list(zip(sessions, texts, strict=True)))
        assert np.array_equal(together, np.concatenate(alone))


def test_a_refused_call_changes_no_session(paths: Paths) -> None:
    with Model.load(paths["rwkv7"]) as model:
        session, other = model.new_session(16), model.new_session(16)
        first = model.evaluate([(session, TOKENS[:5])])
        with pytest.raises(ArgumentError):
            session.evaluate(np.array([model.config.vocab], np.int32))
        with pytest.raises(ContextFullError):
            model.evaluate([(session, [1]), (other, [1] * 17)])
        assert session.tokens == TOKENS[:5]
        session.rewind(3, session.mode)
        assert session.tokens == []
        assert np.array_equal(model.evaluate([(session, TOKENS[:5])]), first)


@pytest.mark.parametrize("name", ["rwkv7", "nemotron_h_moe-latent", "lfm2moe"])
def test_what_calibration_cannot_write_is_refused(name: str, paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cannot be calibrated yet"):
        calibrate_model(paths[name], tmp_path / "out.gguf", "text")
