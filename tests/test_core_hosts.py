"""The core on each host: memory, calls, errors, ownership, the choice of a host."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsefire as sf
from conftest import ROOT, missing, open_test_core
from sparsefire import errors
from sparsefire.core import hosts
from sparsefire.core import wasm as _wasm
from sparsefire.core.core import Core
from sparsefire.weights.matrix import Matrix

RELU = 1


def relu(core: Core, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    y = np.empty_like(x)
    core.check("sf_activate", core.context, RELU, 0.0, core.inp(x), x.size, core.out(y))
    return y


# -- memory and arguments ------------------------------------------------------------------------


def test_memory_is_written_read_and_checked(core: Core) -> None:
    memory = core.memory(1000)
    assert memory.ptr % 64 == 0
    assert memory.ptr > 0
    data = np.arange(100, dtype=np.float32).reshape(4, 25)
    memory.write(data, offset=100)
    out = np.zeros((25, 4), np.float32)
    memory.read(out, offset=100)
    assert (out.ravel() == data.ravel()).all()
    tail = np.empty(1, np.uint8)
    memory.write(b"z", offset=999)
    memory.read(tail, offset=999)
    assert tail.tobytes() == b"z"
    for offset in (-1, 601, 1000):
        with pytest.raises(errors.ArgumentError, match="outside a core memory of 1000 bytes"):
            memory.write(data, offset)
        with pytest.raises(errors.ArgumentError, match="outside a core memory of 1000 bytes"):
            memory.read(out, offset)
    memory.write(b"", offset=1000)
    memory.close()
    memory.close()
    with pytest.raises(errors.ArgumentError, match="closed"):
        memory.write(data)


def test_empty_memory(core: Core) -> None:
    with core.memory(0) as memory:
        assert memory.nbytes == 0
        memory.write(np.empty(0, np.float32))
    uploaded = core.upload(b"")
    uploaded.read(np.empty(0, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_uploads_hold_the_bytes(core: Core, dtype: Any) -> None:
    array = np.arange(1, 78).astype(dtype).reshape(7, 11)
    memory = core.upload(array)
    out = np.empty_like(array)
    memory.read(out)
    assert (out == array).all()
    assert memory.nbytes == array.nbytes


def test_uploads_are_shared_natively_and_copied_in_wasm(core: Core) -> None:
    array = np.zeros(16, np.float32)
    memory = core.upload(array)
    array[3] = 5
    out = np.empty_like(array)
    memory.read(out)
    assert out[3] == (5 if core.host == "native" else 0)


def test_a_read_only_upload_is_read_and_never_written(core: Core) -> None:
    memory = core.upload(bytes(range(64)))
    out = np.empty(64, np.uint8)
    memory.read(out)
    assert out.tolist() == list(range(64))
    if core.host == "native":
        with pytest.raises(errors.ArgumentError, match="read-only"):
            memory.write(b"x")


def test_an_upload_must_be_contiguous(core: Core) -> None:
    with pytest.raises(errors.ArgumentError, match="C-contiguous"):
        core.upload(np.zeros((4, 4), np.float32)[:, :2])


@pytest.mark.parametrize("count", [1, 3, 64, 1000, 70_000, 3_000_000])
def test_arrays_of_any_size_go_in_and_out(core: Core, count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count, dtype=np.float32)
    assert (relu(core, x) == np.maximum(x, 0)).all()


def test_memory_and_arrays_may_be_mixed(core: Core) -> None:
    x = np.linspace(-1, 1, 33, dtype=np.float32)
    y = np.empty_like(x)
    given, made = core.upload(x), core.memory(x.nbytes)
    core.check("sf_activate", core.context, RELU, 0.0, given, x.size, core.out(y))
    core.check("sf_activate", core.context, RELU, 0.0, core.inp(-x), x.size, made.ptr)
    z = np.empty_like(x)
    made.read(z)
    assert (y - z == x).all()


def test_memory_bytes_is_the_size_of_a_memory_of_its_own(core: Core) -> None:
    block = core.memory(1 << 20)
    size = core.memory_bytes()
    assert size == 0 if core.host == "native" else size >= block.ptr + block.nbytes
    block.close()


def test_views_follow_memory_that_grows(core: Core) -> None:
    x = np.arange(100, dtype=np.float32)
    kept = core.upload(x)
    blocks = [core.memory(20 << 20) for _ in range(4)]
    blocks[-1].write(x, offset=(20 << 20) - x.nbytes)
    for memory, offset in ((kept, 0), (blocks[-1], (20 << 20) - x.nbytes)):
        out = np.empty_like(x)
        memory.read(out, offset)
        assert (out == x).all()
    assert (relu(core, -x) == 0).all()


def test_numbers_that_do_not_fit_are_refused(core: Core) -> None:
    for wrong in (1 << 31 if core.host == "native" else 1 << 32, -(1 << 31) - 1):
        with pytest.raises(errors.ArgumentError, match=r"sf_isa_name: .*does not fit in 32 bits"):
            core.text("sf_isa_name", wrong)
        with pytest.raises(errors.ArgumentError, match="does not fit in 32 bits"):
            core.call("sf_isa_supported", wrong)
    x = np.ones(1, np.float32)
    with pytest.raises(errors.ArgumentError, match="32-bit float"):
        core.call("sf_activate", core.context, 6, 1e39, core.inp(x), 1, core.out(x))
    assert core.call("sf_isa_supported", -1) == 0


def test_numpy_scalars_are_numbers(core: Core) -> None:
    x = np.array([-1, 0.4, 2], np.float32)
    y = np.empty_like(x)
    fatrelu, count, threshold = np.int64(6), np.int32(3), np.float32(0.5)
    core.check("sf_activate", core.context, fatrelu, threshold, core.inp(x), count, core.out(y))
    assert y.tolist() == [0, 0, 2]


def test_null_is_none(core: Core) -> None:
    with pytest.raises(errors.ArgumentError):
        core.check("sf_softmax", core.context, None, 1, None)
    assert core.call("sf_free", None) == 0
    assert core.text("sf_isa_name", 99) is None


def test_statuses_become_exceptions(core: Core) -> None:
    x = np.array([1, np.inf, 2], np.float32)
    with pytest.raises(errors.NotFiniteError, match=r"^the scores: \w"):
        core.check("sf_softmax", core.context, core.inp(x), 3, core.out(x), what="the scores")
    with pytest.raises(errors.FormatError):
        core.open("sf_matrix_open", core.upload(x), 12, 12345, 1, 3, 0)
    with pytest.raises(errors.ShapeError):
        core.open("sf_matrix_open", core.upload(x), 12, 0, 2, 3, 0)
    with pytest.raises(errors.UnsupportedError, match="cannot use the instruction set 'mmx'"):
        core._isa_index("mmx")


def test_too_much_memory_is_an_error(core: Core) -> None:
    with pytest.raises(errors.CoreMemoryError, match="bytes"):
        core.memory(1 << 62)


def test_isas(core: Core) -> None:
    assert core.isa in core.supported_isas()
    assert set(core.supported_isas()) <= set(core.isas())
    assert core.isas()[-1] == ("scalar" if core.host == "native" else "wasm128")


_SMALL_SIGNAL_STACK = """
import ctypes
import sparsefire as sf


class Stack(ctypes.Structure):  # stack_t of Linux
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


memory = ctypes.create_string_buffer(8192)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(stack), None) == 0
assert sf.use_backend("native").isa != "amx", "Linux gave tiles, for which the stack is too small"
try:
    sf.use_backend("native", isa="amx")
except sf.UnsupportedError:
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own way of giving tiles to a process")
def test_a_system_that_refuses_tiles_gives_the_next_best() -> None:
    found = subprocess.run(
        (sys.executable, "-c", _SMALL_SIGNAL_STACK), capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "refused\n"), found.stderr


# -- ownership -----------------------------------------------------------------------------------


class Owner:
    pass


def close_garbage(core: Core) -> None:
    """Closes handles of what other tests have left behind."""
    gc.collect()
    core.call("sf_isa_count")


def test_handles_of_collected_objects_are_closed_before_the_next_call(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[Any, ...]] = []
    invoke = core._invoke

    def spy(name: str, args: tuple[Any, ...]) -> int:
        closed.append((name, *args))
        return invoke(name, args)

    data = core.upload(np.ones(4, np.float32))
    handle = core.open("sf_matrix_open", data, 16, 0, 1, 4, 0)
    close_garbage(core)
    monkeypatch.setattr(core, "_invoke", spy)
    owner = Owner()
    core.own(owner, "sf_matrix_close", handle)
    del owner
    gc.collect()
    assert closed == []
    core.call("sf_isa_count")
    assert closed == [("sf_matrix_close", handle), ("sf_isa_count",)]


def test_closing_early_closes_once(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    data = core.upload(np.ones(4, np.float32))
    handle = core.open("sf_matrix_open", data, 16, 0, 1, 4, 0)
    close_garbage(core)
    owner = Owner()
    close = core.own(owner, "sf_matrix_close", handle)
    close()
    close()
    del owner
    gc.collect()
    assert list(core._released) == [("sf_matrix_close", handle)]
    core.call("sf_isa_count")
    assert not core._released


def test_wasm_memory_is_used_again() -> None:
    core = open_test_core("wasmtime-wasm128")
    for _ in range(200):  # 20 GB in all, of the 4 GB that there can be
        core.memory(100 << 20)


def test_threads_may_share_a_core(core: Core) -> None:
    failures: list[Any] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(500, dtype=np.float32)
        for _ in range(50):
            if not (relu(core, x) == np.maximum(x, 0)).all():
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# -- the native extension ------------------------------------------------------------------------


def test_the_extension_checks_its_arguments() -> None:
    native = open_test_core("native-scalar")
    functions = native._functions  # type: ignore[attr-defined]
    activate = functions["sf_activate"]
    x = np.ones(4, np.float32)
    wrong: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (TypeError, (native.context, RELU, 0.0, "text", 4, x)),
        (TypeError, (native.context, RELU, 0.0, 1.5, 4, x)),
        (TypeError, (native.context, 1.0, 0.0, x, 4, x)),
        (TypeError, (native.context, RELU, "0", x, 4, x)),
        (TypeError, (x, RELU, 0.0, x, 4, x)),
        (TypeError, (native.context, RELU, 0.0, np.float32(1), 4, x)),  # a scalar's own bytes
        (OverflowError, (-1, RELU, 0.0, x, 4, x)),
        (OverflowError, (1 << 64, RELU, 0.0, x, 4, x)),
        (OverflowError, (native.context, 1 << 31, 0.0, x, 4, x)),
        (ValueError, (native.context, RELU, 0.0, np.ones((4, 4), np.float32)[:, 0], 4, x)),
        (ValueError, (native.context, RELU, 0.0, x, 4, b"read-only bytes!")),
    ]
    for expected, args in wrong:
        if args[-1].__class__ is bytes:
            expected = BufferError
        with pytest.raises(expected):
            activate(*args)
    readonly = np.ones(4, np.float32)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        activate(native.context, RELU, 0.0, x, 4, readonly)
    assert activate(native.context, RELU, 0.0, readonly, 4, x) == 0


def test_the_extension_lets_other_threads_run() -> None:
    native = open_test_core("native-scalar", threads=1)
    rows, columns, count = 2000, 1000, 64
    memory = native.upload(np.ones((rows, columns), np.float32))
    matrix = native.open("sf_matrix_open", memory, memory.nbytes, 0, rows, columns, 0)
    x = np.ones((count, columns), np.float32)
    y = np.empty((count, rows), np.float32)
    done = threading.Event()
    ticks = 0

    def work() -> None:
        native.check("sf_matrix_multiply", native.context, matrix, x, count, y)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # only a call that gives the lock up lets another thread in
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            ticks += 1
            done.wait(0.0001)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
        native.call("sf_matrix_close", matrix)
    assert ticks > 3
    assert (y == columns).all()


# -- wasmtime ------------------------------------------------------------------------------------


def test_the_fast_and_the_public_call_agree() -> None:
    fast, public = open_test_core("wasmtime-wasm128"), open_test_core("wasmtime-public")
    assert fast.fast  # type: ignore[attr-defined]
    assert not public.fast  # type: ignore[attr-defined]
    x = np.random.default_rng(0).standard_normal(1001, dtype=np.float32)
    outputs = []
    for core in (fast, public):
        y = np.empty_like(x)
        core.check("sf_softmax", core.context, core.inp(x), x.size, core.out(y))
        outputs.append(y)
        assert core.call("sf_format_row_bytes", 8, 64) == 68
        assert core.call("sf_activate", core.context, -5, 0.5, core.inp(x), 1, core.out(y)) == -1
    assert (outputs[0] == outputs[1]).all()


def test_a_missing_raw_call_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    open_test_core("wasmtime-wasm128")
    from wasmtime import _bindings

    from sparsefire.core.wasmtime import WasmtimeCore

    monkeypatch.delattr(_bindings, "wasmtime_val_raw_t")
    assert not WasmtimeCore().fast
    with pytest.raises(AttributeError):
        WasmtimeCore(fast=True)


@pytest.mark.parametrize("name", ["wasmtime-wasm128", "wasmtime-public"])
def test_a_trap_is_an_error_and_the_next_call_works(name: str) -> None:
    core = open_test_core(name)
    for _ in range(3):
        with pytest.raises(errors.BackendError, match=r"stopped in sf_softmax: .*out of bounds.*$"):
            core.call("sf_softmax", core.context, 0xFFFFFFF0, 100, 0xFFFFFFF0)
    assert core.call("sf_isa_count") == 1


# -- choosing a host -----------------------------------------------------------------------------


@pytest.fixture
def restored() -> Any:
    current = hosts._current
    yield
    hosts._current = current


@pytest.mark.usefixtures("restored")
def test_use_backend_chooses(core: Core) -> None:
    chosen = sf.use_backend(core.host, isa=core.isa, threads=1)
    assert (chosen.name, chosen.isa, chosen.threads) == (core.host, core.isa, 1)
    assert sf.backend() == chosen
    assert str(chosen) == f"{core.host}, {core.isa}, 1 thread"
    assert "bits" in chosen.simd or core.isa == "scalar"
    assert hosts.get_core() is hosts.get_core()


@pytest.mark.usefixtures("restored")
def test_threads_are_what_was_asked_for() -> None:
    open_test_core("native-scalar")
    assert sf.use_backend("native", threads=3).threads == 3
    assert sf.use_backend("native").threads == hosts.available_cores()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sf.use_backend("gpu"), errors.ArgumentError, "unknown backend 'gpu'; choose"),
        (lambda: sf.use_backend("native", threads=0), errors.ArgumentError, "from 1 to 1024"),
        (lambda: sf.use_backend("native", isa="mmx"), errors.UnsupportedError, "it can use:"),
        (lambda: sf.use_backend("auto", isa="mmx"), errors.UnsupportedError, "it can use:"),
        (lambda: sf.use_backend("pyodide"), errors.BackendError, "use_backend"),
    ],
)
def test_a_wrong_choice_changes_nothing(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    open_test_core("native-scalar")
    before = hosts.get_core()
    with pytest.raises(error, match=message):
        call()
    assert hosts.get_core() is before


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SPARSEFIRE_")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept | environment
    )


SHOW = "import sparsefire as sf; b = sf.backend(); print(b.name, b.isa, b.threads)"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"SPARSEFIRE_BACKEND": "wasmtime", "SPARSEFIRE_ISA": "wasm128"}, "wasmtime wasm128 1"),
        ({"SPARSEFIRE_ISA": "scalar", "SPARSEFIRE_THREADS": "2"}, "native scalar 2"),
        (
            {"SPARSEFIRE_BACKEND": "", "SPARSEFIRE_ISA": "scalar", "SPARSEFIRE_THREADS": "1"},
            "native scalar 1",
        ),
    ],
)
def test_the_environment_chooses(environment: dict[str, str], wanted: str) -> None:
    open_test_core("native-scalar")
    open_test_core("wasmtime-wasm128")
    assert python(SHOW, **environment).stdout.strip() == wanted


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SPARSEFIRE_BACKEND": "gpu"}, "unknown backend 'gpu'"),
        ({"SPARSEFIRE_THREADS": "many"}, "SPARSEFIRE_THREADS must be a whole number"),
        ({"SPARSEFIRE_ISA": "mmx"}, "cannot use the instruction set 'mmx'"),
    ],
)
def test_a_wrong_environment_is_an_error(environment: dict[str, str], message: str) -> None:
    assert message in python(SHOW, **environment).stderr


HIDE = """
import sys
for name in {names!r}:
    sys.modules[name] = None
import sparsefire as sf
try:
    print(sf.use_backend({backend!r}).name)
except sf.BackendError as error:
    print("BackendError:", error)
"""


@pytest.mark.parametrize(
    ("names", "backend", "wanted"),
    [
        (["wasmtime"], "wasmtime", "BackendError: .*pip install wasmtime"),
        (["sparsefire.core._native"], "native", "BackendError: .*pip install ."),
        (["sparsefire.core._native"], "auto", "wasmtime"),
        (
            ["sparsefire.core._native", "wasmtime"],
            "auto",
            "BackendError: no host for the core .*native: .*pip install .*wasmtime: .*pip install",
        ),
    ],
)
def test_a_missing_host_names_the_repair(names: list[str], backend: str, wanted: str) -> None:
    done = python(HIDE.format(names=names, backend=backend))
    import re

    assert re.match(wanted, done.stdout), done


def test_a_missing_module_names_the_repair(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(_wasm, "_MODULES", tmp_path)
    with pytest.raises(errors.BackendError, match=r"run \./build_wasm\.sh"):
        _wasm.module_bytes()


def test_importing_loads_numpy_and_nothing_else_that_is_installed() -> None:
    code = """
import sys
before = set(sys.modules)
import sparsefire
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(found - sys.stdlib_module_names - {"sparsefire", "numpy"}))
print("sparsefire.core._native" in sys.modules)
"""
    done = python(code)
    assert done.stdout.split() == ["False"], done


# -- devices -------------------------------------------------------------------------------------


def test_devices_lists_what_is_here(core: Core) -> None:
    found = sf.devices()
    hosts = {host.name: host for host in found.hosts}
    assert hosts[core.host].available
    assert core.isa in hosts[core.host].supported
    assert hosts[core.host].threads >= 1
    assert not hosts["pyodide"].available
    assert "browser" in hosts["pyodide"].reason
    assert "the core uses no NPU" in str(found)
    assert "the core uses no NPU" in str(found)


def test_the_npus_that_linux_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefire.core.devices._ACCELERATORS", tmp_path / "accel")
    monkeypatch.setattr(sys, "platform", "linux")
    assert sf.devices().npus == ()
    assert "npu       none found; the core uses no NPU" in str(sf.devices())
    device = tmp_path / "accel" / "accel0" / "device"
    device.mkdir(parents=True)
    (device / "driver").symlink_to(tmp_path / "drivers" / "intel_vpu")
    assert sf.devices().npus == ("accel0 (intel_vpu)",)
    assert "npu       accel0 (intel_vpu); the core uses no NPU" in str(sf.devices())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sf.devices().npus is None
    assert "not looked for on this system" in str(sf.devices())


def test_a_closed_object_says_so(core: Core) -> None:
    matrix = Matrix.from_array(np.ones((2, 32)), core=core)
    matrix.close()
    matrix.close()
    with pytest.raises(errors.ArgumentError, match="this Matrix was closed"):
        matrix.multiply(np.ones(32))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = matrix.nothing  # type: ignore[attr-defined]


# -- the build -----------------------------------------------------------------------------------


def test_a_missing_compiler_is_named() -> None:
    environment = {**os.environ, "EMCC": "no-such-emcc"}
    done = subprocess.run(
        [str(ROOT / "build_wasm.sh"), "/dev/null"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "apt-get install emscripten" in done.stderr


def test_the_module_is_small() -> None:
    try:
        assert len(_wasm.module_bytes()) <= 340 * 1024
    except errors.BackendError as error:
        missing(str(error))
