"""Input sparsity: does it pay to leave out the smallest inputs of every product, and what does it
cost? (TEAL, Liu et al. 2024; WINA, Chen et al. 2025.) Weights in Q4_0:

python -m bench.studies.inputs speed
python -m bench.studies.inputs speed --d 576 --kv 192 --hidden 1536 --layers 60
python -m bench.studies.inputs perplexity MODEL.gguf TEXT
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparsefire._arrays import FloatArray
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix
from sparsefire.weights.quantized import QuantizedWeights

from ..lib.input_quality import print_costs

SHARES = (0.0, 0.25, 0.4, 0.5, 0.6)  # of the inputs that are left out
COMPILER = ("cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
_BLOCK, _BLOCK_BYTES = 32, 18
_BIG = 1 << 22  # bytes from which on numpy asks for large pages


def main() -> None:
    """Prints a table of speeds, or of perplexities."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.inputs", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True)
    speed = studies.add_parser("speed", help="a layer's products, dense and with some inputs")
    speed.add_argument("--d", type=int, default=4096, help="by default a layer of Llama 2 7B")
    speed.add_argument("--kv", type=int, default=4096)
    speed.add_argument("--hidden", type=int, default=11008)
    speed.add_argument("--layers", type=int, default=7, help="more than caches hold")
    speed.add_argument("--rounds", type=int, default=5)
    speed.add_argument("--isa", help="of the dense products")
    quality = studies.add_parser("perplexity", help="of a Llama model, by numpy")
    quality.add_argument("model", type=Path)
    quality.add_argument("text", type=Path)
    quality.add_argument("--windows", type=int, default=3, help="of 512 tokens each")
    arguments = parser.parse_args()
    if arguments.study == "perplexity":
        print_costs(arguments.model, arguments.text, arguments.windows)
        return
    for threads in (1, 2):
        _print_speeds(arguments, threads)


def _print_speeds(arguments: argparse.Namespace, threads: int) -> None:
    d, kv, hidden, layers = arguments.d, arguments.kv, arguments.hidden, arguments.layers
    shapes = [(d, d), (kv, d), (kv, d), (d, d), (hidden, d), (hidden, d), (d, hidden)]
    cores = [hosts.open_core("native", threads=1, isa=arguments.isa) for _ in range(threads)]
    parts = [_Part(core, shapes, part, threads, layers) for part, core in enumerate(cores)]
    times: dict[float | None, list[float]] = {share: [] for share in (None, *SHARES)}
    layer = 0
    for measured in range(arguments.rounds * layers + 1):  # the first warms up
        for share, each in times.items():
            layer = (layer + 1) % layers  # another one, which is not in cache
            seconds = _processor_time([partial(part.run, layer, share) for part in parts])
            each += [seconds] if measured else []
    error = max(part.error(share) for part in parts for share in SHARES)
    print(
        f"{threads} threads, {parts[0].core.isa}, a layer of {d}, {kv}, {hidden}: dense "
        f"{1e3 * statistics.median(times[None]):.2f} ms; largest error {error:.1e} of the root "
        "mean square"
    )
    for share in SHARES:
        ratios = [one / other for one, other in zip(times[None], times[share], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {share:4.0%} left out {middle:.2f}× ({low:.2f} … {high:.2f})", flush=True)


def _processor_time(runs: list[Callable[[], None]]) -> float:
    """Runs them at the same time, each in a thread; the mean processor time of a thread."""
    seconds = [0.0] * len(runs)
    together = threading.Barrier(len(runs))

    def timed(place: int) -> None:
        together.wait()
        began = time.thread_time()
        runs[place]()
        seconds[place] = time.thread_time() - began

    threads = [threading.Thread(target=timed, args=(place,)) for place in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.mean(seconds)


class _Part:
    """The rows of a layer's matrices that one of several threads multiplies, in both layouts, and
    an input for each."""

    def __init__(
        self, core: Core, shapes: list[tuple[int, int]], part: int, threads: int, layers: int
    ) -> None:
        self.core = core
        random = np.random.default_rng(part)
        self._xs = {n: random.standard_normal(n, np.float32) for _, n in shapes}
        self._limits = {
            (n, share): float(np.quantile(np.abs(x), share)) if share else 0.0
            for n, x in self._xs.items()
            for share in SHARES
        }
        grain, made = _kernel().rows, {}
        for rows, columns in set(shapes):
            groups = -(-rows // grain)
            count = groups * (part + 1) // threads - groups * part // threads
            made[rows, columns] = _random_blocks(random, count * grain, columns)
        self._layers = [[_both(made[shape], self.core) for shape in shapes] for _ in range(layers)]

    def run(self, layer: int, share: float | None) -> None:
        """Multiplies by all matrices of a layer, without this share of the inputs, or dense."""
        for matrix, columns in self._layers[layer]:
            x = self._xs[matrix.columns]
            if share is None:
                matrix.multiply(x)
            else:
                columns.multiply(x, self._limits[len(x), share])

    def error(self, share: float) -> float:
        """The largest difference from products of the same inputs in double precision, over the
        root mean square of these, of the first layer's last matrix."""
        matrix, columns = self._layers[0][-1]
        x = self._xs[matrix.columns]
        limit = self._limits[len(x), share]
        exact = matrix.dequantize().astype(np.float64) @ np.where(np.abs(x) < limit, 0, x)
        error = np.abs(columns.multiply(x, limit) - exact).max()
        return float(error / np.sqrt((exact**2).mean()))


def _both(packed: Any, core: Core) -> tuple[Matrix, _Columns]:
    """A matrix in both layouts."""
    weights = QuantizedWeights(packed.copy(), "q4_0", (len(packed), _columns(packed)))
    return Matrix.from_array(weights, core=core), _Columns(packed)


def _columns(packed: Any) -> int:
    return int(packed.shape[1] // _BLOCK_BYTES * _BLOCK)


def _random_blocks(random: np.random.Generator, rows: int, columns: int) -> Any:
    """Packed rows in Q4_0."""
    blocks = random.integers(0, 256, (rows, columns // _BLOCK, _BLOCK_BYTES), np.uint8)
    scales = random.uniform(0.5, 1.5, (rows, columns // _BLOCK, 1)) / 64
    blocks[..., :2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


class _Columns:
    """Packed rows in column order."""

    def __init__(self, packed: Any) -> None:
        self._kernel, rows = _kernel(), len(packed)
        self._weights = np.zeros(max(packed.size, _BIG), np.uint8)
        self._shape = rows, _columns(packed)
        self._kernel.library.inputs_pack(_at(packed), *self._shape, _at(self._weights))
        self._chosen = np.zeros(self._shape[1] // _BLOCK * self._kernel.block_bytes, np.uint8)
        self._work, self._out = np.empty(rows, np.float32), np.empty(rows, np.float32)
        self._memory = [_at(each) for each in (self._chosen, self._work, self._out)]

    def multiply(self, x: FloatArray, limit: float) -> FloatArray:
        """The rows times the inputs that are not below the limit."""
        given = _at(x), ctypes.c_float(limit)
        self._kernel.library.inputs_multiply(
            _at(self._weights), *self._shape, *given, *self._memory
        )
        return self._out


class _Kernel:
    """The compiled kernel. `rows`: of which those of a product are a multiple."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.inputs_block_bytes.restype = ctypes.c_size_t
        self.library = library
        self.block_bytes = int(library.inputs_block_bytes())
        self.rows = int(library.inputs_rows())


def _at(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


_COMPILED: list[_Kernel] = []


def _kernel() -> _Kernel:
    """Compiled at the first call."""
    if not _COMPILED:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "inputs.so"
            source = Path(__file__).with_name("inputs.c")
            if shutil.which(COMPILER[0]) is None:
                raise SystemExit("this study needs a C compiler, cc: apt-get install gcc")
            subprocess.run([*COMPILER, str(source), "-o", str(library)], check=True)
            _COMPILED.append(_Kernel(ctypes.CDLL(str(library))))
    return _COMPILED[0]


if __name__ == "__main__":
    main()
