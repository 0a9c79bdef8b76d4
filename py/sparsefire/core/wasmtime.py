"""The core as a WebAssembly module in wasmtime: sandboxed, with its own memory.

wasmtime's public call costs tens of microseconds, so calls use `wasmtime_func_call_unchecked` of
its C API with one reused array of raw values. That binding is not public; if it is missing, the
public call is used instead.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeAlias

from ..errors import BackendError
from .wasm import WasmCore, choose_module, module_bytes

try:
    import wasmtime
except ImportError:
    raise BackendError(
        "the package wasmtime is not installed; run `pip install wasmtime`"
    ) from None

_RAW_SIZE = 16  # bytes of one raw value in wasmtime's C API
_MAX_ARGUMENTS = 16
_ROOM_TO_GROW = 16 << 20  # bytes of address space behind a memory that has none reserved

Call: TypeAlias = Callable[[list[int | float]], int]


class WasmtimeCore(WasmCore):
    """The core in a wasmtime instance.

    fast: whether to use the raw C API; None: if possible.
    """

    host = "wasmtime"

    def __init__(self, isa: str | None = None, *, fast: bool | None = None) -> None:
        super().__init__(isa)
        self.note = "one thread, since wasmtime's Python package starts no helpers"
        name = choose_module(isa, False, self._runs)
        try:
            exports = self._instance(name, reserve=True)
        except wasmtime.WasmtimeError:  # of address space, which batch systems limit
            try:
                exports = self._instance(name, reserve=False)
            except (wasmtime.WasmtimeError, AttributeError) as error:
                raise BackendError(
                    f"wasmtime cannot start the core: {_reason(error)}; if the address space is "
                    "limited (ulimit -v), raise the limit, or use the backend 'native'"
                ) from None
        self._memory: Any = exports["memory"]
        self._stale = True
        self._bytes = memoryview(b"")
        functions = {name: f for name, f in exports.items() if isinstance(f, wasmtime.Func)}
        functions["_initialize"](self._store)
        self._calls, self.fast = _calls(self._store, functions, fast)

    def _instance(self, name: str, reserve: bool) -> Any:
        """The exports of a new instance of a module."""
        module = _module(name, reserve)
        self._store = wasmtime.Store(_engine(reserve))
        imports = [self._import(entry) for entry in module.imports]
        return wasmtime.Instance(self._store, module, imports).exports(self._store)

    @staticmethod
    def _runs(module: bytes) -> bool:
        try:
            wasmtime.Module.validate(_engine(True), module)
        except wasmtime.WasmtimeError:
            return False
        return True

    def _import(self, entry: Any) -> wasmtime.Func:
        """The module's only import: called when the memory grew, it renews the view of it."""
        if entry.name != "emscripten_notify_memory_growth":
            raise BackendError(
                f"the WebAssembly module imports {entry.name!r}; build it with ./build_wasm.sh"
            )

        def grown(_index: int) -> None:
            self._stale = True

        return wasmtime.Func(self._store, entry.type, grown)

    def _view(self) -> memoryview:
        if self._stale:
            self._bytes = memoryview(self._memory.get_buffer_ptr(self._store)).cast("B")
            self._stale = False
        return self._bytes

    def memory_bytes(self) -> int:
        with self._lock:
            return int(self._memory.data_len(self._store))

    @contextmanager
    def writing(self, addresses: list[int], nbytes: int) -> Iterator[list[memoryview]]:
        with self._lock:  # the memory would move if it grew meanwhile
            view = self._view()
            yield [view[address : address + nbytes] for address in addresses]

    def _copy_in(self, address: int, source: memoryview) -> None:
        self._view()[address : address + len(source)] = source

    def _copy_out(self, address: int, target: memoryview) -> None:
        target[:] = self._view()[address : address + len(target)]

    def _run(self, name: str, numbers: list[int | float]) -> int:
        try:
            return self._calls[name](numbers)
        except wasmtime.Trap as trap:
            raise BackendError(f"the WebAssembly core stopped in {name}: {_reason(trap)}") from None


def _reason(error: Exception) -> str:
    """The cause of an error, which comes after what failed and the backtrace."""
    return str(error).strip().splitlines()[-1].strip()


@cache
def _engine(reserve: bool) -> Any:
    """The engine, with wasmtime's own on-disk cache if possible: compiling a module takes some
    tenths of a second, loading it from the cache a few milliseconds.

    reserve: whether a memory may have the 4 GB of address space in which it can grow and needs no
    checks of bounds. Otherwise it has what it uses, and moves when it grows."""
    config = wasmtime.Config()
    if not reserve:
        config.memory_reservation = 0
        config.memory_guard_size = 0
        config.memory_reservation_for_growth = _ROOM_TO_GROW
    with suppress(wasmtime.WasmtimeError):  # no directory for the cache
        config.cache = True
    return wasmtime.Engine(config)


@cache
def _module(name: str, reserve: bool) -> Any:
    """A compiled module, for every core of the process with that kind of memory."""
    return wasmtime.Module(_engine(reserve), module_bytes(name))


def _calls(
    store: wasmtime.Store, functions: dict[str, wasmtime.Func], fast: bool | None
) -> tuple[dict[str, Call], bool]:
    """One callable per export, and whether they are the fast ones."""
    if fast is not False:
        try:
            return _fast_calls(store, functions), True
        except (ImportError, AttributeError):
            if fast:
                raise
    return {name: _public_call(store, function) for name, function in functions.items()}, False


def _public_call(store: wasmtime.Store, function: wasmtime.Func) -> Call:
    def call(numbers: list[int | float]) -> int:
        signed = [n - (1 << 32) if isinstance(n, int) and n > 0x7FFFFFFF else n for n in numbers]
        return function(store, *signed) or 0

    return call


def _fast_calls(store: wasmtime.Store, functions: dict[str, wasmtime.Func]) -> dict[str, Call]:
    """One closure per export, all over the same array of raw values."""
    from wasmtime import _bindings

    bindings: Any = _bindings  # private, so without guarantees

    raw = (bindings.wasmtime_val_raw_t * _MAX_ARGUMENTS)()
    if ctypes.sizeof(raw) != _RAW_SIZE * _MAX_ARGUMENTS:
        raise AttributeError("this wasmtime has raw values of another size")
    # The library's own function, with plainer types than wasmtime's: no object is created for NULL.
    types = [ctypes.c_void_p] * 3 + [ctypes.c_size_t, ctypes.c_void_p]
    prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, *types)
    call_unchecked = prototype(("wasmtime_func_call_unchecked", bindings.dll))
    context = ctypes.cast(store._context(), ctypes.c_void_p)
    trap = ctypes.POINTER(bindings.wasm_trap_t)()
    trap_address = ctypes.cast(ctypes.pointer(trap), ctypes.c_void_p)
    slots = ctypes.cast(raw, ctypes.c_void_p)
    result = ctypes.c_int32.from_buffer(raw)

    def fail(error: int | None) -> None:
        if error:
            pointer = ctypes.cast(error, ctypes.POINTER(bindings.wasmtime_error_t))
            raise wasmtime.WasmtimeError._from_ptr(pointer)
        taken = ctypes.cast(trap, ctypes.POINTER(bindings.wasm_trap_t))
        ctypes.memset(ctypes.byref(trap), 0, ctypes.sizeof(trap))
        raise wasmtime.Trap._from_ptr(taken)

    def bind(function: wasmtime.Func) -> Call:
        kind = function.type(store)
        # An i32 is the lower half of the 8 bytes that q writes, which takes it with any sign.
        kinds = ["f12x" if str(param) == "f32" else "q8x" for param in kind.params]
        pack = struct.Struct("<" + "".join(kinds)).pack_into
        returns = bool(kind.results)
        size = max(len(kinds), len(kind.results))
        # The closure keeps alive the objects whose addresses it passes to the C API. They are
        # ctypes objects, so that none is created per call.
        handle = ctypes.cast(ctypes.pointer(function._func), ctypes.c_void_p)
        count = ctypes.c_size_t(size)

        def call(numbers: list[int | float]) -> int:
            pack(raw, 0, *numbers)
            error = call_unchecked(context, handle, slots, count, trap_address)
            if error or trap:
                fail(error)
            return result.value if returns else 0

        return call

    return {name: bind(function) for name, function in functions.items()}
