"""A server of a small random model, for its tests."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_model
from conftest import missing

try:
    import httpx
    import uvicorn
    from starlette.applications import Starlette  # noqa: F401
except ImportError as error:
    missing(f"{error.name} is not installed; pip install '.[test]'")

from sparsefire.serve.app import Server
from sparsefire.serve.connections import protocol

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
    "assistant:"
)
CONTEXT = 1 << 15


def write_model(folder: Path) -> Path:
    """The model's file."""
    keys = {"tokenizer.chat_template": TEMPLATE, "general.name": "tiny"}
    return tiny_model.write(folder / "a.gguf", keys=keys, context=CONTEXT)


class Running:
    """A server on a free port, in a thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            server.app,
            http=protocol(server.limits.head_seconds),
            log_level="warning",
            lifespan="on",
        )
        config.timeout_graceful_shutdown = 1
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=60)
        wait_for(lambda: self._uvicorn.started)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/v1/{path}", json=body)

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        found = re.findall(rf"^sparsefire_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[0]) if found else 0.0

    def close(self) -> None:
        self.client.close()
        self._uvicorn.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


Start = Callable[..., Running]


def fails(response: httpx.Response, status: int, *parts: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    for part in parts:
        assert part in error["message"]
