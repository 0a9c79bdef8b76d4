"""Firefox and WebKitGTK under the commands of WebDriver (https://www.w3.org/TR/webdriver2/).
Neither optimises WebAssembly, which would take much of the time in which a page starts.

Firefox takes them over a socket (Marionette), WebKitGTK from its driver, over HTTP and with a
display. Both send every request for another host to a proxy, which a test lets refuse them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pyodide_harness import find_program

_STARTING_SECONDS = 60
SCRIPT_SECONDS = 150  # for a script to answer, on a busy machine


class Send(Protocol):
    """Sends a command of WebDriver and returns the value of its answer."""

    def __call__(self, command: str, **parameters: Any) -> Any: ...


class Driver:
    """A browser with one page."""

    def __init__(self, send: Send) -> None:
        self._send = send
        send("SetTimeouts", script=1000 * SCRIPT_SECONDS, pageLoad=1000 * SCRIPT_SECONDS)

    def open(self, url: str) -> None:
        """Navigates to an address and waits until its page is loaded."""
        self._send("Navigate", url=url)

    def run(self, body: str, *arguments: object) -> Any:
        """Runs the body of an async function in the page and returns its result, which JSON must be
        able to express."""
        script = f"""
            const done = arguments[arguments.length - 1];
            (async (...given) => {{ {body} }})(...arguments).then(
                (value) => done({{ value }}), (error) => done({{ error: String(error) }}));
        """
        answer = self._send("ExecuteAsyncScript", script=script, args=list(arguments))
        if "error" in answer:
            raise AssertionError(f"{answer['error']} in: {body}")
        return answer.get("value")

    def press(self, *keys: str) -> None:
        """Presses keys one after another."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._send("PerformActions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window, with the browser's own bars."""
        self._send("SetWindowRect", width=width, height=height)


@contextmanager
def _running(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program and the processes that it starts, which end with the block."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(ready: Any, what: str) -> Any:
    end = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < end:
        try:
            if value := ready():
                return value
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"{what} did not start within {_STARTING_SECONDS} s")


# ---- Firefox -------------------------------------------------------------------------------------


@contextmanager
def firefox(directory: Path, proxy_port: int) -> Iterator[Driver]:
    """Firefox with a new profile in `directory`."""
    program = find_program("firefox-esr", "firefox")
    preferences = {
        "javascript.options.wasm_optimizingjit": False,
        "browser.display.document_color_use": 2,  # the user's colours instead of the page's
        "ui.prefersReducedMotion": 1,
        "marionette.port": 0,  # a free one, which it writes to a file
        "network.proxy.type": 1,
        "network.proxy.http": "127.0.0.1",
        "network.proxy.http_port": proxy_port,
        "network.proxy.ssl": "127.0.0.1",
        "network.proxy.ssl_port": proxy_port,
    }
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in preferences.items()]
    (directory / "user.js").write_text("".join(lines))
    command = (program, "--headless", "--marionette", "--profile", str(directory))
    with _running(*command, env={**os.environ, "HOME": str(directory)}):
        written = directory / "MarionetteActivePort"
        port = int(_wait_for(lambda: written.exists() and written.read_text(), program))
        connection = socket.create_connection(("127.0.0.1", port), 2 * SCRIPT_SECONDS)
        with connection, connection.makefile("rwb") as stream:
            yield Driver(_marionette(stream))


def _marionette(stream: Any) -> Send:
    """A session over Marionette's protocol: the length of a message, a colon, and JSON."""

    def receive() -> Any:
        digits = b""
        while (byte := stream.read(1)) != b":":
            digits += byte
        return json.loads(stream.read(int(digits)))

    def send(command: str, **parameters: Any) -> Any:
        text = json.dumps([0, 1, f"WebDriver:{command}", parameters]).encode()
        stream.write(b"%d:%s" % (len(text), text))
        stream.flush()
        _, _, error, result = receive()
        if error:
            raise AssertionError(f"{command}: {error['message']}")
        return result.get("value")

    receive()  # the greeting
    send("NewSession")
    return send


# ---- WebKitGTK -----------------------------------------------------------------------------------

_PATHS = {
    "SetTimeouts": "timeouts",
    "Navigate": "url",
    "ExecuteAsyncScript": "execute/async",
    "PerformActions": "actions",
    "SetWindowRect": "window/rect",
}


@contextmanager
def webkitgtk(directory: Path, proxy_port: int) -> Iterator[Driver]:
    """WebKitGTK's small browser on a display of its own."""
    program, xvfb = find_program("WebKitWebDriver"), find_program("Xvfb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    display = (xvfb, "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp")
    with _running(*display, stdout=subprocess.PIPE) as screen:
        assert screen.stdout is not None
        with screen.stdout as written:
            number = written.readline().decode().strip()
        environment = {
            **os.environ,
            "HOME": str(directory),
            "DISPLAY": f":{number}",
            "NO_AT_BRIDGE": "1",
            "JSC_useOMGJIT": "0",
        }
        with _running(program, f"--port={port}", env=environment):
            send = _webdriver(f"http://127.0.0.1:{port}/session", proxy_port)
            try:
                yield Driver(send)
            finally:
                send("")


def _webdriver(address: str, proxy_port: int) -> Send:
    """A session over WebDriver's HTTP; the command "" ends it."""

    def post(url: str, parameters: Any, method: str = "POST") -> Any:
        body = json.dumps(parameters).encode() if method == "POST" else None
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=2 * SCRIPT_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.read().decode()}") from None

    proxy = f"127.0.0.1:{proxy_port}"
    proxies = {"proxyType": "manual", "httpProxy": proxy, "sslProxy": proxy}
    wanted = {"proxy": {**proxies, "noProxy": ["127.0.0.1"]}}
    capabilities = {"capabilities": {"alwaysMatch": wanted}}
    session = _wait_for(lambda: post(address, capabilities), "WebKitWebDriver")["sessionId"]

    def send(command: str, **parameters: Any) -> Any:
        if not command:
            return post(f"{address}/{session}", None, "DELETE")
        return post(f"{address}/{session}/{_PATHS[command]}", parameters)

    return send
