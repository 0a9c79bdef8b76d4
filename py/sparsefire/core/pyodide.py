"""The core as a WebAssembly module in the engine of the browser or node that runs Pyodide.

The module has its own memory. Bytes are copied through cached Uint8Array views, because creating a
view costs ten times as much as using it. Views are detached when the memory grows, which the module
reports.

With threads, the memory is shared with helpers: workers that run helper.js. They can start only
while Python waits for the event loop, so `sparsefire.enable_threads` is a coroutine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BackendError, CoreMemoryError
from .wasm import WasmCore, choose_module, module_bytes

_MAX_VIEWS = 256
_PAGES = 256  # initial size of the shared memory, as in build_wasm_modules.sh: 16 MiB
_MOST_PAGES = 65536
_STACK_BYTES = 1 << 18
_STARTING_SECONDS = 60.0
_HELPER = Path(__file__).parent / "helper.js"


class PyodideCore(WasmCore):
    """The core in a WebAssembly instance of the JavaScript engine that runs Pyodide.

    threads: more than 1 makes the memory shared, for `start_helpers`.
    """

    host = "pyodide"

    def __init__(self, isa: str | None = None, *, threads: int = 1) -> None:
        super().__init__(isa)
        try:
            import js
            from pyodide.ffi import JsException, create_proxy
        except ImportError:
            raise BackendError(
                "the backend 'pyodide' exists only in Pyodide (Python in a browser or in node); "
                "use_backend('auto') chooses an available one"
            ) from None
        self._js_exception: type[Exception] = JsException
        self._failures = JsException, RuntimeError  # the latter where Pyodide itself is at fault
        self._uint8_array = js.Uint8Array
        self._views: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._workers: list[Any] = []
        self.failures: list[str] = []  # errors of helpers
        self._on_growth = create_proxy(self._grown)  # kept: the module calls it
        env = {"emscripten_notify_memory_growth": self._on_growth}
        if threads > 1:
            size = {"initial": _PAGES, "maximum": _MOST_PAGES, "shared": True}
            env["memory"] = self._opened(js.WebAssembly.Memory.new, _to_object(size))
        self._module = self._opened(_compiled, choose_module(isa, threads > 1, self._runs))
        imports = _to_object({"env": env})
        exports = self._opened(js.WebAssembly.Instance.new, self._module, imports).exports
        exports._initialize()
        self._memory = env["memory"] if threads > 1 else exports.memory
        self._exports = exports
        self._functions: dict[str, Any] = {}
        if threads == 1:
            self.note = threads_missing() or (
                "one thread, until `await sparsefire.enable_threads()` has started more"
            )

    def _opened(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a constructor of WebAssembly's objects; its failure becomes a `BackendError`."""
        try:
            return make(*arguments)
        except self._js_exception as error:
            raise BackendError(f"the browser cannot open the WebAssembly core: {error}") from None

    async def start_helpers(self, count: int, url: str | None = None) -> None:
        """Starts `count` helpers, from a script at `url` or from the package's own copy of it, and
        waits until each is ready. Raises `BackendError` with the reason."""
        from pyodide.ffi import create_proxy

        failures = self.failures

        def failed(event: Any) -> None:
            if hasattr(event, "preventDefault"):  # else it counts as an error of the page too
                event.preventDefault()
            failures.append(str(getattr(event, "message", None) or "its script did not load"))

        on_error = create_proxy(failed)
        try:
            for seat in range(count):
                top = self._alloc(_STACK_BYTES) + _STACK_BYTES
                worker = await _new_worker(url, on_error)
                self._workers.append(worker)
                message = {"module": self._module, "memory": self._memory}
                worker.postMessage(_to_object({**message, "seat": seat, "stack": top}))
            end = time.monotonic() + _STARTING_SECONDS
            while self._run("sf_pool_helpers", []) < count and not failures:
                if time.monotonic() > end:
                    failures.append(f"it did not start within {_STARTING_SECONDS:.0f} s")
                await asyncio.sleep(0.002)
            self._run("sf_pool_may_sleep", [_may_sleep()])
        except self._js_exception as error:
            failures.append(str(error))
        if failures:
            for worker in self._workers:
                worker.terminate()
            self._workers.clear()
            raise BackendError(f"a helper thread failed: {failures[0]}")

    @staticmethod
    def _runs(module: bytes) -> bool:
        import js
        from pyodide.ffi import to_js

        if hasattr(js, "process") and int(js.process.versions.node.split(".")[0]) < 21:
            return False  # V8 had relaxed SIMD behind a flag then, and with it came wrong results
        return bool(js.WebAssembly.validate(to_js(module)))

    def _grown(self, _index: int) -> None:
        self._views.clear()

    def _run(self, name: str, numbers: list[int | float]) -> int:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._exports, name)
        try:
            return function(*numbers) or 0
        except self._js_exception as trap:
            raise BackendError(f"the WebAssembly core stopped in {name}: {trap}") from None
        except RuntimeError as error:
            raise _out_of_reach(error) from None

    def memory_bytes(self) -> int:
        return int(self._memory.buffer.byteLength)

    def _view(self, address: int, nbytes: int) -> tuple[Any, Any]:
        """The bound methods assign and assign_to of a view, which is kept."""
        if len(self._views) >= _MAX_VIEWS:
            self._views.clear()
        view = self._uint8_array.new(self._memory.buffer, address, nbytes)
        methods = self._views[address, nbytes] = (view.assign, view.assign_to)
        return methods

    def _copy_in(self, address: int, source: memoryview) -> None:
        key = (address, len(source))
        try:
            (self._views.get(key) or self._view(*key))[0](source)
        except self._failures as error:
            raise _out_of_reach(error) from None

    def _copy_out(self, address: int, target: memoryview) -> None:
        key = (address, len(target))
        try:
            (self._views.get(key) or self._view(*key))[1](target)
        except self._failures as error:
            raise _out_of_reach(error) from None


def _out_of_reach(error: Exception) -> CoreMemoryError:
    """The error for bytes that cannot be exchanged with JavaScript. Pyodide takes addresses for
    signed numbers, so it reaches the lower half of Python's 4 GB only."""
    cause = str(error).strip().splitlines()[-1].partition(". ")[0]
    return CoreMemoryError(
        f"Pyodide cannot exchange data with the core ({cause}), as happens when Python's memory "
        "has grown above 2 GB; start Pyodide again, and hold fewer arrays"
    )


@cache
def _compiled(name: str) -> Any:
    import js
    from pyodide.ffi import to_js

    return js.WebAssembly.Module.new(to_js(module_bytes(name)))


def threads_missing() -> str:
    """Why there can be no threads here; "" when there can."""
    import js

    isolated = getattr(js, "crossOriginIsolated", None)  # node does not say
    if isolated is False:
        return (
            "one thread, since the page is not cross-origin isolated: serve it with the headers "
            "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp"
        )
    if not hasattr(js, "SharedArrayBuffer"):
        return "one thread, since this browser has no shared memory (SharedArrayBuffer)"
    try:
        module_bytes("sparsefire_core_threads")
    except BackendError:
        return (
            "one thread, since this package was built without the module for more; "
            "scripts/build_wasm_modules.sh makes it"
        )
    return ""


def _may_sleep() -> bool:
    """Whether this thread may block, as every thread but a page's main thread may."""
    import js
    from pyodide.ffi import JsException

    try:
        js.Atomics.wait(js.Int32Array.new(js.SharedArrayBuffer.new(4)), 0, 0, 0)
    except JsException:
        return False
    return True


async def processors() -> int:
    """The number of hardware threads that the browser or node reports."""
    import js

    navigator = getattr(js, "navigator", None)  # node has it from version 21
    count = getattr(navigator, "hardwareConcurrency", None)
    if count is None and hasattr(js, "process"):
        count = (await _node_module("os")).availableParallelism()
    return int(count or 1)


async def _node_module(name: str) -> Any:
    """A built-in module of node, imported in the way that every version of node has."""
    from pyodide.code import run_js

    return await run_js(f"import('node:{name}')")


def _to_object(entries: dict[str, Any]) -> Any:
    """A plain JavaScript object."""
    import js
    from pyodide.ffi import to_js

    return to_js(entries, dict_converter=js.Object.fromEntries)


async def _new_worker(url: str | None, on_error: Any) -> Any:
    """A worker that runs the helper's script."""
    import js
    from pyodide.ffi import to_js

    if not hasattr(js, "Worker"):  # node
        source = _HELPER.read_text(encoding="utf-8")
        threads = await _node_module("worker_threads")
        worker = threads.Worker.new(source, _to_object({"eval": True}))
        worker.on("error", on_error)
        worker.unref()  # a process may end without it
        return worker
    made = None
    if url is None:
        source = _HELPER.read_text(encoding="utf-8")
        blob = js.Blob.new(to_js([source]), _to_object({"type": "text/javascript"}))
        url = made = js.URL.createObjectURL(blob)
    worker = js.Worker.new(url)
    worker.onerror = on_error
    if made is not None:
        js.setTimeout(js.URL.revokeObjectURL, 60_000, made)
    return worker
