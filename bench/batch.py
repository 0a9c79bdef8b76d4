"""Offline jobs on every engine: rows, throughput, memory, and calibration.

    python -m bench.batch [SECTION …] [--rows 10000] [--texts 500] [--workers 2]

`rows`: the embedded model embeds `--rows` rows and continues `--texts` of them by 32 tokens, one
thread a process: in this process, in `--workers` of them, on Ray and Dask, and as data frames of
Daft and Spark (which needs Java), where they are installed. Each result is compared with that of
this process, row by row. Speeds are by the clock, with the start of the engine, and of jobs per
processor-second of their workers.

`throughput`: the same tasks in turns by one process alone, by so many processes at once that know
nothing of each other, which is what the machine itself allows, and by an engine's, which has
started and loaded the model before: rows a second for each process, beside the one alone by the
clock, beside those at once, and beside the one alone by the processor time of workers. Each
process has `--rows` to embed and `--texts` to continue, by default 4000 and 400.

`memory`: bytes of the mapped weights that each of 1, 2 and 4 processes adds to the machine, its
proportional set size (Linux).

`calibration`: the text of a calibration read by 1, 2 and 4 processes, what its parts cost, and what
they come to with more processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

from sparsefire.batch import Embedder, Generator, Worker, close_models, read_parts, run_job
from sparsefire.batch.engines import started_dask
from sparsefire.lm.opening import default_model

from .lib.command import add_quick, run_program
from .lib.frames import frames
from .lib.shards import calibration

ROWS, TEXTS = (10_000, 4000), (500, 400)  # of `rows`, and of `throughput`
SECTIONS = ("rows", "throughput", "memory", "calibration")
PARTS = 16  # of a job, for each process


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"text": f"In the year {place}, the {place % 97} people of"} for place in range(count)]


def _tasks(rows: int, texts: int) -> dict[str, tuple[Worker, int]]:
    options: dict[str, Any] = {"max_tokens": 32, "temperature": 0}
    return {
        "embed": (Embedder(threads=1), rows),
        "generate": (Generator(columns={"prompt": "text"}, threads=1, **options), texts),
    }


def _engines() -> list[str]:
    found = {"dask": "distributed", "ray": "ray"}
    return [name for name, package in found.items() if find_spec(package) is not None]


def _part_rows(count: int) -> int:
    """So that each process has some parts of so many rows to do."""
    return max(1, count // PARTS)


class Jobs:
    """Jobs of one task, whose results have to be those of the first."""

    def __init__(self, worker: Worker, count: int, folder: Path, part_rows: int) -> None:
        self.worker, self.folder, self.part_rows, self.done = worker, folder, part_rows, 0
        self.source = folder / "rows.jsonl"
        self.source.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(count)))
        worker([{"text": "a"}])  # loads the model
        self.expected: list[Any] = []

    def run(self, engine: str, workers: int) -> tuple[Any, float]:
        """The report of a job, and its seconds by the clock."""
        self.done += 1
        output = str(self.folder / f"out-{self.done}")
        began = time.perf_counter()
        report = run_job(
            self.worker,
            str(self.source),
            output,
            engine=engine,
            workers=workers,
            part_rows=self.part_rows,
        )
        seconds = time.perf_counter() - began
        found = list(read_parts(output))
        self.expected = self.expected or found
        assert found == self.expected, f"{engine}: a row is not that of one process"
        return report, seconds


def rows(count: int, texts: int, workers: int) -> None:
    """Prints a line for each task and engine."""
    print(f"{'task':10}{'engine':12}{'rows':>8}{'rows/s':>10}{'rows/processor-s':>18}{'beside':>9}")
    for task, (worker, size) in _tasks(count, texts).items():
        with tempfile.TemporaryDirectory() as name:
            jobs, one = Jobs(worker, size, Path(name), _part_rows(size // workers)), 0.0
            for shown, engine, processes in (
                ("process", "local", 1),
                ("processes", "local", workers),
                *((each, each, workers) for each in _engines()),
            ):
                report, seconds = jobs.run(engine, processes)
                speed = report.rows / report.cpu_seconds
                one = one or speed
                clock = report.rows / seconds
                print(f"{task:10}{shown:12}{size:8}{clock:10.0f}{speed:18.0f}{speed / one:8.2f}×")
            for shown, mapped in frames().items():
                began = time.perf_counter()
                found = mapped(worker, _rows(size), workers)
                clock = size / (time.perf_counter() - began)
                assert found == jobs.expected, f"{shown}: a row is not that of one process"
                print(f"{task:10}{shown:12}{size:8}{clock:10.0f}", flush=True)


@contextlib.contextmanager
def _started(engine: str, workers: int) -> Iterator[None]:
    """With so many processes of an engine, which jobs use."""
    if engine == "ray":
        import ray

        ray.init(num_cpus=workers, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
    elif engine == "dask":
        with started_dask(workers):
            yield
    else:
        yield


Speeds = tuple[float, float]  # rows a second by the clock, and of workers' processor time


def _by_itself(turns: Any, worker: Worker, count: int) -> None:
    """A process that does a job whenever it is told to, and says how fast."""
    with tempfile.TemporaryDirectory() as name:
        jobs = Jobs(worker, count, Path(name), _part_rows(count))
        while turns.recv():
            report, seconds = jobs.run("local", 1)
            turns.send((report.rows / seconds, report.rows / report.cpu_seconds))


@contextlib.contextmanager
def _plain(worker: Worker, count: int, workers: int) -> Iterator[Any]:
    """What makes some of so many processes without an engine work at once: their mean speeds."""
    context = get_context("spawn")
    turns = []
    for _ in range(workers):
        here, there = context.Pipe()
        given = there, worker, count
        context.Process(target=_by_itself, args=given, daemon=True).start()
        turns.append(here)

    def run(processes: int) -> Speeds:
        for each in turns[:processes]:
            each.send(True)
        clock, compute = zip(*[each.recv() for each in turns[:processes]], strict=True)
        return fmean(clock), fmean(compute)

    yield run
    for each in turns:
        each.send(False)


def throughput(count: int, texts: int, counts: Sequence[int], rounds: int) -> None:
    """Prints how fast a process of an engine is beside others without one, in turns."""
    heads = ("processes", "rows/s each", "beside one", "beside these", "by time")
    print(f"{'task':10}{'engine':10}" + "".join(f"{each:>14}" for each in heads))
    with contextlib.ExitStack() as stack:
        tasks = [
            (task, worker, size, stack.enter_context(_plain(worker, size, max(counts))))
            for task, (worker, size) in _tasks(count, texts).items()
        ]
        for engine, processes in ((each, some) for each in _engines() for some in counts):
            with _started(engine, processes):
                for task, worker, size, plain in tasks:
                    with tempfile.TemporaryDirectory() as name:
                        whole = size * processes
                        jobs = Jobs(worker, whole, Path(name), _part_rows(size))
                        alone, together, found = _in_turns(jobs, plain, engine, processes, rounds)
                    for shown, speeds in (("none", together), (engine, found)):
                        print(
                            f"{task:10}{shown:10}{processes:14}{speeds[0]:14.0f}"
                            f"{speeds[0] / alone[0]:13.2f}×{speeds[0] / together[0]:13.2f}×"
                            f"{speeds[1] / alone[1]:13.2f}×",
                            flush=True,
                        )


def _in_turns(
    jobs: Jobs, plain: Any, engine: str, processes: int, rounds: int
) -> tuple[Speeds, ...]:
    """Median speeds of one process alone, of some at once, and of each of an engine's."""

    def with_engine() -> Speeds:
        report, seconds = jobs.run(engine, processes)
        return report.rows / seconds / processes, report.rows / report.cpu_seconds

    with_engine()  # loads the model there
    sides = [lambda: plain(1), lambda: plain(processes), with_engine]
    found: list[list[Speeds]] = [[] for _ in sides]
    order = list(range(len(sides)))
    for _ in range(rounds):
        for side in order:
            found[side].append(sides[side]())
        order.reverse()
    return tuple((median(c for c, _ in each), median(t for _, t in each)) for each in found)


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
    add("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; default: all")
    for name, what, sizes in (("rows", "embed", ROWS), ("texts", "continue", TEXTS)):
        about = f"to {what}; default {sizes[0]:,}, of throughput {sizes[1]:,} for each process"
        add(f"--{name}", type=int, metavar="N", help=about)
    add("--workers", type=int, default=2, metavar="N", help="processes; default %(default)s")
    add("--rounds", type=int, default=7, metavar="N", help="of throughput; default %(default)s")
    add_quick(parser)
    options = parser.parse_args()
    wanted = options.sections or [each for each in SECTIONS if not options.quick or each != "rows"]
    if set(wanted) - set(SECTIONS):
        parser.error(f"expected some of {', '.join(SECTIONS)}")
    given = (20, 4) if options.quick else (options.rows, options.texts)
    (count, each), (texts, texts_each) = (
        (number, number) if number else sizes
        for number, sizes in zip(given, (ROWS, TEXTS), strict=True)
    )
    counts = (1,) if options.quick else sorted({1, options.workers})
    rounds = 1 if options.quick else options.rounds
    measured: dict[str, Callable[[], None]] = {
        "rows": lambda: rows(count, texts, options.workers),
        "throughput": lambda: throughput(each, texts_each, counts, rounds),
        "memory": lambda: memory((1, 2) if options.quick else (1, 2, 4)),
        "calibration": lambda: calibration((1, 2) if options.quick else (1, 2, 4), options.quick),
    }
    for section in wanted:
        if section != "memory" or Path("/proc/self/smaps").exists():
            measured[section]()


if __name__ == "__main__":
    run_program(main)
