"""Chromium, Firefox and WebKitGTK behind one interface, for the tests of the page and for what
measures it.

Chromium is driven by Playwright, the others by commands of WebDriver
(https://www.w3.org/TR/webdriver2/): Firefox takes them over a socket (Marionette), WebKitGTK from
its driver, over HTTP and with a display. Imports the standard library alone until Chromium is
asked for.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

_STARTING_SECONDS = 60
SCRIPT_SECONDS = 140  # for a script to answer, on a busy machine

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Of keys, in WebDriver's private use area.
_KEYS = {"Tab": "\ue004", "Enter": "\ue006", "Escape": "\ue00c", "Control": "\ue009"}
_KEYS |= {"Shift": "\ue008"}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of a reference to an element


def find_program(*names: str) -> str:
    """The path of the first of these programs that is installed. Errors: `FileNotFoundError`."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"{names[0]} is not installed; ./scripts/test.sh installs it")


class Driver(ABC):
    """One tab of a browser: `engine` is its name, `version` the browser's."""

    engine: str
    version: str

    @abstractmethod
    def open(self, url: str) -> None:
        """Navigates to an address and waits until its page is loaded."""

    @abstractmethod
    def run(self, body: str, *arguments: object) -> Any:
        """Runs the body of an async function of `given`, a list of the arguments, in the page and
        returns its result, which JSON must be able to express. Errors: `AssertionError`."""

    @abstractmethod
    def press(self, *keys: str) -> None:
        """Presses keys one after another: "Tab", "Enter", or together: "Shift+Tab"."""

    @abstractmethod
    def resize(self, width: int, height: int) -> None:
        """Gives the page that many CSS pixels."""

    @abstractmethod
    def prefer(self, forced_colours: bool = False, reduced_motion: bool = False) -> None:
        """Makes the browser ask pages for the user's colours and for less motion, or not, where it
        can."""

    @abstractmethod
    def choose(self, selector: str, *files: Path) -> None:
        """Chooses files in a field for files."""

    @abstractmethod
    def picture(self) -> bytes:
        """What the window shows, as PNG."""

    def heap(self) -> int | None:
        """Bytes of the page's objects after a collection; None where the browser does not tell."""
        return None

    @abstractmethod
    def tab(self) -> Driver:
        """A further tab with the same storage."""

    @abstractmethod
    def close(self) -> None:
        """Closes the tab."""


Launch = Callable[..., AbstractContextManager[Driver]]


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


def _wait_for(ready: Any, what: str, seconds: float = _STARTING_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := ready():
                return value
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"{what} did not start within {seconds:g} s")


# ---- Chromium ------------------------------------------------------------------------------------


class Playwright(Driver):
    """A page of Playwright, which is `page`."""

    engine = "chromium"

    def __init__(self, page: Any) -> None:
        self.page = page
        self.version = page.context.browser.version
        page.set_default_timeout(1000 * SCRIPT_SECONDS)

    def open(self, url: str) -> None:
        self.page.goto(url)

    def run(self, body: str, *arguments: object) -> Any:
        script = f"async (given) => {{ {body} }}"
        try:
            return self.page.evaluate(script, list(arguments))
        except Exception as error:
            raise AssertionError(f"{error} in: {body}") from None

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def prefer(self, forced_colours: bool = False, reduced_motion: bool = False) -> None:
        self.page.emulate_media(
            forced_colors="active" if forced_colours else "none",
            reduced_motion="reduce" if reduced_motion else "no-preference",
        )

    def choose(self, selector: str, *files: Path) -> None:
        self.page.set_input_files(selector, list(files))

    def picture(self) -> bytes:
        return bytes(self.page.screenshot())

    def heap(self) -> int:
        client = self.page.context.new_cdp_session(self.page)
        client.send("HeapProfiler.collectGarbage")
        used = int(client.send("Runtime.getHeapUsage")["usedSize"])
        client.detach()
        return used

    def tab(self) -> Playwright:
        return Playwright(self.page.context.new_page())

    def close(self) -> None:
        self.page.close()


@contextmanager
def chromium(directory: Path, proxy_port: int, optimised: bool = False) -> Iterator[Driver]:
    """Chromium with an empty profile, in memory."""
    with _playwright(proxy_port, optimised) as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        yield Playwright(page)


@contextmanager
def _playwright(proxy_port: int, optimised: bool) -> Iterator[Any]:
    """Playwright's browser."""
    path = find_program(*CHROMIUM)
    from playwright.sync_api import sync_playwright

    arguments = [*CHROMIUM_FLAGS, f"--proxy-server=http://127.0.0.1:{proxy_port}"]
    if not optimised:
        arguments.append("--js-flags=--liftoff-only")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


# ---- WebDriver -----------------------------------------------------------------------------------


class Send(Protocol):
    """Sends a command of WebDriver and returns the value of its answer."""

    def __call__(self, command: str, **parameters: Any) -> Any: ...


class _Session:
    """Commands to the tab that they are for. A browser that once gave no answer gets no further
    command, since each would wait as long."""

    def __init__(self, send: Send, version: str) -> None:
        self._send = send
        self._lost = ""
        self.version = version
        self.handle = send("GetWindowHandle")
        send("SetTimeouts", script=1000 * SCRIPT_SECONDS, pageLoad=1000 * SCRIPT_SECONDS)

    def send(self, command: str, **parameters: Any) -> Any:
        """Errors: `AssertionError`."""
        if self._lost:
            raise AssertionError(self._lost)
        try:
            return self._send(command, **parameters)
        except (OSError, AssertionError) as error:
            if isinstance(error, OSError) or "script timeout" in str(error):
                self._lost = f"the browser no longer answers, since {command}: {error}"
                raise AssertionError(self._lost) from None
            raise

    def to(self, handle: str, command: str, **parameters: Any) -> Any:
        if handle != self.handle:
            self.send("SwitchToWindow", handle=handle)
            self.handle = handle
        return self.send(command, **parameters)


class _WebDriver(Driver):
    def __init__(self, session: _Session, handle: str = "") -> None:
        self._session = session
        self._handle = handle or session.handle
        self.version = session.version

    def _send(self, command: str, **parameters: Any) -> Any:
        return self._session.to(self._handle, command, **parameters)

    def open(self, url: str) -> None:
        self._send("Navigate", url=url)

    def run(self, body: str, *arguments: object) -> Any:
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
        actions = []
        for key in keys:
            chord = [_KEYS.get(each, each) for each in key.split("+")]
            actions += [{"type": "keyDown", "value": each} for each in chord]
            actions += [{"type": "keyUp", "value": each} for each in reversed(chord)]
        self._send("PerformActions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def choose(self, selector: str, *files: Path) -> None:
        found = self._send("FindElement", using="css selector", value=selector)
        text = "\n".join(map(str, files))
        self._send("ElementSendKeys", id=found[_ELEMENT], text=text)

    def picture(self) -> bytes:
        return base64.b64decode(self._send("TakeScreenshot", full=False))

    def tab(self) -> Driver:
        handle = self._send("NewWindow", type="tab")["handle"]
        return type(self)(self._session, handle)

    def close(self) -> None:
        left = self._send("CloseWindow")
        self._session.handle = ""
        if left:
            self._session.to(left[0], "GetWindowHandle")


# ---- Firefox -------------------------------------------------------------------------------------


class _Firefox(_WebDriver):
    engine = "firefox"

    def _chrome(self, script: str, *arguments: object) -> None:
        """Runs a script with the rights of the browser itself."""
        self._send("Marionette:SetContext", value="chrome")
        try:
            self._send("ExecuteScript", script=script, args=list(arguments))
        finally:
            self._send("Marionette:SetContext", value="content")

    def resize(self, width: int, height: int) -> None:
        script = """
            const { style } = gBrowser.selectedBrowser;
            for (const [name, value] of [["width", arguments[0]], ["height", arguments[1]]])
                for (const limit of ["", "min-", "max-"])
                    style.setProperty(limit + name, `${value}px`, "important");
        """
        self._chrome(script, width, height)
        self.run(
            "while (innerWidth !== given[0]) await new Promise((go) => setTimeout(go, 20))", width
        )

    def prefer(self, forced_colours: bool = False, reduced_motion: bool = False) -> None:
        script = """
            Services.prefs.setIntPref("browser.display.document_color_use", arguments[0] ? 2 : 0);
            Services.prefs.setIntPref("ui.prefersReducedMotion", Number(arguments[1]));
        """
        self._chrome(script, forced_colours, reduced_motion)
        wait = """
            const is = (query) => matchMedia(query).matches;
            while (is("(forced-colors: active)") !== given[0] ||
                   is("(prefers-reduced-motion: reduce)") !== given[1])
                await new Promise((go) => setTimeout(go, 20));
        """
        self.run(wait, forced_colours, reduced_motion)


@contextmanager
def firefox(directory: Path, proxy_port: int, optimised: bool = False) -> Iterator[Driver]:
    """Firefox with a new profile in `directory`."""
    program = find_program("firefox-esr", "firefox")
    preferences: dict[str, object] = {
        "marionette.port": 0,  # a free one, which it writes to a file
        "network.proxy.type": 1,
        "network.proxy.http": "127.0.0.1",
        "network.proxy.http_port": proxy_port,
        "network.proxy.ssl": "127.0.0.1",
        "network.proxy.ssl_port": proxy_port,
    }
    if not optimised:
        preferences["javascript.options.wasm_optimizingjit"] = False
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in preferences.items()]
    (directory / "user.js").write_text("".join(lines))
    command = (program, "--headless", "--marionette", "--remote-allow-system-access")
    environment = {**os.environ, "HOME": str(directory)}
    with _running(*command, "--profile", str(directory), env=environment):
        written = directory / "MarionetteActivePort"
        port = int(_wait_for(lambda: written.exists() and written.read_text(), program))
        connection = socket.create_connection(("127.0.0.1", port), 2 * SCRIPT_SECONDS)
        with connection, connection.makefile("rwb") as stream:
            driver = _Firefox(_Session(*_marionette(stream)))
            driver.open("about:blank")
            driver.resize(1280, 800)
            yield driver


def _marionette(stream: Any) -> tuple[Send, str]:
    """A session, and the browser's version, over Marionette's protocol: the length of a message, a
    colon, and JSON."""

    def receive() -> Any:
        digits = b""
        while (byte := stream.read(1)) != b":":
            digits += byte
        return json.loads(stream.read(int(digits)))

    def send(command: str, **parameters: Any) -> Any:
        name = command if ":" in command else f"WebDriver:{command}"
        text = json.dumps([0, 1, name, parameters]).encode()
        stream.write(b"%d:%s" % (len(text), text))
        stream.flush()
        _, _, error, result = receive()
        if error:
            raise AssertionError(f"{command}: {error['error']}: {error['message']}")
        return result.get("value", result) if isinstance(result, dict) else result

    receive()  # the greeting
    return send, send("NewSession")["capabilities"]["browserVersion"]


# ---- WebKitGTK -----------------------------------------------------------------------------------

_PATHS = {
    "SetTimeouts": "timeouts",
    "Navigate": "url",
    "ExecuteAsyncScript": "execute/async",
    "PerformActions": "actions",
    "SetWindowRect": "window/rect",
    "NewWindow": "window/new",
    "SwitchToWindow": "window",
    "FindElement": "element",
}
_READ_PATHS = {"GetWindowHandle": "window", "TakeScreenshot": "screenshot"}


class _WebKit(_WebDriver):
    engine = "webkitgtk"

    def resize(self, width: int, height: int) -> None:
        script = "return [innerWidth, innerHeight, outerWidth, outerHeight]"
        for _ in range(3):
            inner_width, inner_height, outer_width, outer_height = self.run(script)
            if (inner_width, inner_height) == (width, height):
                return
            rect = width + outer_width - inner_width, height + outer_height - inner_height
            self._send("SetWindowRect", width=rect[0], height=rect[1])
            self.run("await new Promise((go) => setTimeout(go, 200))")

    def prefer(self, forced_colours: bool = False, reduced_motion: bool = False) -> None:
        """It has no forced colours, and always asks for less motion."""


# With buttons in its bar, it would not be narrower than 447 pixels.
_BARE = """
* {
  padding: 0; margin: 0; border-width: 0; min-width: 0; min-height: 0; font-size: 1px;
  -gtk-icon-source: none;
}
"""


@contextmanager
def webkitgtk(directory: Path, proxy_port: int, optimised: bool = False) -> Iterator[Driver]:
    """WebKitGTK's small browser on a display of its own."""
    settings = directory / ".config" / "gtk-3.0"
    settings.mkdir(parents=True)
    (settings / "gtk.css").write_text(_BARE)
    (settings / "settings.ini").write_text("[Settings]\ngtk-enable-animations=0\n")
    environment = {**os.environ, "HOME": str(directory), "NO_AT_BRIDGE": "1"}
    if not optimised:
        environment["JSC_useOMGJIT"] = "0"
    with ExitStack() as started:
        session = _start_webkit(started, environment, proxy_port, directory / "webkit.log")
        try:
            driver = _WebKit(session)
            driver.resize(1280, 800)
            yield driver
        finally:
            with suppress(AssertionError):
                session.send("")


def _start_webkit(
    started: ExitStack, environment: dict[str, str], proxy_port: int, log: Path
) -> _Session:
    """A session of a new browser, whose programs end with `started`. Its driver looks for a free
    port and expects the browser there, where another program may listen by then, and waits without
    an end: what has not started within half a minute is started anew, twice. What the programs
    write goes to `log`. Errors: `TimeoutError`, with it."""
    for _ in range(2):
        with suppress(TimeoutError):
            return _started_webkit(started, environment, proxy_port, log)
    return _started_webkit(started, environment, proxy_port, log)


def _started_webkit(
    started: ExitStack, environment: dict[str, str], proxy_port: int, log: Path
) -> _Session:
    """The same, of one try."""
    with ExitStack() as programs, log.open("ab") as written:
        address = _run_webkit(programs, environment, written)
        try:
            session = _Session(*_webdriver(address, proxy_port, _STARTING_SECONDS / 2))
        except (TimeoutError, AssertionError) as error:
            text = log.read_text(errors="replace")
            raise TimeoutError(f"{error}; it wrote: {text}") from None
        started.push(programs.pop_all())
        return session


def _run_webkit(programs: ExitStack, environment: dict[str, str], log: IO[bytes]) -> str:
    """Starts a display and, on it, the browser's driver; returns its address."""
    program, xvfb = find_program("WebKitWebDriver"), find_program("Xvfb")
    display = (xvfb, "-displayfd", "1", "-screen", "0", "2100x1500x24", "-nolisten", "tcp")
    screen = programs.enter_context(_running(*display, stdout=subprocess.PIPE, stderr=log))
    assert screen.stdout is not None
    with screen.stdout as written:
        number = written.readline().decode().strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**environment, "DISPLAY": f":{number}"}
    programs.enter_context(
        _running(program, f"--port={port}", env=environment, stdout=log, stderr=log)
    )
    return f"http://127.0.0.1:{port}/session"


def _webdriver(address: str, proxy_port: int, starting_seconds: float) -> tuple[Send, str]:
    """A session over WebDriver's HTTP, and the browser's version; the command "" ends it."""

    def ask(
        url: str, parameters: Any, method: str = "POST", seconds: float = 2 * SCRIPT_SECONDS
    ) -> Any:
        body = json.dumps(parameters).encode() if method == "POST" else None
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.read().decode()}") from None

    proxy = f"127.0.0.1:{proxy_port}"
    proxies = {"proxyType": "manual", "httpProxy": proxy, "sslProxy": proxy}
    wanted = {"proxy": {**proxies, "noProxy": ["127.0.0.1"]}}
    capabilities = {"capabilities": {"alwaysMatch": wanted}}
    begin = partial(ask, address, capabilities, seconds=starting_seconds)
    opened = _wait_for(begin, "WebKitWebDriver", starting_seconds)
    session, version = opened["sessionId"], opened["capabilities"]["browserVersion"]

    def send(command: str, **parameters: Any) -> Any:
        base = f"{address}/{session}"
        if not command:
            return ask(base, None, "DELETE", _STARTING_SECONDS)
        if command == "CloseWindow":
            return ask(f"{base}/window", None, "DELETE")
        if command in _READ_PATHS:
            return ask(f"{base}/{_READ_PATHS[command]}", None, "GET")
        if command == "ElementSendKeys":
            return ask(f"{base}/element/{parameters.pop('id')}/value", parameters)
        return ask(f"{base}/{_PATHS[command]}", parameters)

    return send, version


ENGINES: dict[str, Launch] = {"chromium": chromium, "firefox": firefox, "webkitgtk": webkitgtk}


def launch(
    engine: str, directory: Path, proxy_port: int, optimised: bool = False
) -> AbstractContextManager[Driver]:
    """A browser with an empty profile in `directory`, for a `with`: its first tab. It sends what is
    not for this machine to a proxy at that port. Without `optimised` the browser compiles
    WebAssembly only once, which tests gain from: optimising would take much of the time in which a
    page starts. Errors: `FileNotFoundError` (it is not installed)."""
    return ENGINES[engine](directory, proxy_port, optimised)
