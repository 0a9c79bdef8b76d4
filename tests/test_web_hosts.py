"""The browser page on slow servers, on static hosts, and with a large model."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import tiny_model
from conftest import open_test_core
from shared import CACHE
from sparsefire.cli import main
from sparsefire.lm.model import Model
from sparsefire.page.server import WebServer
from sparsefire.page.site import SiteFile, make_site
from web_harness import AT_REST, SECONDS, WITHOUT_SHARED_MEMORY, running, scripted

pytest_plugins = ("web_fixtures",)
GREEDY = {"temperature": 0, "repeat_penalty": 1}
# Presses Stop as soon as that can be done: a text may take less than a second.
STOP_SOON = """(() => {
    const stop = document.getElementById("stop");
    const timer = setInterval(() => {
        if (stop.disabled || !stop.getClientRects().length) return;
        clearInterval(timer);
        stop.click();
    }, 5);
})()"""


class SlowServer(WebServer):
    """Sends `rate` bytes per second; stalls after `stall` bytes until `go` is set. `sent` counts
    the bytes."""

    def __init__(self, site: Mapping[str, SiteFile], rate: float, stall: int) -> None:
        super().__init__(site)
        self.sent = 0
        self.go = threading.Event()
        lock = threading.Lock()
        server = self

        class Slow(self.RequestHandlerClass):  # type: ignore[misc, name-defined]
            def setup(self) -> None:
                super().setup()
                write = self.wfile.write

                def slowly(data: bytes) -> int:
                    for start in range(0, len(data), 1 << 16):
                        piece = data[start : start + (1 << 16)]
                        with lock:
                            if server.sent > stall:
                                server.go.wait(SECONDS)
                            server.sent += len(piece)  # before it can arrive
                            time.sleep(len(piece) / rate)
                        write(piece)
                    return len(data)

                self.wfile.write = slowly

        self.RequestHandlerClass = Slow


def megabytes(text: str) -> list[float]:
    """The sizes in "Python and numpy: 840 kB of 20 MB", in MB."""
    units = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0}
    found = re.findall(r"([\d.]+) (bytes|kB|MB)", text)
    return [float(number) * units[unit] for number, unit in found]


def test_on_a_slow_network_the_bar_tells_what_has_come(
    visit: Any, site: dict[str, SiteFile], native: Model
) -> None:
    # The page keeps what it shows, since this test may look too rarely.
    keep = """addEventListener("DOMContentLoaded", () => {
        const bar = document.getElementById("progress");
        const text = document.getElementById("progress-text");
        window.shown = [];
        const observer = new MutationObserver(() => {
            window.shown.push([text.textContent, bar.value / bar.max]);
        });
        observer.observe(text, { childList: true });
    })"""
    look = "() => [document.documentElement.dataset.state, (window.shown ?? []).splice(0)]"
    told: list[tuple[float, float, float]] = []  # MB: shown, in all, sent by the server
    waits = False
    with running(SlowServer(scripted(site, AT_REST + keep), 15e6, 5_000_000)) as server:
        web = visit(server.origin)
        web.driver.open(server.origin)
        state = ""
        end = time.monotonic() + SECONDS
        while state != "ready" and time.monotonic() < end:
            state, texts = web.evaluate(look)
            sent = server.sent / 1e6
            for text, part in texts:
                if re.match("(Python and numpy|Importing sparsefire): ", text):
                    done, total = megabytes(text)
                    assert abs(part - done / total) < 0.05
                    told.append((done, total, sent))
                waits = waits or text.endswith("waiting for the server")
                if text.endswith("received; starting Python"):
                    (received,) = megabytes(text)
                    assert part == 1
            # When nothing comes, all that was sent but the page itself, 1.4 MB, and what the
            # browser has not handed on.
            if waits and sent - 3.5 < told[-1][0]:
                server.go.set()
            time.sleep(0.05)
        assert state == "ready", (waits, told[-1:])
        expected = "".join(native.generate("The people of", 12, mode="sparse", temperature=0))
        assert web.generate("The people of", "sparse", max_tokens=12, **GREEDY) == expected
        assert server.go.is_set()
    shown = [done for done, _, _ in told]
    assert len(set(shown)) > 5
    assert shown == sorted(shown)
    assert {total for _, total, _ in told} == {received}
    # Never more than was sent.
    assert all(done < sent + 0.6 for done, _, sent in told), told


def test_the_page_works_on_a_plain_static_host_under_a_path(
    visit: Any, native: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First without isolation, then isolated by the service worker, without the server and with a
    stored model."""
    monkeypatch.setenv("SPARSEFIRE_CACHE", str(CACHE))
    assert main(["web", "--export", str(tmp_path / "some" / "path")]) == 0
    guard = tmp_path / "some" / "path" / "guard.js"
    guard.write_bytes(scripted({"guard.js": SiteFile(data=guard.read_bytes())})["guard.js"].read())
    small = tiny_model.write(tmp_path / "small.gguf", context=64)

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    handler = functools.partial(Silent, directory=tmp_path)
    expected = "".join(native.generate("The people of", 20, mode="sparse", temperature=0))
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        web = visit(f"http://127.0.0.1:{server.server_port}")
        web.open("/some/path/")
        assert not web.evaluate("crossOriginIsolated")
        assert "Not cross-origin isolated" in web.support()
        assert "One thread" in web.support()
        assert web.is_disabled("#threads")
        assert web.generate("The people of", "sparse", max_tokens=20, **GREEDY) == expected
        web.evaluate(STOP_SOON)
        web.begin("The people of", "dense", max_tokens=400, temperature=1)
        web.wait_for("ready")
        assert web.text("#announce").startswith("Stopped: ")
        web.choose(small)
        web.wait_for_model("small.gguf")
        web.until("document.getElementById('capabilities').textContent.includes('Works offline')")
    web.expected += ("Failed to load resource", "net::ERR")
    web.open("/some/path/")
    assert web.evaluate("crossOriginIsolated")
    lacks = web.driver.engine in WITHOUT_SHARED_MEMORY
    assert ("No shared memory" if lacks else "Cross-origin isolated") in web.support()
    assert web.generate("The people of", "sparse", max_tokens=20, **GREEDY) == expected
    if not web.stores():
        assert not any(row.startswith("small.gguf") for row in web.kept())
        return
    web.press_in_row("small.gguf", "Load")
    web.wait_for_model("small.gguf")
    with Model.load(small, core=open_test_core("native-scalar")) as model:
        made = "".join(model.generate("abc", 12, mode="exact", temperature=0))
    assert web.generate("abc", "exact", max_tokens=12, **GREEDY) == made


# ---- A large model that the page opens with ----------------------------------------------------


class ModelServer(WebServer):
    """Sends the model as a whole or, with `ranges`, in ranges: the fourth request fails and the
    sixth answer is cut off. `asked` lists the requested ranges."""

    def __init__(self, site: Mapping[str, SiteFile], ranges: bool) -> None:
        super().__init__(site)
        self.asked: list[str] = []
        server = self

        class Handler(self.RequestHandlerClass):  # type: ignore[misc, name-defined]
            def do_GET(self) -> None:  # noqa: N802
                if not self.path.startswith("/models/"):
                    super().do_GET()
                    return
                if not ranges:
                    del self.headers["Range"]
                server.asked.append(self.headers.get("Range", ""))
                if ranges and len(server.asked) == 4:
                    self.send_error(503)
                    return
                super().do_GET()

            def _send(self, file: SiteFile, start: int, end: int) -> None:
                cut = ranges and len(server.asked) == 6 and self.path.startswith("/models/")
                super()._send(file, start, start + (end - start) // 2 if cut else end)
                self.close_connection |= cut

        self.RequestHandlerClass = Handler


@pytest.mark.parametrize("ranges", [True, False])
def test_a_large_model_that_the_page_opens_with(
    visit: Callable[..., Any], tmp_path: Path, ranges: bool
) -> None:
    """One in two files, in ranges, or one file as a whole."""
    if ranges:
        parts = tiny_model.write_parts(tmp_path, 2, tiny_model.Tiny(hidden=30_000))
    else:
        parts = [tiny_model.write_hollow(tmp_path / "large.gguf", 30_000)]
    small = tiny_model.write(tmp_path / "small.gguf", context=64)
    assert sum(path.stat().st_size for path in parts) > 40 << 20
    with Model.load(parts[0], core=open_test_core("native-scalar")) as model:
        expected = "".join(model.generate("abc", 5, mode="dense", temperature=0))
    site = make_site(parts[0], cache=CACHE)
    assert {f"models/{path.name}" for path in parts} <= site.keys()
    with running(ModelServer(scripted(site), ranges)) as server:
        web = visit(server.origin)
        web.expected.append("Failed to load resource")
        web.open()
        web.wait_for_model("tiny" if ranges else "large")
        many = (os.cpu_count() or 1) > 1 and web.driver.engine not in WITHOUT_SHARED_MEMORY
        assert ("Chosen for a model of this size" in web.content("#capabilities")) is many
        assert web.generate("abc", "dense", max_tokens=5, **GREEDY) == expected
        if ranges:
            assert server.asked[3] == server.asked[4]  # the one that was refused
            # And the one that was cut off, or what was missing of it, with what follows.
            cut, again = (
                [int(end) for end in asked.removeprefix("bytes=").split("-")]
                for asked in server.asked[5:7]
            )
            assert cut[0] <= again[0] <= cut[1] <= again[1]
            assert all(server.asked)
        else:
            assert server.asked == [""]
        web.choose(small)
        web.wait_for_model("small.gguf")
        assert "One thread" in web.content("#capabilities")
        assert web.generate("abc", "exact", max_tokens=5, **GREEDY)
