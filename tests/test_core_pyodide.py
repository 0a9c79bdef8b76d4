"""The core in Pyodide, in node and in Chromium: calls, memory, growth, errors."""

from __future__ import annotations

import pytest

from pyodide_harness import PyodideError, PyodideRuntime

pytestmark = pytest.mark.pyodide


def test_the_backend_is_chosen_by_itself(pyodide: PyodideRuntime) -> None:
    code = """
import sparsefire as sf
b = sf.backend()
[b.name, b.isa, b.threads, b.version, b.note]
"""
    name, isa, threads, version, note = pyodide.run(code)
    assert (name, threads) == ("pyodide", 1)
    assert isa == "wasm128"
    assert "enable_threads" in note
    assert version.count(".") == 2


def test_arrays_go_in_and_come_out(pyodide: PyodideRuntime) -> None:
    code = """
import numpy as np
from sparsefire.core.hosts import get_core
core = get_core()
x = np.arange(-3, 4, dtype=np.float32)
y = np.empty_like(x)
core.check("sf_activate", core.context, 1, 0.0, core.inp(x), x.size, core.out(y))
y.tolist()
"""
    assert pyodide.run(code) == [0, 0, 0, 0, 1, 2, 3]


def test_views_are_made_again_after_memory_has_grown(pyodide: PyodideRuntime) -> None:
    code = """
import numpy as np
from sparsefire.core.hosts import get_core
core = get_core()
x = np.arange(1000, dtype=np.float32)
small = core.upload(x)
before = core._memory.buffer.byteLength
blocks = [core.memory(8 << 20) for _ in range(8)]
after = core._memory.buffer.byteLength
y = np.empty_like(x)
small.read(y)
big = core.upload(np.full(1 << 20, 7, np.uint8))
z = np.empty(1 << 20, np.uint8)
big.read(z)
core.check("sf_activate", core.context, 1, 0.0, core.inp(-x), x.size, core.out(x))
for block in blocks:
    block.close()
[after > before, bool((y == np.arange(1000)).all()), bool((z == 7).all()), float(abs(x).max())]
"""
    assert pyodide.run(code) == [True, True, True, 0.0]


def test_memory_beyond_two_gigabytes_has_positive_addresses(pyodide_node: PyodideRuntime) -> None:
    code = """
import numpy as np
from sparsefire.core.pyodide import PyodideCore
core = PyodideCore()
core.open_context(None, 1)
blocks = [core.memory(256 << 20) for _ in range(9)]
high = core.upload(np.arange(100, dtype=np.float32))
out = np.empty(100, np.float32)
high.read(out)
y = np.empty(100, np.float32)
core.check("sf_activate", core.context, 0, 0.0, high, 100, core.out(y))
[high.ptr > 1 << 31, bool((out == np.arange(100)).all()), bool((y == out).all())]
"""
    assert pyodide_node.run(code) == [True, True, True]


def test_errors_of_the_core_are_typed(pyodide: PyodideRuntime) -> None:
    code = """
import numpy as np, sparsefire as sf
from sparsefire.core.hosts import get_core
core = get_core()
found = []
for x in (np.array([1, np.nan], np.float32),):
    try:
        core.check("sf_softmax", core.context, core.inp(x), 2, core.out(x), what="scores")
    except sf.NotFiniteError as error:
        found.append(str(error).startswith("scores: "))
try:
    core.memory(1 << 33)
except sf.CoreMemoryError:
    found.append(True)
for wrong in (lambda: sf.use_backend("wasmtime"), lambda: sf.use_backend("native")):
    try:
        wrong()
    except sf.BackendError as error:
        found.append("pip install" in str(error))
found
"""
    assert pyodide.run(code) == [True, True, True, True]


UNREACHABLE = """
import numpy as np, sparsefire as sf
from pyodide.code import run_js
from sparsefire.core.hosts import get_core

def fails(*_):
    raise RuntimeError("Unknown typed array type 'Uint8Array'. This is a problem with Pyodide")

core, array, messages = get_core(), np.zeros(64, np.uint8), []
memory = core.memory(64)
for broken in (fails, run_js("() => { throw new RangeError('offset is out of bounds') }")):
    core._views[memory.ptr, 64] = broken, broken
    for act in (memory.write, memory.read):
        try:
            act(array)
        except sf.CoreMemoryError as error:
            messages.append(str(error))
core._views.clear()
memory.write(array + 1)
memory.read(array)
messages, int(array.sum())
"""


def test_what_pyodide_cannot_reach_is_an_error(pyodide: PyodideRuntime) -> None:
    """As above 2 GB of Python's memory, which would cost this machine as much."""
    messages, total = pyodide.run(UNREACHABLE)
    assert total == 64
    causes = ["(Unknown typed array type 'Uint8Array')"] * 2
    causes += ["(RangeError: offset is out of bounds)"] * 2
    for message, cause in zip(messages, causes, strict=True):
        assert f"{cause}, as happens when Python's memory has grown above 2 GB" in message


def test_a_failure_there_is_an_exception_here(pyodide: PyodideRuntime) -> None:
    with pytest.raises(PyodideError, match="ZeroDivisionError"):
        pyodide.run("1 / 0")
    assert pyodide.run("1 + 1") == 2


def test_files_can_be_given(pyodide: PyodideRuntime) -> None:
    pyodide.write("/tmp/given", b"\x00\x01sparse")
    assert pyodide.run("open('/tmp/given', 'rb').read()[2:].decode()") == "sparse"
