"""Which neurons are selected from their scores: top-k, a threshold, or a target sparsity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._options import check_fields, checked, count, instance, number, refuse, share
from ..core.core import Core
from ..core.enums import Rule
from ..core.hosts import get_core
from ..errors import ArgumentError, ShapeError


@dataclass(frozen=True)
class SparsityRule:
    """A `SparsityConfig` for a layer of known size, in the core's terms: ``kind`` is
    Rule.RULE_THRESHOLD (score > threshold, then between ``least`` and ``most``) or Rule.RULE_TOP_K
    (the ``most`` best)."""

    kind: Rule
    threshold: float
    least: int
    most: int


@dataclass(frozen=True)
class SparsityConfig:
    """Controls which neurons are selected from their scores. Create one with `with_top_k`,
    `with_threshold` or `with_target_sparsity`; ``minimum`` and ``maximum`` bound the number of
    neurons in each.

    Neurons are returned in ascending order. Ties go to the lower id. A NaN score is never selected,
    not even to reach ``minimum``; infinite scores are ordinary numbers. If nothing is selected,
    with a ``top_k`` of 0 or a threshold that no score exceeds, the layer's output is its bias.
    ``minimum`` and ``maximum`` are applied last: a ``top_k`` of 0 with a ``minimum`` of 3 selects
    3. `ArgumentError` for invalid numbers."""

    top_k: int | None = None
    threshold: float | None = None
    target_sparsity: float | None = None
    minimum: int = 0
    maximum: int | None = None

    def __post_init__(self) -> None:
        given = [self.top_k, self.threshold, self.target_sparsity]
        if sum(each is not None for each in given) != 1:
            raise ArgumentError("give exactly one of top_k, threshold and target_sparsity")
        check_fields(
            self, top_k=count, threshold=number, target_sparsity=share, minimum=count, maximum=count
        )
        if self.threshold is not None and math.isnan(self.threshold):
            refuse(self.threshold, "threshold", "a number")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ArgumentError(f"maximum {self.maximum} is below minimum {self.minimum}")

    @classmethod
    def with_top_k(cls, k: int, *, minimum: int = 0, maximum: int | None = None) -> SparsityConfig:
        """Selects the ``k`` neurons with the largest scores; all if there are fewer, none if k =
        0."""
        return cls(top_k=k, minimum=minimum, maximum=maximum)

    @classmethod
    def with_threshold(
        cls, threshold: float, *, minimum: int = 0, maximum: int | None = None
    ) -> SparsityConfig:
        """Selects every neuron whose score is greater than ``threshold``; if these are fewer than
        ``minimum`` or more than ``maximum``, the ``minimum`` or ``maximum`` best."""
        return cls(threshold=threshold, minimum=minimum, maximum=maximum)

    @classmethod
    def with_target_sparsity(
        cls, sparsity: float, *, minimum: int = 0, maximum: int | None = None
    ) -> SparsityConfig:
        """Selects the share ``1 - sparsity`` of the neurons with the largest scores, rounded to
        whole neurons: 0.95 selects one in twenty."""
        return cls(target_sparsity=sparsity, minimum=minimum, maximum=maximum)

    def rule(self, hidden: int) -> SparsityRule:
        """The rule for a layer of ``hidden`` neurons. ``minimum`` greater than ``hidden`` means
        all of them."""
        least = min(self.minimum, hidden)
        most = hidden if self.maximum is None else min(self.maximum, hidden)
        if self.threshold is not None:
            return SparsityRule(Rule.RULE_THRESHOLD, self.threshold, least, most)
        if self.top_k is not None:
            wanted = self.top_k
        else:
            assert self.target_sparsity is not None
            wanted = round((1.0 - self.target_sparsity) * hidden)
        return SparsityRule(Rule.RULE_TOP_K, 0.0, 0, max(least, min(wanted, most)))

    @checked(core=instance(Core))
    def select(
        self, scores: npt.ArrayLike, core: Core | None = None
    ) -> _arrays.IntArray | list[_arrays.IntArray]:
        """The selected neurons, ascending int32 ids, for scores (hidden,); a list of such arrays
        for (n, hidden)."""
        values = _arrays.real_array(scores, "scores")
        if values.ndim not in (1, 2) or values.shape[-1] == 0:
            raise ShapeError(f"scores: expected (hidden,) or (n, hidden), got {values.shape}")
        if values.ndim == 2:
            return [self._select_one(each, core or get_core()) for each in values]
        return self._select_one(values, core or get_core())

    def _select_one(self, scores: _arrays.FloatArray, core: Core) -> _arrays.IntArray:
        rule = self.rule(len(scores))
        ids = np.empty(len(scores), np.int32)
        what = f"selecting from {len(scores)} scores"
        if rule.kind == Rule.RULE_TOP_K:
            found = core.check(
                "sf_select_top_k",
                core.context,
                core.inp(scores),
                len(scores),
                rule.most,
                core.out(ids),
                what=what,
            )
        else:
            found = core.check(
                "sf_select_threshold",
                core.context,
                core.inp(scores),
                len(scores),
                float(rule.threshold),
                rule.least,
                rule.most,
                core.out(ids),
                what=what,
            )
        return ids[:found].copy()
