"""Matrix times vector, weights out of cache, against llama.cpp and OpenBLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.weights.formats import weight_format
from sparsefire.weights.matrix import Matrix
from sparsefire.weights.quantized import QuantizedWeights

from ..lib.command import Effort
from ..lib.ggml import Ggml, Product
from ..lib.layers import LARGE
from ..lib.peer_files import llama_libraries, peer
from ..lib.rows import Row
from ..lib.timing import interleave

FORMATS = (
    *("f32", "f16", "q8_0", "q4_0", "q4_k"),
    *("iq4_nl", "iq4_xs", "mxfp4", "tq1_0", "tq2_0"),
)
_COLD_BYTES = 400 << 20  # matrices in turn hold so much together, far more than any cache


def rows(effort: Effort) -> Iterator[Row]:
    """Each format on 1 and 2 threads."""
    columns, rows = effort.shape(LARGE)
    values = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        ggml = Ggml(llama_libraries(), threads)
        for format in FORMATS:
            given = np.sign(values) if format.startswith("tq") else values  # ternary
            weights = QuantizedWeights.quantize(given, format, core)
            yield _row(core, ggml, weights, given, threads, effort)


def _row(
    core: Core,
    ggml: Ggml,
    weights: QuantizedWeights,
    values: np.ndarray,
    threads: int,
    effort: Effort,
) -> Row:
    rows, columns = values.shape
    format = weights.format
    x = np.random.default_rng(1).standard_normal((columns,), np.float32)
    out = np.empty(rows, np.float32)
    copies = 2 if effort.quick else max(2, -(-_COLD_BYTES // weights.nbytes))
    ours = [Matrix.from_array(weights, core=core) for _ in range(copies)]
    runs: dict[str, Callable[[int], object]] = {
        "ours": lambda i: ours[i % copies].multiply(x, out=out),
        "again": lambda i: ours[(i + 1) % copies].multiply(x, out=out),
    }
    packed = np.ascontiguousarray(weights.packed)
    for layout in range(ggml.layouts):
        products = [
            ggml.matrix(packed, weight_format(format).code, (rows, columns), layout)
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
    with peer("threadpoolctl").threadpool_limits(threads, user_api="blas"):
        times = interleave(
            runs,
            effort.seconds(8.0),
            before=lambda name: ggml.wake() if name.startswith("llama.cpp") else ggml.rest(),
        )
    ours[0].multiply(x, out=out)
    wanted = values.astype(np.float64) @ x
    assert np.abs(out - wanted).max() < 0.2 * np.abs(wanted).max(), format
    best = min(times.keys() - {"ours", "again"}, key=lambda name: times[name].median)
    what = f"{rows}×{columns} {format}, {threads} thread{'s' if threads > 1 else ''}"
    return Row.compare("dense", what, times, peer=best)


def _runner(products: list[Product]) -> Callable[[int], object]:
    return lambda i: products[i % len(products)].run()
