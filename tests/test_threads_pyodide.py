"""Threads in Pyodide: workers that share the core's memory, in node and in Chromium."""

from __future__ import annotations

import json

import pytest

import sparsefire as sf
from conftest import ROOT, missing
from pyodide_harness import PyodideRuntime

pytestmark = pytest.mark.pyodide


@pytest.fixture(autouse=True)
def _module(pyodide: PyodideRuntime) -> None:
    if not (ROOT / "py/sparsefire/wasm/sparsefire_core_threads.wasm").exists():
        missing("clang-19 and wasm-ld-19 are not installed; ./scripts/test.sh installs them")


def test_one_thread_until_more_are_enabled(pyodide: PyodideRuntime) -> None:
    code = """
import sparsefire as sf
b = sf.use_backend("pyodide", threads=1)
[b.threads, b.note, [host.note for host in sf.devices().hosts if host.name == "pyodide"]]
"""
    threads, note, notes = pyodide.run(code)
    assert threads == 1
    assert "await sparsefire.enable_threads()" in note
    assert len(notes) == 1


@pytest.mark.parametrize("threads", [2, 4])
def test_results_are_those_of_one_thread(pyodide: PyodideRuntime, threads: int) -> None:
    code = f"""
import asyncio
import numpy as np, sparsefire as sf
from sparsefire.core import hosts
found = []
for threads in (1, {threads}):
    b = await sf.enable_threads(threads)
    assert b.threads == threads, b
    generator = np.random.default_rng(7)
    for d, hidden, format in ((256, 3001, "f32"), (512, 2048, "q8_0"), (64, 40, "f16")):
        up, gate, down = (generator.standard_normal(shape, dtype=np.float32)
                          for shape in ((hidden, d), (hidden, d), (d, hidden)))
        x = generator.standard_normal((3, d), dtype=np.float32)
        ffn = sf.SparseFfn(up, down, "relu", gate=gate, format=format)
        for _ in range(20):
            found.append((threads, ffn.forward(x).tobytes(), ffn.forward_dense(x).tobytes()))
half = len(found) // 2
core = hosts.get_core()
await asyncio.sleep(0.1)
assert core.failures == [], core.failures
sf.use_backend("auto", threads=1)
[half, all(a[1:] == b[1:] for a, b in zip(found[:half], found[half:]))]
"""
    assert pyodide.run(code) == [60, True]


def test_the_text_is_that_of_the_native_host(pyodide: PyodideRuntime) -> None:
    wanted = "".join(sf.Model.load().generate("The people of", max_tokens=24, temperature=0))
    code = """
import sparsefire as sf
b = await sf.enable_threads(2)
text = "".join(sf.Model.load().generate("The people of", max_tokens=24, temperature=0))
again = sf.backend()
sf.use_backend("auto", threads=1)
[text, b.name, b.threads, again.threads, b.note]
"""
    *found, note = pyodide.run(code)
    assert found == [wanted, "pyodide", 2, 2]
    assert "thread" not in note


def test_shared_memory_grows(pyodide: PyodideRuntime) -> None:
    code = """
import numpy as np, sparsefire as sf
from sparsefire.core.hosts import get_core
await sf.enable_threads(2)
core = get_core()
before = core._memory.buffer.byteLength
x = np.ones(1000, np.float32)
blocks = [core.memory(16 << 20) for _ in range(4)]
weights = np.ones((4096, 1000), np.float32)
ffn = sf.SparseFfn(weights, weights.T.copy(), "relu", core=core)
y = ffn.forward_dense(x)
after = core._memory.buffer.byteLength
sf.use_backend("auto", threads=1)
[after > before, bool((y == 4096 * 1000).all())]
"""
    assert pyodide.run(code) == [True, True]


def test_default_and_wrong_numbers(pyodide: PyodideRuntime) -> None:
    code = """
import sparsefire as sf
from sparsefire.core.pyodide import processors
b = await sf.enable_threads()
wrong = []
for number in (0, -1, "many", 5000):
    try:
        await sf.enable_threads(number)
    except sf.ArgumentError as error:
        wrong.append("threads must be a whole number" in str(error))
sf.use_backend("auto", threads=1)
[b.threads, min(await processors(), 8), wrong]
"""
    threads, wanted, wrong = pyodide.run(code)
    assert threads == wanted
    assert wrong == [True] * 4


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        ("_host_pyodide.threads_missing = lambda: 'one thread, for a test'", "for a test"),
        ("_host_pyodide._HELPER = pathlib.Path('/tmp/broken.js')", "a helper thread failed: "),
    ],
)
def test_without_threads_the_reason_is_there(
    pyodide: PyodideRuntime, replacement: str, reason: str
) -> None:
    pyodide.write("/tmp/broken.js", b"throw new Error('broken on purpose');")
    code = f"""
import pathlib
import sparsefire as sf
from sparsefire.core import pyodide as _host_pyodide
kept = dict(vars(_host_pyodide))
sf.use_backend("auto", threads=1)
{replacement}
try:
    b = await sf.enable_threads(3)
finally:
    vars(_host_pyodide).update(kept)
[b.threads, b.note]
"""
    threads, note = pyodide.run(code)
    assert threads == 1
    assert reason in note, json.dumps(note)
