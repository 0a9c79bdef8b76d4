"""What models make of text: generation, its statistics, and perplexity."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_model
from model_variants import IDS, greedy, reference_logits, variant_path
from sparsefire.errors import (
    ArgumentError,
    ContextFullError,
    UnsupportedError,
)
from sparsefire.lm.model import Model
from sparsefire.lm.run import StopFilter
from sparsefire.lm.session import scored_at_once
from tiny_model import END


@pytest.fixture
def tiny() -> Iterator[Model]:
    """A calibrated model on the default core."""
    with Model.load(variant_path("calibrated")) as model:
        yield model


# -- generation --------------------------------------------------------------------------------


def test_generation_follows_the_logits(tiny: Model) -> None:
    ids = list(IDS[:5])
    made = greedy(tiny, ids, 20)
    assert len(made) == 20
    assert tiny.stats.finish_reason == "length"
    logits = tiny.logits(ids + made)
    assert made == logits[4:-1].argmax(axis=1).tolist()


def test_text_is_that_of_the_tokens(tiny: Model) -> None:
    pieces = list(tiny.generate("a b", 30, temperature=2.0, top_k=0, top_p=1.0, min_p=0, seed=4))
    assert "" not in pieces
    assert "".join(pieces) == tiny.detokenize(tiny.stats.token_ids)
    assert tiny.stats.prompt_token_ids == tiny.tokenize("a b")


def test_seeds(tiny: Model) -> None:
    def run(seed: int) -> list[int]:
        "".join(tiny.generate("ab", 20, temperature=3.0, top_k=0, min_p=0, seed=seed))
        return list(tiny.stats.token_ids)

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_what_was_read_before_is_used_again(tiny: Model) -> None:
    ids = list(IDS[:12])
    first = greedy(tiny, ids, 10)
    assert tiny.stats.evaluated_tokens == 12 + 9
    assert greedy(tiny, ids, 10) == first
    assert tiny.stats.evaluated_tokens == 1 + 9
    # The start of the text is kept, the rest is not.
    other = greedy(tiny, [*ids[:9], 3], 10)
    assert tiny.stats.evaluated_tokens == 1 + 9
    with Model.load(tiny.file.name) as fresh:
        assert greedy(fresh, [*ids[:9], 3], 10) == other
        # Another mode makes other keys and values.
        dense = greedy(fresh, ids, 10, mode="dense")
        assert fresh.stats.evaluated_tokens == 12 + 9
    assert greedy(tiny, ids, 10, mode="dense") == dense


def test_runs_may_alternate(tiny: Model) -> None:
    prompts = ([1, 2, 3], [9, 8, 7, 6])
    alone = [list(tiny.generate(prompt, 12, temperature=0)) for prompt in prompts]
    runs = [tiny.generate(prompt, 12, temperature=0) for prompt in prompts]
    mixed: list[list[str]] = [[], []]
    for _ in range(30):
        for pieces, run in zip(mixed, runs, strict=True):
            pieces += [piece for piece in (next(run, None),) if piece is not None]
        tiny.logits([4, 4])
    assert ["".join(pieces) for pieces in mixed] == ["".join(pieces) for pieces in alone]


def test_generation_ends_where_the_model_ends_the_text(tmp_path: Path) -> None:
    path = variant_path("f32")
    with Model.load(path) as model:
        made = greedy(model, [1, 2, 3], 10)
    ending = made[4]
    first = made.index(ending)
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.eot_token_id": ending})
    with Model.load(path) as model:
        assert greedy(model, [1, 2, 3], 10) == made[:first]
        assert model.stats.finish_reason == "end"


def test_generation_ends_at_the_end_of_the_context(tiny: Model) -> None:
    made = greedy(tiny, list(IDS), 1000)
    assert tiny.stats.finish_reason == "context"
    # The last token needs no place of its own.
    assert len(IDS) + len(made) == tiny.context + 1
    full = [1] * tiny.context
    assert len(greedy(tiny, full, 5)) == 1
    with pytest.raises(ContextFullError, match="49 tokens but the context holds 48"):
        tiny.generate([1] * 49)


def test_smaller_context() -> None:
    path = variant_path("calibrated")
    with Model.load(path, context=8) as model:
        assert model.context == 8
        with pytest.raises(ContextFullError, match=r"larger context \(at most 48\)"):
            model.generate([1] * 9)
        with pytest.raises(ContextFullError, match="9 tokens do not fit"):
            model.logits([1] * 9)
    for context in (0, -1, 49):
        with pytest.raises(ArgumentError, match=r"outside 1 … 48"):
            Model.load(path, context=context)


def test_empty_prompts(tiny: Model, tmp_path: Path) -> None:
    assert greedy(tiny, "", 5) == greedy(tiny, [END], 5)
    path = tiny_model.write(tmp_path / "a.gguf", keys={"tokenizer.ggml.bos_token_id": None})
    with Model.load(path) as model, pytest.raises(ArgumentError, match="prompt is empty"):
        model.generate("")


def test_no_tokens_wanted(tiny: Model) -> None:
    assert list(tiny.generate("ab", 0)) == []
    assert tiny.stats.finish_reason == "length"
    assert tiny.stats.evaluated_tokens == 0


def test_the_name_of_a_control_token_stops_at_that_token(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf")
    with Model.load(path) as model:
        token = model.tokenizer.vocabulary.ids["[unused3]"]
        types = list(model.tokenizer.vocabulary.types)
    types[token] = 3
    path = tiny_model.write(tmp_path / "m.gguf", keys={"tokenizer.ggml.token_type": types})
    with Model.load(path) as model:
        options: dict[str, Any] = {"temperature": 0, "logit_bias": {token: 1e9}}
        assert list(model.generate("a", 5, stop="[unused3]", **options)) == []
        assert (model.stats.finish_reason, model.stats.token_ids) == ("stop", [])
        list(model.generate("a", 5, stop="[unused4]", **options))
        assert model.stats.token_ids == [token] * 5


def test_stop_texts(tiny: Model) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": 8, "top_k": 0, "min_p": 0}
    whole = "".join(tiny.generate("ab", 40, **options))
    stop = whole[10:13]
    assert "".join(tiny.generate("ab", 40, stop=stop, **options)) == whole[: whole.index(stop)]
    assert tiny.stats.finish_reason == "stop"
    assert "".join(tiny.generate("ab", 40, stop=["not there", "\0\0"], **options)) == whole


@settings(max_examples=300)
@given(
    pieces=st.lists(st.text("abc", max_size=4)),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_filter(pieces: list[str], stops: list[str]) -> None:
    filtered, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += filtered.feed(piece)
        if filtered.stopped:
            break
    shown += filtered.finish()
    text = "".join(pieces)
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text
        return
    # The stop that is complete first ends the text, even when a longer one began before it.
    assert filtered.stopped
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert any(text.startswith(stop, len(shown)) for stop in stops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "quick"}, "mode 'quick'"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"prompt": [270]}, "token id 270 is outside"),
        ({"prompt": [-1]}, "token id -1 is outside"),
        ({"prompt": [[1]]}, "list of integers"),
        ({"prompt": [0.5]}, "list of integers"),
    ],
)
def test_arguments_are_checked_at_once(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny.generate(**{"prompt": "a", **options})


def test_interrupted_between_core_and_python(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when the core has taken a token in and Python has not noted it."""
    ids = list(IDS[:6])
    wanted = greedy(tiny, ids, 8)
    session = tiny.session
    check = session.core.check

    def interrupted(name: str, *args: Any, **options: Any) -> int:
        result = check(name, *args, **options)
        if name == "sf_session_eval":
            raise KeyboardInterrupt
        return result

    run = tiny.generate([*ids, 1], 8, temperature=0)
    next(run)
    monkeypatch.setattr(session.core, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        "".join(run)
    monkeypatch.undo()
    assert greedy(tiny, ids, 8) == wanted


# -- statistics --------------------------------------------------------------------------------


def test_statistics(tiny: Model) -> None:
    hidden, layers = tiny.config.hidden, tiny.config.layers
    for mode in ("dense", "exact", "sparse"):
        made = greedy(tiny, [1, 2, 3], 6, mode=mode)
        stats = tiny.stats
        assert (stats.prompt_tokens, stats.n_tokens, stats.mode) == (3, 6, mode)
        assert stats.evaluated_tokens == 8
        assert stats.tokens_per_s > 0
        for share in (stats.active_share, stats.selected_share):
            assert len(share.layers) == layers
            assert share.mean == pytest.approx(np.mean(share.layers))
        inputs = tiny.ffn_inputs([1, 2, 3, *made[:-1]], mode=mode)
        for layer, ffn in enumerate(tiny.ffns):
            ffn.forward(np.ascontiguousarray(inputs[:, layer]), mode=mode)
            wanted = (
                ffn.counts.active.sum() / (8 * hidden),
                ffn.counts.selected.sum() / (8 * hidden),
            )
            assert stats.active_share.layers[layer] == pytest.approx(wanted[0])
            assert stats.selected_share.layers[layer] == pytest.approx(wanted[1])
        if mode == "dense":
            assert stats.active_share.mean == stats.selected_share.mean == 1
        if mode == "exact":
            assert stats.selected_share.mean == 1 > stats.active_share.mean > 0
        if mode == "sparse":
            assert 1 > stats.selected_share.mean > stats.active_share.mean > 0
        assert mode in repr(stats)
        assert stats.as_dict()["n_tokens"] == 6


def test_statistics_of_a_broken_off_run(tiny: Model) -> None:
    run = tiny.generate([1, 2, 3], 30, temperature=0)
    next(run)
    run.close()
    assert tiny.stats.finish_reason == ""
    assert tiny.stats.evaluated_tokens >= 3
    assert tiny.stats.active_share.mean > 0


def test_a_clock_that_does_not_move(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in browsers, between two of their milliseconds."""
    expected = list(tiny.generate([1, 2, 3], 6, temperature=0))
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    assert list(tiny.generate([1, 2, 3], 6, temperature=0)) == expected
    assert (tiny.stats.prompt_tokens_per_s, tiny.stats.tokens_per_s) == (0, 0)
    assert tiny.perplexity([1, 2, 3]).tokens_per_s == 0
    tiny.logits([1, 2, 3])


def test_default_modes() -> None:
    for name, mode in (("calibrated", "sparse"), ("f32", "exact"), ("silu", "dense")):
        with Model.load(variant_path(name)) as model:
            model.logits([1])
            assert model.stats.mode == model.config.default_mode == mode


def test_modes_that_a_model_does_not_have() -> None:
    for name, mode, message in (
        ("f32", "sparse", "sparse mode needs a calibrated model"),
        ("silu", "exact", "silu has hardly any"),
    ):
        with Model.load(variant_path(name)) as model:
            with pytest.raises(UnsupportedError, match=message):
                model.logits([1], mode=mode)
            with pytest.raises(UnsupportedError, match=message):
                model.generate("a", mode=mode)


# -- perplexity --------------------------------------------------------------------------------


def perplexity_by_hand(model: Model, ids: list[int], context: int, mode: str) -> tuple[float, int]:
    losses = []
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        logits = model.logits(window, mode=mode).astype(np.float64)
        for row, token in zip(logits, window[1:], strict=False):
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[token])
    return float(np.exp(np.mean(losses))), len(losses)


@pytest.mark.parametrize("mode", ["dense", "exact", "sparse"])
@pytest.mark.parametrize(("count", "context"), [(100, 48), (97, 48), (60, 7), (2, 2), (48, 48)])
def test_perplexity(tiny: Model, mode: str, count: int, context: int) -> None:
    ids = np.random.default_rng(4).integers(0, 270, count).tolist()
    result = tiny.perplexity(ids, context, mode=mode)
    wanted, scored = perplexity_by_hand(tiny, ids, context, mode)
    assert result.n_scored == scored
    assert result.perplexity == pytest.approx(wanted, rel=1e-6)
    assert result.loss == pytest.approx(np.log(wanted), rel=1e-6)
    assert result.active_share.mean > 0
    assert result.tokens_per_s > 0


@pytest.mark.usefixtures("float_keys")
def test_perplexity_against_the_reference() -> None:
    path = variant_path("f32")
    wanted = reference_logits(path, False)
    losses = np.log(np.exp(wanted).sum(axis=1))[:-1] - wanted[np.arange(20), IDS[1:]]
    with Model.load(path) as model:
        assert model.perplexity(IDS).loss == pytest.approx(losses.mean(), rel=1e-6)


def test_perplexity_of_text_reports_progress(tiny: Model) -> None:
    text = "ab cd <|end|> abcd " * 10
    ids = tiny.tokenize(text, special=False)
    assert END not in ids
    calls: list[tuple[int, int, float]] = []
    result = tiny.perplexity(text, 20, progress=lambda *call: calls.append(call))
    assert result == tiny.perplexity(ids, 20) or result.loss == tiny.perplexity(ids, 20).loss
    assert [done for done, _, _ in calls] == [*range(20, len(ids), 20), len(ids)]
    assert {total for _, total, _ in calls} == {len(ids)}
    assert calls[-1][2] == pytest.approx(result.perplexity)


def test_perplexity_needs_something_to_score(tiny: Model) -> None:
    for text in ("", [7], "a"):
        with pytest.raises(ArgumentError, match="2 tokens or more"):
            tiny.perplexity(text)
    for context, problem in (
        (0, "a window of 0 scores nothing"),
        (1, r"a window of 1 scores nothing, .* give 2 or more"),
        (49, "outside 2 … 48"),
    ):
        with pytest.raises(ArgumentError, match=problem):
            tiny.perplexity([1, 2, 3], context)


def test_a_perplexity_that_no_float_holds_is_infinite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("sparsefire.lm.scoring._window_loss", lambda *_: 1e5)
    with Model.load(tiny_model.write(tmp_path / "a.gguf")) as model:
        seen: list[float] = []
        found = model.perplexity([1, 2, 3], progress=lambda *call: seen.append(call[2]))
    assert (found.perplexity, found.loss, seen) == (float("inf"), 5e4, [float("inf")])
    assert not recwarn.list


def test_scores_do_not_depend_on_how_many_logits_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model.write(tmp_path / "a.gguf", context=64)
    ids = [(37 * i + 11) % 90 + 3 for i in range(50)]
    with Model.load(path) as model:
        whole = [each.logprob for each in model.token_scores(ids)]
        assert scored_at_once(model.config.vocab) > 50
        monkeypatch.setattr("sparsefire.lm.session._MOST_LOGITS", 7 * model.config.vocab)
        assert scored_at_once(model.config.vocab) == 7
        assert [each.logprob for each in model.token_scores(ids)] == whole
    assert scored_at_once(1 << 30) == 1
