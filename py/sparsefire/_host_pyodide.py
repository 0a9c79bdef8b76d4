"""The core as a WebAssembly module of the browser's, or node's, own engine, beside Pyodide's
interpreter.

The module has memory of its own; bytes go across through cached Uint8Array views, since making one
costs ten times as much as using it. Views become unusable when memory grows, which the module
reports.
"""

from __future__ import annotations

from typing import Any

from ._wasm import WasmCore, module_bytes
from .errors import BackendError

_MAX_VIEWS = 256


class PyodideCore(WasmCore):
    """The core in a WebAssembly instance of the JavaScript engine that runs Pyodide."""

    host = "pyodide"

    def __init__(self) -> None:
        super().__init__()
        try:
            import js
            from pyodide.ffi import JsException, create_proxy, to_js
        except ImportError:
            raise BackendError(
                "the backend 'pyodide' exists only in Pyodide, Python in a browser or in node; "
                "use_backend('auto') chooses one that is here"
            ) from None
        self._js_exception: type[Exception] = JsException
        self._uint8_array = js.Uint8Array
        self._stale = True
        self._buffer: Any = None
        self._views: dict[tuple[int, int], Any] = {}
        self._on_growth = create_proxy(self._grown)  # kept: the module calls it
        module = js.WebAssembly.Module.new(to_js(module_bytes()))
        imports = to_js(
            {"env": {"emscripten_notify_memory_growth": self._on_growth}},
            dict_converter=js.Object.fromEntries,
        )
        exports = js.WebAssembly.Instance.new(module, imports).exports
        exports._initialize()
        self._memory = exports.memory
        self._exports = exports
        self._functions: dict[str, Any] = {}

    def _grown(self, _index: int) -> None:
        self._stale = True

    def _run(self, name: str, numbers: list[int | float]) -> int:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._exports, name)
        try:
            return function(*numbers) or 0
        except self._js_exception as trap:
            raise BackendError(f"the WebAssembly core stopped in {name}: {trap}") from None

    def _view(self, address: int, nbytes: int) -> Any:
        if self._stale:
            self._views.clear()
            self._buffer = self._memory.buffer
            self._stale = False
        view = self._views.get((address, nbytes))
        if view is None:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            view = self._uint8_array.new(self._buffer, address, nbytes)
            self._views[address, nbytes] = view
        return view

    def _copy_in(self, address: int, source: memoryview) -> None:
        self._view(address, len(source)).assign(source)

    def _copy_out(self, address: int, target: memoryview) -> None:
        self._view(address, len(target)).assign_to(target)
