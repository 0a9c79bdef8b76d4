"""Clients that send nonsense, stop in the middle, or do not read: clear errors, and nothing stays
behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from server_harness import Running, Start, fails, wait_for
from sparsefire.serve.fields import Limits
from tiny_model import END

pytest_plugins = ("server_fixtures",)

JSON = {"content-type": "application/json"}
DEEP = "[" * 500 + "]" * 500


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"prompt": "a" "max_tokens": 1}', "JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "'prompt' occurs twice"),
        (b'{"stream_options": {"include_usage": true, "include_usage": false}}', "occurs twice"),
        (b'{"prompt": "\xc3("}', "not UTF-8 at byte 12"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-32-le"), "JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"temperature": -Infinity}', "JSON"),
        (b'{"metadata": ' + DEEP.encode() + b"}", "levels"),
        (b'{"a\\ud800": 1}', "unknown field"),
        (b"null", "object"),
    ],
)
def test_bodies_that_are_nonsense(shared: Running, body: bytes, part: str) -> None:
    for path in ("completions", "chat/completions", "embeddings"):
        response = shared.client.post(f"/v1/{path}", content=body, headers=JSON)
        assert response.status_code == 400, response.text
        if path == "completions":
            assert part in response.json()["error"]["message"]


def test_odd_bodies_that_are_right(shared: Running) -> None:
    message: Any = {"role": "user", "content": "a", "x" * 300: [[[{"y": None}]]], "name": 3}
    chat = {"messages": [message] * 300, "max_tokens": 1}
    assert shared.post("chat/completions", **chat).status_code == 200
    body = "\ufeff" + json.dumps({"prompt": "\0\U0001f600", "max_tokens": 1.0})
    response = shared.client.post("/v1/completions", content=body.encode(), headers=JSON)
    assert response.status_code == 200
    deep: Any = {"role": "user", "content": "a", "x": json.loads(DEEP)}
    fails(shared.post("chat/completions", messages=[deep]), 400, "levels")


def _connect(server: Running, head: str) -> socket.socket:
    address = httpx.URL(server.url)
    client = socket.create_connection((address.host, address.port), timeout=60)
    client.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: {address.host}\r\n"
        f"Content-Type: application/json\r\n{head}\r\n".encode()
    )
    return client


def _read_to_end(client: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            found += part
    return found


def test_requests_that_do_not_begin(start: Start) -> None:
    server = start(Limits(head_seconds=0.5))
    address = httpx.URL(server.url)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    begins = (b"", b"GET", whole[:-2], b"\r\n" * 3, whole + b"GET /he", b"POST /v1/completions ")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((address.host, address.port), timeout=60))
            for _ in begins
        ]
        for client, begin in zip(clients, begins, strict=True):
            client.sendall(begin)
        for client, begin in zip(clients, begins, strict=True):
            assert _read_to_end(client).startswith(b"HTTP/1.1 200") == begin.startswith(whole)
    with socket.create_connection((address.host, address.port), timeout=60) as client:
        end = time.monotonic() + 30
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /health HTTP/1.1\r\n")
            for number in itertools.count():  # a byte now and then changes nothing
                client.sendall(b"X-%d: a\r\n" % number)
                time.sleep(0.05)
                assert time.monotonic() < end
    # What has begun may take longer than that, and so may the next request on its connection.
    body = {"prompt": "ab", "max_tokens": 20_000, "logit_bias": {str(END): -100}, "stream": True}
    begun = time.monotonic()
    with server.client.stream("POST", "/v1/completions", json=body) as response:
        for _ in response.iter_lines():
            if time.monotonic() - begun > 1:
                break
    assert time.monotonic() - begun > 1
    for _ in range(3):
        assert server.post("completions", prompt="ab", max_tokens=1).status_code == 200
        time.sleep(0.3)


def test_bodies_that_do_not_end(start: Start) -> None:
    server = start(Limits(body_seconds=0.3))
    with _connect(server, "Content-Length: 1000\r\n") as client:
        client.sendall(b'{"prompt": ')
        answer = _read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive in time" in answer
    with _connect(server, f"Content-Length: {10**12}\r\n") as client:
        assert _read_to_end(client).startswith(b"HTTP/1.1 413")
    with _connect(server, "Transfer-Encoding: chunked\r\n") as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        answer = _read_to_end(client)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
    assert server.post("completions", prompt="ab", max_tokens=1).status_code == 200


def test_clients_that_leave_in_the_middle_of_their_body(start: Start) -> None:
    server = start()
    for _ in range(5):
        with _connect(server, "Content-Length: 1000\r\n") as client:
            client.sendall(b'{"prompt": ')
    wait_for(lambda: server.metric("requests_cancelled_total") == 5)
    assert server.metric("requests_running") == server.metric("requests_waiting") == 0


def test_clients_that_do_not_read(start: Start) -> None:
    server = start(Limits(write_seconds=0.3))
    body = {"prompt": "ab", "max_tokens": 20_000, "logit_bias": {str(END): -100}, "logprobs": 20}
    content = json.dumps({**body, "stream": True}).encode()
    with _connect(server, f"Content-Length: {len(content)}\r\n") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(content)
        wait_for(lambda: server.metric("requests_cancelled_total") == 1)
        wait_for(lambda: server.metric("requests_running") == 0)
    assert server.post("completions", prompt="ab", max_tokens=1).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux lists them")
def test_nothing_stays_behind(start: Start) -> None:
    server = start()

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    assert server.post("completions", prompt="ab", max_tokens=1).status_code == 200
    before = descriptors()
    body = {"prompt": "ab", "max_tokens": 20_000, "logit_bias": {str(END): -100}, "stream": True}
    for _ in range(20):
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            next(response.iter_lines())
    wait_for(lambda: server.metric("requests_cancelled_total") == 20)
    wait_for(lambda: server.metric("requests_running") == server.metric("requests_waiting") == 0)
    wait_for(lambda: descriptors() <= before)
