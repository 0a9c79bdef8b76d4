"""Objects with a state, used by several threads at once: every call answers as it does alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from model_variants import IDS, variant_path
from sparsefire.errors import ArgumentError, CoreMemoryError
from sparsefire.ffn.layer import SparseFfn
from sparsefire.ffn.sign_predictor import SignPredictor
from sparsefire.ffn.sparsity import SparsityConfig
from sparsefire.lm.generation import Generation
from sparsefire.lm.model import Model
from sparsefire.lm.sessions import MOST_SESSIONS

THREADS = 8
PROMPTS = [list(IDS[start : start + 4 + start]) for start in range(4)]
GREEDY: dict[str, Any] = {"temperature": 0}

ANSWERS: dict[str, Callable[[Model, list[int]], Any]] = {
    "generate": lambda model, ids: list(model.generate(ids, 12, **GREEDY)),
    "start": lambda model, ids: _tokens(model, ids),
    "completion": lambda model, ids: model.create_completion(ids, 12, n=2, seed=1)["choices"],
    "stream": lambda model, ids: [
        chunk["choices"] for chunk in model.create_completion(ids, 12, stream=True, **GREEDY)
    ],
    "logits": lambda model, ids: model.logits(ids).tolist(),
    "perplexity": lambda model, ids: model.perplexity(ids * 5, 8).loss,
    "embed": lambda model, ids: model.embed(ids).tolist(),
    "ffn_inputs": lambda model, ids: model.ffn_inputs(ids).tolist(),
    "token_scores": lambda model, ids: list(model.token_scores(ids, 2)),
}


def _tokens(model: Model, ids: list[int]) -> tuple[list[int], list[int]]:
    """A run's tokens, by its own statistics."""
    run = model.start(ids, 12, **GREEDY)
    list(run)
    return run.stats.prompt_token_ids, run.stats.token_ids


def at_once(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of calls that `THREADS` threads make, which begin together."""
    barrier = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS, initializer=barrier.wait) as pool:
        return [each.result(120) for each in [pool.submit(each) for each in work]]


@pytest.mark.parametrize("budget", [None, 30_000], ids=["resident", "cached"])
@pytest.mark.parametrize("kind", [*ANSWERS, "mixed"])
def test_a_model_answers_each_thread_as_it_does_alone(kind: str, budget: int | None) -> None:
    kinds = list(ANSWERS) if kind == "mixed" else [kind]
    cases = [
        (ANSWERS[each], prompt) for _ in range(THREADS) for each in kinds for prompt in PROMPTS
    ]
    with Model.load(variant_path("calibrated"), neuron_budget=budget) as model:
        alone = [answer(model, prompt) for answer, prompt in cases[: len(kinds) * len(PROMPTS)]]
        work = [lambda case=case: case[0](model, case[1]) for case in cases]
        assert at_once(work) == alone * THREADS


def _interleaved(model: Model, count: int) -> list[Generation]:
    """That many runs, a piece of each in turn, until all have ended."""
    runs = [model.start(PROMPTS[place % 4], 12, **GREEDY) for place in range(count)]
    going = list(runs)
    while going:
        going = [run for run in going if next(run, None) is not None]
    return runs


def _counted(run: Generation) -> tuple[Any, ...]:
    stats = run.stats
    shares = stats.active_share, stats.selected_share
    return stats.token_ids, stats.evaluated_tokens, *shares


@pytest.mark.parametrize("budget", [None, 30_000], ids=["resident", "cached"])
def test_runs_in_turn_cost_and_count_what_they_do_alone(budget: int | None) -> None:
    alone = []
    for prompt in PROMPTS:
        with Model.load(variant_path("calibrated"), neuron_budget=budget) as model:
            run = model.start(prompt, 12, **GREEDY)
            list(run)
            alone.append(_counted(run))
    with Model.load(variant_path("calibrated"), neuron_budget=budget) as model:
        assert [_counted(run) for run in _interleaved(model, MOST_SESSIONS)] == alone * 2
        # The sessions are free again, and known beginnings are not evaluated twice.
        for run in _interleaved(model, 4):
            assert run.stats.evaluated_tokens <= 12
        # More than there are sessions for: texts are evaluated again, and counts stay apart.
        many = _interleaved(model, MOST_SESSIONS + 1)
        assert [run.stats.token_ids for run in many] == [each[0] for each in (alone * 3)[:9]]
        assert all(0 < share <= 1 for run in many for share in run.stats.active_share.layers)
        assert sum(run.stats.evaluated_tokens for run in many) > 9 * 16


def test_runs_share_a_session_where_there_is_memory_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Model.load(variant_path("calibrated")) as model:
        alone = [list(model.generate(prompt, 12, **GREEDY)) for prompt in PROMPTS]
        real = model.core.open
        opened: list[str] = []

        def full(function: str, *arguments: Any, **options: Any) -> int:
            opened.append(function)
            if function == "sf_session_open":
                raise CoreMemoryError("no memory")
            return real(function, *arguments, **options)

        monkeypatch.setattr(model.core, "open", full)
        texts = [run.stats.token_ids for run in _interleaved(model, 4)]
        assert [model.detokenize(each) for each in texts] == ["".join(each) for each in alone]
        assert opened.count("sf_session_open") == 1  # it is not tried again


def test_a_run_that_is_dropped_frees_its_session() -> None:
    with Model.load(variant_path("calibrated")) as model:
        for _ in range(3 * MOST_SESSIONS):
            next(model.generate(PROMPTS[0], 12, **GREEDY))
        run = model.start(PROMPTS[3], 12, **GREEDY)
        next(run)
        logits = model.logits(PROMPTS[2])
        scores = model.token_scores(PROMPTS[1] * 4)
        next(scores)
        list(run)
        assert run.stats.evaluated_tokens == len(PROMPTS[3]) + 11
        np.testing.assert_array_equal(model.logits(PROMPTS[2]), logits)
        assert len(list(scores)) == len(PROMPTS[1]) * 4 - 2


def test_token_scores_survive_another_run_between_two_batches() -> None:
    with Model.load(variant_path("calibrated")) as model:
        ids = (list(IDS) * 20)[: model.context]
        alone = list(model.token_scores(ids))
        mixed = []
        for scored in model.token_scores(ids):
            mixed.append(scored)
            if len(mixed) % 20 == 0:
                list(model.generate(PROMPTS[0], 1, **GREEDY))
        assert mixed == alone


def test_sessions_of_one_model_wait_for_each_other() -> None:
    with Model.load(variant_path("calibrated"), neuron_budget=30_000) as model:

        def fed(ids: list[int]) -> list[float]:
            session = model.new_session(64)
            try:
                values: list[float] = session.feed(ids, "sparse").tolist()
                return values
            finally:
                session.close()

        alone = [fed(prompt) for prompt in PROMPTS]
        work = [lambda prompt=prompt: fed(prompt) for _ in range(THREADS) for prompt in PROMPTS]
        work.append(lambda: [float(model.neurons.reclassify() if model.neurons else 0)])
        assert at_once(work)[:-1] == alone * THREADS


def test_a_layer_used_with_several_predictors_at_once() -> None:
    random = np.random.default_rng(0)
    w1, w2 = random.standard_normal((96, 32)), random.standard_normal((16, 96))
    layer = SparseFfn(w1, w2)
    predictors = [SignPredictor(w1, sparsity=SparsityConfig.with_top_k(k)) for k in (4, 16, 48, 96)]
    x = random.standard_normal((5, 32)).astype(np.float32)
    alone = [layer.forward(x, each).tolist() for each in predictors]
    work = [
        lambda each=each: layer.forward(x, each).tolist() for _ in range(50) for each in predictors
    ]
    assert at_once(work) == alone * 50
    assert len(layer.counts.selected) == len(x)


def test_closing_a_model_that_others_use() -> None:
    model = Model.load(variant_path("calibrated"))
    runs = [model.start(prompt, 12, **GREEDY) for prompt in PROMPTS]
    for run in runs:
        next(run)
    model.close()
    for run in runs:
        with pytest.raises(ArgumentError, match="closed"):
            list(run)
