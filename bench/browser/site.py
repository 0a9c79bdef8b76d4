"""Pages in Chromium with what they ask for, served from this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsefire.page.fetch import RUNTIME_FILES, ensure_pyodide, numpy_wheel
from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile, build_wheel

from ..lib.peer_files import HOME, chromium, npm_files, peer

WLLAMA = "@wllama/wllama@3.13.0"
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PAGES = Path(__file__).resolve().parent / "chromium"


class CountingServer(WebServer):
    """Counts in `sent` the bytes that it sends, headers too."""

    def __init__(self, site: Mapping[str, SiteFile]) -> None:
        super().__init__(site)
        self.sent = 0
        server = self

        class Counting(self.RequestHandlerClass):  # type: ignore[misc, name-defined]
            def setup(self) -> None:
                super().setup()
                write = self.wfile.write

                def counted(data: bytes) -> int:
                    server.sent += len(data)
                    return int(write(data))

                self.wfile.write = counted

        self.RequestHandlerClass = Counting


@contextmanager
def running(site: Mapping[str, SiteFile]) -> Iterator[CountingServer]:
    """Serves a site for the time of a `with`."""
    server = CountingServer(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def launch(profile: str | None = None) -> Iterator[Any]:
    """Chromium under Playwright; with a directory as ``profile``, a context that keeps it."""
    with peer("playwright.sync_api").sync_playwright() as playwright:
        options = {"executable_path": chromium(), "args": list(FLAGS)}
        if profile is None:
            found = playwright.chromium.launch(**options)
        else:
            found = playwright.chromium.launch_persistent_context(profile, **options)
        yield found
        found.close()


@contextmanager
def open_page(site: Mapping[str, SiteFile], name: str) -> Iterator[Any]:
    """One page of a site, when it is ready, in a browser of its own."""
    with running(site) as server, launch() as browser:
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"{server.origin}/{name}")
        page.wait_for_function("window.ready")
        yield page


@contextmanager
def python_page(model: Path) -> Iterator[Callable[[str], str]]:
    """A function that runs Python under Pyodide in Chromium, on one thread, and gives the text
    that the code ends with. ``model`` is loaded."""
    with open_page(bench_site({"model": model}), "browser.html") as page:
        page.evaluate("(a) => window.open(...a)", ["ours", "ours", "/models/model.gguf", 1])
        yield lambda code: str(page.evaluate("(a) => window.runPython(...a)", ["ours", code]))


def bench_site(models: Mapping[str, Path]) -> dict[str, SiteFile]:
    """The pages with both engines, and these models as /models/NAME.gguf."""
    site = {path.name: SiteFile(path) for path in PAGES.iterdir()}
    home = ensure_pyodide(None, None)
    for name in (*RUNTIME_FILES, numpy_wheel(home).name):
        site[f"pyodide/{name}"] = SiteFile(home / name)
    site["sparsefire.whl"] = SiteFile(data=build_wheel())
    for name in ("index.js", "wllama.wasm"):
        site[f"wllama/{name}"] = SiteFile(_wllama() / name)
    return site | {f"models/{name}.gguf": SiteFile(path) for name, path in models.items()}


def _wllama() -> Path:
    """The directory with wllama's script and module, as npm has them."""
    home = HOME / WLLAMA.replace("/", "-").lstrip("@")
    wanted = {"package/esm/index.js": "index.js", "package/esm/wasm/wllama.wasm": "wllama.wasm"}
    if not all((home / name).exists() for name in wanted.values()):
        npm_files(WLLAMA, home, wanted.get)
    return home
