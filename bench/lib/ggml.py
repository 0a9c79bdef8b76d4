"""Matrix products of ggml, the library under llama.cpp, as the package llama-cpp-python carries it.

Only what is needed to time y = W · x through ggml's own graph, threads and repacked layouts.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CONTEXT_BYTES = 1 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


def _function(
    library: ctypes.CDLL, name: str, result: type | None, *arguments: type
) -> ctypes._NamedFuncPointer:
    function: ctypes._NamedFuncPointer = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


class Ggml:
    """ggml's processor backend with a number of threads."""

    def __init__(self, libraries: Path, threads: int) -> None:
        base = ctypes.CDLL(str(next(libraries.glob("libggml-base.so*"))), ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(next(libraries.glob("libggml-cpu.so*"))), ctypes.RTLD_GLOBAL)
        pointer = c_void_p
        self._init = _function(base, "ggml_init", pointer, _InitParams)
        self._new_2d = _function(
            base, "ggml_new_tensor_2d", pointer, pointer, c_int, c_int64, c_int64
        )
        self._mul_mat = _function(base, "ggml_mul_mat", pointer, pointer, pointer, pointer)
        self._graph = _function(base, "ggml_new_graph", pointer, pointer)
        self._expand = _function(base, "ggml_build_forward_expand", None, pointer, pointer)
        self._supports = _function(base, "ggml_backend_supports_op", c_bool, pointer, pointer)
        self._set = _function(
            base, "ggml_backend_tensor_set", None, pointer, pointer, c_size_t, c_size_t
        )
        self._get = _function(
            base, "ggml_backend_tensor_get", None, pointer, pointer, c_size_t, c_size_t
        )
        self._allocate = _function(
            base, "ggml_backend_alloc_ctx_tensors_from_buft", pointer, pointer, pointer
        )
        self._compute = _function(base, "ggml_backend_graph_compute", c_int, pointer, pointer)
        plain = _function(base, "ggml_backend_cpu_buffer_type", pointer)()
        registry = _function(cpu, "ggml_backend_cpu_reg", pointer)()
        device = _function(base, "ggml_backend_reg_dev_get", pointer, pointer, c_size_t)(
            registry, 0
        )
        address = _function(base, "ggml_backend_reg_get_proc_address", pointer, pointer, c_char_p)(
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device)
        self._layouts = [plain]
        index = 0
        while extra and extra[index]:
            self._layouts.append(extra[index])
            index += 1
        self._backend = _function(cpu, "ggml_backend_cpu_init", pointer)()
        _function(cpu, "ggml_backend_cpu_set_n_threads", None, pointer, c_int)(
            self._backend, threads
        )
        pool_params = (ctypes.c_byte * 1024)()  # larger than the structure in any version
        _function(base, "ggml_threadpool_params_init", None, pointer, c_int)(pool_params, threads)
        self._pool = _function(cpu, "ggml_threadpool_new", pointer, pointer)(pool_params)
        self._pause = _function(cpu, "ggml_threadpool_pause", None, pointer)
        self._resume = _function(cpu, "ggml_threadpool_resume", None, pointer)
        _function(cpu, "ggml_backend_cpu_set_threadpool", None, pointer, pointer)(
            self._backend, self._pool
        )

    def rest(self) -> None:
        """Lets its threads sleep: after a product they spin for long, on processors that others
        are timed on."""
        self._pause(self._pool)

    def wake(self) -> None:
        """Lets its threads spin until there is a product, as in a run of products."""
        self._resume(self._pool)

    @property
    def layouts(self) -> int:
        """How many ways of storing a matrix there are: as in the file, then repacked ones."""
        return len(self._layouts)

    def matrix(
        self,
        packed: npt.NDArray[np.uint8],
        type_number: int,
        shape: tuple[int, int],
        layout: int,
        inputs: int = 1,
    ) -> Product | None:
        """The product of a matrix (rows, columns), packed as GGUF packs it, with ``inputs``
        vectors; None where ggml does not take this matrix in that layout."""
        rows, columns = shape
        params = _InitParams(_CONTEXT_BYTES, None, True)
        weights_context, context = self._init(params), self._init(params)
        weights = self._new_2d(weights_context, type_number, columns, rows)
        if not self._allocate(weights_context, self._layouts[layout]):
            return None
        x = self._new_2d(context, 0, columns, inputs)
        y = self._mul_mat(context, weights, x)
        if not self._supports(self._backend, y):
            return None
        graph = self._graph(context)
        self._expand(graph, y)
        if not self._allocate(context, self._layouts[0]):
            raise MemoryError("ggml could not allocate the vectors")
        self._set(weights, packed.ctypes.data, 0, packed.nbytes)
        return Product(self, graph, x, y, (inputs, columns), (inputs, rows))


class Product:
    """One matrix, ready to be multiplied."""

    def __init__(
        self,
        ggml: Ggml,
        graph: int,
        x: int,
        y: int,
        x_shape: tuple[int, int],
        y_shape: tuple[int, int],
    ) -> None:
        self._ggml, self._graph, self._x, self._y = ggml, graph, x, y
        self._x_bytes = 4 * x_shape[0] * x_shape[1]
        self._result = np.empty(y_shape, np.float32)

    def set_input(self, x: npt.NDArray[np.float32]) -> None:
        """Copies the vectors (inputs, columns) in."""
        x = np.ascontiguousarray(x, np.float32)
        self._ggml._set(self._x, x.ctypes.data, 0, self._x_bytes)

    def run(self) -> None:
        """Multiplies."""
        status = self._ggml._compute(self._ggml._backend, self._graph)
        if status != 0:
            raise RuntimeError(f"ggml failed with status {status}")

    def result(self) -> npt.NDArray[np.float32]:
        """The product (inputs, rows) of the last run."""
        self._ggml._get(self._y, self._result.ctypes.data, 0, self._result.nbytes)
        return self._result
