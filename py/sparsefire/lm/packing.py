"""Many runs in one batch: each has a session, their tokens are evaluated together, and what prompts
have in common is evaluated once."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .._arrays import FloatArray
from ..errors import BackendError, ModelFileError, SparsefireError
from .run import Piece, Run, Wanted
from .sampling import TokenScore, score
from .session import BATCH, DECODED, PROMPTED, SHORT, Session, shared_prefix
from .together import evaluate_together

if TYPE_CHECKING:
    from .model import Model

T = TypeVar("T")
Job = Generator[Wanted, FloatArray, T]
"""Yields what it waits for, is sent the logits (rows, vocab), and returns its result."""

_CACHED_BYTES = 1 << 25  # of a model that processors may keep in their caches
_SHARED = 32  # tokens that two prompts have in common, from which on they are copied

OF_ALL = (ModelFileError, BackendError)
"""Errors that are not of one job: all others would have them too."""


def text_job(run: Run, prompt: Sequence[int]) -> Job[list[Piece]]:
    """A run from its prompt to its end; its pieces."""
    pieces: list[Piece] = []
    events = run.events(prompt)
    event = next(events, None)
    while event is not None:
        if isinstance(event, Piece):
            pieces.append(event)
            event = next(events, None)
            continue
        rows = yield event
        try:
            event = events.send(rows[0])
        except StopIteration:
            break
    return pieces


def scores_job(tokens: Sequence[int], first: int, top: int = 0) -> Job[list[TokenScore]]:
    """The scores of `tokens` from place `first` ≥ 1 on, given those before each, with the `top`
    most likely tokens in its place; see `Model.token_scores`."""
    scores: list[TokenScore] = []
    for start in range(first, len(tokens), BATCH):
        place = min(start + BATCH, len(tokens))
        rows = yield Wanted(tokens[: place - 1], place - start, scored=True)
        targets = tokens[start:place]
        scores += [score(row, token, top) for row, token in zip(rows, targets, strict=True)]
    return scores


def usual_sessions(model: Model, mode: str) -> int:
    """How many sessions in one batch pay: several where all weights are read for each token, and
    do not fit into a processor's cache; see docs/results.md, "Sessions in one batch"."""
    return 8 if mode == "dense" and model.file.nbytes > _CACHED_BYTES else 1


class _Slot:
    """A session, and the job that has it. `mark`: what evaluates the tokens that it waits for."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mark = PROMPTED
        self.place = -1  # of the job
        self.job: Job[Any] | None = None
        self.wanted = Wanted(())

    def plan(self, wanted: Wanted, mode: str) -> tuple[int, int]:
        """How many of the tokens need not be evaluated again, and what evaluates the prompt's: of
        another job's text only what the prompt alone would evaluate alike."""
        return self.session.plan(
            wanted.tokens,
            mode,
            decoded=wanted.decoded,
            rows=wanted.rows,
            keeps=wanted.step,
            scored=wanted.scored,
        )

    def known(self, wanted: Wanted, mode: str) -> int:
        return self.plan(wanted, mode)[0]

    def could_copy(self, other: _Slot, known: int) -> bool:
        """Whether the other one's prompt, when it is evaluated, will give much more of this one's
        than the `known` tokens, and a session can go back to there."""
        wanted, tokens = self.wanted, other.wanted.tokens
        shared = min(shared_prefix(wanted.tokens, tokens), len(wanted.tokens) - wanted.rows)
        return shared >= known + _SHARED and len(tokens) - shared <= self.session.model.plan.back

    def is_step(self, mode: str) -> bool:
        """Whether a token goes on from those that the job had evaluated."""
        session, wanted = self.session, self.wanted
        is_next = len(session.tokens) == len(wanted.tokens) - 1
        return wanted.step and is_next and session.mode == mode


class Packing(Generic[T]):
    """Runs jobs of a model in one mode, `sessions` of them at the same time, by default
    `usual_sessions`. Each gets the bits that it would get alone.

    Sessions are kept from one call of `run` to the next, so that prompts which begin as earlier
    ones did are evaluated from there on. Not for several threads at once.
    """

    def __init__(self, model: Model, mode: str, sessions: int | None = None) -> None:
        self._model, self._mode = model, mode
        self._most = usual_sessions(model, mode) if sessions is None else sessions
        self._slots: list[_Slot] = []

    @property
    def evaluated(self) -> int:
        """Tokens evaluated so far."""
        return sum(slot.session.evaluated for slot in self._slots)

    def close(self) -> None:
        """Frees the sessions. Closing twice is allowed."""
        for slot in self._slots:
            slot.session.close()
        self._slots = []

    def run(self, jobs: Iterable[Job[T]]) -> Iterator[tuple[int, T | SparsefireError]]:
        """Yields each job's place among the jobs and its result, or the error that ended it, as
        they end. Errors: those of the model's file or host, which would end all jobs."""
        waiting = enumerate(jobs)
        try:
            while True:
                yield from self._begin(waiting)
                busy = [slot for slot in self._slots if slot.job is not None]
                if not busy:
                    return
                steps = [slot for slot in busy if slot.is_step(self._mode)]
                others = self._prepared([slot for slot in busy if slot not in steps])
                for mark in (PROMPTED, SHORT):
                    if slots := [slot for slot in others if slot.mark == mark]:
                        yield from self._evaluate(slots, mark)
                for slots in [[slot] for slot in others if slot.mark == DECODED] + [steps]:
                    if slots:
                        yield from self._evaluate(slots, DECODED)
        finally:
            for slot in self._slots:
                if slot.job is not None:
                    slot.job.close()
                    slot.job = None

    def _begin(
        self, waiting: Iterator[tuple[int, Job[T]]]
    ) -> Iterator[tuple[int, T | SparsefireError]]:
        """Gives free sessions to jobs."""
        while True:
            free = [slot for slot in self._slots if slot.job is None]
            if not free and len(self._slots) == self._most:
                return
            following = next(waiting, None)
            if following is None:
                return
            place, job = following
            try:
                wanted = next(job)
            except StopIteration as end:
                yield place, end.value
                continue
            except SparsefireError as error:
                yield place, error
                continue
            if len(self._slots) < self._most:
                free.append(_Slot(self._model.new_session(self._model.context)))
                self._slots.append(free[-1])
            slot = max(free, key=lambda each: each.known(wanted, self._mode))
            slot.place, slot.job, slot.wanted = place, job, wanted

    def _prepared(self, slots: Sequence[_Slot]) -> list[_Slot]:
        """Those of the slots whose prompts are to be evaluated now, their sessions rewound to what
        is known. A prompt that begins as another one of now waits, and copies that then."""
        now: list[_Slot] = []
        for slot in slots:
            known, slot.mark = slot.plan(slot.wanted, self._mode)
            if not slot.wanted.step:
                if any(slot.could_copy(each, known) for each in now):
                    continue
                known = self._copied(slot, known)
            slot.session.rewind(known, self._mode)
            if len(slot.session.tokens) < known:  # a session that was copied cannot go back so far
                slot.mark = slot.plan(slot.wanted, self._mode)[1]
            if slot.wanted.decoded:
                slot.mark = DECODED  # a lost session: in two parts, alone
            now.append(slot)
        return now

    def _copied(self, slot: _Slot, known: int) -> int:
        """Copies what another session holds of the slot's prompt, if that is much more than the
        `known` tokens. How many are known then."""
        mode = self._mode
        best = max(self._slots, key=lambda each: each.known(slot.wanted, mode))
        shared = best.known(slot.wanted, mode)
        if best is slot or shared < known + _SHARED:
            return known
        slot.session.restore(best.session.save())
        return shared

    def _evaluate(
        self, slots: Sequence[_Slot], mark: int
    ) -> Iterator[tuple[int, T | SparsefireError]]:
        """Evaluates what the jobs of these slots wait for, together, and lets them go on."""
        try:
            rows = self._rows(slots, mark)
        except OF_ALL:
            raise
        except SparsefireError as error:
            if len(slots) == 1:
                yield self._ended(slots[0], error)
                return
            for slot in slots:  # to find out whose it is
                slot.mark = DECODED
                if not slot.is_step(self._mode):  # or no more, if the session lost its state
                    self._prepared([slot])
                yield from self._evaluate([slot], slot.mark)
            return
        for slot, logits in zip(slots, rows, strict=True):
            yield from self._go_on(slot, logits)

    def _rows(self, slots: Sequence[_Slot], mark: int) -> list[FloatArray]:
        """The logits that each slot's job waits for."""
        parts = []
        for slot in slots:
            rest = slot.wanted.tokens[len(slot.session.tokens) :]
            parts.append((slot.session, np.array(rest, np.int32)))
        counts = [slot.wanted.rows for slot in slots]
        vocab, (first, wanted) = self._model.config.vocab, (slots[0].session, slots[0].wanted)
        with self._model.lock:
            for slot in slots:
                screened, largest = not slot.wanted.scored, slot.wanted.largest
                slot.session.set_head(screened, slot.wanted.exact, largest=largest)
            if len(slots) > 1:
                logits = evaluate_together(parts, self._mode, vocab, mark=mark, rows=counts)
            elif mark == DECODED and slots[0].is_step(self._mode):
                logits = first.step(wanted.tokens[-1])[None]
            elif mark == DECODED:
                logits = first.feed(wanted.tokens, self._mode, decoded=wanted.decoded)[None]
            else:
                logits = np.empty((counts[0], vocab), np.float32)
                first.evaluate(parts[0][1], logits, mark)
        return np.split(logits, np.cumsum(counts)[:-1])

    def _go_on(self, slot: _Slot, logits: FloatArray) -> Iterator[tuple[int, T | SparsefireError]]:
        assert slot.job is not None
        try:
            slot.wanted = slot.job.send(logits)
        except StopIteration as end:
            yield self._ended(slot, end.value)
        except SparsefireError as error:
            yield self._ended(slot, error)

    def _ended(self, slot: _Slot, result: T | SparsefireError) -> tuple[int, T | SparsefireError]:
        if slot.job is not None:
            slot.job.close()
        slot.job = None
        return slot.place, result
