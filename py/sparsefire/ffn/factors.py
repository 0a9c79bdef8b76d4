"""The factors of a low-rank predictor, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._arrays import FloatArray
from ..core.core import Core
from ..weights.formats import weight_format
from ..weights.quantized import dequantize_rows, quantize_rows


@dataclass(frozen=True)
class Factors:
    """P (rank, d), Q (hidden, rank) and bias (hidden), float32: scores = Q · f(P · x) + bias, f
    the identity, or ReLU with ``relu``."""

    p: FloatArray
    q: FloatArray
    bias: FloatArray
    relu: bool = False

    @property
    def rank(self) -> int:
        """Rows of P."""
        return len(self.p)

    def scores(self, x: FloatArray) -> FloatArray:
        """Scores (n, hidden) of x (n, d)."""
        return np.asarray(self.between(x) @ self.q.T + self.bias, np.float32)

    def between(self, x: FloatArray) -> FloatArray:
        """f(P · x), (n, rank)."""
        z = x @ self.p.T
        return np.maximum(z, 0, out=z) if self.relu else z

    def rounded(self, format: str, core: Core | None = None) -> Factors:
        """The factors as they will be after a round trip through a weight format."""
        kind = weight_format(format)
        p, q = (
            dequantize_rows(quantize_rows(each, kind, core), kind, each.shape[1], core)
            for each in (self.p, self.q)
        )
        return Factors(p, q, self.bias, self.relu)

    def balanced(self, x: FloatArray) -> Factors:
        """The same scores with P's rows scaled so that P · x has unit variance, so that the
        largest values of a block matter most, as quantisation assumes."""
        spread = np.maximum((x @ self.p.T).std(axis=0), np.float32(1e-12))
        return Factors(self.p / spread[:, None], self.q * spread, self.bias, self.relu)

    def with_thresholds(self, thresholds: FloatArray) -> Factors:
        """Scores shifted so that 0 stands for ``thresholds`` (hidden); those of neurons with a
        threshold of −∞ are unchanged."""
        shift = np.where(np.isfinite(thresholds), thresholds, np.float32(0))
        return Factors(self.p, self.q, np.asarray(self.bias - shift, np.float32), self.relu)

    def resized(self, rank: int) -> Factors:
        """Truncated to ``rank`` rows of P, or extended with zeros."""
        if rank <= self.rank:
            return Factors(self.p[:rank], self.q[:, :rank], self.bias, self.relu)
        more = rank - self.rank
        p, q = np.pad(self.p, ((0, more), (0, 0))), np.pad(self.q, ((0, 0), (0, more)))
        return Factors(p, q, self.bias, self.relu)

    def with_relu(self) -> Factors:
        """The same scores through a ReLU, at twice the rank: z = relu(z) − relu(−z)."""
        p, q = np.concatenate((self.p, -self.p)), np.concatenate((self.q, -self.q), axis=1)
        return Factors(p, q, self.bias, relu=True)
