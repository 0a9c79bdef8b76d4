"""What the browser page takes: to start, to show the neurons, of the main thread.

    python -m bench.browser.page start     # opening it, with an empty profile and again
    python -m bench.browser.page map       # decode speed with the map and without, in turns
    python -m bench.browser.page blocked   # the longest task of the main thread while generating
    python -m bench.browser.page engine    # decode speed with what can be chosen under "Engine"
    python -m bench.browser.page calibrate -m FILE    # how long a dense model's calibration takes

Needs Playwright and Chromium. The page is served from this machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsefire.page.site import make_site

from ..lib.command import run_program
from .site import launch, running

_PROMPT = "The people of"
_VIEW = {"width": 1280, "height": 900}
_BLOCK_SECONDS = 1.0  # of texts between two changes of what is compared
_REST = 1100  # milliseconds in which the map comes to rest after a text
_TEXTS = """async (texts) => {
    const { state } = await import("/page.js");
    let [tokens, seconds] = [0, 0];
    const look = ({ detail }) => {
        if (!detail.done) return;
        tokens += detail.tokens - 1;
        seconds += (detail.tokens - 1) / detail.speed;
    };
    const once = { once: true };
    const changed = () => new Promise((done) => document.addEventListener("phase", done, once));
    state.engine.addEventListener("text", look);
    for (let text = 0; text < texts; text++) {
        document.getElementById("go").click();
        while (state.phase !== "ready") await changed();
    }
    state.engine.removeEventListener("text", look);
    return [tokens, seconds];
}"""
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
    with launch() as browser, running(make_site(model)) as server:
        yield browser, server.origin


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


def settings(page: Any, tokens: int) -> None:
    """Greedy texts of so many tokens."""
    page.evaluate("document.getElementById('sampling').open = true")
    for name, value in {"max_tokens": tokens, "temperature": 0, "repeat_penalty": 1}.items():
        page.fill(f"#{name}", str(value))
    page.fill("#prompt", _PROMPT)


def generate(page: Any, mode: str, texts: int = 1) -> tuple[int, float]:
    """Tokens and seconds of texts one after another, without each one's first token."""
    page.check(f"input[name=mode][value={mode}]")
    tokens, seconds = page.evaluate(_TEXTS, texts)
    wait(page)
    return int(tokens), float(seconds)


def modes_of(page: Any) -> list[str]:
    """What the model can do."""
    every = ("sparse", "exact", "dense")
    return [mode for mode in every if not page.is_disabled(f"input[name=mode][value={mode}]")]


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
    """Prints what the map takes, by mode: decode speed with it over that without, as medians of
    the ratios of neighbours in time, beside how far two without it differ; and the processor time
    that the browser spends beside decoding, which is what it could take at most."""
    page = opened(browser.new_context(viewport=_VIEW), origin)
    settings(page, 400)
    for mode in [mode for mode in modes_of(page) if mode != "exact"]:
        page.set_checked("#watch", True)
        generate(page, mode)
        _, seconds = generate(page, mode)
        texts = max(1, round(_BLOCK_SECONDS / seconds))
        names = ["with", "without", "again"]
        speeds: dict[str, list[float]] = {name: [] for name in names}
        others: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(runs):
            for name in names:
                if page.is_checked("#watch"):
                    page.wait_for_timeout(_REST)
                page.set_checked("#watch", name == "with")
                before = beside_decoding()
                tokens, seconds = generate(page, mode, texts)
                others[name].append((beside_decoding() - before) / seconds)
                speeds[name].append(tokens / seconds)
            names = names[1:] + names[:1]
        page.set_checked("#watch", True)
        rates = {name: statistics.median(speeds[name]) for name in names}
        print(f"{mode}: {rates['with']:.0f} tokens/s with the map, {rates['without']:.0f} without")
        for name, what in {"with": "with / without", "again": "without / without"}.items():
            pairs = zip(speeds[name], speeds["without"], strict=True)
            first, middle, third = statistics.quantiles([a / b for a, b in pairs], n=4)
            print(f"    {what}: {middle:.3f} (quartiles {first:.3f} … {third:.3f})")
        shares = {name: 100 * statistics.median(others[name]) for name in names}
        print(
            f"    processor time beside decoding, % of one: {shares['with']:.1f} with, "
            f"{shares['without']:.1f} without, {shares['again']:.1f} without again"
        )


def beside_decoding() -> float:
    """Seconds of processor time that the browser's threads have had, but for those of workers, in
    which Python and the model run. Linux tells."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"chrom" not in (process / "cmdline").read_bytes().split(b"\0")[0]:
                continue
            for task in (process / "task").iterdir():
                if "Worker" not in (task / "comm").read_text():
                    total += int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            continue  # it has ended
    return total / 1e9


def show_blocked(browser: Any, origin: str, runs: int) -> None:
    """Prints the longest task of the page's main thread while it generates, from 50 ms."""
    page = opened(browser.new_context(viewport=_VIEW), origin)
    if page.is_visible("#kinds"):
        page.check("input[name=kind][value=text]")
    settings(page, 300)  # opens the settings, which lays the page out anew
    page.wait_for_timeout(500)
    page.evaluate(_BLOCKED)
    tokens = 0
    for run in range(runs):
        modes = modes_of(page)
        tokens += generate(page, modes[run % len(modes)])[0] + 1
    blocked = page.evaluate("window.blocked")
    longest = f"the longest {max(blocked):.0f} ms" if blocked else "none of 50 ms or more"
    print(f"{tokens} tokens, {len(blocked)} long tasks, {longest}")


def show_engine(browser: Any, origin: str, runs: int) -> None:
    """Prints decode speed by threads and arithmetic, each in a page of its own, taking turns."""
    pages = {}
    for threads, arithmetic in itertools.product((1, 2), ("strict", "relaxed")):
        context = browser.new_context(viewport=_VIEW)
        context.add_init_script(
            "localStorage.setItem('sparsefire-autostart', 'off');"
            f"localStorage.setItem('sparsefire-threads', '{threads}');"
            f"localStorage.setItem('sparsefire-arithmetic', '{arithmetic}')"
        )
        page = pages[f"{threads}, {arithmetic}"] = opened(context, origin)
        if page.is_visible("#kinds"):
            page.check("input[name=kind][value=text]")
        settings(page, 400)
    mode = modes_of(page)[0]
    _, seconds = generate(page, mode)
    tokens = 400 if seconds < _BLOCK_SECONDS else round(400 * _BLOCK_SECONDS / seconds)
    names = list(pages)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs + 1):
        for name in names:
            pages[name].bring_to_front()
            pages[name].fill("#max_tokens", str(tokens))
            made, seconds = generate(pages[name], mode)
            if run > 0:  # browsers compile the better code while a module runs
                speeds[name].append(made / seconds)
        names = names[1:] + names[:1]
    for name, each in speeds.items():
        pairs = zip(each, speeds["1, strict"], strict=True)
        gain = statistics.median(a / b for a, b in pairs)
        print(f"{mode}, {name}: {statistics.median(each):.0f} tokens/s, {gain:.2f}×")


def show_calibrate(browser: Any, origin: str, _runs: int) -> None:
    """Prints how long "Calibrate here" takes, by its stages, and what it finds."""
    context = browser.new_context(viewport=_VIEW)
    context.add_init_script("localStorage.setItem('sparsefire-autostart', 'off')")
    page = opened(context, origin, _LOOK)
    if not page.is_visible("#calibrate"):
        raise SystemExit("the page does not calibrate this model: give a small dense one with -m")
    page.evaluate("window.stages.length = 0")
    began = page.evaluate("performance.now()")
    page.click("#calibrate")
    found = "document.getElementById('calibration').textContent"
    page.wait_for_function(f"{found} || !document.getElementById('problem').hidden", timeout=0)
    print(page.evaluate(f"{found} || document.getElementById('problem-text').textContent"))
    for stage, milliseconds in page.evaluate("window.stages"):
        print(f"    {(milliseconds - began) / 1000:6.1f} s  {stage}")
    print(f"    {(page.evaluate('performance.now()') - began) / 1000:6.1f} s  in all")


def main() -> int:
    """Runs what the command line names."""
    kinds = {
        "start": start,
        "map": show_map,
        "blocked": show_blocked,
        "engine": show_engine,
        "calibrate": show_calibrate,
    }
    parser = argparse.ArgumentParser(
        prog="python -m bench.browser.page", description="What the browser page takes."
    )
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("-m", "--model", type=Path, help="that the page opens with")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with served(arguments.model) as (browser, origin):
        kinds[arguments.kind](browser, origin, arguments.runs)
    return 0


if __name__ == "__main__":
    run_program(main)
