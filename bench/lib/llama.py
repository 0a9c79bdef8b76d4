"""A model in llama.cpp, token by token, through the package llama-cpp-python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .peer_files import peer


class LlamaModel:
    """One loaded model with its own context. `exact`: keys and values in F32."""

    def __init__(self, path: Path, threads: int, context: int = 1024, exact: bool = False) -> None:
        self._llama = llama = peer("llama_cpp")
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
        if exact:
            options.type_k = options.type_v = 0  # GGML_TYPE_F32
            options.flash_attn_type = 0  # off
        self._context = llama.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        self._position = 0

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

    def logits(self, tokens: Sequence[int], restart: bool = True) -> npt.NDArray[np.float32]:
        """The logits after each of the tokens, (n, vocab); without `restart` they follow what was
        evaluated last."""
        if restart:
            self.restart()
            self._position = 0
        llama, count = self._llama, len(tokens)
        vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        batch = llama.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self._position + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        status = llama.llama_decode(self._context, batch)
        llama.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError("llama.cpp could not evaluate the tokens")
        self._position += count
        rows = [llama.llama_get_logits_ith(self._context, i) for i in range(count)]
        return np.array([np.ctypeslib.as_array(row, (vocab,)) for row in rows], np.float32)
