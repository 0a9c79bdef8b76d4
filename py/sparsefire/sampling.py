"""Choosing the next token from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError, NotFiniteError

REPEAT_WINDOW = 64  # how many of the last tokens the repeat penalty looks at
_GROUP = 32


@dataclass(frozen=True)
class SamplerConfig:
    """How the next token is drawn. The steps are taken in this order:

    - `repeat_penalty`: logits of the last 64 tokens are divided by it when positive, else
      multiplied (Keskar et al. 2019); 1 changes nothing;
    - `top_k`: only the k likeliest tokens stay; 0 keeps all;
    - `min_p`: tokens less likely than this share of the likeliest one's probability go; 0 keeps
      all;
    - `top_p`: of those, only the likeliest that together have this share of their probability
      stay; 1 keeps all;
    - `temperature`: logits are divided by it, and one token is drawn. 0 takes the likeliest
      token, of equal ones the lowest id, and nothing else but the penalty matters.

    The same `seed` and the same logits give the same tokens; None seeds from the system.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "0 or more and below 1"),
            ("repeat_penalty", 0 < self.repeat_penalty < float("inf"), "above 0"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise ArgumentError(f"{name} must be {wanted}, not {getattr(self, name)}")


class Sampler:
    """Draws tokens as its `SamplerConfig` says; one a generation, since it keeps the random
    state."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self._random = np.random.default_rng(config.seed)

    def sample(self, logits: npt.NDArray[np.float32], last: Sequence[int] = ()) -> int:
        """The next token's id for logits (vocab,). `last` holds the tokens so far, the latest
        last. The logits are not changed. `NotFiniteError` when they hold NaN."""
        config = self.config
        if config.repeat_penalty != 1.0 and last:
            logits = _penalised(logits, last[-REPEAT_WINDOW:], config.repeat_penalty)
        best = int(logits.argmax())  # NaN counts as the greatest
        if not np.isfinite(logits[best]):
            raise NotFiniteError(f"the logit of token {best} is {logits[best]}")
        if config.temperature == 0.0:
            return best
        greatest = float(logits[best])
        ids = self._candidates(logits, greatest)
        scaled = (logits[ids].astype(np.float64) - greatest) / config.temperature
        cumulative = np.exp(scaled).cumsum()
        drawn = self._random.random() * cumulative[-1]
        return int(ids[min(int(cumulative.searchsorted(drawn, "right")), len(ids) - 1)])

    def _candidates(self, logits: npt.NDArray[np.float32], best: float) -> npt.NDArray[np.intp]:
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


def _bound_of_top(logits: npt.NDArray[np.float32], k: int) -> float:
    """A value that at least k logits reach and, where the vocabulary is large, few more do: the
    k-th largest of the maxima of disjoint groups, which is cheaper than that of all logits."""
    groups = len(logits) // _GROUP
    if groups >= 2 * k:
        logits = logits[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    place = len(logits) - k
    return float(np.partition(logits, place)[place])


def _penalised(
    logits: npt.NDArray[np.float32], last: Sequence[int], penalty: float
) -> npt.NDArray[np.float32]:
    """A copy of the logits in which the tokens `last` are less likely, each by the same factor
    however often it occurs."""
    changed = logits.copy()
    ids = np.unique(np.asarray(last, np.intp))
    values = changed[ids]
    changed[ids] = np.where(values > 0, values / penalty, values * penalty)
    return changed
