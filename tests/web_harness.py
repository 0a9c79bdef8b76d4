"""The browser page in Debian's Chromium, without a network.

Every request for another host, also from workers and service workers, goes to a proxy that refuses
and records it. A page that sends one fails its test, and so does a page that writes an error to its
console.
"""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from npm_package import npm_package
from pyodide_harness import _CHROMIUM, _CHROMIUM_FLAGS, find_program
from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile

# Where storage is refused, the page starts by itself.
_AT_REST = "try { localStorage.setItem('sparsefire-autostart', 'off') } catch {}"
SECONDS = 400  # for a page to start, on a busy machine
# Optimising the code of Python and numpy would take half of the time in which a page starts.
_UNOPTIMISED = "--js-flags=--liftoff-only"


_AXE_VERSION = "4.14.1"
_AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"

# Hosts that Chromium contacts by itself, whatever its flags are.
_OF_THE_BROWSER = (".google.com", ".googleapis.com", ".gvt1.com")


class Refuser(http.server.ThreadingHTTPServer):
    """A proxy that refuses every request; `refused` lists them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RefusingHandler)
        self.refused: list[str] = []

    def refuse(self, command: str, target: str) -> None:
        """Records a request for an address or for host:port."""
        host = urlsplit(target if "//" in target else f"//{target}").hostname or ""
        if not host.endswith(_OF_THE_BROWSER):
            self.refused.append(f"{command} {target}")


class _RefusingHandler(http.server.BaseHTTPRequestHandler):
    server: Refuser

    def _refuse(self) -> None:
        self.server.refuse(self.command, self.path)
        self.send_error(502)

    do_GET = do_POST = do_HEAD = do_PUT = do_OPTIONS = do_CONNECT = _refuse  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(server: http.server.HTTPServer) -> Iterator[Any]:
    """Serves in a thread during a `with` block."""
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
    """Playwright's browser, and the proxy that refuses its requests."""
    from playwright.sync_api import sync_playwright

    path = find_program(*_CHROMIUM)
    with running(Refuser()) as refuser, sync_playwright() as playwright:
        proxy = f"--proxy-server=http://127.0.0.1:{refuser.server_port}"
        browser = playwright.chromium.launch(
            executable_path=path, args=[*_CHROMIUM_FLAGS, _UNOPTIMISED, proxy]
        )
        try:
            yield browser, refuser
        finally:
            browser.close()


@contextmanager
def another(browser: Any, *flags: str) -> Iterator[Any]:
    """A second browser, with further flags."""
    args = [*_CHROMIUM_FLAGS, "--proxy-server=http://127.0.0.1:9", *flags]
    path = find_program(*_CHROMIUM)
    second = browser.browser_type.launch(executable_path=path, args=args)
    try:
        yield second
    finally:
        second.close()


class Web:
    """A page of the site and the actions of a user. `errors` lists the errors and warnings on its
    console, without those that contain one of `expected`. Unless it is `alive`, it generates
    nothing by itself."""

    def __init__(self, page: Any, origin: str, alive: bool = False) -> None:
        self.page = page
        self.origin = origin
        self.errors: list[str] = []
        if not alive:
            page.add_init_script(_AT_REST)
        self.expected: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self._on_error(str(error)))
        page.on("console", self._on_console)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._on_error(f"{message.type}: {message.text}")

    def _on_error(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.errors.append(text)

    def open(self, path: str = "/") -> Web:
        """Navigates to the page and waits until the model is loaded."""
        self.page.goto(self.origin + path)
        self.wait_for("ready")
        return self

    def wait_for(self, state: str) -> None:
        """Waits until the page is "ready", "busy", "loading" or "failed"."""
        self.page.wait_for_selector(f"html[data-state={state}]")

    def settings(self, **values: object) -> None:
        """Sets sampling fields by name."""
        self.page.evaluate("document.getElementById('sampling').open = true")
        for name, value in values.items():
            self.page.fill(f"#{name}", str(value))

    def generate(self, prompt: str, mode: str | None = None, **settings: object) -> str:
        """The text that the page generates."""
        self.begin(prompt, mode, **settings)
        self.wait_for("ready")
        return self.made()

    def begin(self, prompt: str, mode: str | None = None, **settings: object) -> None:
        """Presses Generate."""
        self.settings(**settings)
        if mode:
            self.page.check(f'input[name="mode"][value="{mode}"]')
        self.page.fill("#prompt", prompt)
        # One script presses the button and waits for the start, since a short text may end before a
        # second script runs.
        self.page.evaluate(
            "new Promise((done, fail) => { setTimeout(fail, 120000, new Error('it did not begin'));"
            " document.addEventListener('phase', done, {once: true});"
            " document.getElementById('go').click() })"
        )

    def made(self) -> str:
        """The generated text so far, without the prompt; the last one where several stand side by
        side."""
        text: str = self.page.locator("#output .generated").last.text_content()
        return text

    def engine(self, request: str) -> dict[str, Any]:
        """The engine's answer to a request."""
        answer: dict[str, Any] = self.page.evaluate(
            "(type) => import('/page.js').then(({state}) => state.engine.request(type))", request
        )
        return answer

    def problem(self) -> str:
        """Waits for an error message and returns it."""
        self.page.wait_for_selector("#problem:not([hidden])")
        text: str = self.page.inner_text("#problem-text")
        return text

    def support(self) -> str:
        """What the page says of the browser."""
        text: str = self.page.text_content("#capabilities")
        return text

    def boxes(self, *ids: str) -> dict[str, tuple[float, float]]:
        """Top and bottom of elements in the window, in CSS pixels."""
        script = """(ids) => ids.map((id) => {
            const { top, bottom } = document.getElementById(id).getBoundingClientRect();
            return [top, bottom];
        })"""
        return dict(zip(ids, map(tuple, self.page.evaluate(script, ids)), strict=True))

    def wait_for_model(self, name: str) -> None:
        """Waits until a model of that name is in use."""
        self.page.wait_for_function(
            "(name) => document.documentElement.dataset.state === 'ready' &&"
            " [...document.querySelectorAll('#models li')].some((row) =>"
            " row.textContent.includes(name) && row.textContent.includes('In use'))",
            arg=name,
        )

    def press_in_row(self, name: str, button: str) -> None:
        """Presses a button of a model in the list."""
        row = self.page.locator("#models li", has_text=name)
        row.get_by_role("button", name=button).click()

    def kept(self) -> list[str]:
        """The list of models, as lines of text."""
        rows: list[str] = self.page.locator("#models li").all_inner_texts()
        return [" ".join(row.split()) for row in rows]

    def drop(self, name: str, data: bytes) -> None:
        """Drops a file onto the page."""
        script = """([name, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            for (const type of ["dragenter", "dragover", "drop"]) {
                const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(type, options));
            }
        }"""
        self.page.evaluate(script, [name, base64.b64encode(data).decode()])


def serve(site: Mapping[str, SiteFile], isolated: bool = True) -> Any:
    """The site on a free port, for a `with`."""
    return running(WebServer(site, 0, isolated))


def axe_source() -> str:
    """axe-core, which checks accessibility; the first call downloads it from npm."""
    package = npm_package("axe-core", _AXE_VERSION, _AXE_SHA256)
    return (package / "axe.min.js").read_text(encoding="utf-8")
