"""A model in llama.cpp, token by token, through the package llama-cpp-python."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

from peer_files import llama_cpp


class LlamaModel:
    """One loaded model with its own context."""

    def __init__(self, path: Path, threads: int, context: int = 1024) -> None:
        sys.path.insert(0, str(llama_cpp()))
        import llama_cpp as llama

        self._llama = llama
        # Its log goes to a callback that drops it; kept, since the library holds on to it.
        self._quiet = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        self._model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path.name}")
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 512, 512
        options.n_threads = options.n_threads_batch = threads
        self._context = llama.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")

    def restart(self) -> None:
        """Forgets every token."""
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_clear(memory, True)

    def feed(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens together; logits of the last one."""
        array = (self._llama.llama_token * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(array, len(tokens))
        if self._llama.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp could not evaluate the tokens")
