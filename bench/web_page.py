"""What the browser page takes: to start, to show the neurons, of the main thread.

    python bench/web_page.py start     # opening it, with an empty profile and again
    python bench/web_page.py map       # decode speed with the map and without, in turns
    python bench/web_page.py blocked   # the longest that the page could not answer while generating

Needs Playwright (extra "test") and Chromium. The page is served from this machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsefire.web_server import WebServer
from sparsefire.web_site import make_site

_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_PROMPT = "The people of"
_LOOK = """
window.stages = [];
setInterval(() => {
    const text = document.getElementById("progress-text")?.textContent.split(":")[0];
    if (text && window.stages.at(-1)?.[0] !== text) window.stages.push([text, performance.now()]);
}, 10);
"""
_BLOCKED = """
window.blocked = [];
new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) window.blocked.push(duration);
}).observe({ type: "longtask" });
"""


@contextmanager
def served(model: Path | None) -> Iterator[tuple[Any, str]]:
    """Chromium and the address of the page."""
    from playwright.sync_api import sync_playwright

    server = WebServer(make_site(model))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser, server.origin
        browser.close()
    server.shutdown()


def opened(context: Any, origin: str, script: str = "") -> Any:
    """A page that is ready."""
    page = context.new_page()
    if script:
        page.add_init_script(script)
    page.goto(origin)
    wait(page)
    return page


def wait(page: Any) -> None:
    """Until the page has nothing to do."""
    page.wait_for_selector("html[data-state=ready]", timeout=300_000)


def generate(page: Any, mode: str, tokens: int) -> float:
    """Tokens per second of a greedy text."""
    page.evaluate("document.getElementById('sampling').open = true")
    for name, value in {"max_tokens": tokens, "temperature": 0, "repeat_penalty": 1}.items():
        page.fill(f"#{name}", str(value))
    page.check(f"input[name=mode][value={mode}]")
    page.fill("#prompt", _PROMPT)
    script = """new Promise((done) => import("/page.js").then(({ state }) => {
        state.engine.addEventListener("text", function look({ detail }) {
            if (!detail.done) return;
            state.engine.removeEventListener("text", look);
            done(detail.speed);
        });
        document.getElementById("go").click();
    }))"""
    speed = float(page.evaluate(script))
    wait(page)
    return speed


def start(browser: Any, origin: str, runs: int) -> None:
    """Prints how long opening the page takes."""
    for name in ("empty profile", "second visit"):
        seconds, stages = [], []
        context = browser.new_context()
        for _ in range(runs):
            if name == "empty profile":
                context.close()
                context = browser.new_context()
            else:
                opened(context, origin).wait_for_timeout(4000)  # its files are being kept
            began = time.perf_counter()
            page = opened(context, origin, _LOOK)
            seconds.append(time.perf_counter() - began)
            stages = page.evaluate("window.stages")
            page.close()
        context.close()
        print(f"{name}: {statistics.median(seconds):.2f} s, of {[round(s, 2) for s in seconds]}")
        for stage, milliseconds in stages:
            print(f"    {milliseconds / 1000:5.2f} s  {stage}")


def show_map(browser: Any, origin: str, runs: int) -> None:
    """Prints decode speed with the map over that without, by mode."""
    page = opened(browser.new_context(), origin)
    for mode in ("sparse", "dense"):
        if page.is_disabled(f"input[name=mode][value={mode}]"):
            continue
        generate(page, mode, 200)
        speeds: dict[bool, list[float]] = {True: [], False: []}
        for run in range(2 * runs):
            shown = run % 4 in (0, 3)
            page.set_checked("#watch", shown)
            speeds[shown].append(generate(page, mode, 300))
        on, off = (statistics.median(speeds[shown]) for shown in (True, False))
        print(f"{mode}: {on:.0f} tokens/s with the map, {off:.0f} without: {on / off:.3f}")


def show_blocked(browser: Any, origin: str, runs: int) -> None:
    """Prints the longest task of the page's main thread while it generates, from 50 ms."""
    page = opened(browser.new_context(viewport={"width": 1280, "height": 900}), origin)
    generate(page, "dense", 1)  # opens the settings, which lays the page out anew
    page.wait_for_timeout(500)
    page.evaluate(_BLOCKED)
    tokens = 0
    for run in range(runs):
        modes = [
            mode
            for mode in ("sparse", "exact", "dense")
            if not page.is_disabled(f"input[name=mode][value={mode}]")
        ]
        generate(page, modes[run % len(modes)], 300)
        tokens += 300
    blocked = page.evaluate("window.blocked")
    longest = f"the longest {max(blocked):.0f} ms" if blocked else "none of 50 ms or more"
    print(f"{tokens} tokens, {len(blocked)} long tasks, {longest}")


def main() -> int:
    """Runs what the command line names."""
    kinds = {"start": start, "map": show_map, "blocked": show_blocked}
    parser = argparse.ArgumentParser(description="What the browser page takes.")
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("-m", "--model", type=Path, help="that the page opens with")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with served(arguments.model) as (browser, origin):
        kinds[arguments.kind](browser, origin, arguments.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
