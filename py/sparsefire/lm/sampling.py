"""Choosing the next token from logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import check_fields, number, refuse, whole
from ..errors import ArgumentError, NotFiniteError

REPEAT_WINDOW = 64  # number of last tokens that the repeat penalty considers
_GROUP = 32


class SamplerOptions(TypedDict, total=False):
    """The fields of `SamplerConfig` as keyword arguments."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None


def _biases(value: object, name: str) -> dict[int, float]:
    """The checked `logit_bias`."""
    if not isinstance(value, Mapping):
        refuse(value, name, "a dictionary of token ids and numbers")
    return {
        whole(token, f"a token id of {name}"): number(bias, f"{name}[{token!r}]")
        for token, bias in value.items()
    }


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` or above `above`, to `most` or below `below`; None is no bound.
    `wanted` says so in words."""

    wanted: str = "finite"
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


_MOST = 1e15  # of a penalty or bias: logits in float32 stay finite with all of them

# Of the fields of `SamplerConfig` that are numbers.
RANGES = {
    "temperature": Range("0 or more", least=0),
    "top_k": Range("0 or more", least=0),
    "top_p": Range("above 0 and at most 1", above=0, most=1),
    "min_p": Range("0 or more and below 1", least=0, below=1),
    "repeat_penalty": Range("above 0, from 1e-15 to 1e15", least=1 / _MOST, most=_MOST),
    "frequency_penalty": Range("from -1e15 to 1e15", least=-_MOST, most=_MOST),
    "presence_penalty": Range("from -1e15 to 1e15", least=-_MOST, most=_MOST),
}


@dataclass(frozen=True)
class SamplerConfig:
    """How the next token is sampled. The steps are applied in this order:

    - `logit_bias`: token id → value added to its logit; -inf forbids the token;
    - `repeat_penalty`: positive logits of the last 64 tokens are divided by it, negative ones
      multiplied (Keskar et al. 2019); 1 changes nothing;
    - `frequency_penalty` × how often this run has drawn the token, and `presence_penalty` once for
      every token that it has drawn, are subtracted from the logits; 0 changes nothing;
    - `top_k`: only the k most likely tokens stay; 0 keeps all;
    - `min_p`: tokens less likely than this share of the greatest probability go; 0 keeps all;
    - `top_p`: of those, the smallest set of most likely tokens that has this share of their
      probability stays; 1 keeps all;
    - `temperature`: logits are divided by it, and one token is drawn. 0 is greedy: the most likely
      token, the lowest id of equal ones; then only the bias and the penalties matter.

    The same `seed` and the same logits give the same tokens; None, or one below
    0, seeds from the system.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            temperature=number,
            top_k=whole,
            top_p=number,
            min_p=number,
            repeat_penalty=number,
            frequency_penalty=number,
            presence_penalty=number,
            logit_bias=_biases,
            seed=whole,
        )
        for name, each in RANGES.items():
            if not each.holds(getattr(self, name)):
                raise ArgumentError(f"{name} must be {each.wanted}, not {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if not (bias == -math.inf or abs(bias) <= _MOST):
                raise ArgumentError(
                    f"logit_bias must be from -1e15 to 1e15, or -inf, not {bias} (of {token})"
                )

    @property
    def takes_largest(self) -> bool:
        """Whether the token with the largest logit is drawn, whatever was drawn before."""
        penalties = self.frequency_penalty or self.presence_penalty or self.repeat_penalty != 1
        return self.temperature == 0 and not penalties and not self.logit_bias


class Sampler:
    """Draws tokens as its `SamplerConfig` says. It keeps the random state, so each generation has
    one of its own."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        fixed = config.seed is not None and config.seed >= 0
        self._random = np.random.default_rng(config.seed if fixed else None)
        self._drawn: Counter[int] = Counter()

    def sample(self, logits: FloatArray, last: Sequence[int] = ()) -> int:
        """The next token's id for logits (vocab,). `last` contains the tokens so far, including the
        prompt's, the latest last. The logits are not changed. `NotFiniteError` if they contain
        NaN."""
        token = self._draw(self._adjusted(logits, last))
        self._drawn[token] += 1
        return token

    def _adjusted(self, logits: FloatArray, last: Sequence[int]) -> FloatArray:
        """The logits with bias and penalties: a copy, if there are any."""
        config = self.config
        penalised = config.repeat_penalty != 1.0 and len(last) > 0
        counted = (config.frequency_penalty or config.presence_penalty) and self._drawn
        if not (config.logit_bias or penalised or counted):
            return logits
        logits = logits.copy()
        for token, bias in config.logit_bias.items():
            logits[token] += bias
        if penalised:
            ids = np.unique(np.asarray(last[-REPEAT_WINDOW:], np.intp))
            values, penalty = logits[ids], config.repeat_penalty
            logits[ids] = np.where(values > 0, values / penalty, values * penalty)
        if counted:
            ids = np.fromiter(self._drawn.keys(), np.intp, len(self._drawn))
            counts = np.fromiter(self._drawn.values(), np.float32, len(self._drawn))
            logits[ids] -= counts * config.frequency_penalty + config.presence_penalty
        return logits

    def _draw(self, logits: FloatArray) -> int:
        config = self.config
        best = int(logits.argmax())  # NaN counts as the greatest
        if not np.isfinite(logits[best]):
            raise NotFiniteError(f"the logit of token {best} is {logits[best]}")
        if config.temperature == 0.0:
            return best
        greatest = float(logits[best])
        ids = self._candidates(logits, greatest)
        with np.errstate(over="ignore"):  # of a temperature close to 0
            scaled = (logits[ids].astype(np.float64) - greatest) / config.temperature
        cumulative = np.exp(scaled).cumsum()
        drawn = self._random.random() * cumulative[-1]
        return int(ids[min(int(cumulative.searchsorted(drawn, "right")), len(ids) - 1)])

    def _candidates(self, logits: FloatArray, best: float) -> npt.NDArray[np.intp]:
        """The ids that may be drawn. `best` is the greatest logit."""
        config = self.config
        least = -np.inf
        if config.min_p > 0.0:
            least = best + math.log(config.min_p)
        if 0 < config.top_k < len(logits):
            least = max(least, _bound_of_top(logits, config.top_k))
        ids = np.flatnonzero(logits >= least)
        surplus = 0 < config.top_k < len(ids)
        if not surplus and config.top_p == 1.0:
            return ids
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        if surplus:
            ids = ids[: config.top_k]
        if config.top_p < 1.0:
            cumulative = np.exp(logits[ids].astype(np.float64) - best).cumsum()
            # The token that crosses top_p is the last that stays.
            ids = ids[: int(cumulative.searchsorted(config.top_p * cumulative[-1])) + 1]
        return ids


def _bound_of_top(logits: FloatArray, k: int) -> float:
    """A value that at least k logits reach and, where the vocabulary is large, few more do: the
    k-th largest of the maxima of disjoint groups, which is cheaper than that of all logits."""
    groups = len(logits) // _GROUP
    if groups >= 2 * k:
        logits = logits[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    place = len(logits) - k
    return float(np.partition(logits, place)[place])


@dataclass(frozen=True)
class TokenScore:
    """A token's natural log probability given those before it, before bias, penalties and
    temperature, and the most likely tokens in its place, as (id, log probability)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def score(logits: FloatArray, token: int, top: int) -> TokenScore:
    """The score of a token for logits (vocab,), with the `top` most likely tokens, in descending
    order and equal ones by ascending id."""
    greatest = logits.max()
    total = np.exp(logits - greatest).sum(dtype=np.float64)
    offset = float(greatest) + math.log(total)
    top = min(top, len(logits))
    ids: npt.NDArray[np.intp] = np.empty(0, np.intp)
    if top:
        ids = np.flatnonzero(logits >= _bound_of_top(logits, top))
        ids = ids[np.argsort(-logits[ids], kind="stable")][:top]
    most_likely = tuple((int(each), float(logits[each]) - offset) for each in ids)
    return TokenScore(token, float(logits[token]) - offset, most_likely)
