"""The browser page in Chromium, Firefox and WebKitGTK, without a network.

Every request for another host, also from workers and service workers, goes to a proxy that refuses
and records it. A page that sends one fails its test, and so does a page that writes an error to its
console.
"""

from __future__ import annotations

import base64
import http.server
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.lib.web_drivers import (
    CHROMIUM,
    CHROMIUM_FLAGS,
    SCRIPT_SECONDS,
    Driver,
    Playwright,
    find_program,
    launch,
)
from conftest import open_test_core
from npm_package import npm_package
from sparsefire.lm.model import Model
from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile

# Where storage is refused, the page starts by itself.
AT_REST = "try { localStorage.setItem('sparsefire-autostart', 'off') } catch {}\n"
# Collects what the page writes as errors and warnings; Chromium's own go to its driver. Scripts of
# drivers may have modules of their own, so that the page's are imported by itself.
_NOTE = """
window.imported = (path) => import(path);
window.problems = [];
for (const kind of ["error", "warn"]) {
    const write = console[kind];
    console[kind] = (...said) => {
        window.problems.push(`${kind}: ${said.join(" ")}`);
        write.apply(console, said);
    };
}
addEventListener("error", ({ message }) => message && window.problems.push(message));
addEventListener("unhandledrejection", ({ reason }) => window.problems.push(String(reason)));
"""
# What each engine lacks here. A page that does not find more says so, and one that does fails.
WITHOUT_STORAGE = WITHOUT_SHARED_MEMORY = WITHOUT_FORCED_COLOURS = ("webkitgtk",)
_SUPPORT = "document.getElementById('capabilities').textContent"
SECONDS = SCRIPT_SECONDS - 20  # for something to happen in a page, on a busy machine

GREEDY = {"temperature": 0, "repeat_penalty": 1}  # settings

_AXE_VERSION = "4.14.1"
_AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"

# Hosts that browsers contact by themselves, whatever they are told.
_OF_BROWSERS = (".google.com", ".googleapis.com", ".gvt1.com", "mozilla.com", "mozilla.org")
_OF_BROWSERS += ("mozilla.net", "firefox.com")


class Refuser(http.server.ThreadingHTTPServer):
    """A proxy that refuses every request; `refused` lists them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RefusingHandler)
        self.refused: list[str] = []

    def refuse(self, command: str, target: str) -> None:
        """Records a request for an address or for host:port."""
        host = urlsplit(target if "//" in target else f"//{target}").hostname or ""
        if not host.endswith(_OF_BROWSERS):
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


def scripted(site: Mapping[str, SiteFile], script: str = AT_REST) -> dict[str, SiteFile]:
    """A site whose page runs a script before its own; by default, one after which the page does not
    generate by itself."""
    guard = f"{_NOTE}{script};\n".encode() + site["guard.js"].read()
    return {**site, "guard.js": SiteFile(data=guard)}


def serve(site: Mapping[str, SiteFile], script: str = AT_REST, isolated: bool = True) -> Any:
    """The site, `scripted`, on a free port, for a `with`."""
    return running(WebServer(scripted(site, script), 0, isolated))


def greedy_text(path: Path, prompt: str, mode: str, tokens: int = 20) -> str:
    """The text that the native core generates."""
    with Model.load(path, core=open_test_core("native-scalar")) as model:
        return "".join(model.generate(prompt, tokens, mode=mode, temperature=0))


class Web:
    """A page of the site and the actions of a user. `errors` lists the errors and warnings on its
    console, without those that contain one of `expected`.

    Elements are named by selectors of CSS: the first that fits is meant, and actions wait until it
    is there and can be used.
    """

    def __init__(self, driver: Driver, origin: str) -> None:
        self.driver = driver
        self.origin = origin
        self.expected: list[str] = []
        self._written: list[str] = []
        if isinstance(driver, Playwright):  # knows those of requests and workers too
            driver.page.on("pageerror", lambda error: self._written.append(str(error)))
            driver.page.on("console", self._on_console)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._written.append(f"{message.type}: {message.text}")

    @property
    def errors(self) -> list[str]:
        """What the page, since it was last loaded, has written as errors and warnings."""
        written = [*self._written, *self.evaluate("window.problems ?? []")]
        return [text for text in written if not any(part in text for part in self.expected)]

    # -- scripts -----------------------------------------------------------------------------------

    def evaluate(self, source: str, *arguments: object) -> Any:
        """The value of an expression in the page or, where that is a function, of its call."""
        body = f"const found = ({source}\n); "
        return self.driver.run(
            f"{body} return typeof found === 'function' ? found(...given) : found;", *arguments
        )

    def until(self, source: str, *arguments: object) -> None:
        """Waits until an expression is true, or a function returns something true."""
        body = f"""
            const holds = () => {{
                const found = ({source}\n);
                return typeof found === "function" ? found(...given) : found;
            }};
            for (const end = Date.now() + {1000 * SECONDS}; !(await holds()); ) {{
                if (Date.now() > end) throw new Error("not within {SECONDS} s");
                await new Promise((go) => setTimeout(go, 30));
            }}
        """
        self.driver.run(body, *arguments)

    def wait(self, milliseconds: int) -> None:
        """Lets the page run."""
        self.driver.run("await new Promise((go) => setTimeout(go, given[0]))", milliseconds)

    def _act(self, selector: str, action: str, *arguments: object) -> None:
        """Runs statements on an `element`, once it is there and can be used."""
        body = f"""
            const [selector, ...rest] = given;
            const usable = (each) => each && !each.disabled && each.getClientRects().length;
            let element;
            for (const end = Date.now() + 60_000; ; ) {{
                element = document.querySelector(selector);
                if (usable(element)) break;
                if (Date.now() > end) throw new Error(`${{selector}} cannot be used`);
                await new Promise((go) => setTimeout(go, 20));
            }}
            {action}
        """
        self.driver.run(body, selector, *arguments)

    # -- elements ----------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """Presses a button or a mark."""
        self._act(selector, "element.focus({ preventScroll: true }); element.click();")

    def check(self, selector: str, on: bool = True) -> None:
        """Sets or removes a mark."""
        self._act(selector, "if (element.checked !== rest[0]) element.click();", on)

    def fill(self, selector: str, value: object) -> None:
        """Enters a text into a field, in place of its own."""
        action = """
            element.focus({ preventScroll: true });
            element.value = rest[0];
            for (const type of ["input", "change"])
                element.dispatchEvent(new Event(type, { bubbles: true }));
        """
        self._act(selector, action, str(value))

    def select(self, selector: str, value: str) -> None:
        """Chooses from a list."""
        self.fill(selector, value)

    def focus(self, selector: str) -> None:
        """Gives an element the focus."""
        self._act(selector, "element.focus();")

    def focused(self) -> str:
        """The id or, without one, the class of the element with the focus."""
        return str(self.evaluate("document.activeElement.id || document.activeElement.className"))

    def press(self, *keys: str) -> None:
        """See `Driver.press`."""
        self.driver.press(*keys)

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        return str(self.evaluate("(each) => document.querySelector(each).innerText", selector))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that fit and are shown."""
        found: list[str] = self.evaluate(
            "(each) => [...document.querySelectorAll(each)].filter((one) =>"
            " one.getClientRects().length).map((one) => one.innerText)",
            selector,
        )
        return found

    def content(self, selector: str) -> str:
        """The text of an element, shown or not."""
        return str(self.evaluate("(each) => document.querySelector(each).textContent", selector))

    def contents(self, selector: str) -> list[str]:
        """The texts of all elements that fit."""
        found: list[str] = self.evaluate(
            "(each) => [...document.querySelectorAll(each)].map((one) => one.textContent)", selector
        )
        return found

    def value(self, selector: str) -> str:
        """What a field holds."""
        return str(self.evaluate("(each) => document.querySelector(each).value", selector))

    def is_visible(self, selector: str) -> bool:
        """Whether an element is shown."""
        script = "(each) => Boolean(document.querySelector(each)?.getClientRects().length)"
        return bool(self.evaluate(script, selector))

    def is_disabled(self, selector: str) -> bool:
        """Whether a control cannot be used."""
        return bool(self.evaluate("(each) => document.querySelector(each).disabled", selector))

    def is_checked(self, selector: str) -> bool:
        """Whether a mark is set."""
        return bool(self.evaluate("(each) => document.querySelector(each).checked", selector))

    def boxes(self, *ids: str) -> dict[str, tuple[float, float]]:
        """Top and bottom of elements in the window, in CSS pixels."""
        script = """(ids) => ids.map((id) => {
            const { top, bottom } = document.getElementById(id).getBoundingClientRect();
            return [top, bottom];
        })"""
        return dict(zip(ids, map(tuple, self.evaluate(script, ids)), strict=True))

    # -- the page ----------------------------------------------------------------------------------

    def open(self, path: str = "/") -> Web:
        """Navigates to the page and waits until the model is loaded."""
        self.driver.open(self.origin + path)
        self.wait_for("ready")
        return self

    def wait_for(self, state: str) -> None:
        """Waits until the page is "ready", "busy", "loading" or "failed"."""
        self.until("(state) => document.documentElement.dataset.state === state", state)

    def settings(self, **values: object) -> None:
        """Sets sampling fields by name."""
        self.evaluate("document.getElementById('sampling').open = true")
        for name, value in values.items():
            self.fill(f"#{name}", value)

    def generate(self, prompt: str, mode: str | None = None, **settings: object) -> str:
        """The text that the page generates."""
        self.begin(prompt, mode, **settings)
        self.wait_for("ready")
        return self.made()

    def begin(self, prompt: str, mode: str | None = None, **settings: object) -> None:
        """Presses Generate."""
        self.settings(**settings)
        if mode:
            self.check(f'input[name="mode"][value="{mode}"]')
        self.fill("#prompt", prompt)
        # One script presses the button and waits for the start, since a short text may end before a
        # second script runs.
        self.evaluate(
            "new Promise((done, fail) => { setTimeout(fail, 120000, new Error('it did not begin'));"
            " document.addEventListener('phase', () => done(null), {once: true});"
            " document.getElementById('go').click() })"
        )

    def made(self) -> str:
        """The generated text so far, without the prompt; the last one where several stand side by
        side."""
        return self.contents("#output .generated")[-1]

    def engine(self, request: str) -> dict[str, Any]:
        """The engine's answer to a request."""
        answer: dict[str, Any] = self.evaluate(
            "(type) => imported('/page.js').then(({state}) => state.engine.request(type))", request
        )
        return answer

    def problem(self) -> str:
        """Waits for an error message and returns it."""
        self.until("!document.getElementById('problem').hidden")
        return self.text("#problem-text")

    def support(self) -> str:
        """What the page says of the browser."""
        return self.content("#capabilities")

    def stores(self) -> bool:
        """Whether the browser can store models; the page says it where it cannot."""
        if self.driver.engine in WITHOUT_STORAGE:
            self.until(f"{_SUPPORT}.includes('Models are not stored')")
            return False
        assert "Models are stored" in self.support(), self.support()
        return True

    def wait_for_model(self, name: str) -> None:
        """Waits until a model of that name is in use."""
        self.until(
            "(name) => document.documentElement.dataset.state === 'ready' &&"
            " [...document.querySelectorAll('#models li')].some((row) =>"
            " row.textContent.includes(name) && row.textContent.includes('In use'))",
            name,
        )

    def press_in_row(self, name: str, button: str) -> None:
        """Presses a button of a model in the list."""
        script = """(name, label) => {
            const rows = [...document.querySelectorAll("#models li")];
            const row = rows.find((each) => each.textContent.includes(name));
            const button = [...(row?.querySelectorAll("button") ?? [])].find(
                (each) => each.textContent.includes(label) && !each.disabled);
            button?.focus();
            button?.click();
            return Boolean(button);
        }"""
        self.until(script, name, button)

    def download(self, url: str) -> None:
        """Enters the address of a model."""
        self.fill("#url", url)
        self.click("#url-form button")

    def forget(self, name: str) -> None:
        """Loads the page's own model and deletes another from the list, where it is stored."""
        self.press_in_row("sparsefire-sotu", "Load")
        self.wait_for_model("sparsefire-sotu")
        self.delete(name)

    def delete(self, name: str) -> None:
        """Presses Delete twice."""
        if self.stores():
            self.press_in_row(name, "Delete")
            self.press_in_row(name, "Delete for good?")
        self.wait_for_row(name, there=False)

    def wait_for_row(self, text: str, there: bool = True) -> None:
        """Waits until the list of models has a row with that text, or none."""
        self.until(
            "(text, there) => there === [...document.querySelectorAll('#models li')].some((row) =>"
            " row.textContent.includes(text))",
            text,
            there,
        )

    def kept(self) -> list[str]:
        """The list of models, as lines of text."""
        return [" ".join(row.split()) for row in self.texts("#models li")]

    def choose(self, *files: Path) -> None:
        """Chooses files of a model."""
        self.driver.choose("#file", *files)

    def drop(self, name: str, data: bytes) -> None:
        """Drops a file onto the page."""
        script = """(name, text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            for (const type of ["dragenter", "dragover", "drop"]) {
                const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(type, options));
            }
        }"""
        self.evaluate(script, name, base64.b64encode(data).decode())


class Browser:
    """A browser of an engine, and further tabs and browsers where a test needs them."""

    def __init__(self, first: Driver, directory: Path, proxy_port: int) -> None:
        self.engine = first.engine
        self.first = first
        self._free = True  # the first tab
        self._directory = directory
        self._proxy_port = proxy_port

    @contextmanager
    def tab(self) -> Iterator[Driver]:
        """A tab without anything stored: in Chromium with a profile of its own; the others keep
        what pages store by their origin, so that a server of its own is as good."""
        if isinstance(self.first, Playwright):
            browser = self.first.page.context.browser
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            yield Playwright(context.new_page())
            context.close()
        elif self._free:
            self._free = False
            yield self.first
            self.first.open("about:blank")
            self._free = True
        elif self.engine == "firefox":
            driver = self.first.tab()
            yield driver
            driver.close()
        else:  # which draws only in its first window
            folder = Path(tempfile.mkdtemp(dir=self._directory))
            with launch(self.engine, folder, self._proxy_port) as driver:
                yield driver

    @contextmanager
    def another(self, *flags: str) -> Iterator[Driver]:
        """Another Chromium, with further flags."""
        assert isinstance(self.first, Playwright)
        kind = self.first.page.context.browser.browser_type
        arguments = [*CHROMIUM_FLAGS, "--proxy-server=http://127.0.0.1:9", *flags]
        browser = kind.launch(executable_path=find_program(*CHROMIUM), args=arguments)
        try:
            yield Playwright(browser.new_page())
        finally:
            browser.close()


def axe_source() -> str:
    """axe-core, which checks accessibility; the first call downloads it from npm."""
    package = npm_package("axe-core", _AXE_VERSION, _AXE_SHA256)
    return (package / "axe.min.js").read_text(encoding="utf-8")
