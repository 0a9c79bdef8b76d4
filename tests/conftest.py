"""Fixtures of every test.

core           the test runs once on each host and instruction set of this machine
host_core      the test runs once on each host, with its best instruction set
pyodide_node, pyodide_chromium
               Pyodide with the package installed; `runtime.run(code)` runs Python there
               (see pyodide_harness.py)
float_keys     models that the test loads keep keys and values as floats, unless it asks for another
               format: for comparisons with references
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
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from bench.lib.web_drivers import ENGINES, find_program
from pyodide_harness import (
    PyodideRuntime,
    build_extension_wheels,
    chromium_runtime,
    node_runtime,
)
from shared import run_directory
from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import BackendError, UnsupportedError

ROOT = Path(__file__).resolve().parent.parent

# Without amx, which host_core is where there is one, and whose kernels are those of avx512_vnni,
# and avx512 and neon_i8mm, which differ in products of bytes: tests/c has all.
_NATIVE_ISAS = {
    "x86_64": ("avx512_vnni", "avx2", "sse41", "scalar"),
    "AMD64": ("avx512_vnni", "avx2", "sse41", "scalar"),
    "aarch64": ("neon_dot", "neon", "scalar"),
    "arm64": ("neon_dot", "neon", "scalar"),
}.get(platform.machine(), ("scalar",))

# Host and instruction set; "wasmtime-public" goes through wasmtime's public, slower call.
CORES = (
    *(f"native-{isa}" for isa in _NATIVE_ISAS),
    "wasmtime-wasm128",
    "wasmtime-public",
)
HOST_CORES = (f"native-{_NATIVE_ISAS[0]}", "wasmtime-wasm128")


# Groups of tests that take long, the longest first, so that no worker begins one at the end.
_LONG_GROUPS = (
    "c aarch64",
    "c thread-sanitized",
    "c memory-sanitized",
    *(f"test_web_models {engine}" for engine in ENGINES),
    "c gcc",
    "c wasm",
    *(f"test_web {engine}" for engine in ENGINES),
    "pyodide node",
    "pyodide chromium",
    *(f"test_web_hosts {engine}" for engine in ENGINES),
    *(f"test_web_start {engine}" for engine in ENGINES),
    *(f"test_web_calibration {engine}" for engine in ENGINES),
    "test_pyodide_extension",
    "test_calibrate",
)


# Examples may take as long as the machine needs, and do not depend on those of earlier runs.
settings.register_profile(
    "any machine", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_configure() -> None:
    run_directory()  # so that workers find it


def _group(item: pytest.Item) -> str:
    """Which tests are for the same worker, since they share what takes long to start or to build: a
    file's, those in one kind of Pyodide, or those of one build of the core."""
    fixtures = getattr(item, "fixturenames", ())
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.stem == "test_core_c":
        return f"c {parameters['kind'].name if 'kind' in parameters else 'gcc'}"
    for host in ("node", "chromium"):
        if f"pyodide_{host}" in fixtures or parameters.get("pyodide") == host:
            return f"pyodide {host}"
    engine = parameters.get("browser")
    return f"{item.path.stem} {engine}" if engine else item.path.stem


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: which worker runs what, and in which order."""
    if not getattr(config.option, "loadgroup", False):
        return

    def turn(item: pytest.Item) -> int:
        group = _group(item)
        return _LONG_GROUPS.index(group) if group in _LONG_GROUPS else len(_LONG_GROUPS)

    items.sort(key=turn)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses a pytest-xdist without groups: each worker would build and start everything anew."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist does not group tests under this pytest")


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


@pytest.fixture(scope="session", autouse=True)
def one_thread_of_blas() -> Iterator[None]:
    """Products of references are small: more threads only wait for each other, and for cores."""
    with threadpool_limits(1, "blas"):
        yield


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


@pytest.fixture
def float_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Model.load` has "f32" as the default of `k_format` and `v_format`."""
    monkeypatch.setattr("sparsefire.lm.model.DEFAULT_KV_FORMAT", "f32")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host_core" in metafunc.fixturenames:
        metafunc.parametrize("host_core", ("native", "wasmtime"), indirect=True)


@pytest.fixture(scope="session")
def pyodide_node() -> Iterator[PyodideRuntime]:
    """Pyodide in node, one for the whole session."""
    try:
        with node_runtime(ROOT) as runtime:
            yield runtime
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def pyodide_chromium() -> Iterator[PyodideRuntime]:
    """Pyodide in a worker of a page in Chromium, one for the whole session."""
    try:
        with chromium_runtime(ROOT) as runtime:
            yield runtime
    except FileNotFoundError as error:
        missing(str(error))


@pytest.fixture(params=("node", "chromium"))
def pyodide(request: pytest.FixtureRequest) -> PyodideRuntime:
    """Pyodide in node and in Chromium in turn."""
    runtime: PyodideRuntime = request.getfixturevalue(f"pyodide_{request.param}")
    return runtime


@pytest.fixture(scope="session")
def extension_wheels() -> dict[str, Path]:
    """The package with the compiled extension, a wheel for each version of Pyodide."""
    try:
        for tool in ("clang-19", "wasm-ld-19", "emcc"):
            find_program(tool)
        return build_extension_wheels(ROOT)
    except FileNotFoundError as error:
        missing(str(error))
