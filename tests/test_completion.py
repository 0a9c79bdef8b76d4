"""Completions as dictionaries, and what generation tells of its tokens."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from model_variants import IDS, greedy, variant_path
from pyodide_harness import PyodideRuntime
from sparsefire.core.enums import Limit
from sparsefire.errors import ArgumentError, ContextFullError, UnsupportedError
from sparsefire.lm.chat import TAKEN_NAMES
from sparsefire.lm.completion_types import Completion
from sparsefire.lm.generation import Cancel, GenerateOptions
from sparsefire.lm.model import Model
from sparsefire.lm.sampling import SamplerConfig, SamplerOptions
from tiny_model import END

DRAWN: dict[str, Any] = {"temperature": 1.5, "seed": 8, "top_k": 0, "min_p": 0, "top_p": 1.0}


@pytest.fixture
def tiny() -> Iterator[Model]:
    """A calibrated model on the default core."""
    with Model.load(variant_path("calibrated")) as model:
        yield model


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return (
        wide
        - np.log(np.exp(wide - wide.max(axis=-1, keepdims=True)).sum(-1, keepdims=True))
        - (wide.max(axis=-1, keepdims=True))
    )


# -- options -----------------------------------------------------------------------------------


def test_options_and_signatures_do_not_drift() -> None:
    assert set(SamplerOptions.__annotations__) == {field.name for field in fields(SamplerConfig)}
    for method in (Model.generate, Model.create_completion, Model.create_chat_completion):
        parameters = inspect.signature(method).parameters
        assert set(GenerateOptions.__annotations__) < set(parameters)
        assert parameters["temperature"].default == SamplerConfig().temperature
        assert parameters["logit_bias"].default == {}


def test_unknown_and_senseless_arguments(tiny: Model) -> None:
    with pytest.raises(TypeError, match="'top_q'"):
        tiny.generate("a", top_q=1)  # type: ignore[call-arg]
    for options, message in (
        ({"logit_bias": {270: 1.0}}, "logit_bias: token id 270"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"keep": -1}, "keep"),
        ({"keep": 47, "context_shift": True}, "keep: 47 tokens leave no room"),
        ({"max_tokens": None, "context_shift": True}, "max_tokens"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"n": 0}, "n must be"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt": ["a", [1]], "max_tokens": -1}, "max_tokens"),
        ({"prompt": ["a", 1]}, "prompt: expected"),
        ({"prompt": []}, "prompt: the list is empty"),
        ({"prompt": ["a", [270]]}, "token id 270"),
    ):
        for stream in (False, True):
            with pytest.raises(ArgumentError, match=message):
                tiny.create_completion(**{"prompt": "a", "stream": stream, **options})
    with pytest.raises(ContextFullError, match="49 tokens"):
        tiny.create_completion([[1], [1] * 49], stream=True)


# -- generation --------------------------------------------------------------------------------


def test_penalties_count_what_was_drawn(tiny: Model) -> None:
    """With a forbidding penalty no token comes twice, though the prompt's may come again."""
    for name in ("frequency_penalty", "presence_penalty"):
        made = greedy(tiny, [1, 2, 3], 40, **{name: 1e6})
        assert len(set(made)) == len(made)
    first = greedy(tiny, [1, 2, 3], 1)[0]
    assert greedy(tiny, [1, 2, 3], 1, presence_penalty=1e6) == [first]


def test_logit_bias(tiny: Model) -> None:
    first = greedy(tiny, [1, 2, 3], 8)
    without = greedy(tiny, [1, 2, 3], 8, logit_bias={first[0]: -float("inf")})
    assert first[0] not in without
    assert greedy(tiny, [1, 2, 3], 8, logit_bias={7: 1e6}) == [7] * 8


def test_as_many_tokens_as_the_context_holds(tiny: Model) -> None:
    tiny.create_completion([1, 2, 3], None, temperature=0)
    assert tiny.stats.finish_reason == "context"
    assert tiny.stats.n_tokens == tiny.context - 2


class CancelAfter(Cancel):
    """Cancels when its reason was asked for so many times."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.asked = asked

    @property
    def reason(self) -> str:
        self.asked -= 1
        return "" if self.asked >= 0 else "enough"


def test_cancel_between_tokens_and_within_a_prompt(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "a.gguf", context=6 * Limit.BATCH)
    prompt = [1] * (3 * Limit.BATCH + 8)
    with Model.load(path) as model:
        wanted = greedy(model, prompt, 5)
    with Model.load(path) as model:
        # The prompt is read in four parts; what was read stays.
        read, rest = 2 * Limit.BATCH, Limit.BATCH + 8
        for asked, evaluated, made in ((0, 0, 0), (2, read, 0), (4, rest + 2, 3), (4, 4, 4)):
            cancel = CancelAfter(asked)
            assert greedy(model, prompt, 50, cancel=cancel) == wanted[:made]
            assert model.stats.finish_reason == "enough"
            assert model.stats.evaluated_tokens == evaluated
        assert greedy(model, prompt, 5) == wanted


def test_cancel_from_another_thread(tmp_path: Path) -> None:
    path = tiny_model.write(
        tmp_path / "a.gguf", context=1 << 16, keys={"tokenizer.ggml.eos_token_id": None}
    )
    with Model.load(path, context=1 << 16) as model:
        cancel = Cancel()
        run = model.start("ab", None, temperature=0, cancel=cancel)
        next(run)
        timer = threading.Timer(0.05, cancel.cancel)
        timer.start()
        count = sum(1 for _ in run)
        timer.join()
        assert run.stats.finish_reason == "cancelled"
        assert count < 65_000
        assert list(model.generate("ab", 10, cancel=cancel)) == []
        cancel.cancel("another reason")
        assert cancel.reason == "cancelled"


def test_time_limit(tiny: Model) -> None:
    assert list(tiny.generate("ab", 10, cancel=Cancel(0.0))) == []
    assert tiny.stats.finish_reason == "time"
    assert len(greedy(tiny, "ab", 10, cancel=Cancel(600))) == 10
    assert tiny.stats.finish_reason == "length"


@pytest.mark.parametrize(("keep", "prompt"), [(0, [5, 6, 7]), (4, list(IDS)), (0, [END, *IDS])])
def test_context_shift(keep: int, prompt: list[int]) -> None:
    """Equal to evaluating what is left of the text from nothing, every time."""
    path, count = variant_path("f32"), 90
    with Model.load(path, context=24) as model:
        window, wanted, shifts = list(prompt), [], 0
        kept = max(keep, 1) if prompt[0] == END else keep
        for _ in range(count):
            if len(window) > 24:
                del window[kept : kept + (len(window) - kept) // 2]
                shifts += 1
            wanted.append(int(model.logits(window)[-1].argmax()))
            window.append(wanted[-1])
        assert END not in wanted, "the test needs a text that goes on"
    with Model.load(path, context=24) as model:
        assert greedy(model, prompt, count, context_shift=True, keep=keep) == wanted
        assert model.stats.finish_reason == "length"
        assert model.stats.context_shifts == shifts > 3
        # Another run in between changes nothing.
        run = model.generate(prompt, count, temperature=0, context_shift=True, keep=keep)
        stats = model.stats
        for _ in run:
            model.logits([3, 4])
        assert stats.token_ids == wanted


def test_scores(tiny: Model) -> None:
    run = tiny.start(list(IDS[:5]), 20, logprobs=3, **DRAWN)
    pieces = list(run)
    scores = [scored for piece in pieces for _, scored in piece.scores]
    made = run.stats.token_ids
    assert [scored.token for scored in scores] == made
    wanted = log_softmax(tiny.logits([*IDS[:5], *made])[4:-1])
    bound = 1e-4 if tiny.core.isa == "amx" else 1e-5  # whose prompts have numbers of 16 bits
    for row, scored in zip(wanted, scores, strict=True):
        assert scored.logprob == pytest.approx(row[scored.token], abs=bound)
        order = np.argsort(-row, kind="stable")[:3]
        assert [token for token, _ in scored.top] == order.tolist()
        assert [value for _, value in scored.top] == pytest.approx(row[order], abs=bound)
    text = "".join(piece.text for piece in pieces)
    offsets = [at for piece in pieces for at, _ in piece.scores]
    assert offsets == sorted(offsets)
    assert all(0 <= at <= len(text) for at in offsets)
    assert list(tiny.token_scores([1])) == list(tiny.token_scores([])) == []


def test_scores_of_a_stopped_text_are_those_of_what_is_shown(tiny: Model) -> None:
    whole = tiny.create_completion("ab", 40, logprobs=0, **DRAWN)["choices"][0]
    assert whole["logprobs"] is not None
    stop = whole["text"][8:12]
    stopped = tiny.create_completion("ab", 40, logprobs=0, stop=stop, **DRAWN)["choices"][0]
    assert stopped["finish_reason"] == stopped["stop_reason"] == "stop"
    shown = whole["text"][: whole["text"].index(stop)]
    assert stopped["text"] == shown
    assert stopped["logprobs"] is not None
    count = sum(1 for at in whole["logprobs"]["text_offset"] if at < len(shown))
    assert stopped["logprobs"]["tokens"] == whole["logprobs"]["tokens"][:count]


# -- dictionaries ------------------------------------------------------------------------------


def test_completion(tiny: Model) -> None:
    answer = tiny.create_completion("ab cd", 12, temperature=0)
    text = "".join(tiny.generate("ab cd", 12, temperature=0))
    prompt = tiny.tokenize("ab cd")
    choice = {
        "text": text,
        "index": 0,
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": "length",
    }
    assert answer["choices"] == [choice]
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == tiny.config.name
    assert answer.get("usage") == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 12,
        "total_tokens": len(prompt) + 12,
    }
    assert tiny.create_completion(prompt, 12, temperature=0)["choices"] == [choice]
    assert tiny.create_completion(np.array(prompt), 12, temperature=0)["choices"] == [choice]  # type: ignore[call-overload]
    assert tiny.create_completion("ab", model="other")["model"] == "other"


def test_several_prompts_and_choices(tiny: Model) -> None:
    prompts = ["ab", "cd a"]
    answer = tiny.create_completion(prompts, 10, n=2, **DRAWN)
    alone = [
        tiny.create_completion(prompt, 10, **{**DRAWN, "seed": 8 + k})["choices"][0]["text"]
        for prompt in prompts
        for k in range(2)
    ]
    assert [choice["text"] for choice in answer["choices"]] == alone
    assert len(set(alone)) == 4
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    usage = answer["usage"]
    assert usage is not None
    assert usage["prompt_tokens"] == sum(len(tiny.tokenize(prompt)) for prompt in prompts)
    assert usage["completion_tokens"] <= 40


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_adds_up_to_the_answer(tiny: Model, logprobs: int | None) -> None:
    options: dict[str, Any] = {**DRAWN, "n": 2, "echo": True, "logprobs": logprobs, "stop": "q"}
    whole = tiny.create_completion(["ab", [1, 2]], 15, **options)
    chunks: list[Completion] = list(
        tiny.create_completion(
            ["ab", [1, 2]], 15, stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    parts = [part for chunk in chunks for part in chunk["choices"]]
    for choice in whole["choices"]:
        mine = [part for part in parts if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"] is not None
        if choice["logprobs"] is None:
            assert logprobs is None
            continue
        for name, values in choice["logprobs"].items():
            joined = [value for part in mine for value in (part["logprobs"] or {})[name]]  # type: ignore[literal-required]
            assert joined == values
    without = list(tiny.create_completion("ab", 5, stream=True, temperature=0))
    assert all("usage" not in chunk for chunk in without)


def test_echo_scores_the_prompt(tiny: Model) -> None:
    text = "ab cdab x, cd"
    answer = tiny.create_completion(text, 0, echo=True, logprobs=1)
    (choice,) = answer["choices"]
    assert choice["text"] == text
    assert choice["finish_reason"] == "length"
    logprobs = choice["logprobs"]
    assert logprobs is not None
    ids = tiny.tokenize(text)
    wanted = log_softmax(tiny.logits(ids))
    assert logprobs["token_logprobs"][0] is None is logprobs["top_logprobs"][0]
    assert logprobs["token_logprobs"][1:] == pytest.approx(
        [row[token] for row, token in zip(wanted, ids[1:], strict=False)], abs=1e-5
    )
    assert "".join(logprobs["tokens"]) == text
    starts = [len("".join(logprobs["tokens"][:count])) for count in range(len(ids))]
    assert logprobs["text_offset"] == starts
    longer = tiny.create_completion(text, 5, echo=True, logprobs=1, temperature=0)["choices"][0]
    assert longer["logprobs"] is not None
    assert longer["logprobs"]["tokens"][: len(ids)] == logprobs["tokens"]
    assert longer["logprobs"]["text_offset"][len(ids)] == len(text)
    assert longer["text"] == text + "".join(tiny.generate(text, 5, temperature=0))


def test_echo_of_a_text_that_begins_with_a_token_of_its_own(tmp_path: Path) -> None:
    with Model.load(tiny_model.write(tmp_path / "a.gguf", add_bos=True)) as model:
        for prompt, offsets in (("ab", [0, 0]), ("<|end|>ab", [0, 7])):
            (choice,) = model.create_completion(prompt, 0, echo=True, logprobs=0)["choices"]
            assert choice["text"] == prompt
            assert choice["logprobs"] is not None
            assert choice["logprobs"]["text_offset"] == offsets
        # The two bytes of é are two tokens.
        (choice,) = model.create_completion("aéa", 0, echo=True, logprobs=0)["choices"]
        assert choice["logprobs"] is not None
        assert choice["logprobs"]["tokens"][1:] == ["a", "\ufffd", "\ufffd", "a"]
        assert choice["logprobs"]["text_offset"] == [0, 0, 1, 1, 2]


def test_a_closed_stream_frees_the_model(tiny: Model) -> None:
    stream = tiny.create_completion("ab", 40, stream=True, temperature=0)
    next(stream)
    stream.close()
    assert tiny.stats.evaluated_tokens > 0
    assert len(greedy(tiny, "ab", 5)) == 5


def test_the_same_on_every_host(host_core: Any) -> None:
    options: dict[str, Any] = {"temperature": 0, "logprobs": 2, "echo": True}
    with Model.load(variant_path("f32")) as model:
        (choice,) = model.create_completion("ab cd", 12, **options)["choices"]
        assert choice["logprobs"] is not None
        made = model.stats.token_ids
        wanted = log_softmax(model.logits(model.tokenize("ab cd") + made))
        assert choice["logprobs"]["token_logprobs"][-1] == pytest.approx(
            wanted[-2][made[-1]], abs=1e-5
        )


# -- conversations -----------------------------------------------------------------------------

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MESSAGES = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}]


@pytest.fixture
def chatty(tmp_path: Path) -> Iterator[Model]:
    """A model with a chat template."""
    keys = {"tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.bos_token_id": END}
    path = tiny_model.write(tmp_path / "chat.gguf", keys=keys, context=128, add_bos=True)
    with Model.load(path) as model:
        yield model


def test_bos_stands_once(chatty: Model) -> None:
    assert chatty.tokenize("ab")[0] == END
    assert chatty.tokenize("<|end|>ab") == chatty.tokenize("ab")
    assert chatty.tokenize("<|end|>ab", add_bos=True) == [END, *chatty.tokenize("ab")]
    assert chatty.tokenize("ab", add_bos=False) == chatty.tokenize("ab")[1:]
    for template in ("{{ messages[0].content }}", "{{ bos_token + messages[0].content }}"):
        chatty.create_chat_completion(MESSAGES, 1, chat_template=template)
        assert chatty.stats.prompt_token_ids == chatty.tokenize(MESSAGES[0]["content"])


def test_a_seed_below_0_is_a_different_one_each_time(chatty: Model) -> None:
    options: dict[str, Any] = {"temperature": 5, "top_k": 0, "top_p": 1, "min_p": 0, "seed": -1}
    choices = chatty.create_completion("ab", 20, n=3, **options)["choices"]
    assert len({choice["text"] for choice in choices}) == 3


def test_chat_completion(chatty: Model) -> None:
    answer = chatty.create_chat_completion(MESSAGES, 9, temperature=0)
    ids = chatty.tokenize("system: ab<|end|>user: cd<|end|>assistant:")
    assert ids[0] == END  # the template has no BOS token, and the file wants one
    assert chatty.stats.prompt_token_ids == ids
    text = "".join(chatty.generate(ids, 9, temperature=0))
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": "length",
        }
    ]
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 9,
        "total_tokens": len(ids) + 9,
    }
    # The next turn finds the conversation in the cache.
    turn = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "a"}]
    chatty.create_chat_completion(turn, 1, temperature=0)
    assert chatty.stats.evaluated_tokens <= len(chatty.stats.prompt_token_ids) - len(ids)


def test_variables_of_the_chat_template(chatty: Model) -> None:
    said = "{% for each in messages %}{{ each.content }}{% endfor %}"
    template = said + "{{ 'x' if enable_thinking else 'y' }}{{ 'z' * times | default(0) }}"
    for variables, prompt in (
        ({"enable_thinking": True, "times": 2}, "abcdxzz"),
        ({"times": 0}, "abcdy"),
    ):
        chatty.create_chat_completion(
            MESSAGES, 1, chat_template=template, chat_template_kwargs=variables
        )
        assert chatty.stats.prompt_token_ids == chatty.tokenize(prompt)
    for wrong in (*TAKEN_NAMES, 3):
        with pytest.raises(ArgumentError, match=f"chat_template_kwargs: .* {wrong!r}"):
            chatty.create_chat_completion(MESSAGES, 1, chat_template_kwargs={wrong: 1})
    with pytest.raises(ArgumentError, match="too much time or space"):
        chatty.create_chat_completion(
            MESSAGES, 1, chat_template=template, chat_template_kwargs={"times": 10**9}
        )


def test_chat_logprobs_and_templates(chatty: Model) -> None:
    answer = chatty.create_chat_completion(
        MESSAGES, 9, temperature=0, logprobs=True, top_logprobs=2, chat_template="chatml"
    )
    assert chatty.detokenize(chatty.stats.prompt_token_ids).startswith("<|im_start|>system\nab")
    (choice,) = answer["choices"]
    assert choice["logprobs"] is not None
    content = choice["logprobs"]["content"]
    raw = bytes(byte for each in content for byte in each["bytes"])
    assert raw.decode("utf-8", "replace") == choice["message"]["content"]
    for each in content:
        assert len(each["top_logprobs"]) == 2
        assert each["top_logprobs"][0]["logprob"] == each["logprob"] < 0
        assert each["top_logprobs"][0]["token"] == each["token"]


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_chat_stream_adds_up_to_the_answer(chatty: Model, logprobs: bool) -> None:
    options: dict[str, Any] = {**DRAWN, "n": 2, "logprobs": logprobs, "top_logprobs": 1}
    whole = chatty.create_chat_completion(MESSAGES, 9, **options)
    chunks = list(
        chatty.create_chat_completion(
            MESSAGES, 9, stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["usage"] == whole["usage"]
    parts = [part for chunk in chunks for part in chunk["choices"]]
    for choice in whole["choices"]:
        mine = [part for part in parts if part["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(part["delta"].get("content", "") for part in mine)
        assert text == choice["message"]["content"]
        assert mine[-1]["delta"] == {}
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        scores = [each for part in mine if part["logprobs"] for each in part["logprobs"]["content"]]
        assert scores == (choice["logprobs"]["content"] if choice["logprobs"] else [])
        assert bool(scores) == logprobs


def test_chat_needs_a_template_and_messages(tiny: Model, chatty: Model) -> None:
    with pytest.raises(UnsupportedError, match="chatml"):
        tiny.create_chat_completion(MESSAGES)
    with pytest.raises(ArgumentError, match="messages"):
        chatty.create_chat_completion([], stream=True)


# -- vectors -----------------------------------------------------------------------------------


def test_embed(tiny: Model) -> None:
    ids = tiny.tokenize("ab cd é")
    states = tiny.hidden_states(ids).astype(np.float64)
    for pooling, wanted in (("mean", states.mean(axis=0)), ("last", states[-1])):
        raw = tiny.embed("ab cd é", normalize=False, pooling=pooling)  # type: ignore[arg-type]
        assert raw.dtype == np.float32
        assert raw.shape == (tiny.config.d,)
        np.testing.assert_allclose(raw, wanted, rtol=1e-5, atol=1e-6)
        unit = tiny.embed(ids, pooling=pooling)  # type: ignore[arg-type]
        np.testing.assert_allclose(unit, wanted / np.linalg.norm(wanted), rtol=1e-5, atol=1e-6)
    several = tiny.embed(["ab", "cd", ids])
    assert several.shape == (3, tiny.config.d)
    for row, text in zip(several, ("ab", "cd", ids), strict=True):
        assert np.array_equal(row, tiny.embed(text))
    assert tiny.embed([]).shape == (0, tiny.config.d)
    # Names of control tokens are plain text here.
    assert not np.array_equal(tiny.embed("<|end|>"), tiny.embed([END]))
    assert np.array_equal(tiny.embed(""), tiny.embed([END]))


def test_create_embedding(tiny: Model) -> None:
    answer = tiny.create_embedding(["ab", "cd ab"], model="name")
    vectors = tiny.embed(["ab", "cd ab"])
    assert [each["embedding"] for each in answer["data"]] == vectors.tolist()
    assert [each["index"] for each in answer["data"]] == [0, 1]
    count = len(tiny.tokenize("ab")) + len(tiny.tokenize("cd ab"))
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert answer["model"] == "name"
    with pytest.raises(ContextFullError, match="49 tokens"):
        tiny.create_embedding([[1], [1] * 49])
    for text, message in ((["a", 3], "input"), ([[1], [270]], "token id 270")):
        with pytest.raises(ArgumentError, match=message):
            tiny.create_embedding(text)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="one of 'mean', 'cls', 'last', got 'max'"):
        tiny.embed("a", pooling="max")  # type: ignore[arg-type]


PYODIDE = """
import json
import sparsefire as sf

with sf.Model.load("/completion.gguf") as model:
    options = dict(temperature=0, logprobs=1, echo=True)
    whole = model.create_completion("ab cd", 10, **options)["choices"][0]
    chunks = list(model.create_completion("ab cd", 10, stream=True, **options))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    cancelled = model.create_completion("ab", 10, cancel=sf.Cancel(0.0))
    assert cancelled["choices"][0]["stop_reason"] == "time"
    found = dict(choice=whole, vector=model.embed("ab cd").tolist())
json.dumps(found)
"""


@pytest.mark.pyodide
def test_completions_in_pyodide(pyodide_node: PyodideRuntime) -> None:
    path = variant_path("f32")
    pyodide_node.write("/completion.gguf", path.read_bytes())
    there = json.loads(pyodide_node.run(PYODIDE))
    with Model.load(path) as model:
        options: dict[str, Any] = {"temperature": 0, "logprobs": 1, "echo": True}
        (here,) = model.create_completion("ab cd", 10, **options)["choices"]
        assert there["choice"]["text"] == here["text"]
        assert here["logprobs"] is not None
        wanted = here["logprobs"]["token_logprobs"]
        assert there["choice"]["logprobs"]["token_logprobs"] == pytest.approx(wanted, abs=1e-4)
        assert there["vector"] == pytest.approx(model.embed("ab cd").tolist(), abs=1e-4)
