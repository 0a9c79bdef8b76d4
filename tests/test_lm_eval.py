"""The model of lm-evaluation-harness answers its requests as the model alone does. The harness, and
the many packages that it needs, are stood in for by what the class uses of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsefire.batch import Scorer, close_models
from sparsefire.errors import ArgumentError, BackendError, SparsefireError
from sparsefire.lm.model import Model

CONTEXT = 64


class LM:
    """`lm_eval.api.model.LM`, as far as a model uses it."""

    def __init__(self) -> None:
        self.cached: list[tuple[str, Any, Any]] = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: self.cached.append(given))


@dataclass
class Instance:
    """A request."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def registered() -> Iterator[dict[str, Any]]:
    """The models that the harness knows after the import."""
    known: dict[str, Any] = {}

    def register_model(name: str) -> Callable[[Any], Any]:
        return lambda kind: known.setdefault(name, kind)

    with pytest.MonkeyPatch.context() as patch:
        for name, holds in {
            "lm_eval": {},
            "lm_eval.api": {},
            "lm_eval.api.model": {"LM": LM},
            "lm_eval.api.registry": {"register_model": register_model},
        }.items():
            module = ModuleType(name)
            vars(module).update(holds)
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "sparsefire.lm_eval", raising=False)
        importlib.import_module("sparsefire.lm_eval")
        yield known
        del sys.modules["sparsefire.lm_eval"]
    close_models()


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load(context=CONTEXT) as found:
        yield found


@pytest.fixture(scope="module")
def evaluated(registered: dict[str, Any]) -> Any:
    return registered["sparsefire"](context=CONTEXT, threads=1, batch_size="auto", device="cpu")


def log_probabilities(model: Model, ids: list[int]) -> np.ndarray[Any, Any]:
    """Of every token after each place, float64 (n, vocab)."""
    logits = model.logits(ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def test_choices_of_a_task(evaluated: Any) -> None:
    """As hellaswag asks: several endings of each text."""
    pairs = [
        (text, ending)
        for text in ("The people of the United", "", "In the year that has passed, ")
        for ending in (" States", " Nations of the world", "War")
    ]
    rows = [{"context": text, "continuation": ending} for text, ending in pairs]
    expected = [
        (row["logprob"], bool(row["is_greedy"])) for row in Scorer(context=CONTEXT, threads=1)(rows)
    ]
    assert (
        evaluated.loglikelihood([Instance(pair) for pair in pairs], disable_tqdm=True) == expected
    )
    assert [each[2] for each in evaluated.cached if each[0] == "loglikelihood"] == expected
    with pytest.raises(ArgumentError, match="no token to score"):
        evaluated.loglikelihood([Instance(("War", ""))], disable_tqdm=True)


def test_the_end_of_long_contexts_counts(evaluated: Any, model: Model) -> None:
    text, ending = "war and peace and " * 30, "the people"
    ids = model.tokenize(text + ending)
    scored = len(ids) - len(model.tokenize(text.rstrip()))
    whole = ids[-CONTEXT - 1 :]
    assert len(ids) > len(whole) > scored
    rows = log_probabilities(model, whole[:-1])
    expected = sum(rows[-place, whole[-place]] for place in range(1, scored + 1))
    found = evaluated.loglikelihood([Instance((text, ending))], disable_tqdm=True)[0][0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_rolling(evaluated: Any, model: Model) -> None:
    """Each token once; the last window is as long as the others."""
    for text in ("War", "The people of the United States " * 30):
        ids = model.tokenize(text, add_bos=False)
        first = model.tokenizer.bos if model.tokenizer.bos is not None else model.tokenizer.eos
        assert first is not None
        ids = [first, *ids]
        expected, done = 0.0, 1
        while done < len(ids):
            end = min(done + CONTEXT, len(ids))
            window = ids[max(0, end - CONTEXT - 1) : end]
            rows = log_probabilities(model, window[:-1])
            for place in range(1, end - done + 1):
                expected += rows[-place, window[-place]]
            done = end
        found = evaluated.loglikelihood_rolling([Instance((text,))] * 2, disable_tqdm=True)
        assert found == pytest.approx([expected] * 2, rel=1e-5)


def test_generation(evaluated: Any, model: Model) -> None:
    prompts = ["The people of", "In the year that has passed,", "peace " * 90]
    options: dict[str, Any] = {"until": [",", "\n\n"], "max_gen_toks": 12, "do_sample": False}
    found = evaluated.generate_until(
        [Instance((each, options)) for each in prompts], disable_tqdm=True
    )
    for prompt, text in zip(prompts, found, strict=True):
        ids = model.tokenize(prompt)[-(CONTEXT - 12) :]
        assert text == "".join(model.generate(ids, 12, temperature=0, stop=[",", "\n\n"]))
    with pytest.raises(SparsefireError, match="num_beams"):
        evaluated.generate_until([Instance(("War", {"num_beams": 4}))], disable_tqdm=True)


def test_conversations(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ChatML: the embedded model has no template."""

    def shown(self: Model, messages: Any, add_generation_prompt: bool = True) -> str:
        return apply(self, messages, add_generation_prompt, chat_template="chatml")

    apply = Model.apply_chat_template
    monkeypatch.setattr(Model, "apply_chat_template", shown)
    history = [{"role": "user", "content": "War?"}, {"role": "assistant", "content": "I think "}]
    assert (
        evaluated.apply_chat_template(history[:1])
        == "<|im_start|>user\nWar?<|im_end|>\n<|im_start|>assistant\n"
    )
    text = evaluated.apply_chat_template(history, add_generation_prompt=False)
    assert text.endswith("<|im_start|>assistant\nI think")
    assert evaluated.chat_template(False) is None
    assert "/" not in evaluated.tokenizer_name


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "sparsefire.lm_eval", raising=False)
    with pytest.raises(BackendError, match=r"sparsefire\[lm-eval\]"):
        importlib.import_module("sparsefire.lm_eval")
