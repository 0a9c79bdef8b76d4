"""What the parts of a calibration over shards cost, and what they come to with many processes."""

from __future__ import annotations

import math
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sparsefire.batch import shards
from sparsefire.batch.engines import ENGINES, Settings
from sparsefire.calibrate.predictors import calibrate_model
from sparsefire.lm.opening import default_model

_WINDOW = 512
_KEPT = 32  # tokens of a window whose inputs come back
_START = "from sparsefire.batch import Embedder; Embedder(threads=1)([{'text': 'a'}])"
_FITTED = 20_000  # tokens
_SAMPLE = 1 << 30  # bytes of inputs that come back at most
_GUIDE = Path(__file__).resolve().parent.parent.parent / "docs"


@dataclass(frozen=True)
class _Parts:
    """Seconds: `start` until a new process has loaded the model, `token` of reading one, `task` of
    handing a shard out, `byte` of bringing one of the inputs back, `fit` of fitting predictors."""

    start: float
    token: float
    task: float
    byte: float
    fit: float

    def total(self, workers: int, tokens: int, inputs: int) -> tuple[float, float]:
        """Seconds of a calibration, and those of the parts that one process does: shards are read
        by all workers at the same time, handed out, brought back, and fitted by one."""
        size = shards._SHARD_TOKENS
        tasks = math.ceil(tokens / size)
        alone = tasks * self.task + inputs * self.byte + self.fit
        return self.start + math.ceil(tasks / workers) * size * self.token + alone, alone


def _spent(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of processors by this process and those that it started."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    before = [resource.getrusage(kind) for kind in kinds]
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    after = [resource.getrusage(kind) for kind in kinds]
    return seconds, sum(
        new.ru_utime + new.ru_stime - old.ru_utime - old.ru_stime
        for old, new in zip(before, after, strict=True)
    )


def calibration(counts: tuple[int, ...], quick: bool) -> None:
    """Prints how long so many processes read a text, what the parts cost, and a model of more."""
    random = np.random.default_rng(0)
    size = 2048 if quick else shards._SHARD_TOKENS
    windows = random.integers(0, 256, (8 * size // _WINDOW, _WINDOW), np.int32)
    tokens = np.sort([random.choice(_WINDOW, _KEPT, replace=False) for _ in windows])
    inputs: dict[int, Any] = {}
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}

    def read(count: int) -> None:
        record = shards.recorder(threads=1, workers=count)
        inputs[count] = record(windows, tokens, lambda _share: None)

    read(1)  # loads the model
    for _ in range(1 if quick else 3):
        for count in counts:
            times[count].append(_spent(partial(read, count)))
            assert np.array_equal(inputs[count], inputs[1]), "not what one process records"
    print(f"calibration: {windows.size:,} tokens in 8 shards; processes of one thread")
    one = median(seconds for seconds, _ in times[1])
    for count, each in times.items():
        clock, compute = (median(values) for values in zip(*each, strict=True))
        print(f"{count} processes: {clock:.2f} s, {one / clock:.2f}×; {compute:.2f} processor-s")
    token = median(compute for _, compute in times[1]) / windows.size
    parts = _measured(token, inputs[1], quick)
    print(
        f"parts: start {parts.start:.2f} s, token {1e6 * parts.token:.1f} µs, task "
        f"{1e3 * parts.task:.2f} ms, GB of inputs {1e9 * parts.byte:.2f} s, fit {parts.fit:.1f} s"
    )
    for count in (10**6, 10**9):
        for workers in (1, 10, 100, 1000):
            whole, alone = parts.total(workers, count, _SAMPLE)
            gain = parts.total(1, count, _SAMPLE)[0] / whole
            print(
                f"{count:,} tokens, {workers} workers: {whole:,.0f} s, {gain:.1f}×, "
                f"of which {alone:.0f} s in one process"
            )


def _measured(token: float, inputs: Any, quick: bool) -> _Parts:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _START], check=True)
    start = time.perf_counter() - began
    began = time.perf_counter()
    copied = np.concatenate([pickle.loads(pickle.dumps(each)) for each in inputs])
    byte = (time.perf_counter() - began) / copied.nbytes
    return _Parts(start, token, _handing_out(20 if quick else 200), byte, _fitting(quick))


def _handing_out(count: int) -> float:
    """Seconds of a task that computes nothing, sent to other processes."""
    times = []
    for size in (1, count):
        began = time.perf_counter()
        tasks = [partial(int, place) for place in range(size)]
        done = ENGINES["local"](iter(tasks), Settings(2))
        assert sum(done) == size * (size - 1) // 2
        times.append(time.perf_counter() - began)
    return (times[1] - times[0]) / (count - 1)


def _fitting(quick: bool) -> float:
    """Seconds from the last token read to the new file."""
    text = "\n".join(path.read_text("utf-8") for path in sorted(_GUIDE.rglob("*.md")))
    began: list[float] = []

    def stage(what: str, _share: float) -> None:
        if "fitting" in what and not began:
            began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        output, tokens = Path(folder) / "new.gguf", 2000 if quick else _FITTED
        calibrate_model(default_model(), output, text, tokens=tokens, progress=stage)
        return time.perf_counter() - began[0]
