"""Workers for batches: what they make of a row is what a single call makes of it, in every kind of
batch."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from conftest import missing
from sparsefire.batch import (
    LLM,
    Chat,
    Classifier,
    Embedder,
    Generator,
    SamplingParams,
    Scorer,
    close_models,
    settings,
)
from sparsefire.errors import ArgumentError, ModelFileError
from sparsefire.lm.model import Model

try:
    import pandas as pd
    import pyarrow as pa
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[batch]' pandas")

PROMPTS = [
    "The people of",
    "In the year that has passed, the Congress of the United States",
    "In the year that has passed, the Congress of the United Nations",
    "War",
]
GREEDY: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "threads": 1}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load() as found:
        yield found
    close_models()


@pytest.fixture(scope="module")
def expected(model: Model) -> list[str]:
    return ["".join(model.generate(each, 6, temperature=0)) for each in PROMPTS]


def test_every_kind_of_batch(expected: list[str]) -> None:
    generate = Generator(**GREEDY)
    rows = [{"prompt": each, "key": place} for place, each in enumerate(PROMPTS)]
    frame = pd.DataFrame(rows, index=[5, 6, 7, 8])
    columns = {"prompt": PROMPTS, "key": [0, 1, 2, 3]}
    arrays = {"prompt": np.array(PROMPTS), "key": np.arange(4)}

    found = generate(rows)
    assert [row["generated_text"] for row in found] == expected
    assert [row["key"] for row in found] == [0, 1, 2, 3]
    assert [row["completion_tokens"] for row in found] == [6] * 4
    assert {row["finish_reason"] for row in found} == {"length"}
    assert generate(columns)["generated_text"] == expected
    lists = generate(arrays)
    assert lists["generated_text"].tolist() == expected
    assert lists["prompt_tokens"].dtype == np.int64
    for kind in (pa.RecordBatch, pa.Table):
        table = generate(kind.from_pylist(rows))
        assert isinstance(table, kind)
        assert table.column("generated_text").to_pylist() == expected
        assert table.schema.field("error").type == pa.string()  # though all are null
    framed = generate(frame)
    assert framed["generated_text"].tolist() == expected
    assert framed.index.tolist() == [5, 6, 7, 8]
    assert generate([]) == []


def test_a_bad_row_is_an_error_of_its_own(expected: list[str]) -> None:
    generate = Generator(**GREEDY)
    rows: list[dict[str, Any]] = [
        {"prompt": PROMPTS[0]},
        {"prompt": None},
        {"text": "?"},
        {"prompt": 3},
        {"prompt": "a " * 5000},
        {"prompt": PROMPTS[0], "sampling_params": {"temperature": -1}},
        {"prompt": PROMPTS[0], "sampling_params": "no JSON"},
        {"prompt": PROMPTS[0], "sampling_params": {"tempature": 1}},
        {"prompt": PROMPTS[0], "sampling_params": {"mode": "dense"}},
        {"prompt": PROMPTS[3]},
    ]
    found = generate(rows)
    assert [row["generated_text"] for row in found] == [expected[0], *[None] * 8, expected[3]]
    errors = [row["error"] for row in found]
    assert errors[0] is errors[-1] is None
    wanted = ("empty", "no column", "token ids", "context", "temperature", "JSON", "tempature")
    for error, words in zip(errors[1:-1], (*wanted, "the worker's"), strict=True):
        assert words in error
    frame = pd.DataFrame({"prompt": pd.Series([PROMPTS[0], pd.NA], dtype="string")})
    assert "empty" in generate(frame)["error"][1]
    arrays = Embedder(threads=1)({"text": np.array([PROMPTS[0], "a " * 5000])})
    assert np.isfinite(arrays["embedding"][0]).all()
    assert np.isnan(arrays["embedding"][1]).all()


def test_what_is_wrong_with_a_batch_or_a_worker() -> None:
    generate = Generator(**GREEDY)
    batches: list[tuple[Any, str]] = [
        (PROMPTS, "must be a dictionary of columns"),
        ({"prompt": PROMPTS, "key": [1]}, "not equally long"),
        ({"prompt": "War"}, "must be a list or an array"),
        (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "several columns"),
    ]
    for batch, words in batches:
        with pytest.raises(ArgumentError, match=words):
            generate(batch)
    for options, words in (
        ({"template": "War"}, "names no column"),
        ({"template": "{a.b}"}, "does not name a column"),
        ({"columns": {"prompts": "q"}}, "'prompts' is none of"),
        ({"options": 5}, "options must be"),
        ({"top_p": 2}, "top_p"),
    ):
        given: Any = options
        with pytest.raises(ArgumentError, match=words):
            Generator(**given)
    for choices in ([], [""], "yes"):
        with pytest.raises(ArgumentError, match="choices"):
            Classifier(choices=choices)


def test_columns_have_the_names_that_the_user_gives(expected: list[str]) -> None:
    names = {"generated_text": "answer", "finish_reason": None, "error": "wrong"}
    generate = Generator(template="{first} {second}", columns=names, **GREEDY)
    (row,) = generate([{"first": "The people", "second": "of"}])
    assert row["answer"] == expected[0]
    assert set(row) == {"first", "second", "answer", "prompt_tokens", "completion_tokens", "wrong"}
    (row,) = Generator(columns={"prompt": "q"}, **GREEDY)([{"q": PROMPTS[3]}])
    assert row["generated_text"] == expected[3]
    with pytest.raises(ArgumentError, match="no column 'prompt'; it has: q"):
        Generator(**GREEDY)({"q": PROMPTS})


def test_options_of_single_rows(model: Model) -> None:
    params = [{"seed": 3, "max_tokens": 4}, {"seed": 4, "max_tokens": 5, "temperature": 1.5}, None]
    rows = [{"prompt": PROMPTS[1], "sampling_params": each} for each in params]
    found = Generator(max_tokens=3, seed=9, threads=1)(rows)
    for row, each in zip(found, params, strict=True):
        given = {"max_tokens": 3, "seed": 9, **(each or {})}
        assert row["generated_text"] == "".join(model.generate(PROMPTS[1], **given))
    as_json = [{**row, "sampling_params": json.dumps(row["sampling_params"])} for row in rows[:2]]
    found = Generator(max_tokens=3, threads=1)(as_json)
    assert [row["completion_tokens"] for row in found] == [4, 5]


def test_chats(model: Model) -> None:
    chat = Chat(system="Be brief.", chat_template="chatml", **GREEDY)
    messages = [{"role": "user", "content": "Hello"}]
    whole = [{"role": "system", "content": "Be brief."}, *messages]
    answer = model.create_chat_completion(whole, 6, temperature=0, chat_template="chatml")
    expected = answer["choices"][0]["message"]["content"]
    rows = [{"messages": messages}, {"messages": json.dumps(messages)}, {"messages": [{"a": 1}]}]
    found = chat([*rows, {"messages": 5}, {"messages": np.array(messages)}])
    assert [row["generated_text"] for row in found] == [expected, expected, None, None, expected]
    assert all("messages" in row["error"] for row in found[2:4])
    arrow = chat(pa.RecordBatch.from_pylist(rows[:1]))
    assert arrow.column("generated_text").to_pylist() == [expected]
    templated = Chat(system="Be brief.", chat_template="chatml", template="{greeting}", **GREEDY)
    assert templated([{"greeting": "Hello"}])[0]["generated_text"] == expected


def test_embeddings(model: Model) -> None:
    found = Embedder(pooling="last", threads=1)({"text": np.array(PROMPTS)})
    expected = model.embed(PROMPTS, pooling="last")
    np.testing.assert_array_equal(found["embedding"], expected)
    assert found["embedding"].dtype == np.float32
    table = Embedder(threads=1)(pa.Table.from_pydict({"text": PROMPTS}))
    np.testing.assert_array_equal(table.column("embedding").to_pylist(), model.embed(PROMPTS))


def test_scores(model: Model) -> None:
    context, continuations = "The people of the United ", ["States", "banana republic"]
    rows = [{"context": context, "continuation": each} for each in continuations]
    found = Scorer(threads=1)(rows)
    for row, continuation in zip(found, continuations, strict=True):
        ids = model.tokenize(context + continuation, special=False)
        first = len(model.tokenize(context.rstrip(), special=False))
        scores = list(model.token_scores(ids, 1))[first - 1 :]
        assert row["logprob"] == sum(each.logprob for each in scores)
        assert row["is_greedy"] == all(each.top[0][0] == each.token for each in scores)
        assert row["scored_tokens"] == len(ids) - first
        (again,) = Scorer(threads=1)([{"context": ids[:first], "continuation": ids[first:]}])
        assert again["logprob"] == row["logprob"]
    (alone,) = Scorer(threads=1)([{"continuation": PROMPTS[0]}])
    bos = model.tokenizer.bos
    assert bos is not None
    ids = [bos, *model.tokenize(PROMPTS[0], add_bos=False)]
    assert alone["logprob"] == sum(each.logprob for each in model.token_scores(ids))
    (empty,) = Scorer(threads=1)([{"context": "The people", "continuation": ""}])
    assert "no token to score" in empty["error"]
    (empty,) = Scorer(threads=1)([{"context": [], "continuation": [5]}])
    assert "a token id or more" in empty["error"]

    classify = Classifier(choices=continuations, template="The people of the {text} ", threads=1)
    (chosen,) = classify([{"text": "United"}])
    assert chosen["label"] == "States"
    wanted = np.array([row["logprob"] for row in found], np.float32)
    np.testing.assert_array_equal(chosen["label_scores"], wanted)


def test_lists_of_prompts(model: Model, expected: list[str]) -> None:
    llm = LLM(threads=1)
    greedy = SamplingParams(temperature=0, max_tokens=6, top_k=-1)
    found = llm.generate([*PROMPTS, "a " * 5000], greedy)
    assert [each.outputs[0].text for each in found[:-1]] == expected
    assert [each.prompt for each in found[:-1]] == PROMPTS
    assert found[0].prompt_token_ids == model.tokenize(PROMPTS[0])
    assert found[-1].outputs == []
    assert "context" in str(found[-1].error)
    several = SamplingParams(n=2, seed=5, max_tokens=4, logprobs=1, stop=["."])
    (drawn,) = llm.generate(PROMPTS[0], several)
    for index, output in enumerate(drawn.outputs):
        options: Any = several.options(index)
        run = model.start(PROMPTS[0], **options)
        pieces = list(run)
        assert output.text == "".join(piece.text for piece in pieces)
        assert output.logprobs == [scored for piece in pieces for _, scored in piece.scores]
    messages = [{"role": "user", "content": "Hello"}]
    answer = model.create_chat_completion(messages, 6, temperature=0, chat_template="chatml")
    (chat,) = llm.chat(messages, greedy, chat_template="chatml")
    assert chat.outputs[0].text == answer["choices"][0]["message"]["content"]
    vectors = [each.outputs.embedding for each in llm.embed(PROMPTS)]
    np.testing.assert_array_equal(vectors, model.embed(PROMPTS))
    with pytest.raises(ArgumentError, match="2 for 4 prompts"):
        llm.generate(PROMPTS, [greedy, greedy])
    (by_ids,) = llm.generate(np.array(found[0].prompt_token_ids), greedy)
    assert by_ids.outputs[0].text == expected[0]
    for ask in (llm.generate, llm.embed, llm.chat):
        nothing: Any = None
        with pytest.raises(ArgumentError, match="got None"):
            ask(nothing)
    for name, value in (("temperature", -1), ("top_k", -2), ("logprobs", -1), ("stop", 5)):
        given: Any = {name: value}
        with pytest.raises(ArgumentError, match=name):
            SamplingParams(**given)


def test_a_process_loads_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    close_models()
    loads: list[Any] = []
    load = settings._load
    monkeypatch.setattr(settings, "_load", lambda given: loads.append(given) or load(given))
    generate = pickle.loads(pickle.dumps(Generator(**GREEDY)))
    assert loads == []
    for each in (generate, Embedder(threads=1), Generator(max_tokens=2, threads=1)):
        each([{"prompt": "a", "text": "b"}])
    assert len(loads) == 1
    with pytest.raises(ModelFileError, match="nowhere"):
        Generator("nowhere.gguf")([{"prompt": "a"}])


def test_several_processes_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSEFIRE_THREADS", raising=False)
    plain = settings.ModelSettings()
    assert [plain.on("local", each).threads for each in (None, 1, 2)] == [None, None, 1]
    assert plain.on("ray", None).threads == 1
    assert settings.ModelSettings(threads=3).on("dask", 2).threads == 3
    monkeypatch.setenv("SPARSEFIRE_THREADS", "2")
    assert plain.on("dask", None).threads == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Generator(temperature=-1), "temperature"),
        (lambda: Generator(tempature=1), "tempature"),
        (lambda: Generator(template="{0}"), "template"),
        (lambda: Generator(columns={"promt": "p"}), "promt"),
        (lambda: Generator(threads=0), "threads"),
        (lambda: Classifier(choices=[]), "choices"),
        (lambda: Classifier(choices=["a"], labels=["b", "c"]), "labels"),
        (lambda: Generator()(3), "a batch must be"),
        (lambda: Generator()({"prompt": ["a"], "b": [1, 2]}), "equally long"),
        (lambda: SamplingParams(n=0), "n must be"),
    ],
)
def test_wrong_arguments(make: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()
