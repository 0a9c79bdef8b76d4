"""Matrix times vector, weights out of cache, against llama.cpp and OpenBLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from ggml import Ggml, Product
from peer_files import llama_libraries
from rows import Row
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix
from sparsefire.weights.quantized import QuantizedWeights, weight_format
from timing import interleave

ROWS, COLUMNS = 11008, 4096
FORMATS = ("f32", "f16", "q8_0", "q4_0", "q4_k")
_COLD_BYTES = 400 << 20  # matrices in turn hold so much together, far more than any cache


def rows() -> Iterator[Row]:
    """Each format on 1 and 2 threads."""
    random = np.random.default_rng(0)
    values = random.standard_normal((ROWS, COLUMNS), np.float32)
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        ggml = Ggml(llama_libraries(), threads)
        for format in FORMATS:
            weights = QuantizedWeights.quantize(values, format, core)
            yield _row(core, ggml, weights, values, format, threads)


def _row(
    core: Core,
    ggml: Ggml,
    weights: QuantizedWeights,
    values: np.ndarray,
    format: str,
    threads: int,
) -> Row:
    x = np.random.default_rng(1).standard_normal(COLUMNS, np.float32)
    out = np.empty(ROWS, np.float32)
    copies = max(2, -(-_COLD_BYTES // weights.nbytes))
    ours = [Matrix.from_array(weights, core=core) for _ in range(copies)]
    runs: dict[str, Callable[[int], object]] = {
        "ours": lambda i: ours[i % copies].multiply(x, out=out),
        "ours again": lambda i: ours[(i + 1) % copies].multiply(x, out=out),
    }
    packed = np.ascontiguousarray(weights.packed)
    for layout in range(ggml.layouts):
        products = [
            ggml.matrix(packed, weight_format(format).code, (ROWS, COLUMNS), layout)
            for _ in range(copies)
        ]
        if any(product is None for product in products):
            continue
        ready = [product for product in products if product is not None]
        for product in ready:
            product.set_input(x[None])
        runs[f"llama.cpp, layout {layout}"] = _runner(ready)
    if format == "f32":
        dense = [values.copy() for _ in range(copies)]
        runs["OpenBLAS"] = lambda i: dense[i % copies] @ x
    with threadpool_limits(threads, user_api="blas"):
        times = interleave(runs, 8.0)
    ours[0].multiply(x, out=out)
    wanted = values.astype(np.float64) @ x
    assert np.abs(out - wanted).max() < 0.2 * np.abs(wanted).max(), format
    peers = {name: each for name, each in times.items() if not name.startswith("ours")}
    best = min(peers, key=lambda name: peers[name].median)
    what = f"{ROWS}×{COLUMNS} {format}, {threads} thread{'s' if threads > 1 else ''}"
    return Row.compare("dense", what, 1.0, times["ours"], times["ours again"], peers[best], best)


def _runner(products: list[Product]) -> Callable[[int], object]:
    return lambda i: products[i % len(products)].run()
