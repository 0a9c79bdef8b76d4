"""What a language model in the core computes for tokens, and its parts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray, IntArray
from .._options import checked, positive
from ..arch.config import ModelConfig
from ..core.core import Core
from ..core.handle import locked
from ..errors import ArgumentError, ContextFullError, UnsupportedError
from ..ffn.experts import ExpertsFfn
from ..ffn.forward import MODES
from ..ffn.layer import SparseFfn
from ..gguf.reader import GgufFile
from .loader import CoreModel
from .neurons import ModelNeurons
from .requests import checked_ids
from .requests import checked_mode as _mode_of
from .sampling import TokenScore
from .scoring import token_scores
from .session import BATCH, DECODED, PROMPTED, Session
from .sessions import Lease, Sessions
from .stats import Stats, rate
from .together import evaluate_together

_PHASES = {"prompt": PROMPTED, "decode": DECODED}


class Evaluator:
    """A model in the core, for token ids: logits, hidden states, sessions, layers. `Model` is one
    that knows text. `stats` is of the run that began last."""

    def __init__(
        self, file: GgufFile, config: ModelConfig, core_model: CoreModel, context: int
    ) -> None:
        self.config = config
        self.context = context
        self._file = file
        self._core_model: CoreModel | None = core_model
        self._sessions = Sessions(core_model, context)
        self.stats = self._new_stats(config.default_mode)

    # -- logits -----------------------------------------------------------------------------------

    @locked
    def logits(self, token_ids: npt.ArrayLike, *, mode: str | None = None) -> FloatArray:
        """The logits after each token, float32 (n, vocab), for token ids (n,).

        Errors: `ContextFullError`, `ArgumentError` (an id outside the vocabulary, the mode),
        `NotFiniteError`.
        """
        self._check_open()
        if not self.config.kind.output:
            self._check_predicts()
        ids = self._checked_ids(token_ids, "token_ids")
        mode = self.checked_mode(mode)
        if len(ids) > self.context:
            raise ContextFullError(
                f"{len(ids)} tokens do not fit in the context of {self.context}; evaluate fewer"
                f"{self._larger_context()}"
            )
        logits = np.empty((len(ids), self.config.vocab), np.float32)
        with Lease(self._sessions) as lease:
            session = lease.holding((), mode)
            started = time.perf_counter()
            size = len(ids) if self.config.both_sides else BATCH
            for start in range(0, len(ids), max(size, 1)):
                batch = slice(start, start + size)
                session.evaluate(ids[batch], logits[batch])
        self._finish(lease, mode, time.perf_counter() - started)
        self.stats.prompt_token_ids = ids.tolist()
        return logits

    @locked
    def evaluate(
        self,
        parts: Sequence[tuple[Session, npt.ArrayLike]],
        *,
        mode: str | None = None,
        phase: str = "prompt",
    ) -> FloatArray:
        """Appends tokens to several sessions at once, each from `new_session`, and returns the
        logits after the last token of each, float32 (sessions, vocab). Weights that several tokens
        need are read once; what a session gives does not depend on the others, bit for bit.

        parts: (session, token ids (n,)) for each, n ≥ 1: of prompts, or the next token.
        phase: "prompt" or "decode", for which products are rounded differently, as
        `sparsefire.Session` does for prompts and for the tokens of a text: it does not depend on
        how many tokens there are.

        Errors: `ArgumentError` (no session, one twice, one of another model, one whose tokens are
        in another mode), `ContextFullError`, `NotFiniteError`.
        """
        self._check_predicts()
        mode = self.checked_mode(mode)
        checked = [(each, self._checked_ids(ids, "token ids")) for each, ids in parts]
        if phase not in _PHASES:
            raise ArgumentError(f"evaluate: phase is {phase!r}, not 'prompt' or 'decode'")
        return evaluate_together(checked, mode, self.config.vocab, mark=_PHASES[phase])

    def token_scores(
        self, token_ids: npt.ArrayLike, top: int = 0, *, mode: str | None = None
    ) -> Iterator[TokenScore]:
        """The score of each token but the first, given those before it, with the `top` most
        likely tokens in its place. Errors as `logits`."""
        self._check_predicts()
        ids = self._checked_ids(token_ids, "token_ids")
        with Lease(self._sessions, screened=False) as lease:
            yield from token_scores(lease, ids, top, self.checked_mode(mode))

    # -- parts -----------------------------------------------------------------------------------

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock that every call holds while it evaluates tokens. Reentrant."""
        return self._sessions.first.lock

    @property
    def core(self) -> Core:
        """The core that holds the model."""
        return self._sessions.first.core

    @property
    def file(self) -> GgufFile:
        """The model's file."""
        return self._file

    @property
    def head(self) -> str:
        """How logits are computed: "screened" or "proven", or "dense" if there is no screen, or no
        copy of the output matrix, or it is not used."""
        model = self._sessions.first.model
        if model.screen is None:
            return "dense"
        return "proven" if model.plan.proven else "screened"

    @property
    def layers(self) -> list[SparseFfn | ExpertsFfn]:
        """The feed-forward layers in memory, of a mixture of experts some as `ExpertsFfn`.
        `ArgumentError` for a model with a neuron budget, whose layers are in `neurons`."""
        self._check_open()
        assert self._core_model is not None
        if self._core_model.neurons is not None:
            raise ArgumentError(
                "the layers of a model with a neuron budget are in model.neurons.layers"
            )
        return self._core_model.layers

    @property
    def ffns(self) -> list[SparseFfn]:
        """As `layers`, for a model without experts; `UnsupportedError` for one with experts."""
        layers = [layer for layer in self.layers if isinstance(layer, SparseFfn)]
        if len(layers) < len(self.layers):
            raise UnsupportedError(
                f"{self._file.name}: the model has experts, which are in model.layers"
            )
        return layers

    @property
    def neurons(self) -> ModelNeurons | None:
        """The layers and caches of a model loaded with a ``neuron_budget``, otherwise None."""
        self._check_open()
        assert self._core_model is not None
        return self._core_model.neurons

    @property
    def modes(self) -> list[str]:
        """The modes in which the model can compute."""
        return [mode for mode in MODES if self._can(mode)]

    def _can(self, mode: str) -> bool:
        try:
            return bool(self.checked_mode(mode))
        except UnsupportedError:
            return False

    @locked
    def ffn_inputs(self, token_ids: npt.ArrayLike, *, mode: str | None = None) -> FloatArray:
        """The input of each feed-forward layer for token ids (n,), n at most the context: float32
        (n, layers, d). Errors as `logits`."""
        self._check_open()
        ids = self._checked_ids(token_ids, "token_ids")
        mode = self.checked_mode(mode)
        if not 1 <= len(ids) <= self.context:
            raise ContextFullError(f"expected 1 … {self.context} tokens, got {len(ids)}")
        with Lease(self._sessions) as lease:
            return lease.holding((), mode).ffn_inputs(ids)

    @locked
    def hidden_states(
        self,
        token_ids: npt.ArrayLike,
        *,
        mode: str | None = None,
        types: npt.ArrayLike | None = None,
    ) -> FloatArray:
        """The hidden state after each of token ids (n,), n at most the context: the residual stream
        after the final norm, from which logits are computed, float32 (n, d). types: of models that
        distinguish the first and the second of two texts (BERT), the type of each token, (n,); by
        default 0. Errors as `logits`."""
        self._check_open()
        ids = self._checked_ids(token_ids, "token_ids")
        if types is not None:
            ids = self._typed(ids, types)
        mode = self.checked_mode(mode)
        if len(ids) > self.context:
            raise ContextFullError(f"expected at most {self.context} tokens, got {len(ids)}")
        with Lease(self._sessions) as lease:
            return lease.holding((), mode).hidden_states(ids)

    def _typed(self, ids: IntArray, types: npt.ArrayLike) -> IntArray:
        """Token ids with their types, as the core takes them."""
        assert self._core_model is not None
        found = checked_ids(types, self._core_model.plan.types, "types")
        if found.shape != ids.shape:
            raise ArgumentError(f"types: expected {len(ids)}, one a token, got {len(found)}")
        return ids + found * np.int32(self.config.vocab)

    @property
    def session(self) -> Session:
        """The token sequence that `generate` and the other methods use, one at a time."""
        self._check_open()
        return self._sessions.first

    @checked(context=positive)
    def new_session(self, context: int) -> Session:
        """A further token sequence of up to `context` tokens."""
        self._check_open()
        assert self._core_model is not None
        return Session(self._core_model, context)

    def checked_mode(self, mode: str | None) -> str:
        """The mode, by default the model's. Errors: `ArgumentError` (there is no such mode),
        `UnsupportedError` (not for this model)."""
        self._check_open()
        assert self._core_model is not None
        return _mode_of(mode, self._core_model)

    def _checked_ids(self, ids: npt.ArrayLike, name: str) -> IntArray:
        return checked_ids(ids, self.config.vocab, name)

    def _check_open(self) -> None:
        if self._core_model is None:
            raise ArgumentError("the model was closed")

    def _check_predicts(self) -> None:
        """`UnsupportedError` for models that do not predict the next token."""
        self._check_open()
        if not self.config.kind.output:
            raise UnsupportedError(
                f"{self._file.name}: {self.config.architecture!r} is an encoder, which gives "
                "vectors of texts and no text; use embed or hidden_states"
            )
        if self.config.both_sides:
            raise UnsupportedError(
                f"{self._file.name}: its tokens see those after them, so that it does not predict "
                "the next one; use logits, hidden_states or embed"
            )

    def _new_stats(self, mode: str) -> Stats:
        core, name = self.core, self.config.name
        return Stats(model=name, mode=mode, backend=core.host, isa=core.isa, threads=core.threads)

    def _finish(self, lease: Lease, mode: str, seconds: float) -> None:
        """The statistics of tokens that were evaluated as a batch."""
        self.stats = self._new_stats(mode)
        lease.count_in(self.stats)
        self.stats.prompt_tokens_per_s = rate(lease.evaluated, seconds)

    @locked
    def close(self) -> None:
        """Frees the memory. Closing twice is allowed."""
        self._sessions.close()
        if self._core_model is not None:
            self._core_model.close()
            if self._core_model.neurons is not None:
                self._core_model.neurons.close()
        self._core_model = None
        self._file.close()

    def _larger_context(self) -> str:
        most = self.config.context_length
        if self.context >= most:
            return ""
        return f", or load the model with a larger context (at most {most})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
