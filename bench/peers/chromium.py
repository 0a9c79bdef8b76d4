"""WebAssembly in Chromium: a matrix times a vector against onnxruntime-web, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparsefire.core.wasm import module_bytes
from sparsefire.page.site import SiteFile

from ..browser.site import PAGES, open_page
from ..lib.command import Effort
from ..lib.layers import LARGE
from ..lib.peer_files import HOME, npm_files, peer
from ..lib.rows import Row
from ..lib.timing import Times

_REPEATS = 25
_ORT = "onnxruntime-web@1.30.0"
_ORT_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)


def rows(effort: Effort) -> Iterator[Row]:
    """F32, weights out of cache."""
    columns, rows = effort.shape(LARGE)
    with open_page(_site(rows, columns), "matvec.html") as page:
        options = {"rows": rows, "columns": columns, "repeats": _REPEATS}
        seconds = page.evaluate("(options) => window.measure(options)", options)
    times = {name: Times(tuple(each)) for name, each in seconds.items()}
    speed = 4 * rows * columns / times["ours"].median / 1e9
    what = f"{rows}×{columns} f32, 1 thread ({speed:.0f} GB/s)"
    yield Row.compare("chromium", what, times, peer="onnxruntime-web")


def _site(rows: int, columns: int) -> dict[str, SiteFile]:
    """Everything that the page asks for."""
    ort = HOME / "onnxruntime-web"
    if not all((ort / name).exists() for name in _ORT_FILES):
        npm_files(_ORT, ort, _kept_name)
    matrix = HOME / f"matmul-{rows}x{columns}"
    if not (matrix / "matmul.onnx").exists():
        _write_model(matrix, rows, columns)
    site = {path.name: SiteFile(path) for path in PAGES.iterdir()}
    site |= {f"ort/{name}": SiteFile(ort / name) for name in _ORT_FILES}
    site |= {path.name: SiteFile(path) for path in matrix.iterdir()}
    return site | {"core.wasm": SiteFile(data=module_bytes("sparsefire_core"))}


def _kept_name(member: str) -> str | None:
    name = Path(member).name
    return name if name in _ORT_FILES else None


def _write_model(home: Path, rows: int, columns: int) -> None:
    """The matrix as raw numbers, and y = x · Wᵀ as an ONNX file that holds Wᵀ."""
    onnx = peer("onnx")
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    home.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    weights *= np.float32(columns**-0.5)
    weights.tofile(home / "weights.f32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matvec",
        [helper.make_tensor_value_info("x", f32, [1, columns])],
        [helper.make_tensor_value_info("y", f32, [1, rows])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(home / "matmul.onnx"))
