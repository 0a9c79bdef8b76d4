"""WebAssembly in Chromium: a matrix times a vector against onnxruntime-web, one thread."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from peer_files import HOME, ROOT, onnx_package
from rows import Row
from timing import Times

SHAPE = (11008, 4096)  # rows, columns
REPEATS = 25
_ORT = "onnxruntime-web@1.30.0"
_PAGES = Path(__file__).resolve().parent / "chromium"
_CORE = ROOT / "py" / "sparsefire" / "wasm" / "sparsefire_core.wasm"


def rows() -> Iterator[Row]:
    """F32, weights out of cache."""
    home = _site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(home))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.set_default_timeout(300_000)
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/matvec.html")
            page.wait_for_function("window.ready")
            options = {"rows": SHAPE[0], "columns": SHAPE[1], "repeats": REPEATS}
            seconds = page.evaluate("(options) => window.measure(options)", options)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    times = {name: Times(tuple(each)) for name, each in seconds.items()}
    speed = 4 * SHAPE[0] * SHAPE[1] / times["ours"].median / 1e9
    yield Row.compare(
        "chromium",
        f"{SHAPE[0]}×{SHAPE[1]} f32, 1 thread ({speed:.0f} GB/s)",
        1.0,
        times["ours"],
        times["again"],
        times["onnxruntime-web"],
        "onnxruntime-web",
    )


def _site() -> Path:
    """Everything that the page asks for, in one directory."""
    home = HOME / "chromium"
    (home / "ort").mkdir(parents=True, exist_ok=True)
    if not (home / "ort" / "ort.wasm.min.mjs").exists():
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "pack", "--silent", _ORT], cwd=home, check=True)
        with tarfile.open(next(home.glob("onnxruntime-web-*.tgz"))) as archive:
            for member in archive.getmembers():
                name = Path(member.name).name
                if name in (
                    "ort.wasm.min.mjs",
                    "ort-wasm-simd-threaded.mjs",
                    "ort-wasm-simd-threaded.wasm",
                ):
                    source = archive.extractfile(member)
                    assert source is not None
                    (home / "ort" / name).write_bytes(source.read())
    if not (home / "matmul.onnx").exists():
        _write_model(home)
    for path in _PAGES.iterdir():
        shutil.copy(path, home)
    shutil.copy(_CORE, home / "core.wasm")
    return home


def _write_model(home: Path) -> None:
    """The matrix as raw numbers, and y = x · Wᵀ as an ONNX file that holds Wᵀ."""
    sys.path.append(str(onnx_package()))
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal(SHAPE, np.float32) * SHAPE[1] ** -0.5
    weights.astype(np.float32).tofile(home / "weights.f32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matvec",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SHAPE[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SHAPE[0]])],
        [numpy_helper.from_array(np.ascontiguousarray(weights.T.astype(np.float32)), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(home / "matmul.onnx"))


def _handler(home: Path) -> type[http.server.SimpleHTTPRequestHandler]:
    types = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, directory=str(home), **options)  # type: ignore[arg-type]

        def guess_type(self, path: Any) -> str:
            return types.get(Path(path).suffix) or super().guess_type(path)

        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
