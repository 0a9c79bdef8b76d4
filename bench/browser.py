"""Language models in one Chromium: sparsefire beside wllama, the same file, taking turns.

    python bench/browser.py                       # everything, as tables: about ten minutes
    python bench/browser.py q8_0 page --json      # some sections, as JSON

Sections: `q8_0` and `q4_0` (tokens a second of SmolLM2, dense, against wllama as npm has it),
`sparse` (the embedded model, sparse against dense), `kernels` (matrices and layers under Pyodide,
against native ones, and what a call costs), `page` (what the browser page costs: first token cold
and warm, bytes, memory, and how long its main thread is ever busy while a text is made). Needs
Chromium, Playwright and npm; peers and models are kept in .cache/peers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playwright.sync_api import sync_playwright

import browser_kernels
import browser_page
from browser_site import bench_site, running
from peer_files import smollm2_as
from rows import Row, table
from sections import parse_arguments
from sparsefire.lm.model import default_model
from timing import Times

PROMPT = "The history of the steam engine begins with"
TOKENS = 32
ROUNDS = 5
FLAGS = ("--no-sandbox", "--disable-gpu")
# Against wllama on the same file: what llama.cpp's sources gave, built with good flags, by threads.
TARGETS = {("q8_0", 1): 3.3, ("q8_0", 2): 2.4, ("q4_0", 1): 5.0, ("q4_0", 2): 3.7}


@contextmanager
def bench_page(models: dict[str, Path]) -> Iterator[Any]:
    """A page with both engines, in a browser of its own."""
    chromium = shutil.which("chromium")
    with running(bench_site(models)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"{server.origin}/browser.html")
        page.wait_for_function("window.ready")
        yield page
        browser.close()


def decode_rows(format: str) -> Iterator[Row]:
    """SmolLM2, dense, with each number of threads: strict SIMD against wllama, then relaxed
    against strict."""
    with bench_page({format: smollm2_as(format)}) as page:
        engines: dict[str, tuple[str, str | None]] = {}
        for threads in (1, 2):
            for kind, isa in (("wllama", None), ("ours", None), ("ours", "relaxed128")):
                name = f"{'relaxed' if isa else kind}, {threads}"
                arguments = [name, kind, f"/models/{format}.gguf", threads, isa]
                got = page.evaluate("(a) => window.open(...a)", arguments)
                if got["threads"] != threads:
                    raise RuntimeError(f"{name} runs {got['threads']} threads, not {threads}")
                engines[name] = (name, None if kind == "wllama" else "dense")
            engines[f"again, {threads}"] = engines[f"ours, {threads}"]
        times = take_turns(page, engines)
    for threads in (1, 2):
        ours, relaxed = times[f"ours, {threads}"], times[f"relaxed, {threads}"]
        what = f"SmolLM2 {format}, dense, {threads} thread{'s' if threads > 1 else ''}"
        yield Row.compare(
            "browser",
            f"{what}: {1 / ours.median:.1f} tokens/s",
            max(3.0, TARGETS[format, threads]),
            ours,
            times[f"again, {threads}"],
            times[f"wllama, {threads}"],
            "wllama",
        )
        value = ours.median / relaxed.median
        what = f"{what}: relaxed against strict SIMD, {1 / relaxed.median:.1f} tokens/s"
        yield Row("browser", what, value, 1.0, relaxed, ours, "strict")


def sparse_rows() -> Iterator[Row]:
    """The embedded model, one thread: sparse against dense."""
    with bench_page({"embedded": default_model()}) as page:
        page.evaluate("(a) => window.open(...a)", ["ours", "ours", "/models/embedded.gguf", 1])
        engines = {"dense": ("ours", "dense"), "sparse": ("ours", "sparse")}
        engines["again"] = engines["sparse"]
        times = take_turns(page, engines, 200)
    yield Row.compare(
        "browser",
        f"embedded model, sparse, 1 thread: {1 / times['sparse'].median:.0f} tokens/s",
        2.0,
        times["sparse"],
        times["again"],
        times["dense"],
        "dense",
    )


def kernel_rows() -> Iterator[Row]:
    """See browser_kernels.py."""
    with bench_page({"embedded": default_model()}) as page:
        page.evaluate("(a) => window.open(...a)", ["ours", "ours", "/models/embedded.gguf", 1])
        yield from browser_kernels.rows(page)


def take_turns(
    page: Any, engines: dict[str, tuple[str, str | None]], tokens: int = TOKENS
) -> dict[str, Times]:
    """Seconds per token of each, after the first token, as the page saw them arrive. A first round
    warms up: browsers compile the better code while a module runs."""
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(ROUNDS + 1):
        for name in names:
            engine, mode = engines[name]
            text = page.evaluate("(a) => window.generate(...a)", [engine, PROMPT, tokens, mode])
            if text["pieces"] < tokens // 2:
                raise RuntimeError(f"{name} ended after {text['pieces']} pieces: {text['text']!r}")
            if index > 0:
                seconds[name].append(text["rest_s"] / (text["pieces"] - 1))
        names = names[1:] + names[:1]
    return {name: Times(tuple(seconds[name])) for name in engines}


SECTIONS: dict[str, Callable[[], Iterator[Row | browser_page.Visit]]] = {
    "q8_0": partial(decode_rows, "q8_0"),
    "q4_0": partial(decode_rows, "q4_0"),
    "sparse": sparse_rows,
    "kernels": kernel_rows,
    "page": browser_page.visits,
}


def main() -> int:
    """Runs the sections that the command line names."""
    arguments = parse_arguments("browser.py", "sparsefire beside wllama.", SECTIONS)
    rows: list[Row] = []
    visits: list[browser_page.Visit] = []
    for section in arguments.sections:
        print(f"{section} …", file=sys.stderr, flush=True)
        for found in SECTIONS[section]():
            print(f"  {found}", file=sys.stderr, flush=True)
            if isinstance(found, Row):
                rows.append(found)
            else:
                visits.append(found)
    if arguments.json:
        report = {"rows": [row.as_dict() for row in rows], "visits": [asdict(v) for v in visits]}
        print(json.dumps(report, indent=1))
        return 0
    print("\n\n".join([table(rows)] * bool(rows) + [browser_page.table(visits)] * bool(visits)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
