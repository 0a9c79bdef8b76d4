"""Language models in one Chromium: sparsefire against wllama on the same file, in turns.

    python -m bench.browser                       # everything, as tables: about ten minutes
    python -m bench.browser q8_0 page --json      # some sections, as JSON
    python -m bench.browser --quick sparse        # tiny sizes: only shows that it works

Sections: `q8_0`, `q4_0` and `q4_1` (tokens a second of SmolLM2, dense, against wllama as npm has
it; neither uses a GPU, and `q4_1`, the file as it is published, needs no llama.cpp to convert it),
`screened` (SmolLM2 and Gemma 3 as they are published, with a screened head, against wllama),
`sparse` (the embedded model, sparse against dense), `kernels` (matrices and layers under Pyodide,
against native ones, and what a call costs), `page` (what the browser page costs: first token cold
and warm, bytes, memory, and how long its main thread is ever busy while a text is made). Needs
Chromium, Playwright and npm; peers and models are kept in .cache/peers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sparsefire.arch.screen import companion_path
from sparsefire.calibrate.head import calibrate_head
from sparsefire.lm.opening import default_model

from ..lib.command import Effort, parse_sections, run_program
from ..lib.peer_files import address, gemma3, smollm2, smollm2_as
from ..lib.rows import Row, table
from ..lib.timing import Times, ratio
from . import kernels, visits
from .site import bench_site, open_page, python_page

PROMPT = "The history of the steam engine begins with"
TOKENS = 32
ROUNDS = 5


def decode_rows(format: str, effort: Effort) -> Iterator[Row]:
    """SmolLM2, dense, with each number of threads: strict SIMD against wllama, then relaxed
    against strict."""
    with open_page(bench_site({format: smollm2_as(format)}), "browser.html") as page:
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
        times = take_turns(page, engines, effort)
    for threads in (1, 2):
        ours, relaxed = times[f"ours, {threads}"], times[f"relaxed, {threads}"]
        what = f"SmolLM2 {format}, dense, {threads} thread{'s' if threads > 1 else ''}"
        both = {"ours": ours, "again": times[f"again, {threads}"]}
        both |= {"wllama": times[f"wllama, {threads}"]}
        yield Row.compare("browser", f"{what}: {1 / ours.median:.1f} tokens/s", both, peer="wllama")
        what = f"{what}: relaxed against strict SIMD, {1 / relaxed.median:.1f} tokens/s"
        yield Row("browser", what, ratio(ours, relaxed), relaxed, ours, "strict")


def screened_rows(effort: Effort) -> Iterator[Row]:
    """SmolLM2 and Gemma 3 as they are published, with a screened head, against wllama, and the same
    with all rows of the head."""
    for what, model in (("SmolLM2 q4_1", smollm2()), ("Gemma 3 270M q4_k_m", gemma3())):
        for threads in (1, 2):
            times = _screened_times(model, threads, effort)
            for name in ("screened", "relaxed", "dense"):
                shown = f"{what}, {name}, {threads} thread{'s' if threads > 1 else ''}"
                shown += f": {1 / times[name].median:.1f} tokens/s"
                yield Row.compare("browser", shown, times, name, "wllama")


def _screened_times(model: Path, threads: int, effort: Effort) -> dict[str, Times]:
    """Of wllama, and of ours with all rows, with the screen, and with relaxed SIMD too."""
    screen = "/models/screen.gguf"
    ways = {
        "wllama": ("wllama", None, None),
        "dense": ("ours", None, None),
        "screened": ("ours", None, screen),
        "relaxed": ("ours", "relaxed128", screen),
    }
    site = bench_site({"model": model, "screen": screen_of(model)})
    with open_page(site, "browser.html") as page:
        for name, (kind, isa, companion) in ways.items():
            arguments = [name, kind, "/models/model.gguf", threads, isa, companion]
            page.evaluate("(a) => window.open(...a)", arguments)
        engines: dict[str, tuple[str, str | None]] = {name: (name, None) for name in ways}
        return take_turns(page, engines | {"again": ("screened", None)}, effort)


def screen_of(model: Path) -> Path:
    """The companion with a screen of a model's output matrix, made natively where there is none."""
    path = companion_path(model)
    if not path.exists():
        calibrate_head(model, text=address(), even_if_slower=True)
    return path


def sparse_rows(effort: Effort) -> Iterator[Row]:
    """The embedded model, one thread: sparse against dense."""
    with open_page(bench_site({"embedded": default_model()}), "browser.html") as page:
        page.evaluate("(a) => window.open(...a)", ["ours", "ours", "/models/embedded.gguf", 1])
        engines = {"dense": ("ours", "dense"), "sparse": ("ours", "sparse")}
        engines["again"] = engines["sparse"]
        times = take_turns(page, engines, effort, 200)
    what = f"embedded model, sparse, 1 thread: {1 / times['sparse'].median:.0f} tokens/s"
    yield Row.compare("browser", what, times, "sparse", "dense")


def kernel_rows(effort: Effort) -> Iterator[Row]:
    """See `kernels`."""
    with python_page(default_model()) as python:
        yield from kernels.rows(python, effort)


def take_turns(
    page: Any,
    engines: Mapping[str, tuple[str, str | None]],
    effort: Effort,
    tokens: int = TOKENS,
) -> dict[str, Times]:
    """Seconds per token of each, after the first token, as the page saw them arrive. A first round
    warms up: browsers compile the better code while a module runs."""
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range((2 if effort.quick else ROUNDS) + 1):
        for name in names:
            engine, mode = engines[name]
            text = page.evaluate("(a) => window.generate(...a)", [engine, PROMPT, tokens, mode])
            if text["pieces"] < tokens // 2:
                raise RuntimeError(f"{name} ended after {text['pieces']} pieces: {text['text']!r}")
            if index > 0:
                seconds[name].append(text["rest_s"] / (text["pieces"] - 1))
        names = names[1:] + names[:1]
    return {name: Times(tuple(seconds[name])) for name in engines}


SECTIONS: dict[str, Callable[[Effort], Iterator[Row | visits.Visit]]] = {
    "q8_0": partial(decode_rows, "q8_0"),
    "q4_0": partial(decode_rows, "q4_0"),
    "q4_1": partial(decode_rows, "q4_1"),
    "screened": screened_rows,
    "sparse": sparse_rows,
    "kernels": kernel_rows,
    "page": visits.visits,
}


def main() -> int:
    """Runs the sections that the command line names."""
    arguments = parse_sections("bench.browser", "sparsefire against wllama.", SECTIONS)
    rows: list[Row] = []
    seen: list[visits.Visit] = []
    for section in arguments.sections:
        print(f"{section} …", file=sys.stderr, flush=True)
        for found in SECTIONS[section](arguments.effort):
            print(f"  {found}", file=sys.stderr, flush=True)
            if isinstance(found, Row):
                rows.append(found)
            else:
                seen.append(found)
    if arguments.json:
        report = {"rows": [row.as_dict() for row in rows], "visits": [asdict(v) for v in seen]}
        print(json.dumps(report, indent=1))
        return 0
    print("\n\n".join([table(rows)] * bool(rows) + [visits.table(seen)] * bool(seen)))
    return 0


if __name__ == "__main__":
    run_program(main)
