"""Speculation by prompt lookup: where the last tokens of a text stood in it before, what followed
them there is a draft of what follows now (Saxena 2023). A draft is evaluated in one batch with the
token before it, for which rows of weights are read once, and each of its tokens counts only if it
is the one that the run draws. So a run draws from the logits that it would get token by token, and
its text is the same, greedy or sampled: drawing and comparing is rejection sampling (Leviathan et
al. 2023) for a draft that names one token.

What it costs is measured. How often drafts would be right is counted on every token, also where
nothing is drafted, and nothing is drafted where that would not pay."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from .._arrays import FloatArray
from .loader import CoreModel
from .session import DECODED, Session

LONGEST = 15  # tokens of a draft: with the token before it, a quarter of the core's batch

_SHORTEST_MATCH = 2  # tokens; fewer say little
_LONGEST_MATCH = 8  # more say no more
_PLACES = 4  # of earlier occurrences that are compared
_KEPT = 9  # times of which the median is taken
_DOUBTS = 8
_FEWEST = 3  # single tokens that are measured before anything is drafted
_EXTRA = 0.4  # of a token's time for one more in a batch, before it is measured
_LEAST_GAIN = 1.05  # that is expected of a draft; less is noise
# What drafts of a run may cost where they are wrong, in times of a token: so much once, and so much
# for each token. What they gained may be lost again, up to a limit.
_ONCE, _EACH, _MOST_CREDIT = 1.0, 0.015, 6.0
# As if so many tokens had been counted already, for each number of tokens that were the same; after
# `_HALF` of these, half of them were right.
_PRIOR, _HALF = 4.0, 3.0
_FORGET = 0.95  # the weight of what was counted before, at each token


def can_speculate(model: CoreModel, mode: str) -> bool:
    """Whether tokens of a batch get the bits that they would get alone, and those that turn out
    wrong can be forgotten: not in models with a recurrent state, nor where neurons are read on
    demand, nor where a layer chooses between two layouts by the number of tokens."""
    if model.neurons is not None:
        return False
    if model.plan.back < LONGEST:
        return False
    return mode == "dense" or all(
        getattr(layer, "second_down", None) is None for layer in model.layers
    )


class Costs:
    """What evaluating 1, 2 … tokens of a model in a batch costs."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}  # seconds
        self._doubts = 0

    def note(self, tokens: int, seconds: float) -> None:
        """Adds a measurement."""
        times = self._times.setdefault(tokens, deque(maxlen=_KEPT))
        times.append(seconds)
        self._medians[tokens] = statistics.median(times)

    def doubt(self) -> None:
        """Notes a draft that these costs have prevented. They may have been measured while others
        used the machine: after `_DOUBTS` such drafts, those of several tokens are forgotten."""
        self._doubts += 1
        if self._doubts % _DOUBTS == 0:
            self._times = {1: self._times[1]}
            self._medians = {1: self._medians[1]}

    def are_known(self) -> bool:
        """Whether single tokens were measured."""
        return len(self._times.get(1, ())) >= _FEWEST

    def of(self, tokens: int) -> float:
        """The cost of so many tokens, over that of one. Costs of numbers that were not measured lie
        on lines through those that were; beyond them, one more token costs `_EXTRA` or less."""
        one, known = self._medians[1], self._medians
        if tokens in known:
            return known[tokens] / one
        below = max(n for n in known if n < tokens)
        above = min((n for n in known if n > tokens), default=0)
        if above:
            slope = (known[above] - known[below]) / (above - below)
        else:
            slope = (known[below] - one) / (below - 1) if below > 1 else one
            slope = min(slope, _EXTRA * one)
        return (known[below] + (tokens - below) * max(slope, 0.0)) / one


class Lookup:
    """Where pairs of tokens stand in a text that grows."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], deque[int]] = {}  # of what follows a pair
        self._indexed = 0

    def draft(self, text: Sequence[int], most: int) -> tuple[list[int], int]:
        """At most so many tokens that may follow the text, and how many tokens before them are
        those of the end of the text. A text that does not go on from the last one is read anew."""
        if len(text) < self._indexed:
            self._places.clear()
            self._indexed = 0
        for end in range(max(self._indexed, _SHORTEST_MATCH), len(text)):
            pair = text[end - 2], text[end - 1]
            self._places.setdefault(pair, deque(maxlen=_PLACES)).append(end)
        self._indexed = max(self._indexed, len(text))
        places = self._places.get((text[-2], text[-1])) if len(text) >= 2 else None
        if not places:
            return [], 0
        matches = [(_matching(text, place), place) for place in places]
        matching, place = max(matches)
        drafted: list[int] = []
        for at in range(place, place + most):
            # A text that repeats itself goes on so.
            drafted.append(text[at] if at < len(text) else drafted[at - len(text)])
        return drafted, matching


def _matching(text: Sequence[int], place: int) -> int:
    """How many tokens before `place` are those of the end of the text."""
    most = min(_LONGEST_MATCH, place)
    return next((n for n in range(most) if text[place - 1 - n] != text[len(text) - 1 - n]), most)


class Acceptance:
    """How often the token that lookup names is the next one, by how many tokens before it are the
    same. Every token of a run is counted, whether it was drafted or not: that costs nothing."""

    def __init__(self) -> None:
        matchings = range(_LONGEST_MATCH + 1)
        self._right = {n: _PRIOR * n / (n + _HALF) for n in matchings}
        self._all = dict.fromkeys(matchings, _PRIOR)

    def note(self, matching: int, right: bool) -> None:
        """Adds what became of a token."""
        self._right[matching] = self._right[matching] * _FORGET + right
        self._all[matching] = self._all[matching] * _FORGET + 1

    def of(self, matching: int) -> float:
        """The expected share, 0 … 1."""
        matching = min(matching, _LONGEST_MATCH)
        return self._right[matching] / self._all[matching]


class Speculation:
    """The drafts of one run. `drafted` and `accepted` count their tokens.

    most: called for how many tokens the run will draw yet, at most.
    """

    def __init__(self, costs: Costs, most: Callable[[], int]) -> None:
        self.drafted = self.accepted = 0
        self._costs = costs
        self._most = most
        self._lookup = Lookup()
        self._acceptance = Acceptance()
        self._credit = _ONCE  # what drafts may cost now, in times of a token
        self._rows: FloatArray = np.empty((0, 0), np.float32)
        self._draft: list[int] = []  # of which the first `_right` are right
        self._right = self._matching = self._confirmed = 0
        self._expected: list[int] = []  # what follows, as lookup has it

    def next(self, session: Session, tokens: Sequence[int]) -> FloatArray | None:
        """The logits after the last of these tokens, as `Session.step`; the session must hold those
        before it, and may hold a draft. None if it does not."""
        self._learn(tokens)
        goes_on = self._draft and len(tokens) == self._confirmed + 1
        if goes_on and tokens[-1] == self._draft[self._right]:
            return self._accept(session, len(tokens))
        self.drop(session)
        if len(session.tokens) != len(tokens) - 1:
            return None
        self._confirmed = len(tokens)
        drafted = self._proposed(session)
        started = time.perf_counter()
        logits = self._evaluated(session, tokens[-1], drafted) if drafted else None
        if logits is None:
            logits = session.step(tokens[-1])
        self._costs.note(len(drafted) + 1, time.perf_counter() - started)
        if self._costs.are_known():  # what it did cost, whatever was expected
            self._credit += _EACH + 1 - self._costs.of(len(drafted) + 1)
        return logits

    def _learn(self, tokens: Sequence[int]) -> None:
        """Counts whether the last token is what lookup said, and looks up what follows."""
        if self._expected:
            self._acceptance.note(self._matching, self._expected[0] == tokens[-1])
        self._expected, self._matching = self._lookup.draft(tokens, LONGEST)

    def drop(self, session: Session) -> None:
        """Forgets what is drafted, in the session too."""
        if not self._draft:
            return
        self._draft = []
        if session.is_open:
            session.rewind(self._confirmed, session.mode)

    def _accept(self, session: Session, length: int) -> FloatArray:
        self._right += 1
        self._confirmed = length
        self.accepted += 1
        self._credit = min(self._credit + 1, _MOST_CREDIT)
        logits: FloatArray = self._rows[self._right]
        if self._right == len(self._draft):
            self.drop(session)
        return logits

    def _proposed(self, session: Session) -> list[int]:
        """The draft that is expected to gain most, if any is."""
        room = min(self._most() - 1, session.context - self._confirmed)
        drafted = self._expected[: max(room, 0)]
        if not drafted or not self._costs.are_known():
            return []
        best, length, expected, right = _LEAST_GAIN, 0, 1.0, 1.0
        for count in range(1, len(drafted) + 1):
            right *= self._acceptance.of(self._matching + count - 1)
            expected += right
            cost = self._costs.of(count + 1)
            if cost - 1 <= self._credit and expected / cost > best:
                best, length = expected / cost, count
        if not length:
            self._costs.doubt()
            return []
        return drafted[:length]

    def _evaluated(self, session: Session, token: int, drafted: list[int]) -> FloatArray:
        """The logits after a token, with the draft after it evaluated too."""
        count = len(drafted) + 1
        if not len(self._rows):
            self._rows = np.empty((LONGEST + 1, session.vocab), np.float32)
        session.evaluate(np.array([token, *drafted], np.int32), self._rows[:count], DECODED)
        self.drafted += len(drafted)
        self._draft, self._right = drafted, 0
        first: FloatArray = self._rows[0]
        return first
