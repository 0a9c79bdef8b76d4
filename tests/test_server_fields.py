"""The fields of requests, and the document that describes them, which schemathesis tries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from conftest import missing
from server_harness import Running, Start, fails
from sparsefire.errors import ArgumentError
from sparsefire.lm.chat import TAKEN_NAMES
from sparsefire.lm.generation import Cancel
from sparsefire.lm.model import Model
from sparsefire.serve.fields import Limits
from sparsefire.serve.requests import Requests

pytest_plugins = ("server_fixtures",)

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 6}
TEXT: dict[str, Any] = {"prompt": "ab", "max_tokens": 6}
GREEDY: dict[str, Any] = {"temperature": 0}


def test_fields_that_nobody_knows_are_refused(shared: Running) -> None:
    for path, body in (
        ("completions", TEXT),
        ("chat/completions", CHAT),
        ("embeddings", {"input": "ab"}),
    ):
        fails(shared.post(path, **body, pirates=1), 400, '"pirates"', param="pirates")
        response = shared.post(path, **body, strem=True)
        fails(response, 400, "strem", *["'stream'"] * (path != "embeddings"), param="strem")
        assert response.json()["error"]["code"] == "unknown_parameter"
        # null is no value.
        assert shared.post(path, **body, pirates=None).status_code == 200
    for name in ("grammar", "guided_json", "reasoning_effort", "web_search_options", "prediction"):
        fails(shared.post("chat/completions", **CHAT, **{name: "x"}), 400, name, param=name)
    fails(shared.post("embeddings", input="ab", temperature=0), 400, param="temperature")
    response = shared.post("completions", **TEXT, stream_options={"include_usage": True, "x": 1})
    fails(response, 400, "stream_options.x", param="stream_options.x")
    fails(shared.post("completions", **TEXT, **{"x" * 5000: 1}), 400, "…", param="x" * 64)


def test_fields_that_change_no_answer(shared: Running) -> None:
    harmless: dict[str, Any] = {
        "user": "me",
        "safety_identifier": "me",
        "metadata": {"topic": "letters"},
        "store": False,
        "service_tier": "auto",
        "prompt_cache_key": "a",
        "stream_options": {"include_usage": True},
        "stop": None,
        "n": 1.0,
        "speculation": True,
    }
    for path, body in (("completions", TEXT), ("chat/completions", CHAT)):
        wanted = shared.post(path, **body, **GREEDY).json()["choices"]
        assert shared.post(path, **body, **GREEDY, **harmless).json()["choices"] == wanted
    tools = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}}
    answer = shared.post("chat/completions", **CHAT, **GREEDY, **tools)
    assert answer.json()["choices"] == wanted
    fails(shared.post("completions", **TEXT, store=True), 400, "store", param="store")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_completion_tokens": 5}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": "x"}]}, "messages"),
        ({"temperature": 1e400}, "temperature"),
        ({"store": 0}, "store"),
        ({"repetition_penalty": True}, "repetition_penalty"),
        ({"repeat_penalty": 5e-324}, "repeat_penalty"),
        ({"presence_penalty": 1e308}, "presence_penalty"),
        ({"logit_bias": {str(token): -100 for token in range(270)}}, "logit_bias"),
        ({"seed": 1 << 64}, "seed"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        *[({"chat_template_kwargs": {name: "x"}}, "chat_template_kwargs") for name in TAKEN_NAMES],
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_values_that_are_refused(shared: Running, body: dict[str, Any], param: str) -> None:
    content = json.dumps({**CHAT, **body}).replace("Infinity", "1e999")
    headers = {"content-type": "application/json"}
    response = shared.client.post("/v1/chat/completions", content=content, headers=headers)
    fails(response, 400, param, param=param)


THINKING = (
    "{{ messages[-1].content }}{% if enable_thinking is defined and not enable_thinking %}c"
    "{% endif %}{{ styles | join }}{{ 'x' * times | default(0) }}"
)


def test_variables_of_the_chat_template(model: Model) -> None:
    """The server's own, and those of a request, which come first."""
    requests = Requests(
        model, ["tiny"], Limits(), chat_template=THINKING, chat_template_kwargs={"styles": ["d"]}
    )

    def answer(**body: Any) -> tuple[int, Any]:
        call = requests.chat(json.dumps({**CHAT, **GREEDY, **body}).encode())
        (found,) = call.run(Cancel())
        return found["usage"]["prompt_tokens"], found["choices"][0]["message"]["content"]

    for variables, prompt in (
        ({}, "abd"),
        ({"enable_thinking": False}, "abcd"),
        ({"enable_thinking": True, "styles": []}, "ab"),
        ({"styles": ["e", "f"], "nobody asks": {"a": [1]}}, "abef"),
    ):
        ids = model.tokenize(prompt)
        wanted = len(ids), "".join(model.generate(ids, 6, temperature=0))
        assert answer(chat_template_kwargs=variables) == wanted
    with pytest.raises(ArgumentError, match="too much time or space"):
        answer(chat_template_kwargs={"times": 10**9})


def test_mode_of_embeddings(shared: Running) -> None:
    answers = [
        shared.post("embeddings", input="ab", **mode).json()["data"][0]["embedding"]
        for mode in ({}, {"mode": "dense"}, {"mode": "exact"})
    ]
    assert answers[0] == answers[1]
    assert answers[2] == pytest.approx(answers[1], abs=1e-5)
    response = shared.post("embeddings", input="ab", mode="sparse")
    fails(response, 400, "needs a calibrated model")


def test_the_document_lists_every_route(start: Start) -> None:
    server = start(api_key="key")
    assert server.client.get("/openapi.json").status_code == 401
    server.client.headers = {"Authorization": "Bearer key"}
    document = server.client.get("/openapi.json").json()
    found = {
        (path, method.upper()) for path in document["paths"] for method in document["paths"][path]
    }
    routes = [each for each in server.server.app.routes if isinstance(each, Route)]
    assert found == {
        (each.path.replace(":path", ""), method)
        for each in routes
        for method in (each.methods or set()) - {"HEAD"}
    }
    health = document["paths"]["/health"]["get"]
    assert "security" not in health
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["security"] == [{"key": []}]
    assert {"400", "401", "413", "429", "500"} < set(chat["responses"])
    fields = document["components"]["schemas"]["ChatRequest"]
    assert fields["additionalProperties"] == {"type": "null"}
    assert fields["properties"]["temperature"]["minimum"] == 0


# Rules between two fields, which the document cannot tell, refuse some valid bodies of completions
# and chats; and they share most fields, so that every value of every field is tried with one of
# them. The model is no reranker.
CONFIG = """
[[operations]]
include-operation-id-regex = "completion|chat|rerank"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = "completion"
phases.coverage.enabled = false
"""


def test_schemathesis_finds_nothing(start: Start, tmp_path: Path) -> None:
    """Property-based tests made from the document: wrong and right values of every field, methods,
    headers; with the same seed the same ones."""
    program = Path(sys.executable).parent / "st"
    if not program.exists():
        missing("schemathesis is not installed; pip install '.[test]'")
    server = start(Limits(max_tokens=2))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [str(program), "run", f"{server.url}/openapi.json", "--phases", "coverage,fuzzing"]
    command += ["--max-examples", "2", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 selected / 8 total" in done.stdout
    assert server.metric("requests_running") == server.metric("requests_waiting") == 0
