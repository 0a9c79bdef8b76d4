"""The server with OpenAI's own JavaScript client, in node and in a page of another origin."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.lib.web_drivers import Driver, chromium, find_program
from conftest import missing
from npm_package import npm_package
from server_harness import Running, Start, wait_for
from sparsefire.lm.model import Model
from web_harness import Refuser, running

pytest_plugins = ("server_fixtures",)

PROGRAM = Path(__file__).with_name("openai_client.mjs")


@pytest.fixture(scope="module")
def package() -> Path:
    """The directory of the client."""
    try:
        return npm_package(
            "openai", "6.49.0", "e48de0f4c5dbecebdeb864233f5ea49be07cd3e0ff3bd3e1e6745dc5e168cced"
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        missing(str(error))


class _Files(http.server.SimpleHTTPRequestHandler):
    """A page, the client and the program."""

    def do_GET(self) -> None:
        if self.path in ("/", "/openai_client.mjs"):
            kind = "text/html" if self.path == "/" else "text/javascript"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(b"<!doctype html>" if self.path == "/" else PROGRAM.read_bytes())
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def page(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A page in Chromium, at an origin of its own."""
    handler = functools.partial(_Files, directory=package)
    try:
        with (
            running(Refuser()) as refuser,
            chromium(tmp_path_factory.mktemp("profile"), refuser.server_port) as page,
            running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as files,
        ):
            page.open(f"http://127.0.0.1:{files.server_port}/")
            yield page
            assert refuser.refused == []
    except FileNotFoundError as error:
        missing(str(error))


def _in_page(page: Driver, function: str, url: str) -> Any:
    return page.run(
        "const [name, url] = given;"
        "const { default: OpenAI } = await import('/index.mjs');"
        "return (await import('/openai_client.mjs'))[name](OpenAI, url);",
        function,
        f"{url}/v1",
    )


def _check(found: dict[str, Any], server: Running, model: Model) -> None:
    assert found["models"] == ["tiny"]
    assert found["model"]["owned_by"] == "sparsefire"
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}]
    wanted = model.create_chat_completion(messages, 10, temperature=0)
    text = wanted["choices"][0]["message"]["content"]
    assert found["whole"] == found["streamed"] == found["gathered"] == text
    assert found["usage"] == found["streamedUsage"] == wanted["usage"]
    assert found["logprobs"] == wanted["usage"]["completion_tokens"]
    assert found["completion"] == "".join(model.generate("ab", 10, temperature=0))
    vectors = model.embed(["ab", "cd ab"])
    np.testing.assert_allclose(found["vectors"], vectors, rtol=1e-6)
    np.testing.assert_allclose(found["floats"], vectors, rtol=1e-6)
    failures = [
        tuple(each[key] for key in ("name", "status", "param")) for each in found["failures"]
    ]
    assert failures == [
        ("NotFoundError", 404, "model"),
        ("BadRequestError", 400, "temperature"),
        ("BadRequestError", 400, "tools"),
        ("BadRequestError", 400, "temperature"),
        ("BadRequestError", 400, "verbosity"),
        ("NotFoundError", 404, None),
        ("AuthenticationError", 401, None),
    ]
    assert found["begun"] == 1
    server.client.headers = {"Authorization": "Bearer key"}
    wait_for(lambda: server.metric("requests_cancelled_total") == 1)
    wait_for(lambda: server.metric("requests_running") == 0)


def test_in_node(start: Start, package: Path, model: Model) -> None:
    server = start(api_key="key")
    command = [find_program("node"), str(PROGRAM), str(package), f"{server.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    _check(json.loads(done.stdout), server, model)


def test_in_a_page(start: Start, page: Driver, model: Model) -> None:
    origin = page.run("return location.origin")
    server = start(api_key="key", origins=[origin])
    _check(_in_page(page, "use", server.url), server, model)
    # The browser keeps pages of other origins out.
    other = start(api_key="key", origins=["https://page.example"])
    assert _in_page(page, "refused", other.url)["name"] == "APIConnectionError"
