"""Input sparsity: does it pay to leave out the smallest inputs of every product, and what does it
cost? (TEAL, Liu et al. 2024; WINA, Chen et al. 2025.) Weights in Q4_0:

python -m bench.studies.inputs speed
python -m bench.studies.inputs speed --d 576 --kv 192 --hidden 1536 --layers 60
python -m bench.studies.inputs perplexity MODEL.gguf TEXT

The products are those of `Matrix.multiply` and `Matrix.multiply_above`.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix
from sparsefire.weights.quantized import QuantizedWeights

from ..lib.input_quality import print_costs

SHARES = (0.0, 0.25, 0.4, 0.5, 0.6)  # of the inputs that are left out
_BLOCK, _BLOCK_BYTES = 32, 18
_GRAIN = 128  # rows of a part are a multiple of this


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
    """The rows of a layer's matrices that one of several threads multiplies, which have a copy in
    column order, and an input for each."""

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
        made = {}
        for rows, columns in set(shapes):
            groups = -(-rows // _GRAIN)
            count = groups * (part + 1) // threads - groups * part // threads
            made[rows, columns] = _random_blocks(random, count * _GRAIN, columns)
        self._layers = [[_both(made[shape], core) for shape in shapes] for _ in range(layers)]

    def run(self, layer: int, share: float | None) -> None:
        """Multiplies by all matrices of a layer, without this share of the inputs, or dense."""
        for matrix in self._layers[layer]:
            x = self._xs[matrix.columns]
            if share is None:
                matrix.multiply(x)
            else:
                matrix.multiply_above(x, self._limits[len(x), share])

    def error(self, share: float) -> float:
        """The largest difference from products of the same inputs in double precision, over the
        root mean square of these, of the first layer's last matrix."""
        matrix = self._layers[0][-1]
        x = self._xs[matrix.columns]
        limit = self._limits[len(x), share]
        exact = matrix.dequantize().astype(np.float64) @ np.where(np.abs(x) < limit, 0, x)
        error = np.abs(matrix.multiply_above(x, limit)[0] - exact).max()
        return float(error / np.sqrt((exact**2).mean()))


def _both(packed: Any, core: Core) -> Matrix:
    """A matrix in both layouts."""
    columns = int(packed.shape[1] // _BLOCK_BYTES * _BLOCK)
    weights = QuantizedWeights(packed.copy(), "q4_0", (len(packed), columns))
    return Matrix.from_array(weights, core=core).add_columns()


def _random_blocks(random: np.random.Generator, rows: int, columns: int) -> Any:
    """Packed rows in Q4_0."""
    blocks = random.integers(0, 256, (rows, columns // _BLOCK, _BLOCK_BYTES), np.uint8)
    scales = random.uniform(0.5, 1.5, (rows, columns // _BLOCK, 1)) / 64
    blocks[..., :2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


if __name__ == "__main__":
    main()
