"""Where the core runs: the only place that chooses a host."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import Any

from .._options import checked, text, whole
from ..errors import ArgumentError, BackendError
from .core import Core, count_of

BACKENDS = ("native", "wasmtime", "pyodide")

_SIMD = {
    "amx": "AVX-512, 512 bits, and AMX tiles in bfloat16 for prompts",
    "avx512_vnni": "AVX-512 with VNNI, 512 bits",
    "avx2_vnni": "AVX2 with AVX-VNNI, 256 bits",
    "avx512": "AVX-512, 512 bits",
    "avx2": "AVX2 and FMA, 256 bits",
    "sse41": "SSE4.1, 128 bits",
    "neon_i8mm": "NEON with I8MM, 128 bits",
    "neon_dot": "NEON with DotProd, 128 bits",
    "neon": "NEON, 128 bits",
    "relaxed128": "WebAssembly relaxed SIMD, 128 bits",
    "wasm128": "WebAssembly SIMD, 128 bits",
    "scalar": "none",
}


@dataclass(frozen=True)
class Backend:
    """Where the core runs: `name` ("native", "wasmtime" or "pyodide"), `isa` (the instruction set's
    short name), `threads`, `simd` (the vector unit in words), the core's `version`, and a `note`
    that says why, if the machine could offer more: for example why there is only one thread."""

    name: str
    isa: str
    threads: int
    simd: str
    version: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.isa}, {count_of(self.threads, 'thread')}"


_cores: dict[tuple[str, str | None, int | None], Core] = {}
_current: Core | None = None
_opening = threading.Lock()


def get_core() -> Core:
    """The core that new objects are created in: that of the last `use_backend`, or else the one
    that the environment variables name."""
    if _current is None:
        use_backend(os.environ.get("SPARSEFIRE_BACKEND") or "auto")
        assert _current is not None
    return _current


@checked(name=text, isa=text, threads=whole)
def use_backend(
    name: str = "auto", *, isa: str | None = None, threads: int | None = None
) -> Backend:
    """Chooses where the core runs, for every object created from now on, and returns the choice.

    name: "native" (the compiled extension), "wasmtime" (the WebAssembly module in wasmtime),
      "pyodide" (the same in a browser or node), or "auto": the fastest one that is available.
    isa: instruction set by name ("amx", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "sse41",
      "neon_i8mm", "neon_dot", "neon", "relaxed128", "wasm128", "scalar"); default SPARSEFIRE_ISA,
      or else the best one of this machine.
    threads: 1 or more; default SPARSEFIRE_THREADS, or else every processor that this process may
      use. wasmtime uses 1; Pyodide 1, or as many as `enable_threads` has started.

    Existing objects stay where they are. Raises `BackendError` if the host is missing (with the
    command that installs it), `UnsupportedError` for an instruction set, `ArgumentError` for an
    invalid name or number.
    """
    global _current
    _current = choose_core(name, isa, threads)
    return backend()


def choose_core(name: str = "auto", isa: str | None = None, threads: int | None = None) -> Core:
    """The core that `use_backend` would choose, with the same errors. It does not become the
    current one."""
    if name == "npu":
        raise BackendError(
            "the core does not support NPUs: sparsefire.devices() lists what this machine offers; "
            "use_backend('auto') runs on the processor"
        )
    if name not in (*BACKENDS, "auto"):
        raise ArgumentError(f"unknown backend {name!r}; choose one of: auto, {', '.join(BACKENDS)}")
    isa = isa or os.environ.get("SPARSEFIRE_ISA") or None
    threads = threads_wanted(threads)
    return _any_core(isa, threads) if name == "auto" else open_core(name, isa, threads)


def backend() -> Backend:
    """Where the core runs now."""
    core = get_core()
    version = core.text("sf_version") or ""
    simd = _SIMD.get(core.isa, core.isa)
    return Backend(core.host, core.isa, core.threads, simd, version, core.note)


def open_core(name: str, isa: str | None = None, threads: int | None = None) -> Core:
    """The core of that host, instruction set and number of threads, created on first use.

    It does not become the current one. Errors as `use_backend`.
    """
    with _opening:
        core = _cores.get((name, isa, threads))
        if core is None:
            core = _host_class(name)(isa)
            core.open_context(isa, threads or (available_cores() if name == "native" else 1))
            _cores[name, isa, threads] = core
        return core


def has_core(name: str, isa: str | None, threads: int | None) -> bool:
    """Whether that core exists already."""
    return (name, isa, threads) in _cores


def add_core(core: Core, isa: str | None, threads: int | None) -> None:
    """Makes `open_core` return `core` for its host, ``isa`` and ``threads``: for cores that the
    caller has to create, because opening them is asynchronous."""
    _cores[core.host, isa, threads] = core


def threads_wanted(threads: int | None) -> int | None:
    """The checked number of threads: the argument, or else SPARSEFIRE_THREADS, or else None."""
    source = "threads"
    value: Any = threads
    if value is None:
        source = "SPARSEFIRE_THREADS"
        value = os.environ.get(source) or None
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= 1024:
        raise ArgumentError(f"{source} must be a whole number from 1 to 1024, not {value!r}")
    return number


def available_cores() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _host_class(name: str) -> type[Any]:
    if name == "native":
        from .native import NativeCore

        return NativeCore
    if name == "wasmtime":
        from .wasmtime import WasmtimeCore

        return WasmtimeCore
    from .pyodide import PyodideCore

    return PyodideCore


def _any_core(isa: str | None, threads: int | None) -> Core:
    """A core on the first installed host. Other errors, such as an unknown ISA, propagate."""
    missing: list[str] = []
    for name in ("native", "pyodide") if sys.platform == "emscripten" else ("native", "wasmtime"):
        try:
            return open_core(name, isa, threads)
        except BackendError as error:
            missing.append(f"{name}: {error}")
    raise BackendError("no host for the core is installed. " + "; ".join(missing))
