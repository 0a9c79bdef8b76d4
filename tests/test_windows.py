"""Models with layers that see a window: their sessions keep no more than that and what they can go
back, and give the bits of sessions that keep everything, wherever they are cut, rewound or saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixture_models
import test_gemma3n
import tiny_model
from model_variants import ARCHITECTURE_VARIANTS
from pyodide_harness import PyodideRuntime
from sparsefire._arrays import FloatArray
from sparsefire.arch import llama4
from sparsefire.arch.plan import Plan
from sparsefire.core.core import Core
from sparsefire.core.enums import Limit
from sparsefire.errors import NotFiniteError
from sparsefire.lm import speculation
from sparsefire.lm.model import Model
from sparsefire.lm.packing import Packing, text_job
from sparsefire.lm.session import DECODED, Session
from sparsefire.lm.speculation import Costs

BACK = int(Limit.BACK)
TOKENS = np.random.default_rng(8).integers(5, 40, 4000).tolist()
CONTEXT = len(TOKENS)
GEMMA3 = {**vars(ARCHITECTURE_VARIANTS["gemma3, a pattern"]), "context": CONTEXT}
NAMES = ("gemma3", "gpt-oss", "llama4", "gemma3n")


def written(name: str, path: Path) -> Path:
    if name == "gemma3":
        return tiny_model.write(path, **GEMMA3)
    if name == "gemma3n":  # whose last layers use the keys and values of others
        return test_gemma3n.write(path, test_gemma3n.STATED)
    return mixture_models.write(path, name)


@pytest.fixture
def load(host_core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    monkeypatch.setattr(llama4, "_CHUNK", 50)

    def loaded(name: str, *, keeps_all: bool = False) -> Model:
        path = tmp_path / name
        if not path.exists():
            written(name, path)
        with monkeypatch.context() as patch:
            if keeps_all:
                patch.setattr(Plan, "attention", seeing_all)
            return Model.load(path, core=host_core)

    return loaded


attention = Plan.attention


def seeing_all(plan: Plan, *buffers: Any, **options: Any) -> int:
    """A step of attention, and one more to the same keys and values that sees all of them, which
    nothing uses."""
    place = attention(plan, *buffers, **options)
    q, _, _, out = buffers
    if options.get("source") is None:
        unused = {**options, "window": 0, "mask": 0, "source": place, "sinks": None}
        attention(plan, q, None, None, plan.buffer(out.width), **unused)
    return place


def steps(session: Session, first: int, end: int) -> FloatArray:
    """The logits after each of these tokens, decoded."""
    return np.array([session.step(token).copy() for token in TOKENS[first:end]])


def opened(model: Model, length: int) -> Session:
    """A session that holds so many of the tokens."""
    session = model.new_session(CONTEXT)
    session.feed(TOKENS[:length], model.config.default_mode)
    return session


@pytest.mark.parametrize("name", NAMES)
def test_the_bits_are_those_of_keeping_everything(name: str, load: Callable[..., Model]) -> None:
    with load(name, keeps_all=True) as model:
        assert model.session.model.plan.back > BACK
        session, mode = opened(model, 1600), model.config.default_mode
        wanted = steps(session, 1600, 1730)
        session.rewind(900, mode)
        again = steps(session, 900, 1000)
        mixed = session.feed(TOKENS[:1400], mode).copy()
        prompt = opened(model, 1399).feed(TOKENS[:1400], mode).copy()
    with load(name) as model:
        assert model.session.model.plan.back == BACK
        session = opened(model, 1600)
        np.testing.assert_array_equal(steps(session, 1600, 1730), wanted)
        session.rewind(900, mode)
        assert len(session.tokens) == 900
        np.testing.assert_array_equal(steps(session, 900, 1000), again)
        np.testing.assert_array_equal(session.feed(TOKENS[:1400], mode), mixed)
        session.rewind(20, mode)
        assert session.tokens == []
        np.testing.assert_array_equal(session.feed(TOKENS[:1400], mode), prompt)


def test_saved_sessions(load: Callable[..., Model]) -> None:
    with load("gemma3", keeps_all=True) as model:
        session = opened(model, 2000)
        everything = session.save()  # as before windows alone were kept
        wanted = steps(session, 2000, 2010)
        session.rewind(1000, session.mode)
        earlier = steps(session, 1000, 1010)
    with load("gemma3") as model:
        session = opened(model, 2000)
        saved = session.save()
        assert len(saved) < 0.8 * len(everything)
        copies = [model.new_session(2010), opened(model, 30), opened(model, 2300)]
        for data in (saved, everything):
            for copy in copies:
                copy.restore(data)
                np.testing.assert_array_equal(steps(copy, 2000, 2010), wanted)
                copy.rewind(1000, copy.mode)
                assert len(copy.tokens) == 1000
                np.testing.assert_array_equal(steps(copy, 1000, 1010), earlier)
        session.rewind(1000, session.mode)
        copies[0].restore(session.save())
        np.testing.assert_array_equal(steps(copies[0], 1000, 1010), earlier)


def test_what_a_session_knows_is_what_it_can_go_back_to(load: Callable[..., Model]) -> None:
    with load("gemma3") as model:
        session, mode = opened(model, 2000), model.config.default_mode
        assert session.known(TOKENS[:1990], mode) == 1989
        assert session.known([*TOKENS[:1000], 1, 2], mode) == 1000
        assert session.known([*TOKENS[:500], 1, 2], mode) == 0
        before = session.evaluated
        session.feed([*TOKENS[:1000], 1, 2], mode)
        assert session.evaluated - before == 2
        session.feed([*TOKENS[:100], 1, 2], mode)
        assert session.evaluated - before == 2 + 102


@pytest.mark.parametrize("length", [900, 1500])
def test_an_evaluation_that_fails(length: int, load: Callable[..., Model], tmp_path: Path) -> None:
    """Beyond what the session can go back, it is empty, otherwise as it was."""
    untied = {**GEMMA3, "tied": False}
    table = tiny_model.weights(tiny_model.Tiny(**untied))["token_embd.weight"]
    table[4] = 3e38
    tiny_model.write(tmp_path / "gemma3", **{**untied, "tensors": {"token_embd.weight": table}})
    with load("gemma3") as model:
        session, other = opened(model, 1100), opened(model, 1100)
        wrong = np.array([*TOKENS[1100 : 1100 + length], 4], np.int32)
        with pytest.raises(NotFiniteError):
            session.evaluate(wrong, np.empty((1, model.config.vocab), np.float32))
        assert session.tokens == (TOKENS[:1100] if length < BACK else [])
        mode = model.config.default_mode
        found = session.feed(TOKENS[:1200], mode)
        np.testing.assert_array_equal(found, other.feed(TOKENS[:1200], mode))


@pytest.mark.parametrize("tail", [40, 1200])
def test_prompts_that_begin_alike(tail: int, load: Callable[..., Model]) -> None:
    """What they share is copied where a session can go back to it, else evaluated."""
    prompts = [[*TOKENS[:1400], *TOKENS[k : k + tail]] for k in (2000, 2001, 2002, 1400)]
    with load("gemma3") as model:
        wanted = []
        for prompt in prompts:
            run = model.start(prompt, 5, temperature=0)
            list(run)
            wanted.append(run.stats.token_ids)
            model.session.rewind(0, model.session.mode)
        for sessions in (1, 3):
            packing: Packing[Any] = Packing(model, model.config.default_mode, sessions)
            made = [model.prepared(prompt, 5, temperature=0) for prompt in prompts]
            list(packing.run(text_job(*each) for each in made))
            assert [run.stats.token_ids for run, _ in made] == wanted
            once = 1400 + 4 * (tail + 4)
            if tail < BACK:
                assert packing.evaluated <= once
            else:
                assert packing.evaluated > 4 * 1400
            packing.close()


def test_speculation(load: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "are_known", lambda self: True)
    monkeypatch.setattr(Costs, "of", lambda self, tokens: 1 + tokens / 1e6)
    monkeypatch.setattr(speculation, "_ONCE", 10.0)
    prompt = [*TOKENS[:1350], *TOKENS[:20], *TOKENS[:20]]
    options: dict[str, Any] = {"temperature": 0.7, "top_k": 3, "seed": 4}
    options["logit_bias"] = {256: float("-inf")}  # it never ends
    with load("gemma3") as model:
        texts = []
        for drafts in (False, True):
            run = model.start(prompt, 150, speculation=drafts, **options)
            list(run)
            texts.append(run.stats.token_ids)
        assert len(texts[0]) == 150
        assert texts[0] == texts[1]
        assert run.stats.drafted_tokens > run.stats.accepted_tokens > 0


def test_the_bytes_of_a_session(load: Callable[..., Model]) -> None:
    with load("gemma3") as model, load("gemma3", keeps_all=True) as all_kept:
        found, everything = (each.session.model.plan.session_bytes for each in (model, all_kept))
        row = found(1) // 3  # of a layer
        assert found(1000) == everything(1000) == 3000 * row
        assert found(100_000) == (100_000 + 2 * (5 + BACK + Limit.BATCH)) * row
        assert everything(100_000) == 300_000 * row


CODE = """
import sparsefire as sf
with sf.Model.load("/tmp/model.gguf") as model:
    session, other = model.new_session(1500), model.new_session(1500)
    tokens = [5 + 7 * i % 50 for i in range(1400)]
    session.feed(tokens, "dense")
    session.step(9)
    wanted = session.step(8).copy()
    session.rewind(1300, "dense")
    session.feed([*tokens, 9], "dense", decoded=1)
    other.restore(session.save())
    same = bool((session.step(8) == wanted).all() and (other.step(8) == wanted).all())
    session.rewind(100, "dense")
    same = same and session.tokens == []
same
"""


@pytest.mark.pyodide
def test_in_pyodide(pyodide_node: PyodideRuntime, tmp_path: Path) -> None:
    pyodide_node.write("/tmp/model.gguf", written("gemma3", tmp_path / "m").read_bytes())
    assert pyodide_node.run(CODE) is True


def test_decoded_in_batches(load: Callable[..., Model]) -> None:
    """As drafts are: the bits of single tokens."""
    with load("gpt-oss") as model:
        one, many = opened(model, 1500), opened(model, 1500)
        wanted = steps(one, 1500, 1660)
        for first in range(1500, 1660, 16):
            rows = np.empty((16, model.config.vocab), np.float32)
            many.evaluate(np.array(TOKENS[first : first + 16], np.int32), rows, DECODED)
            np.testing.assert_array_equal(rows, wanted[first - 1500 :][:16])
