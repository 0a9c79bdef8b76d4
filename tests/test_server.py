"""The HTTP server: in-process, over real sockets, and with the official client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from conftest import missing
from server_harness import CONTEXT, Running, Start, fails, wait_for
from sparsefire.lm.generation import Cancel
from sparsefire.lm.model import Model
from tiny_model import END

try:
    import httpx
    import openai
except ImportError as error:
    missing(f"{error.name} is not installed; pip install '.[test]'")

from sparsefire.serve.app import Server, is_local
from sparsefire.serve.fields import Limits
from sparsefire.serve.queue import ModelQueue, QueueFullError, ShuttingDownError, TimeLimitError
from sparsefire.serve.requests import Requests

# Seconds of work, so that a test can come in between: no end is drawn, and the context holds it.
COUNT = 20_000
LONG: dict[str, Any] = {"prompt": "ab", "max_tokens": COUNT, "logit_bias": {str(END): -100}}

pytest_plugins = ("server_fixtures",)


def events(response: httpx.Response) -> list[Any]:
    """What a stream sent; the last is "[DONE]"."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]


# -- answers -----------------------------------------------------------------------------------


def test_completion(shared: Running, model: Model) -> None:
    wanted = model.create_completion("ab cd", 12, temperature=0, logprobs=1, echo=True)
    body = {"prompt": "ab cd", "max_tokens": 12, "temperature": 0, "logprobs": 1, "echo": True}
    answer = shared.post("completions", model="tiny", user="x", **body).json()
    assert answer["choices"] == wanted["choices"]
    assert answer["usage"] == wanted["usage"]
    assert answer["model"] == "tiny"
    assert shared.post("completions", prompt="ab").json()["usage"]["completion_tokens"] == 16
    # Several prompts, of text and of token ids.
    body = {"prompt": ["ab", "cd"], "n": 2, "temperature": 2, "seed": 3, "max_tokens": 9}
    answer = shared.post("completions", **body).json()
    wanted = model.create_completion(["ab", "cd"], 9, n=2, temperature=2, seed=3)
    assert answer["choices"] == wanted["choices"]
    ids = [[1, 2], [3]]
    answer = shared.post("completions", prompt=ids, max_tokens=3, temperature=0).json()
    assert answer["choices"] == model.create_completion(ids, 3, temperature=0)["choices"]


def test_values_that_change_nothing(shared: Running) -> None:
    body = {"prompt": "ab", "max_tokens": 8}
    greedy = shared.post("completions", **body, temperature=0).json()["choices"]
    harmless = {"logprobs": False, "grammar": "", "repetition_penalty": 1.0, "min_tokens": 0}
    for fields in ({"top_p": 0}, {"top_p": 0, "temperature": 2}, {"temperature": 0, **harmless}):
        assert shared.post("completions", **body, **fields).json()["choices"] == greedy


@pytest.mark.parametrize("usage", [True, False])
def test_streams(shared: Running, model: Model, usage: bool) -> None:
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "stream": True}
    if usage:
        body["stream_options"] = {"include_usage": True}
    chunks = events(shared.post("completions", prompt="ab", **body))
    wanted = model.create_completion("ab", 12, temperature=0)
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(part["text"] for part in parts) == wanted["choices"][0]["text"]
    assert parts[-1]["finish_reason"] == "length"
    assert ("usage" in chunks[0]) == usage
    if usage:
        assert chunks[-1]["usage"] == wanted["usage"]
    messages = [{"role": "user", "content": "ab"}]
    chunks = events(shared.post("chat/completions", messages=messages, **body))
    chat = model.create_chat_completion(messages, 12, temperature=0)
    parts = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert parts[0]["role"] == "assistant"
    text = "".join(part.get("content", "") for part in parts)
    assert text == chat["choices"][0]["message"]["content"]


def test_the_official_client(shared: Running, model: Model) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as client:
        assert [each.id for each in client.models.list()] == ["tiny", "other"]
        assert client.models.retrieve("tiny").owned_by == "sparsefire"
        messages: Any = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}]
        options: Any = {"model": "tiny", "temperature": 0, "max_tokens": 10}
        wanted = model.create_chat_completion(messages, 10, temperature=0)
        text = wanted["choices"][0]["message"]["content"]
        chat = client.chat.completions.create(
            messages=messages, logprobs=True, top_logprobs=2, **options
        )
        assert chat.choices[0].message.content == text
        assert chat.choices[0].logprobs.content[0].top_logprobs[0].logprob < 0
        assert chat.usage.model_dump(exclude_unset=True) == wanted["usage"]
        stream = client.chat.completions.create(messages=messages, stream=True, **options)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        done = client.completions.create(prompt="ab", **options)
        assert done.choices[0].text == "".join(model.generate("ab", 10, temperature=0))
        # By default this client asks for base64.
        vectors = client.embeddings.create(model="tiny", input=["ab", "cd ab"])
        found = np.array([each.embedding for each in vectors.data])
        np.testing.assert_allclose(found, model.embed(["ab", "cd ab"]), rtol=1e-6)
        with pytest.raises(openai.NotFoundError, match="'gpt'"):
            client.completions.create(prompt="ab", model="gpt")
        with pytest.raises(openai.BadRequestError, match="temperature") as error:
            client.completions.create(prompt="ab", model="tiny", temperature=-1)
        assert error.value.param == "temperature"


def test_embeddings(shared: Running, model: Model) -> None:
    answer = shared.post("embeddings", input="ab cd").json()
    (item,) = answer["data"]
    np.testing.assert_allclose(item["embedding"], model.embed("ab cd"), rtol=1e-6)
    assert answer["usage"]["total_tokens"] == len(model.tokenize("ab cd"))
    body = {"input": [[1, 2], [3]], "encoding_format": "base64", "pooling": "last"}
    answer = shared.post("embeddings", **body).json()
    found = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in answer["data"]]
    np.testing.assert_allclose(found, model.embed([[1, 2], [3]], pooling="last"), rtol=1e-6)


def test_models_health_and_metrics(shared: Running) -> None:
    before = shared.metric('requests_total{path="/v1/completions",status="200"}')
    tokens = shared.metric("generated_tokens_total")
    shared.post("completions", prompt="ab", max_tokens=7)
    events(shared.post("completions", prompt="ab", max_tokens=5, stream=True))
    wait_for(
        lambda: shared.metric('requests_total{path="/v1/completions",status="200"}') == before + 2
    )
    assert shared.metric("generated_tokens_total") == tokens + 12
    assert shared.client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert shared.metric("busy_seconds_total") > 0
    assert shared.client.get("/v1/models/other").json()["id"] == "other"
    fails(shared.client.get("/v1/models/gpt"), 404, "'gpt'")


def test_clients_at_once_get_what_they_get_alone(shared: Running, model: Model) -> None:
    prompts = ["ab", "cd", "ab cd", "x", "y z", "ab"]
    wanted = ["".join(model.generate(prompt, 30, temperature=0)) for prompt in prompts]
    found: dict[int, str] = {}

    def ask(place: int) -> None:
        body = {"prompt": prompts[place], "max_tokens": 30, "temperature": 0, "stream": True}
        chunks = events(httpx.post(f"{shared.url}/v1/completions", json=body, timeout=60))
        found[place] = "".join(each["text"] for chunk in chunks for each in chunk["choices"])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(len(prompts))] == wanted


# -- bad requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "body", "param"),
    [
        ("completions", {"prompt": 3}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": ["a", 3]}, "prompt"),
        ("completions", {"prompt": [[]]}, "prompt"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": [999]}, "prompt"),
        ("completions", {"max_tokens": "3"}, "max_tokens"),
        ("completions", {"max_tokens": True}, "max_tokens"),
        ("completions", {"max_tokens": -1}, "max_tokens"),
        ("completions", {"temperature": "hot"}, "temperature"),
        ("completions", {"temperature": -1}, "temperature"),
        ("completions", {"temperature": 10**400}, "temperature"),
        ("completions", {"top_p": -1}, "top_p"),
        ("completions", {"grammar": "root ::= x"}, "grammar"),
        ("completions", {"guided_json": {"type": "object"}}, "guided_json"),
        ("completions", {"repetition_penalty": 9.0}, "repetition_penalty"),
        ("completions", {"min_tokens": 50}, "min_tokens"),
        ("completions", {"ignore_eos": True}, "ignore_eos"),
        (
            "chat/completions",
            {"messages": [], "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        (
            "chat/completions",
            {"messages": [], "continue_final_message": True},
            "continue_final_message",
        ),
        ("chat/completions", {"messages": [], "reasoning_effort": "low"}, "reasoning_effort"),
        ("completions", {"n": 17}, "n"),
        ("completions", {"n": 0}, "n"),
        ("completions", {"stop": ""}, "stop"),
        ("completions", {"stop": ["a", 1]}, "stop"),
        ("completions", {"stop": ["a"] * 17}, "stop"),
        ("completions", {"stream": 1}, "stream"),
        ("completions", {"stream_options": []}, "stream_options"),
        ("completions", {"logprobs": 21}, "logprobs"),
        ("completions", {"logit_bias": {"x": 1}}, "logit_bias"),
        ("completions", {"logit_bias": {"1": 101}}, "logit_bias"),
        ("completions", {"logit_bias": {"999": 1}}, "logit_bias"),
        ("completions", {"seed": 0.5}, "seed"),
        ("completions", {"model": 1}, "model"),
        ("completions", {"mode": "fast"}, "mode"),
        ("completions", {"suffix": "x"}, "suffix"),
        ("completions", {"best_of": 3}, "best_of"),
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": "hi"}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": 1, "content": "a"}]}, "messages"),
        ("chat/completions", {"messages": [], "tools": [{}]}, "tools"),
        ("chat/completions", {"messages": [], "logprobs": 1}, "logprobs"),
        ("embeddings", {}, "input"),
        ("embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("embeddings", {"input": ["a"] * 257}, "input"),
    ],
)
def test_wrong_fields(shared: Running, where: str, body: dict[str, Any], param: str) -> None:
    headers = {"content-type": "application/json"}
    for extra in ({}, {"stream": True}):
        if extra and ("stream" in body or where == "embeddings"):
            continue
        content = json.dumps({**body, **extra})
        response = shared.client.post(f"/v1/{where}", content=content, headers=headers)
        fails(response, 400, param, param=param)


def test_bodies_that_are_no_requests(shared: Running) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"", b"{", b"[]", b"\xff", b'{"temperature": NaN}', b"[" * 100_000, b'"a"'):
        fails(shared.client.post("/v1/completions", content=content, headers=headers), 400, "body")
    fails(shared.client.post("/v1/completions", data={"prompt": "a"}), 415, "application/json")
    fails(shared.client.get("/v1/completions"), 405, "not allowed")
    fails(shared.client.get("/v1/nothing"), 404, "/v1/nothing")
    fails(shared.post("completions", prompt="a" * 40_000), 400, "the context holds")
    # Half a character in JSON is no reason to fail.
    body = b'{"prompt": "a\\ud800", "echo": true}'
    assert shared.client.post("/v1/completions", content=body, headers=headers).status_code == 200


def test_limits(start: Start) -> None:
    server = start(Limits(body_bytes=1000, max_tokens=5, prompt_tokens=30))
    fails(server.post("completions", prompt="a" * 1000), 413, "1000 bytes")
    chunked = (b" " * 100 for _ in range(20))  # without a length in front
    headers = {"content-type": "application/json"}
    response = server.client.post("/v1/completions", content=chunked, headers=headers)
    fails(response, 413, "1000 bytes")
    fails(server.post("completions", max_tokens=6), 400, "to 5", param="max_tokens")
    messages = [{"role": "user", "content": "a"}]
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"messages": messages, name: 6}
        fails(server.post("chat/completions", **body), 400, "to 5", param=name)
    for path, body in (
        ("chat/completions", {"messages": messages}),
        ("completions", {"prompt": "ab"}),
    ):
        assert server.post(path, **body).json()["usage"]["completion_tokens"] == 5
    messages[0]["content"] = "x" * 40
    for path, body in (
        ("completions", {"prompt": "x" * 31}),
        ("chat/completions", {"messages": messages}),
        ("embeddings", {"input": ["a", "x" * 31]}),
    ):
        fails(server.post(path, **body), 400, "at most 30")


# -- waiting, leaving, ending ------------------------------------------------------------------


class Long:
    """A stream that goes on for long, and has begun."""

    def __init__(self, server: Running) -> None:
        body = {**LONG, "stream": True}
        self._stack = contextlib.ExitStack()
        stream = server.client.stream("POST", "/v1/completions", json=body)
        self._lines = self._stack.enter_context(stream).iter_lines()
        assert next(self._lines).startswith("data: {")

    def leave(self) -> None:
        self._stack.close()


class Unread:
    """A long request without streaming, whose answer nobody reads."""

    def __init__(self, server: Running) -> None:
        body = json.dumps(LONG).encode()
        address = httpx.URL(server.url)
        self._socket = socket.create_connection((address.host, address.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)

    def leave(self) -> None:
        self._socket.close()


def test_a_client_that_leaves_cancels(start: Start) -> None:
    server = start()
    stream = Long(server)
    assert server.metric("requests_running") == 1
    stream.leave()
    wait_for(lambda: server.metric("requests_cancelled_total") == 1)
    wait_for(lambda: server.metric("requests_running") == 0)
    wait_for(lambda: 0 < server.metric("generated_tokens_total") < COUNT)
    assert server.post("completions", prompt="ab", max_tokens=3).status_code == 200
    # Without streaming too, and while it waits for its turn.
    stream = Long(server)
    unread = Unread(server)
    wait_for(lambda: server.metric("requests_waiting") == 1)
    unread.leave()
    wait_for(lambda: server.metric("requests_cancelled_total") == 2)
    assert server.metric("requests_waiting") == 0
    assert server.metric("requests_running") == 1, "the first one goes on"
    stream.leave()
    wait_for(lambda: server.metric("requests_running") == 0)
    unread = Unread(server)
    wait_for(lambda: server.metric("requests_running") == 1)
    unread.leave()
    wait_for(lambda: server.metric("requests_cancelled_total") == 4)
    wait_for(lambda: server.metric("requests_running") == 0)


def test_clients_that_come_and_go(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever others do, an answer is right, and in the end the server is idle."""
    server = start()
    url = f"{server.url}/v1/completions"
    wanted = "".join(model.generate("ab cd", 20, temperature=0))
    found: list[str] = []

    def come_and_go(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(8):
            with contextlib.suppress(httpx.TimeoutException):
                if random.random() < 0.4:
                    body = {"prompt": "ab cd", "max_tokens": 20, "temperature": 0}
                    answer = httpx.post(url, json=body, timeout=60).json()
                    found.append(answer["choices"][0]["text"])
                    continue
                body = {**LONG, "stream": True}
                seconds = float(random.choice([0.01, 0.05, 0.2]))
                with httpx.stream("POST", url, json=body, timeout=seconds) as response:
                    for _ in zip(range(random.integers(50)), response.iter_lines(), strict=False):
                        pass

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {wanted}
    wait_for(lambda: server.metric("requests_running") == server.metric("requests_waiting") == 0)
    assert server.metric("requests_cancelled_total") > 0
    assert "socket.send()" not in caplog.text, "it wrote to clients that had left"


def test_queue_limit(start: Start) -> None:
    server = start(Limits(queue=1))
    stream = Long(server)
    waiting: list[httpx.Response] = []
    body = {"prompt": "ab", "max_tokens": 3}
    url = f"{server.url}/v1/completions"
    thread = threading.Thread(target=lambda: waiting.append(httpx.post(url, json=body, timeout=60)))
    thread.start()
    wait_for(lambda: server.metric("requests_waiting") == 1)
    refused = server.post("completions", prompt="ab")
    fails(refused, 429, "the queue is full (1 waiting)")
    assert int(refused.headers["retry-after"]) > 0
    stream.leave()
    thread.join()
    assert waiting[0].status_code == 200


def test_time_limit(start: Start) -> None:
    server = start(Limits(seconds=1))
    answer = server.post("completions", **LONG).json()
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "time")
    assert 0 < answer["usage"]["completion_tokens"] < COUNT
    last = events(server.post("completions", stream=True, **LONG))[-1]
    assert last["choices"][0]["stop_reason"] == "time"


def test_queue_by_itself() -> None:
    """First come, first served; what expires while it waits ends with an error."""

    async def scenario() -> None:
        queue, order, go = ModelQueue(4), [], threading.Event()

        def work(name: str, blocks: bool = False) -> Any:
            def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
                while blocks and not go.is_set() and not cancel.reason:
                    time.sleep(0.001)
                order.append(name)
                yield {"name": name}

            return run

        queue.start()
        first = queue.submit(work("first", True), 60)
        second, late = queue.submit(work("second"), 60), queue.submit(work("late"), 0.05)
        third = queue.submit(work("third"), 60)
        while not queue.running:
            await asyncio.sleep(0.001)
        queue.submit(work("fourth"), 60).abandon()
        with pytest.raises(TimeLimitError):
            await late.next()
        queue.submit(work("fifth"), 60)
        queue.submit(work("sixth"), 60)
        with pytest.raises(QueueFullError, match="4 waiting"):
            queue.submit(work("seventh"), 60)
        go.set()
        for job, name in ((first, "first"), (second, "second"), (third, "third")):
            assert await job.next() == {"name": name}
            assert await job.next() is None
        while len(order) < 5:
            await asyncio.sleep(0.001)
        assert order == ["first", "second", "third", "fifth", "sixth"]
        go.clear()
        last, never = queue.submit(work("last", True), 60), queue.submit(work("never"), 60)
        while not queue.running:
            await asyncio.sleep(0.001)
        queue.stop()
        assert await last.next() == {"name": "last"}
        with pytest.raises(ShuttingDownError):
            await never.next()
        await asyncio.to_thread(queue.join)
        with pytest.raises(ShuttingDownError):
            queue.submit(work("later"), 60)

    asyncio.run(scenario())


def test_errors_of_the_model(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start()
    logger = server.server.requests.model
    original = logger.create_completion

    def broken(*_: Any, **__: Any) -> Any:
        def chunks() -> Iterator[Any]:
            yield {"choices": [{"text": "a", "index": 0}], "usage": None}
            raise RuntimeError("secret")

        return chunks()

    logger.create_completion = broken  # type: ignore[method-assign]
    response = server.post("completions", prompt="ab", stream=True)
    assert response.status_code == 200
    last = json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["type"] == "server_error"
    assert "secret" not in response.text
    wait_for(lambda: "secret" in caplog.text)
    logger.create_completion = None  # type: ignore[method-assign,assignment]
    fails(server.post("completions", prompt="ab"), 500, "log")
    logger.create_completion = original  # type: ignore[method-assign]
    assert server.post("completions", prompt="ab").status_code == 200


# -- who may come in ---------------------------------------------------------------------------


def test_api_key(start: Start) -> None:
    server = start(api_key="sesame")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}):
        server.client.headers = headers
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            fails(server.client.get(path), 401, "API key")
        fails(server.post("completions", prompt="ab"), 401, "API key")
        assert server.client.get("/health").status_code == 200
    server.client.headers = {"Authorization": "Bearer sesame"}
    assert server.post("completions", prompt="ab", max_tokens=1).status_code == 200


def test_other_web_pages_are_kept_out(start: Start) -> None:
    server = start(local_only=True)
    fails(server.client.get("/v1/models", headers={"Host": "evil.example:80"}), 403, "evil.example")
    assert server.client.get("/v1/models").status_code == 200
    asking = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,user-agent",
    }
    response = server.client.options("/v1/completions", headers=asking)
    assert "access-control-allow-origin" not in response.headers
    server = start(origins=["https://page.example"], api_key="key")
    response = server.client.options("/v1/completions", headers=asking)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://page.example"
    asking["Origin"] = "https://other.example"
    response = server.client.options("/v1/completions", headers=asking)
    assert "access-control-allow-origin" not in response.headers


def test_local_names() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1", "a.localhost"):
        assert is_local(host)
    for host in ("0.0.0.0", "", "evil.example", "localhost.evil.example", "10.0.0.1", "::"):
        assert not is_local(host)


# -- the command -------------------------------------------------------------------------------


def serve(path: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparsefire", "serve", "-m", str(path), *arguments]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a program started by a background job would inherit that it ignores the signal
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(("grace", "signals"), [("1", 1), ("60", 2)])
def test_the_command_and_its_end(path: Path, grace: str, signals: int) -> None:
    options = ("--port", "0", "--grace", grace, "--context", str(CONTEXT))
    with serve(path, *options, SPARSEFIRE_API_KEY="key") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None, line
        headers = {"Authorization": "Bearer key"}
        with httpx.Client(base_url=url[0], headers=headers, timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
            body = {**LONG, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                began = time.monotonic()
                for _ in range(signals):
                    process.send_signal(signal.SIGINT)
                    time.sleep(0.5)
                rest = [line for line in lines if line]
                _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 45
        assert process.returncode == 130
        assert errors == ""
        assert rest[-1] == "data: [DONE]"
        last = json.loads(rest[-2].removeprefix("data: "))
        assert last["choices"][0]["stop_reason"] == "shutdown"


def test_wrong_options(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, part in (
            (("--port", port), "cannot listen"),
            (("--port", "70000"), "--port"),
            (("--max-tokens", "0"), "--max-tokens"),
            (("--max-seconds", "0"), "--max-seconds"),
            (("--api-key", "ä"), "API key"),
        ):
            with serve(path, *arguments) as process:
                _, errors = process.communicate(timeout=60)
                assert process.returncode == 2
                assert errors.count("\n") == 1
                assert part in errors


@pytest.mark.parametrize(
    "template",
    [None, "{{ raise_exception('not so') }}", "{{ messages[0].a.b }}", "{{ 'a' * 10 ** 9 }}", "{{"],
)
def test_errors_do_not_tell_where_the_file_is(tmp_path: Path, template: str | None) -> None:
    keys = {} if template is None else {"tokenizer.chat_template": template}
    path = tiny_model.write(tmp_path / "secret.gguf", keys=keys, context=512)
    with Model.load(path) as model:
        running = Running(Server(Requests(model, ["tiny"], Limits())))
        try:
            answer = running.post("chat/completions", messages=[{"role": "user", "content": "a"}])
        finally:
            running.close()
    assert answer.status_code in (400, 500)
    assert answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert str(tmp_path) not in answer.text
