"""The browser page in Debian's Chromium, cut off from every network but this machine.

Everything that the browser asks of another host goes to a proxy that refuses and counts it, also
from workers and service workers; a page that asked for anything fails its test, and so does one
that wrote an error to its console.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyodide_harness import _CHROMIUM, _CHROMIUM_FLAGS, find_program
from sparsefire.web_server import WebServer
from sparsefire.web_site import SiteFile

SECONDS = 90  # for a page to start, on a busy machine


class Refuser(http.server.ThreadingHTTPServer):
    """A proxy that lets nothing through; `refused` lists what was wanted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RefusingHandler)
        self.refused: list[str] = []


class _RefusingHandler(http.server.BaseHTTPRequestHandler):
    server: Refuser

    def _refuse(self) -> None:
        self.server.refused.append(f"{self.command} {self.path}")
        self.send_error(502)

    do_GET = do_POST = do_HEAD = do_PUT = do_OPTIONS = do_CONNECT = _refuse  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(server: http.server.HTTPServer) -> Iterator[Any]:
    """Serves in a thread for the time of a `with`."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium() -> Iterator[tuple[Any, Refuser]]:
    """Playwright's browser, and the proxy that refuses."""
    from playwright.sync_api import sync_playwright

    path = find_program(*_CHROMIUM)
    with running(Refuser()) as refuser, sync_playwright() as playwright:
        proxy = f"--proxy-server=http://127.0.0.1:{refuser.server_port}"
        browser = playwright.chromium.launch(executable_path=path, args=[*_CHROMIUM_FLAGS, proxy])
        try:
            yield browser, refuser
        finally:
            browser.close()


class Web:
    """A page of the site, with what a test does to it."""

    def __init__(self, page: Any, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.errors: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._on_console)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def open(self, path: str = "/") -> Web:
        """Goes to the page and waits until the model is there."""
        self.page.goto(self.origin + path)
        self.wait_for("ready")
        return self

    def wait_for(self, state: str) -> None:
        """Until the page is "ready" or "busy"."""
        self.page.wait_for_selector(f"html[data-state={state}]")

    def settings(self, **values: object) -> None:
        """Sets sampling fields by their name."""
        self.page.evaluate("document.querySelector('.settings').open = true")
        for name, value in values.items():
            self.page.fill(f"#{name}", str(value))

    def generate(self, prompt: str, mode: str | None = None, **settings: object) -> str:
        """The text that the page makes."""
        self.settings(**settings)
        if mode:
            self.page.check(f'input[name="mode"][value="{mode}"]')
        self.page.fill("#prompt", prompt)
        self.page.click("#go")
        self.wait_for("ready")
        made: str = self.page.text_content("#made")
        return made

    def problem(self) -> str:
        """The sentence about what went wrong, once there is one."""
        self.page.wait_for_selector("#problem:not([hidden])")
        text: str = self.page.inner_text("#problem-text")
        return text


def serve(site: Mapping[str, SiteFile], isolated: bool = True) -> Any:
    """The site on a free port, for a `with`."""
    return running(WebServer(site, 0, isolated))


CACHE = Path(__file__).resolve().parent.parent / ".cache"
