"""The compiled extension inside Pyodide: the core in Python's own memory, nothing copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsefire as sf
from conftest import ROOT, missing
from pyodide_harness import (
    NEWER_VERSION,
    VERSION,
    PyodideError,
    PyodideRuntime,
    chromium_runtime,
    node_runtime,
)

pytestmark = pytest.mark.pyodide


@pytest.fixture(scope="module", params=("node", "chromium"))
def runtime(
    request: pytest.FixtureRequest, extension_wheels: dict[str, Path]
) -> Iterator[PyodideRuntime]:
    """Pyodide with the extension installed, in node and in Chromium in turn."""
    start = {"node": node_runtime, "chromium": chromium_runtime}[request.param]
    try:
        with start(ROOT, extension_wheels[VERSION]) as started:
            yield started
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def newer_runtime(extension_wheels: dict[str, Path]) -> Iterator[PyodideRuntime]:
    """Pyodide with Python 3.14 and without numpy."""
    with node_runtime(ROOT, extension_wheels[NEWER_VERSION], NEWER_VERSION) as started:
        yield started


def test_the_native_host_is_chosen_with_simd(runtime: PyodideRuntime) -> None:
    code = """
import sparsefire as sf
b = sf.backend()
[b.name, b.isa, b.threads, b.version]
"""
    assert runtime.run(code) == ["native", "wasm128", 1, sf.backend().version]


def test_arrays_are_not_copied(runtime: PyodideRuntime) -> None:
    code = """
import numpy as np
from sparsefire.core.hosts import get_core
core = get_core()
x = np.arange(8, dtype=np.float32)
shared = core.upload(x)
x[5] = -3
y = np.empty_like(x)
core.check("sf_activate", core.context, 1, 0.0, shared, x.size, core.out(y))
[shared.ptr == x.ctypes.data, y.tolist()]
"""
    assert runtime.run(code) == [True, [0, 1, 2, 3, 4, 0, 6, 7]]


def test_results_are_those_of_the_separate_module(runtime: PyodideRuntime) -> None:
    code = """
import numpy as np, sparsefire as sf

generator = np.random.default_rng(5)
up, gate = generator.standard_normal((2, 333, 96), dtype=np.float32)
down = generator.standard_normal((80, 333), dtype=np.float32)
x = generator.standard_normal((3, 96), dtype=np.float32)
found = []
for host in ("native", "pyodide"):
    sf.use_backend(host)
    for format in ("f32", "f16"):
        ffn = sf.SparseFfn(up, down, "silu", gate=gate, format=format)
        found.append(ffn.forward_dense(x).tobytes())
        found.append(ffn.forward_sparse(x[0], np.array([3, 80, 332], np.int32)).tobytes())
sf.use_backend("auto")
found[:4] == found[4:] and len(found) == 8
"""
    assert runtime.run(code) is True


def test_the_text_is_that_of_the_native_host(runtime: PyodideRuntime) -> None:
    wanted = "".join(sf.Model.load().generate("The people of", max_tokens=24, temperature=0))
    code = """
import sparsefire as sf
model = sf.Model.load()
text = "".join(model.generate("The people of", max_tokens=24, temperature=0))
[text, "native, wasm128" in str(model.stats)]
"""
    assert runtime.run(code) == [wanted, True]


def test_errors_and_numbers_that_do_not_fit(runtime: PyodideRuntime) -> None:
    code = """
import numpy as np, sparsefire as sf
from sparsefire.core.hosts import get_core
core = get_core()
found = []
x = np.array([1, np.nan], np.float32)
for wrong in (
    lambda: core.check("sf_softmax", core.context, x, 2, x, what="scores"),
    lambda: core.call("sf_isa_supported", 1 << 31),
    lambda: core.check("sf_softmax", 1 << 32, x, 2, x),
    lambda: core.memory(1 << 31),
):
    try:
        wrong()
    except sf.SparsefireError as error:
        found.append(type(error).__name__)
found
"""
    assert runtime.run(code) == [
        "NotFiniteError",
        "ArgumentError",
        "ArgumentError",
        "CoreMemoryError",
    ]


def test_without_numpy_the_import_says_so(newer_runtime: PyodideRuntime) -> None:
    with pytest.raises(PyodideError, match=r"needs numpy.*loadPackage\('numpy'\)"):
        newer_runtime.run("import sparsefire")


def test_the_extension_runs_in_python_3_14(newer_runtime: PyodideRuntime) -> None:
    code = """
import array, glob, importlib.util
(path,) = glob.glob("/lib/python3.14/site-packages/sparsefire/core/_native*.so")
spec = importlib.util.spec_from_file_location("sparsefire.core._native", path)
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
handle = array.array("L", [0])
status = native.sf_context_open(handle, -1, 1)
x = array.array("f", [-1, 0.5, 2])
native.sf_activate(handle[0], 1, 0.0, x, 3, x)
[native.sf_version(), native.sf_isa_name(0), status, x.tolist()]
"""
    version = sf.backend().version
    assert newer_runtime.run(code) == [version, "wasm128", 0, [0.0, 0.5, 2.0]]
