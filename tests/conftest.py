"""Fixtures of every test.

core           the test runs once on each host and instruction set of this machine
host_core      the test runs once on each host, with its best instruction set
pyodide_node, pyodide_chromium
               Pyodide with the package installed; `runtime.run(code)` runs Python there
               (see pyodide_harness.py)
extension_wheels
               the package with the compiled extension, for the versions of Pyodide

A host, browser or tool that is missing skips its tests, unless SPARSEFIRE_CI is 1: then it fails
them, so that a complete run cannot pass by leaving something out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from pyodide_harness import (
    PyodideRuntime,
    build_extension_wheels,
    chromium_runtime,
    find_program,
    node_runtime,
)
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import BackendError, UnsupportedError

ROOT = Path(__file__).resolve().parent.parent

_NATIVE_ISAS = {
    "x86_64": ("avx512", "avx2", "sse41", "scalar"),
    "AMD64": ("avx512", "avx2", "sse41", "scalar"),
    "aarch64": ("neon", "scalar"),
    "arm64": ("neon", "scalar"),
}.get(platform.machine(), ("scalar",))

# Host and instruction set; "wasmtime-public" goes through wasmtime's public, slower call.
CORES = (
    *(f"native-{isa}" for isa in _NATIVE_ISAS),
    "wasmtime-wasm128",
    "wasmtime-public",
)
HOST_CORES = (f"native-{_NATIVE_ISAS[0]}", "wasmtime-wasm128")


def missing(reason: str) -> NoReturn:
    """Skips the test, or the file that is being imported; fails it in a complete run."""
    if os.environ.get("SPARSEFIRE_CI") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


@cache
def _public_wasmtime() -> Core:
    from sparsefire.core.wasmtime import WasmtimeCore

    core = WasmtimeCore("wasm128", fast=False)
    core.open_context("wasm128", 1)
    return core


def open_test_core(name: str, threads: int | None = None) -> Core:
    """The core that CORES calls `name`. An instruction set that this processor lacks skips."""
    host, isa = name.split("-")
    try:
        if isa == "public":
            return _public_wasmtime()
        return hosts.open_core(host, isa, threads)
    except UnsupportedError as error:
        pytest.skip(str(error))  # no run on this machine could have it
    except BackendError as error:
        missing(str(error))


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Core:
    """The current core: every host with every instruction set in turn."""
    opened = open_test_core(request.param)
    monkeypatch.setattr(hosts, "_current", opened)
    return opened


@pytest.fixture
def host_core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Core:
    """The current core: every host in turn, with its best instruction set."""
    host = getattr(request, "param", "native")
    try:
        opened = hosts.open_core(host)
    except BackendError as error:
        missing(str(error))
    monkeypatch.setattr(hosts, "_current", opened)
    return opened


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host_core" in metafunc.fixturenames:
        metafunc.parametrize("host_core", ("native", "wasmtime"), indirect=True)


@pytest.fixture(scope="session")
def pyodide_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyodideRuntime]:
    """Pyodide in node, one for the whole session."""
    try:
        with node_runtime(ROOT, tmp_path_factory.mktemp("pyodide_node")) as runtime:
            yield runtime
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def pyodide_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyodideRuntime]:
    """Pyodide in a worker of a page in Chromium, one for the whole session."""
    try:
        with chromium_runtime(ROOT, tmp_path_factory.mktemp("pyodide_chromium")) as runtime:
            yield runtime
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(params=("node", "chromium"))
def pyodide(request: pytest.FixtureRequest) -> PyodideRuntime:
    """Pyodide in node and in Chromium in turn."""
    runtime: PyodideRuntime = request.getfixturevalue(f"pyodide_{request.param}")
    return runtime


@pytest.fixture(scope="session")
def extension_wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package with the compiled extension, a wheel for each version of Pyodide."""
    try:
        for tool in ("clang-19", "wasm-ld-19", "emcc"):
            find_program(tool)
        return build_extension_wheels(ROOT, tmp_path_factory.mktemp("extension"))
    except FileNotFoundError as error:
        missing(str(error))
