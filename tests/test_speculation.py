"""Speculation: drafts by their definition, and the same bits, texts and caches as without, whatever
the drafts are worth; what it may cost where they are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recurrent_models
from model_variants import variant_path
from sparsefire.core.core import Core
from sparsefire.lm import speculation
from sparsefire.lm.model import Model
from sparsefire.lm.speculation import Costs, Lookup, Speculation, can_speculate

PROMPT = [30, 31, 32, 33, 34, 35, 36, 37, 30, 31, 32, 33, 34]
NEVER_ENDS = {260: float("-inf")}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 6, "seed": 4, "repeat_penalty": 1.1}


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts cost nearly nothing, so that there always are some."""
    monkeypatch.setattr(Costs, "are_known", lambda self: True)
    monkeypatch.setattr(Costs, "of", lambda self, tokens: 1 + tokens / 1e6)
    monkeypatch.setattr(speculation, "_ONCE", 10.0)


@pytest.fixture
def model(host_core: Core, cheap: None) -> Iterator[Model]:
    with Model.load(variant_path("calibrated q8_0", context=150), core=host_core) as model:
        yield model


def run(model: Model, prompt: Sequence[int], count: int, **options: Any) -> tuple[Any, ...]:
    """What a run gives, with the scores of its tokens."""
    pieces = list(model.start(prompt, count, logprobs=2, **options))
    stats = model.stats
    return stats.token_ids, stats.finish_reason, [each.text for each in pieces], pieces


@pytest.mark.parametrize("mode", ["dense", "exact", "sparse"])
@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
def test_a_run_is_the_same(mode: str, options: dict[str, Any], model: Model) -> None:
    drafted = accepted = 0
    for count, more in ((1, {}), (2, {}), (60, {}), (60, {"stop": "zz"}), (400, {})):
        asked = {**options, **more, "mode": mode, "logit_bias": NEVER_ENDS}
        wanted = run(model, PROMPT, count, **asked, speculation=False)
        assert model.stats.drafted_tokens == 0
        tokens = list(model.session.tokens)
        assert run(model, PROMPT, count, **asked, speculation=True) == wanted
        stats = model.stats
        assert model.session.tokens == tokens
        assert stats.drafted_tokens - stats.accepted_tokens <= stats.evaluated_tokens
        drafted, accepted = drafted + stats.drafted_tokens, accepted + stats.accepted_tokens
    assert 0 < accepted < drafted


def test_runs_that_take_turns_shift_or_end_early(model: Model) -> None:
    options: dict[str, Any] = {"temperature": 0, "logit_bias": NEVER_ENDS}
    both = {**options, "context_shift": True}, {**options, **SAMPLED}
    wanted = [run(model, PROMPT, 200, **each, speculation=False)[0] for each in both]
    runs = [model.start(PROMPT, 200, **each, speculation=True) for each in both]
    for _ in zip(*runs, strict=False):
        pass
    for each, tokens in zip(runs, wanted, strict=True):
        list(each)
        assert each.stats.token_ids == tokens
    assert runs[0].stats.accepted_tokens > 20
    # What is left of a run that ends in a draft is what was drawn, and the next one goes on there.
    early = model.start(PROMPT, 130, **options, speculation=True)
    while early.stats.n_tokens < 3 or not early._lease._speculation._draft:  # type: ignore[union-attr]
        next(early)
    drawn = early.stats.token_ids.copy()
    early.close()
    text = PROMPT + drawn
    assert text[:-1] in [each.tokens for each in model._sessions._all]
    plain = run(model, text, 10, **options, speculation=False)
    assert run(model, text, 10, **options, speculation=True) == plain


def test_models_that_cannot_forget_do_not_speculate(tmp_path: Path) -> None:
    with Model.load(recurrent_models.write(tmp_path / "model.gguf", "lfm2moe")) as recurrent:
        assert not can_speculate(recurrent.session.model, "dense")
    with Model.load(variant_path("calibrated q8_0")) as plain:
        assert can_speculate(plain.session.model, "sparse")


tokens_lists = st.lists(st.integers(0, 3), max_size=40)


@given(text=tokens_lists, more=tokens_lists, most=st.integers(0, 9))
def test_a_draft_is_what_followed_the_longest_match(
    text: list[int], more: list[int], most: int
) -> None:
    lookup = Lookup()
    lookup.draft(text, most)
    text += more
    drafted, matching = lookup.draft(text, most)
    followed = [at for at in range(2, len(text)) if text[at - 2 : at] == text[-2:]][-4:]
    if not followed:
        assert (drafted, matching) == ([], 0)
        return
    matches = [
        (max(n for n in range(min(at, 8) + 1) if text[at - n : at] == text[len(text) - n :]), at)
        for at in followed
    ]
    wanted, place = max(matches)
    assert matching == wanted
    assert drafted == (text[place:] * (most + 1))[:most]


class Recorded:
    """A session that evaluates nothing and counts what that would cost."""

    context, vocab, mode, is_open = 100_000, 4, "dense", True

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.cost = 0.0

    def step(self, token: int) -> Any:
        self.tokens.append(token)
        self.cost += 1
        return np.zeros(4)

    def evaluate(self, tokens: Any, logits: Any, mark: int) -> None:
        self.tokens += tokens.tolist()
        self.cost += 1 + 0.5 * (len(tokens) - 1)

    def rewind(self, length: int, mode: str) -> None:
        del self.tokens[length:]


class Fixed(Costs):
    """Costs that are those of `Recorded`."""

    def note(self, tokens: int, seconds: float) -> None:
        """Nothing is measured."""

    def doubt(self) -> None:
        """Nor forgotten."""

    def are_known(self) -> bool:
        return True

    def of(self, tokens: int) -> float:
        return 1 + 0.5 * (tokens - 1)


def cost_of(text: Sequence[int]) -> float:
    session, costs = Recorded(), Fixed()
    run = Speculation(costs, lambda: 100)
    for length in range(1, len(text) + 1):
        assert run.next(session, text[:length]) is not None  # type: ignore[arg-type]
        run_tokens = session.tokens[:length]
        assert run_tokens == list(text[:length])
    run.drop(session)  # type: ignore[arg-type]
    assert session.tokens == list(text)
    return session.cost


def test_wrong_drafts_cost_little_and_right_ones_pay() -> None:
    random = np.random.default_rng(6)
    drawn = random.integers(0, 30, 1_000).tolist()  # pairs occur again, by chance
    assert cost_of(drawn) <= 1.03 * len(drawn)
    assert cost_of(drawn[:100]) <= 1.03 * 100
    repeated = drawn[:200] * 5
    assert cost_of(repeated) < 0.65 * len(repeated)
    # A text that begins to repeat itself, and stops.
    assert cost_of([*repeated, *random.integers(0, 30, 1_000).tolist()]) < 0.9 * 2_000


def drafted_once_cheap(text: Sequence[int]) -> int:
    """Tokens of the draft after a text whose drafts were all too dear."""

    class Dear(Fixed):
        dear = True

        def of(self, tokens: int) -> float:
            return 100.0 if self.dear and tokens > 1 else 1 + 0.05 * (tokens - 1)

    costs, session = Dear(), Recorded()
    run = Speculation(costs, lambda: 100)
    for length in range(1, len(text) + 1):
        costs.dear = length < len(text)
        assert run.drafted == 0
        run.next(session, text[:length])  # type: ignore[arg-type]
    return run.drafted


def test_a_run_learns_from_tokens_that_it_did_not_draft() -> None:
    assert drafted_once_cheap([0, 1, 2, 3, 4] * 20) == speculation.LONGEST
    assert 0 < drafted_once_cheap([0, 1, 2, 3, 4, 0, 1]) < speculation.LONGEST
    never_again = [token for k in range(40) for token in (0, 1, 9 + k)]  # nothing follows twice
    assert drafted_once_cheap([*never_again, 0, 1]) == 0


@pytest.mark.parametrize("extra", [0.05, 0.4, 0.7, 1.0])
def test_drafts_that_cost_more_than_they_bring_end(
    extra: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a text is, and however dear a batch, which a run has to find out by its clock."""
    now = [0.0]
    monkeypatch.setattr(speculation.time, "perf_counter", lambda: now[0])

    class Timed(Recorded):
        def step(self, token: int) -> Any:
            now[0] += 1
            return super().step(token)

        def evaluate(self, tokens: Any, logits: Any, mark: int) -> None:
            self.tokens += tokens.tolist()
            now[0] += 1 + extra * (len(tokens) - 1)

    random = np.random.default_rng(6)
    for letters in (2, 3, 5, 30):
        part = random.integers(0, letters, 60)
        drawn = random.integers(0, letters, 240)
        changed = np.where(random.random(240) < 0.2, drawn, np.resize(part, 240))
        for text in (drawn, changed, np.concatenate([np.resize(part, 120), drawn[:120]])):
            session, run, began = Timed(), Speculation(Costs(), lambda: 100), now[0]
            ids = [*part.tolist(), *text.tolist()]
            session.tokens = ids[:59]
            for length in range(60, len(ids) + 1):
                assert run.next(session, ids[:length]) is not None  # type: ignore[arg-type]
            assert now[0] - began <= 1.03 * (len(ids) - 59)


def test_costs_lie_on_lines_through_what_was_measured() -> None:
    costs = Costs()
    for tokens, seconds in ((1, 2.0), (1, 1.0), (1, 9.0), (5, 4.0), (9, 12.0)):
        costs.note(tokens, seconds)
    assert costs.are_known()
    assert [costs.of(n) for n in (1, 3, 5, 7, 11)] == pytest.approx([1, 1.5, 2, 4, 6.8])
    for _ in range(8):
        assert costs.of(9) == 6
        costs.doubt()
    assert [costs.of(n) for n in (1, 9)] == pytest.approx([1, 4.2])  # not measured any more
