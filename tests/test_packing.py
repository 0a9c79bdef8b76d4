"""Many runs in one batch: each gives what it gives alone, whatever they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moe_model
import recurrent_models
import tiny_model
from model_variants import variant_path
from sparsefire.core.core import Core
from sparsefire.errors import ContextFullError, NotFiniteError, SparsefireError
from sparsefire.lm.model import Model
from sparsefire.lm.packing import Job, Packing, scores_job, text_job
from sparsefire.lm.run import Wanted
from sparsefire.lm.sampling import TokenScore

KINDS = ("calibrated", "experts", "budget")
BEGINNING = [(7 * i + 3) % 250 for i in range(40)]
PROMPTS = [
    [1, 2, 3],
    [5],
    [*BEGINNING, 9, 8],
    [*BEGINNING, 9, 8, 7, 6],
    BEGINNING,
    [(5 * i + 1) % 250 for i in range(20)],
    [*BEGINNING, 4],
]
DRAWN: dict[str, Any] = {"temperature": 1.2, "seed": 4}


@pytest.fixture
def model(kind: str, host_core: Core, tmp_path: Path) -> Iterator[Model]:
    path, budget = tmp_path / "m.gguf", None
    if kind == "calibrated":
        tiny_model.write(path, context=64, bundled=True, rank=8)
    else:
        moe_model.write(path, activation="silu")
        budget = 60_000 if kind == "budget" else None
    with Model.load(path, neuron_budget=budget) as found:
        yield found


def texts(model: Model, sessions: int, mode: str, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens of each prompt's text."""
    made = [model.prepared(prompt, 12, mode=mode, **DRAWN) for prompt in prompts]
    packing: Packing[Any] = Packing(model, mode, sessions)
    results = dict(packing.run(text_job(*each) for each in made))
    packing.close()
    assert sorted(results) == list(range(len(prompts)))
    assert not any(isinstance(each, SparsefireError) for each in results.values())
    return [run.stats.token_ids for run, _ in made]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_single_runs(model: Model) -> None:
    prompts = [[each % model.config.vocab for each in prompt] for prompt in PROMPTS]
    prompts = [prompt[: model.context - 8] for prompt in prompts]
    for mode in model.modes:
        alone = []
        for prompt in prompts:
            model.session.rewind(0, mode)
            run = model.start(prompt, 12, mode=mode, **DRAWN)
            list(run)
            alone.append(run.stats.token_ids)
        for sessions in (3,) if model.neurons is not None else (1, 3, 8):
            assert texts(model, sessions, mode, prompts) == alone


def greedy(prompt: list[int], count: int) -> Job[list[int]]:
    tokens = list(prompt)
    for place in range(count):
        rows = yield Wanted(tokens, step=place > 0, decoded=place)
        tokens.append(int(rows[0].argmax()))
    return tokens


def test_sessions_that_cannot_go_back(tmp_path: Path) -> None:
    path = recurrent_models.write(tmp_path / "m.gguf", "qwen3next")
    with Model.load(path) as model:
        mode, prompts = model.config.default_mode, [[*BEGINNING[:34], 3], [1], BEGINNING[:36]]
        prompts = [[each % model.config.vocab for each in prompt] for prompt in prompts]
        alone = []
        for prompt in prompts:
            tokens, session = list(prompt), model.new_session(64)
            tokens.append(int(session.feed(tokens, mode).argmax()))
            for _ in range(3):
                tokens.append(int(session.step(tokens[-1]).argmax()))
            alone.append(tokens)
        for sessions in (1, 3):
            packing: Packing[list[int]] = Packing(model, mode, sessions)
            for _ in range(2):
                found = dict(packing.run(greedy(each, 4) for each in prompts))
                assert [found[place] for place in range(3)] == alone


def test_scores_are_those_of_single_runs() -> None:
    with Model.load(variant_path("calibrated")) as model:
        texts = [prompt[: model.context] for prompt in PROMPTS if len(prompt) > 1]
        alone = [list(model.token_scores(each, 2, mode="exact"))[1:] for each in texts]
        for sessions in (1, 4):
            packing: Packing[list[TokenScore]] = Packing(model, "exact", sessions)
            results = dict(packing.run(scores_job(each, 2, 2) for each in texts))
            assert [results[place] for place in range(len(texts))] == alone


def test_what_prompts_share_is_evaluated_once() -> None:
    with Model.load(variant_path("calibrated")) as model:
        beginning = BEGINNING[:36]
        for sessions in (1, 4):
            packing: Packing[Any] = Packing(model, "dense", sessions)
            for first in (1, 5):
                made = [model.prepared([*beginning, k], 1) for k in range(first, first + 4)]
                list(packing.run(text_job(*each) for each in made))
            assert packing.evaluated == len(beginning) + 8


def failing(error: SparsefireError | None) -> Job[str]:
    yield Wanted([1, 2])
    if error is not None:
        raise error
    yield Wanted([1, 2, 3], step=True, decoded=1)
    return "done"


def too_long(tokens: list[int]) -> Job[str]:
    yield Wanted(tokens)
    return "done"


def test_an_error_is_that_of_its_job() -> None:
    with Model.load(variant_path("calibrated")) as model:
        error = NotFiniteError("of this one")
        jobs = [failing(None), failing(error), too_long([1] * 100), too_long([3]), failing(None)]
        packing: Packing[str] = Packing(model, "dense", 5)
        found = dict(packing.run(iter(jobs)))
    assert [found[place] for place in (0, 3, 4)] == ["done"] * 3
    assert found[1] is error
    assert isinstance(found[2], ContextFullError)


def test_a_run_that_is_given_up_frees_its_sessions() -> None:
    with Model.load(variant_path("calibrated")) as model:
        packing: Packing[str] = Packing(model, "dense", 2)
        results = packing.run(failing(None) for _ in range(4))
        next(results)
        results.close()
        assert len(dict(packing.run(failing(None) for _ in range(3)))) == 3
        assert np.isfinite(model.logits([1, 2])).all()
