"""Offline jobs on every engine: rows a second, beside one process without an engine.

    python -m bench.batch [ENGINE …] [--rows 10000] [--texts 500] [--workers 2]

The embedded model embeds `--rows` rows and continues `--texts` of them by 32 tokens, one thread a
process: in this process, in `--workers` of them, and on Ray and Dask where they are installed. Each
result is compared with that of this process, row by row. Speeds are per processor-second, which
counts what a process computes and not what waits; and by the clock, with the start of the engine.

`memory`: bytes of the mapped weights that each of 1, 2 and 4 processes adds to the machine, its
proportional set size (Linux).
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sparsefire.batch import Embedder, Generator, Worker, close_models, read_parts, run_job
from sparsefire.lm.opening import default_model

from .lib.command import add_quick, run_program

ENGINES = ("process", "processes", "dask", "ray", "memory")


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"text": f"In the year {place}, the {place % 97} people of"} for place in range(count)]


def _job(worker: Worker, source: Path, output: Path, engine: str, workers: int) -> tuple[Any, Any]:
    name = "local" if engine in ("process", "processes") else engine
    count = 1 if engine == "process" else workers
    began = time.perf_counter()
    report = run_job(worker, str(source), str(output), engine=name, workers=count, part_rows=100)
    return report, time.perf_counter() - began


def measure(engines: list[str], rows: int, texts: int, workers: int) -> None:
    """Prints a line for each task and engine."""
    print(f"{'task':10}{'engine':12}{'rows':>8}{'rows/s':>10}{'rows/processor-s':>18}{'beside':>9}")
    columns = {"text": "text"}
    tasks: dict[str, tuple[Worker, int]] = {
        "embed": (Embedder(columns=columns, threads=1), rows),
        "generate": (
            Generator(columns={"prompt": "text"}, threads=1, max_tokens=32, temperature=0),
            texts,
        ),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task, (worker, count) in tasks.items():
            source = folder / f"{task}.jsonl"
            source.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(count)))
            worker([{"text": "a"}])  # loads the model
            alone, one = None, 0.0
            for engine in ["process", *(each for each in engines if each != "process")]:
                output = folder / f"{task}-{engine}"
                report, seconds = _job(worker, source, output, engine, workers)
                found = list(read_parts(str(output)))
                alone = alone or found
                assert found == alone, f"{engine}: a row is not that of one process"
                speed = report.rows / report.cpu_seconds
                one = one or speed
                clock = report.rows / seconds
                print(f"{task:10}{engine:12}{count:8}{clock:10.0f}{speed:18.0f}{speed / one:8.2f}×")


def _hold(ready: Any, all_there: Any, all_measured: Any) -> None:
    """A process that has used the whole model, and keeps it until the others have measured."""
    generate = Generator(threads=1, mode="dense", max_tokens=4)
    generate([{"prompt": "The people of the United States"}])
    ready.put(0)
    all_there.wait()
    text, name = Path("/proc/self/smaps").read_text(), default_model().name
    part = re.search(rf"{re.escape(name)}\n(?:\w+:.*\n)*?Pss: +(\d+) kB", text)
    ready.put(int(part[1]) * 1024 if part else 0)
    all_measured.wait()


def memory(counts: tuple[int, ...]) -> None:
    """Prints the proportional set size of the model's file in each of so many processes."""
    close_models()  # this process holds none
    context = get_context("spawn")
    size = default_model().stat().st_size
    for count in counts:
        ready, there, measured = context.Queue(), context.Event(), context.Event()
        given = ready, there, measured
        processes = [context.Process(target=_hold, args=given) for _ in range(count)]
        for each in processes:
            each.start()
        for _ in processes:
            ready.get()
        there.set()
        shares = [ready.get() for _ in processes]
        measured.set()
        for each in processes:
            each.join()
        print(
            f"memory: {count} processes map {size:,} bytes; proportional set size "
            f"{max(shares):,} each, {sum(shares):,} in all"
        )


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.batch", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("engines", nargs="*", metavar="ENGINE", help=", ".join(ENGINES))
    add("--rows", type=int, default=10_000, metavar="N", help="to embed; default %(default)s")
    add("--texts", type=int, default=500, metavar="N", help="to continue; default %(default)s")
    add("--workers", type=int, default=2, metavar="N", help="processes; default %(default)s")
    add_quick(parser)
    options = parser.parse_args()
    installed: dict[str, Callable[[], bool]] = {
        "dask": lambda: find_spec("distributed") is not None,
        "ray": lambda: find_spec("ray") is not None,
    }
    usual = [each for each in ENGINES if each not in installed or installed[each]()]
    wanted = options.engines or (["process", "memory"] if options.quick else usual)
    if set(wanted) - set(ENGINES):
        parser.error(f"expected some of {', '.join(ENGINES)}")
    rows, texts = (20, 4) if options.quick else (options.rows, options.texts)
    engines = [each for each in wanted if each != "memory"]
    if engines:
        measure(engines, rows, texts, options.workers)
    if "memory" in wanted and Path("/proc/self/smaps").exists():
        memory((1, 2) if options.quick else (1, 2, 4))


if __name__ == "__main__":
    run_program(main)
