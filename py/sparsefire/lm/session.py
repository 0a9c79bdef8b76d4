"""One sequence of tokens in a model: its key/value cache and neuron counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.core import Argument
from ..core.enums import EvalStatus, Head, Limit, Phase, Status, Tap
from ..core.handle import CoreObject, locked
from ..errors import ContextFullError, NotFiniteError, SparsefireError
from ..ffn.forward import MODES
from .loader import CoreModel, kv_codes
from .saved import MARKS, pack, seal, unpack

# Tokens of a call: enough to amortise reading weights, few enough to interrupt.
BATCH = int(Limit.BATCH)
_MOST_LOGITS = 16 << 20  # floats that are there at a time where each token has its own

# A turn of fewer tokens is evaluated by the products of decoding, because it costs less: those of
# prompts begin to pay at 7 to 9 tokens, by format and shape (docs/notes/tried.md).
SHORT_TURN = 8
# What evaluated a position: `PROMPTED` the products of prompts, `SHORT` those of decoding as part
# of a short turn, `DECODED` those of decoding as part of a run.
PROMPTED, SHORT, DECODED = range(MARKS)

# As plain numbers: members of an enumeration are slow to look up, once a token.
_WAITING, _PROMPT, _DECODE = int(EvalStatus.WAITING), int(Phase.PROMPT), int(Phase.DECODE)

_CHECK_EVERY = 0.01  # seconds between looks at the file: a token of a small model takes less
_MOST_COUNTED = (1 << 31) - 1  # limit of the core's neuron counters


def scored_at_once(vocab: int) -> int:
    """How many tokens are evaluated at a time where the logits of all are wanted."""
    return max(1, min(BATCH, _MOST_LOGITS // vocab))


def phase_of(mark: int) -> int:
    """The products that evaluate positions with this mark."""
    return _PROMPT if mark == PROMPTED else _DECODE


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two have in common, from the first on."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other),
        min(len(first), len(second)),
    )


class Session(CoreObject):
    """Evaluates tokens in order, with a key/value cache of those before them.

    `tokens` are those in the cache, computed in mode `mode`. `model` is the model in the core.
    `evaluated` counts tokens since `reset_counts`, those of calls that failed among them,
    `selected` and `active` their neurons.

    Several threads may use the sessions of a model: each call waits for the `lock` that they
    share. Who makes several calls that belong together holds it meanwhile.
    """

    def __init__(self, model: CoreModel, context: int) -> None:
        config = model.config
        core = model.core
        handle = core.open(
            "sf_session_open",
            model.handle,
            context,
            what=f"{model.file.name}: a session of {context} tokens",
        )
        super().__init__(core, handle, "sf_session_close")
        self.model = model
        self.lock = model.lock
        self.context = context
        self.hidden = np.array([layer.hidden for layer in model.plan.layers], np.int64)
        self._widest = int(self.hidden.max(initial=config.vocab))
        self.vocab = config.vocab
        self.tokens: list[int] = []
        self.marks = bytearray()  # of each token, what evaluated it
        self.mode = ""
        self._checked_at = 0.0
        self._watched: Activity | None = None
        self._one_token = np.zeros(1, np.int32)
        self._one_logits = np.empty((1, config.vocab), np.float32)
        self._last_logits: FloatArray = self._one_logits[0]
        self._counts = np.zeros((2, len(self.hidden)), np.int32)
        self._logits_out = core.out(self._one_logits)
        self._token_in = core.inp(self._one_token)
        self._counts_out = (core.out(self._counts[0]), core.out(self._counts[1]))
        self._head_counts = np.zeros(2, np.int32)
        self._input_counts = np.zeros(2, np.int32)
        self._head: tuple[bool, tuple[int, ...]] = (True, ())
        self.set_head()
        self._uncollected = 0  # tokens whose counts are only in the core
        self._missing = np.empty(int(self.hidden.max(initial=1)), np.int32)
        self._missing_of = np.zeros(1, np.int32)
        self.reset_counts()

    @locked
    def reset_counts(self) -> None:
        """Sets all counts to zero."""
        self.evaluated = 0
        self._collect_counts()
        self._totals = np.zeros((2, len(self.hidden)), np.int64)
        self._head_totals = np.zeros(2, np.int64)
        self._input_totals = np.zeros(2, np.int64)

    @property
    def selected(self) -> npt.NDArray[np.int64]:
        """Neurons whose gate was computed, summed over tokens, int64 (layers,)."""
        self._collect_counts()
        selected: npt.NDArray[np.int64] = self._totals[0]
        return selected

    @property
    def active(self) -> npt.NDArray[np.int64]:
        """Neurons whose up and down were computed, summed over tokens, int64 (layers,)."""
        self._collect_counts()
        active: npt.NDArray[np.int64] = self._totals[1]
        return active

    @property
    def head_rows(self) -> npt.NDArray[np.int64]:
        """Tokens whose logits were computed, and the rows of the output matrix that were multiplied
        for them, int64 (2,)."""
        self._collect_counts()
        totals: npt.NDArray[np.int64] = self._head_totals
        return totals

    @property
    def inputs(self) -> npt.NDArray[np.int64]:
        """Inputs of the products with a limit, summed over tokens, and those of them that were
        multiplied, int64 (2,)."""
        self._collect_counts()
        totals: npt.NDArray[np.int64] = self._input_totals
        return totals

    @locked
    def set_head(
        self, screened: bool = True, exact: Sequence[int] = (), *, largest: bool = False
    ) -> None:
        """How the logits of further tokens are computed by a model with a screen: screened, or
        exactly. Those of token ids ``exact`` are exact in any case. ``largest``: nothing is wanted
        but the largest logit, which a copy of the matrix proves; otherwise that is not used."""
        if self.model.plan.proven and not largest:
            screened = False
        wanted = screened, tuple(sorted({*map(int, exact)}))
        if self.model.screen is None or wanted == self._head:
            return
        ids = np.array(wanted[1], np.int32)
        head = Head.HEAD_SCREENED if screened else Head.HEAD_DENSE
        given = head, self.core.inp(ids) if ids.size else None, ids.size
        self.core.check("sf_session_set_head", self.handle, *given, what="the head")
        self._head = wanted

    @locked
    def _collect_counts(self) -> None:
        """Adds the counts of the core to the totals."""
        if self._uncollected:
            self.core.check("sf_session_counts", self.handle, *self._counts_out, what="counts")
            self._totals += self._counts
            where = self.core.out(self._head_counts[:1]), self.core.out(self._head_counts[1:])
            self.core.check("sf_session_head_counts", self.handle, *where, what="counts")
            self._head_totals += self._head_counts
            where = self.core.out(self._input_counts[:1]), self.core.out(self._input_counts[1:])
            self.core.check("sf_session_input_counts", self.handle, *where, what="counts")
            self._input_totals += self._input_counts
            self._uncollected = 0

    @locked
    def close(self) -> None:
        """Frees the memory; the counts stay. Closing twice is allowed."""
        if self.is_open:
            self._collect_counts()
        super().close()

    @locked
    def rewind(self, length: int, mode: str) -> None:
        """Truncates the cache to the first `length` tokens, or to none when they were computed in
        another mode, or when the session cannot go back so far: not at all in a model with a
        recurrent state, and 1,024 tokens in any case in one that has layers with a window, of which
        no more is kept."""
        if mode != self.mode:
            length = 0
        # An interrupted call may have left the core a step ahead of this object, or waiting.
        position = self.core.check("sf_session_position", self.handle)
        length = min(length, len(self.tokens), position)
        if not self._truncate(length):
            length = 0
            self._truncate(0)
        del self.tokens[length:]
        del self.marks[length:]
        self.mode = mode

    def _truncate(self, length: int) -> bool:
        """Truncates the core's cache, unless the core cannot do that to some of its tokens."""
        status = self.core.call("sf_session_truncate", self.handle, length)
        if status == Status.ERROR_UNSUPPORTED and length > 0:
            return False
        if status < 0:
            raise self.core.error(status, "rewinding")
        return True

    @locked
    def save(self) -> bytearray:
        """The session as it is now: its tokens, their mode, and their keys, values and recurrent
        states, to go on from later or in another process. Models with a recurrent state, which
        cannot go back, can so return to where they were. A token takes 5 bytes, and of each layer
        with attention its keys and values, in the formats that the model was loaded with: in layers
        with a window only a token of the last ones, of the window and 1,024 before it."""
        self.rewind(len(self.tokens), self.mode)
        state = self.core.call("sf_session_saved_bytes", self.handle)
        about = self.model.description, self.model.kv_formats
        saved = pack(*about, self.tokens, self.marks, self.mode, state)
        if state:
            place = np.frombuffer(saved, np.uint8)[len(saved) - state :]
            given = self.core.out(place), state
            self.core.check("sf_session_save", self.handle, *given, what="saving a session")
        seal(saved)
        return saved

    @locked
    def restore(self, saved: bytes | bytearray | memoryview) -> None:
        """Makes the session what another one of the same model was when it was saved: on the same
        host, further tokens give the same bits. Keys and values of a model that was loaded with
        other formats of them are converted. An error leaves it as it is.

        Errors: `ArgumentError` (no saved session, or a damaged one), `ShapeError` (of another
        model; the message says what differs), `ContextFullError`, `NotFiniteError`,
        `CoreMemoryError`.
        """
        found = unpack(saved, self.model.description, self.vocab)
        if len(found.tokens) > self.context:
            raise ContextFullError(
                f"the saved session has {len(found.tokens)} tokens; the context holds "
                f"{self.context}"
            )
        state = np.ascontiguousarray(found.state)
        given = self.core.inp(state) if state.size else None, state.size, len(found.tokens)
        formats = kv_codes(found.kv_formats)
        before, self.tokens = self.tokens, []  # should an interrupt come in between
        try:
            self.core.check(
                "sf_session_restore", self.handle, *given, *formats, what="restoring a session"
            )
        except SparsefireError:
            self.tokens = before
            raise
        self.tokens = found.tokens
        self.marks = bytearray(found.marks)
        self.mode = found.mode

    def _reached(self, length: int) -> int:
        """`length`, or 0 if the session cannot go back so far."""
        if length in (0, len(self.tokens)):
            return length
        earliest = self.core.check("sf_session_earliest", self.handle)
        return length if length >= earliest else 0

    def known(self, tokens: Sequence[int], mode: str, decoded: int = 0) -> int:
        """How many of these tokens `feed` would not evaluate."""
        return self.plan(tokens, mode, decoded=decoded)[0]

    @locked
    def plan(
        self,
        tokens: Sequence[int],
        mode: str,
        *,
        decoded: int = 0,
        rows: int = 1,
        keeps: bool = True,
        scored: bool = False,
    ) -> tuple[int, int]:
        """See `feed`: how many tokens stay in the cache, and the mark of the turn's others.

        rows: of the last so many tokens logits are wanted, so that they are evaluated.
        keeps: whether what was decoded of the prompt stays; if not, all of it is the turn.
        scored: whether the turn is evaluated as a prompt, however short it is.
        """
        prompt, common = len(tokens) - decoded, 0
        if mode == self.mode:
            common = min(shared_prefix(self.tokens, tokens), len(tokens) - rows)
        known = self.marks.rfind(DECODED, 0, min(prompt, common)) + 1 if keeps else 0
        mark = SHORT if prompt - known < SHORT_TURN and not scored else PROMPTED
        while known < common and self.marks[known] == (mark if known < prompt else DECODED):
            known += 1
        if known and not self._reached(known):
            known, mark = 0, SHORT if prompt < SHORT_TURN and not scored else PROMPTED
        return known, mark

    @locked
    def feed(
        self,
        tokens: Sequence[int],
        mode: str,
        check: Callable[[], object] | None = None,
        decoded: int = 0,
    ) -> FloatArray:
        """Makes the cache hold exactly `tokens`, and returns the logits (vocab,) after the last
        token. The array is reused by the next call. `check` is called before each `BATCH` of
        tokens, and may raise to end the call there.

        The last `decoded` tokens are those of a run, which are decoded, as `step` does. Those
        before are a prompt, of which the cache keeps what it has up to the last decoded token. What
        follows is the turn: evaluated as a prompt or, if it has fewer than `SHORT_TURN` tokens, as
        in decoding. Tokens of a turn that were evaluated in the same way are kept, except the last,
        whose logits are wanted. So a turn's results do not depend on how many of them are.
        """
        known, mark = self.plan(tokens, mode, decoded=decoded)
        self.rewind(known, mode)
        if len(self.tokens) < known:  # after an interrupt, a recurrent state cannot go back
            mark = self.plan(tokens, mode, decoded=decoded)[1]
        prompt = len(tokens) - decoded
        for start, end, how in ((0, prompt, mark), (prompt, len(tokens), DECODED)):
            rest = np.asarray(tokens[max(start, len(self.tokens)) : end], np.int32)
            for first in range(0, len(rest), BATCH):
                if check is not None:
                    check()
                is_last = end == len(tokens) and first + BATCH >= len(rest)
                logits = self._one_logits if is_last else None
                self.evaluate(rest[first : first + BATCH], logits, how)
        return self._last_logits

    def step(self, token: int) -> FloatArray:
        """Evaluates one more token in the current mode; logits (vocab,) as from `feed`."""
        with self.lock:  # as `locked`, without a further call for each token
            self._one_token[0] = token
            self._call(self._token_in, 1, _DECODE, self._logits_out, 1)
            self.tokens.append(token)
            self.marks.append(DECODED)
            return self._last_logits

    @locked
    def evaluate(
        self,
        tokens: npt.NDArray[np.int32],
        logits: FloatArray | None = None,
        mark: int = PROMPTED,
    ) -> None:
        """Evaluates more tokens, int32 (n,) with n ≥ 1, in the current mode, by the products of
        `mark`. `logits` (k, vocab), if given, is filled with those of the last k ≤ n tokens."""
        phase = phase_of(mark)
        most = len(tokens) if self.model.neurons is None else Limit.BATCH
        first = len(tokens) - (0 if logits is None else len(logits))  # with logits
        for start in range(0, len(tokens), most):
            batch = tokens[start : start + most]
            count = max(0, start + len(batch) - max(first, start))
            rows = None
            if logits is not None and count:
                rows = self.core.out(logits[max(start - first, 0) :][:count])
            self._checked_at = -math.inf  # however few tokens, look at the file
            self._call(self.core.inp(batch), len(batch), phase, rows, count)
            self.tokens += batch.tolist()
            self.marks += bytes([mark]) * len(batch)

    def _call(
        self, tokens: Argument, n: int, phase: int, logits: Argument, logits_count: int
    ) -> None:
        room = self.context - len(self.tokens)
        if n > room:
            raise ContextFullError(
                f"the context holds {self.context} tokens, of which {room} are free, not {n}"
            )
        now = time.monotonic()
        if now - self._checked_at > _CHECK_EVERY:
            self._checked_at = now
            self.model.check_file()
        if (self._uncollected + n) * self._widest > _MOST_COUNTED:
            self._collect_counts()
        # Before the call: one that fails, or is interrupted, has counted neurons too.
        self.evaluated += n
        self._uncollected += n
        neurons = self.model.neurons
        if neurons is not None:
            neurons.settle()
        try:
            status = self.core.check(
                "sf_session_eval",
                self.handle,
                tokens,
                n,
                MODES[self.mode],
                phase,
                logits,
                logits_count,
                what="evaluating tokens",
            )
            while status == _WAITING:
                self.read_missing()
                resumed = self.model.handle, logits
                status = self.core.check("sf_model_resume", *resumed, what="evaluating tokens")
        except BaseException as error:
            if neurons is not None:
                neurons.settle()
            self.rewind(len(self.tokens), self.mode)
            if isinstance(error, NotFiniteError):
                raise NotFiniteError(f"{error}; {self.model.why_not_finite()}") from None
            raise

    def appended(self, token: int, mark: int) -> None:
        """Notes a token that was evaluated together with those of other sessions."""
        self.tokens.append(token)
        self.marks.append(mark)
        self.evaluated += 1
        self._uncollected += 1

    def read_missing(self) -> None:
        """Reads the neurons that the core is waiting for."""
        assert self.model.neurons is not None
        where = self.core.out(self._missing_of), self.core.out(self._missing)
        model = self.model.handle
        count = self.core.check("sf_model_missing", model, *where, what="missing neurons")
        self.model.neurons.read(int(self._missing_of[0]), self._missing[:count])

    def ffn_inputs(self, tokens: npt.NDArray[np.int32]) -> FloatArray:
        """Evaluates more tokens and returns the input of each feed-forward layer, float32
        (n, layers, d)."""
        config = self.model.config
        return self._record(Tap.TAP_FFN_INPUTS, tokens, (len(self.hidden), config.d))

    def hidden_states(self, tokens: npt.NDArray[np.int32]) -> FloatArray:
        """Evaluates more tokens and returns the state after each, from which logits are computed:
        the residual stream after the final norm, float32 (n, d)."""
        return self._record(Tap.TAP_HIDDEN, tokens, (self.model.config.d,))

    @locked
    def _record(
        self, kind: int, tokens: npt.NDArray[np.int32], shape: tuple[int, ...]
    ) -> FloatArray:
        """Evaluates more tokens and returns the recorded values, float32 (n, *shape)."""
        recorded = np.empty((len(tokens), *shape), np.float32)
        if not len(tokens):
            return recorded
        most = BATCH if self.model.neurons is None else Limit.BATCH
        if self.model.config.both_sides:
            most = len(tokens)
        step = min(most, len(tokens))
        memory = self.core.memory(recorded[:step].nbytes)
        floats = recorded[:step].size
        self.core.check("sf_session_tap", self.handle, kind, memory, floats, what="recording")
        try:
            for start in range(0, len(tokens), step):
                batch = tokens[start : start + step]
                self.evaluate(np.ascontiguousarray(batch, np.int32))
                memory.read(recorded[start : start + len(batch)])
        finally:
            self.core.check("sf_session_tap", self.handle, kind, None, 0, what="recording")
            memory.close()
        return recorded

    def watch(self) -> Activity:
        """Starts counting which neurons fire."""
        self._watched = Activity(self)  # kept: the core writes to its memory
        return self._watched


class Activity:
    """Counts of the neurons of a session that fired. Counting ends with `close()`.

    A neuron fires if its activation is not 0 (in sparse and exact mode, beyond the layer's cutoff),
    in any mode.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counts = np.zeros(int(session.hidden.sum()), np.uint8)
        self._zeros = np.zeros_like(self._counts)
        self._memory = session.core.memory(self._zeros.nbytes)
        self._memory.write(self._zeros)
        session.core.check(
            "sf_session_activity",
            session.handle,
            self._memory,
            self._counts.nbytes,
            what="watching the neurons",
        )

    def take(self) -> npt.NDArray[np.uint8]:
        """Tokens for which each neuron fired since the last call, at most 255: uint8
        (layers, hidden), reused by the next call. Layers with fewer neurons than others end in
        zeros."""
        self._memory.read(self._counts)
        self._memory.write(self._zeros)
        hidden = self._session.hidden
        most = int(hidden.max(initial=0))
        if (hidden == most).all():
            return self._counts.reshape(len(hidden), most)
        padded = np.zeros((len(hidden), most), np.uint8)
        padded[np.arange(most) < hidden[:, None]] = self._counts
        return padded

    def close(self) -> None:
        """Stops counting. Closing twice is allowed."""
        if self._session._watched is self:
            self._session._watched = None
            self._session.core.check(
                "sf_session_activity", self._session.handle, None, 0, what="watching the neurons"
            )
            self._memory.close()
