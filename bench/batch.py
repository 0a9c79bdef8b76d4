"""Offline jobs on every engine: rows, throughput, memory, and calibration.

    python -m bench.batch [SECTION …] [--rows 10000] [--texts 500] [--workers 2]

`rows`: the embedded model embeds `--rows` rows and continues `--texts` of them by 32 tokens, one
thread a process: in this process, in `--workers` of them, and on Ray and Dask where they are
installed. Each result is compared with that of this process, row by row. Speeds are by the clock,
with the start of the engine, and per processor-second of the workers.

`throughput`: the same tasks in turns by this process and by one and by `--workers` processes of
each engine, which has started and loaded the model before: rows a second for each process, beside
this process alone, by the clock and by the processor time of workers.

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
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from sparsefire.batch import Embedder, Generator, Worker, close_models, read_parts, run_job
from sparsefire.lm.opening import default_model

from .lib.command import add_quick, run_program
from .lib.shards import calibration

SECTIONS = ("rows", "throughput", "memory", "calibration")
PART_ROWS = 100


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


class Jobs:
    """Jobs of one task, whose results have to be those of the first."""

    def __init__(self, worker: Worker, count: int, folder: Path) -> None:
        self.worker, self.folder, self.done = worker, folder, 0
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
            part_rows=PART_ROWS,
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
            jobs, one = Jobs(worker, size, Path(name)), 0.0
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
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster),
        ):
            yield
    else:
        yield


def throughput(count: int, texts: int, workers: int, rounds: int) -> None:
    """Prints how fast a process of an engine is beside this one, in turns."""
    print(f"{'task':10}{'engine':8}{'processes':>10}{'rows/s each':>13}{'beside':>9}{'by time':>9}")
    for task, (worker, size) in _tasks(count, texts).items():
        for engine in _engines():
            for processes in sorted({1, workers}):
                with tempfile.TemporaryDirectory() as name, _started(engine, processes):
                    jobs = Jobs(worker, size, Path(name))
                    jobs.run(engine, processes)  # loads the model there
                    clock, compute = _in_turns(jobs, engine, processes, rounds)
                share = median(clock[1]) / median(clock[0])
                by_time = median(compute[1]) / median(compute[0])
                print(
                    f"{task:10}{engine:8}{processes:10}{median(clock[1]):13.0f}"
                    f"{share:8.2f}×{by_time:8.2f}×"
                )


def _in_turns(
    jobs: Jobs, engine: str, processes: int, rounds: int
) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    """Rows a second of this process and of each of an engine's, by the clock, and by the processor
    time of their workers."""
    clock: tuple[list[float], list[float]] = ([], [])
    compute: tuple[list[float], list[float]] = ([], [])
    sides = [(0, "local", 1), (1, engine, processes)]
    for _ in range(rounds):
        for side, name, count in sides:
            report, seconds = jobs.run(name, count)
            clock[side].append(report.rows / seconds / count)
            compute[side].append(report.rows / report.cpu_seconds)
        sides.reverse()
    return clock, compute


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
    add("--rows", type=int, default=10_000, metavar="N", help="to embed; default %(default)s")
    add("--texts", type=int, default=500, metavar="N", help="to continue; default %(default)s")
    add("--workers", type=int, default=2, metavar="N", help="processes; default %(default)s")
    add("--rounds", type=int, default=7, metavar="N", help="of throughput; default %(default)s")
    add_quick(parser)
    options = parser.parse_args()
    wanted = options.sections or [each for each in SECTIONS if not options.quick or each != "rows"]
    if set(wanted) - set(SECTIONS):
        parser.error(f"expected some of {', '.join(SECTIONS)}")
    count, texts = (20, 4) if options.quick else (options.rows, options.texts)
    measured: dict[str, Callable[[], None]] = {
        "rows": lambda: rows(count, texts, options.workers),
        "throughput": lambda: throughput(count, texts, options.workers, options.rounds),
        "memory": lambda: memory((1, 2) if options.quick else (1, 2, 4)),
        "calibration": lambda: calibration((1, 2) if options.quick else (1, 2, 4), options.quick),
    }
    for section in wanted:
        if section != "memory" or Path("/proc/self/smaps").exists():
            measured[section]()


if __name__ == "__main__":
    run_program(main)
