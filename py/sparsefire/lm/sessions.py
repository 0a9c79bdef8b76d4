"""The sessions of a model: runs at the same time each have one of their own, as far as they go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from ..core.handle import locked
from ..errors import ArgumentError, CoreMemoryError
from .loader import CoreModel
from .session import DECODED, PROMPTED, Session
from .speculation import Costs, Speculation, can_speculate
from .stats import Share, Stats

MOST_SESSIONS = 8
MOST_BYTES = 1 << 30  # of what all sessions but the first keep of their tokens


class Sessions:
    """Lends sessions of `context` tokens to runs. The first is there from the beginning; a further
    one is opened when a run begins while the others are lent, and kept for later runs: at most
    `MOST_SESSIONS` in total, and of `MOST_BYTES`. Where there is none left, the run that has waited
    longest loses its session, and has its text evaluated again when it goes on.

    All of it happens under the model's lock.
    """

    def __init__(self, model: CoreModel, context: int) -> None:
        self._model = model
        self.context = context
        self.first = Session(model, context)
        self._all = [self.first]  # the one lent longest ago comes first
        self._leases: dict[Session, weakref.ref[Lease]] = {}
        kept = model.plan.session_bytes(context, model.kv_formats)
        self._most = min(MOST_SESSIONS, 1 + MOST_BYTES // max(kept, 1))
        self._closed = False
        self._costs = Costs()

    def speculation(self, mode: str, most: Callable[[], int]) -> Speculation | None:
        """The drafts of a run in a mode, which draws at most so many tokens more; None where there
        can be none."""
        return Speculation(self._costs, most) if can_speculate(self._model, mode) else None

    def lend(self, lease: Lease, tokens: Sequence[int], mode: str, decoded: int = 0) -> Session:
        """A session with counts of zero, of those free the one that holds most of these tokens."""
        if self._closed:
            raise ArgumentError("the model was closed")
        free = [each for each in (self.first, *self._all) if self._lease_of(each) is None]
        session = (
            max(free, key=lambda each: each.known(tokens, mode, decoded)) if free else self._open()
        )
        if (loser := self._lease_of(session)) is not None:
            loser.lose()
        self._all.remove(session)
        self._all.append(session)
        self._leases[session] = weakref.ref(lease)
        session.reset_counts()
        return session

    def _lease_of(self, session: Session) -> Lease | None:
        reference = self._leases.get(session)
        return None if reference is None else reference()

    def _open(self) -> Session:
        """A further session, or the one lent longest ago."""
        if len(self._all) < self._most:
            try:
                self._all.append(Session(self._model, self.context))
                return self._all[-1]
            except CoreMemoryError:
                self._most = len(self._all)
        return self._all[0]

    def free(self, session: Session) -> None:
        """Takes a session back from a lease."""
        self._leases.pop(session, None)

    def close(self) -> None:
        """Closes all sessions."""
        self._closed = True
        for each in self._all:
            each.close()


class Lease:
    """A run's hold on a session, and what the run evaluated so far, in however many sessions. The
    end of a `with` gives the session back. Its methods are called under `lock`, the model's.

    screened, exact, largest: how its logits are computed, see `Session.set_head`. speculation: the
      drafts of its run, if there are any."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        screened: bool = True,
        exact: Sequence[int] = (),
        largest: bool = False,
        speculation: Speculation | None = None,
    ) -> None:
        self._sessions = sessions
        self.lock = sessions.first.lock
        self.context = sessions.context
        self.vocab = sessions.first.vocab
        self._screened, self._exact, self._largest = screened, exact, largest
        self._speculation = speculation
        self._session: Session | None = None
        self._evaluated = 0
        self._counts = np.zeros((2, len(sessions.first.hidden)), np.int64)
        self._head_rows = np.zeros(2, np.int64)
        self._inputs = np.zeros(2, np.int64)

    @property
    def evaluated(self) -> int:
        """Number of tokens."""
        return self._evaluated + (self._session.evaluated if self._session else 0)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Their neurons, selected and active, int64 (2, layers)."""
        if self._session is None:
            return self._counts
        return self._counts + np.stack([self._session.selected, self._session.active])

    @property
    def head_rows(self) -> npt.NDArray[np.int64]:
        """See `Session.head_rows`."""
        return self._head_rows + (0 if self._session is None else self._session.head_rows)

    @property
    def inputs(self) -> npt.NDArray[np.int64]:
        """See `Session.inputs`."""
        return self._inputs + (0 if self._session is None else self._session.inputs)

    def count_in(self, stats: Stats) -> None:
        """Enters the tokens, the shares of neurons and the rows of the output matrix into the
        statistics of the run."""
        hidden = self._sessions.first.hidden
        stats.evaluated_tokens = self.evaluated
        selected, active = self.counts
        stats.selected_share = Share.of(selected, self.evaluated, hidden)
        stats.active_share = Share.of(active, self.evaluated, hidden)
        inputs, multiplied = self.inputs.tolist()
        stats.inputs_left_out = 1 - multiplied / inputs if inputs else 0.0
        tokens, rows = self.head_rows.tolist()
        row, screen = self._sessions.first.model.head_bytes
        proven = self._sessions.first.model.plan.proven
        if not self._screened or (proven and not self._largest):
            screen = 0
        stats.head = ("proven" if proven else "screened") if screen else "dense"
        stats.head_rows = rows / tokens if tokens else 0.0
        stats.head_bytes = stats.head_rows * row + screen if tokens else 0.0
        if self._speculation is not None:
            stats.drafted_tokens = self._speculation.drafted
            stats.accepted_tokens = self._speculation.accepted

    def feed(
        self,
        tokens: Sequence[int],
        mode: str,
        check: Callable[[], object] | None = None,
        decoded: int = 0,
    ) -> FloatArray:
        """See `Session.feed`."""
        self._drop_draft()
        if self._session is None:
            self._session = self._lent(tokens, mode, decoded)
        return self._session.feed(tokens, mode, check, decoded)

    def _drop_draft(self) -> None:
        if self._speculation is not None and self._session is not None:
            self._speculation.drop(self._session)

    def _lent(self, tokens: Sequence[int], mode: str, decoded: int = 0) -> Session:
        session = self._sessions.lend(self, tokens, mode, decoded)
        session.set_head(self._screened, self._exact, largest=self._largest)
        return session

    def next(
        self,
        tokens: Sequence[int],
        mode: str,
        check: Callable[[], object] | None = None,
        decoded: int = 1,
    ) -> FloatArray:
        """The same where those before the last token were evaluated before, and still are unless
        the session was lost. The last `decoded` tokens are those of the run."""
        session = self._session
        if session is not None and session.mode == mode:
            if self._speculation is not None:
                logits = self._speculation.next(session, tokens)
                if logits is not None:
                    return logits
            elif len(session.tokens) == len(tokens) - 1:
                return session.step(tokens[-1])
        return self.feed(tokens, mode, check, decoded)

    @property
    def scored(self) -> int:
        """How tokens are evaluated whose probability is wanted: as a prompt or, where inputs are
        left out in decoding alone, as in decoding, so that the numbers tell what that costs."""
        return DECODED if self._sessions.first.model.input_limits else PROMPTED

    def holding(self, tokens: Sequence[int], mode: str) -> Session:
        """The session with exactly these tokens, `scored`: nothing else that it may hold is
        used."""
        if not tokens or self._session is None:
            session = self._session = self._session or self._lent(tokens, mode)
            session.rewind(0, mode)
            if tokens:
                session.evaluate(np.asarray(tokens, np.int32), None, self.scored)
        return self._session

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.lose()

    @locked
    def lose(self) -> None:
        """Gives the session back. What was counted stays."""
        self._drop_draft()
        if self._session is not None:
            self._counts, self._evaluated = self.counts, self.evaluated
            self._head_rows, self._inputs = self.head_rows, self.inputs
            self._sessions.free(self._session)
            self._session = None
