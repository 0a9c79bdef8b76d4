"""The kernels in Chromium, under Pyodide, one thread: against native ones; sparse against dense."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import numpy as np

from sparsefire.core import hosts
from sparsefire.weights.matrix import Matrix

from ..lib.command import Effort
from ..lib.layers import MIDDLE
from ..lib.rows import Row
from ..lib.timing import Times

SHAPE = (4096, 4096)
REPEATS = 25

_SETUP = """
import json, time
import numpy as np
from sparsefire.core.hosts import get_core
from sparsefire.bench.ffn import bench_ffn
from sparsefire.ffn.layer import SparseFfn
from sparsefire.weights.matrix import Matrix

core = get_core()
"""
_MATRIX = """
values = np.random.default_rng(0).standard_normal({shape}, np.float32)
x = np.random.default_rng(1).standard_normal({shape}[1], np.float32)
out = np.empty({shape}[0], np.float32)
matrix = Matrix.from_array(values, "{format}")
del values

def seconds():
    began = time.perf_counter()
    matrix.multiply(x, out=out)
    return str(time.perf_counter() - began)

""
"""
_SPARSE = """
report = bench_ffn(*{shape}, gated=True, format="{format}", repeats={repeats})
json.dumps([report.efficiency, report.speedup])
"""
_CALL = """
random = np.random.default_rng(0)
ffn = SparseFfn(random.standard_normal((8, 8)), random.standard_normal((8, 8)), "relu")
x_in, y_out = core.inp(np.ones(8, np.float32)), core.out(np.empty(8, np.float32))
handle = ffn.handle
times = ([], [])
for _ in range(50):
    for n in (0, 1):
        began = time.perf_counter()
        for _ in range(1000):
            core.call("sf_ffn_forward", handle, 0, x_in, n, y_out, None, None)
        times[n].append((time.perf_counter() - began) / 1000)
json.dumps([1e6 * float(np.median(each)) for each in times])
"""


def rows(python: Callable[[str], str], effort: Effort) -> Iterator[Row]:
    """``python`` runs code under Pyodide; see `site.python_page`."""
    python(_SETUP)
    empty, one = json.loads(python(_CALL))
    what = f"Pyodide: a call of a layer without a vector, µs ({one:.2f} with one for 8 neurons)"
    yield Row("browser", what, empty)
    d, hidden = effort.shape(MIDDLE)
    repeats = 7 if effort.quick else None
    for format in ("f32", "q8_0"):
        code = _SPARSE.format(shape=(d, hidden), format=format, repeats=repeats)
        efficiency, speedup = json.loads(python(code))
        what = f"Pyodide {d}×{hidden} {format}: efficiency ({speedup:.2f}×)"
        yield Row("browser", what, efficiency)
    native = hosts.open_core("native", "sse41", 1)
    shape = effort.shape(SHAPE)
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    x = np.random.default_rng(1).standard_normal(shape[1], np.float32)
    out = np.empty(shape[0], np.float32)
    for format in ("f32", "f16", "q8_0", "q4_0"):
        python(_MATRIX.format(shape=shape, format=format))
        matrix = Matrix.from_array(values, format, core=native)
        seconds: dict[str, list[float]] = {"ours": [], "again": [], "sse41": []}
        for _ in range(REPEATS + 5):
            for name in ("ours", "again"):
                seconds[name].append(float(python("seconds()")))
            began = time.perf_counter()
            matrix.multiply(x, out=out)
            seconds["sse41"].append(time.perf_counter() - began)
        times = {name: Times(tuple(each[5:])) for name, each in seconds.items()}
        what = f"Chromium {format} {shape[0]}×{shape[1]} against native SSE4.1"
        yield Row.compare("browser", what, times, peer="sse41")
