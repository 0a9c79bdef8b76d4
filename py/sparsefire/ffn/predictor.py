"""Predictors: cheap guesses of which neurons a feed-forward layer will need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .. import _arrays
from ..core.core import Core, get_core
from ..core.handle import CoreObject
from ..errors import ArgumentError, ShapeError
from ..fit.lowrank import Factors
from ..weights.matrix import Matrix
from .sparsity import RULE_THRESHOLD, SparsityConfig

if TYPE_CHECKING:
    from ..fit.predictor import PredictorReport
    from .layer import SparseFfn


@runtime_checkable
class Predictor(Protocol):
    """Anything with this method can choose the neurons of `SparseFfn.forward`."""

    def predict(
        self, x: npt.ArrayLike
    ) -> npt.NDArray[np.integer[Any]] | list[npt.NDArray[np.integer[Any]]]:
        """Ids of the neurons to compute for ``x`` (input,); a list of id arrays for
        (n, input)."""
        ...


class CorePredictor(CoreObject):
    """A predictor in the core, of whatever kind: how its scores are made is the kind's affair."""

    def __init__(
        self,
        core: Core,
        handle: int,
        input_dim: int,
        hidden_dim: int,
        nbytes: int,
        sparsity: SparsityConfig | None,
        hot: int,
    ) -> None:
        super().__init__(core, handle, "sf_predictor_close")
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.nbytes = nbytes
        self.set_rule(sparsity or SparsityConfig.with_threshold(0.0), hot)

    def set_rule(self, sparsity: SparsityConfig, hot: int = 0) -> None:
        """Which neurons the scores choose: the first ``hot`` always, ``sparsity`` in all."""
        if not isinstance(sparsity, SparsityConfig):
            raise ArgumentError(
                f"sparsity: expected a SparsityConfig, such as SparsityConfig.with_top_k(50), got "
                f"{sparsity!r}"
            )
        if not 0 <= hot <= self.hidden_dim:
            raise ArgumentError(f"hot: expected 0 … {self.hidden_dim} neurons, got {hot}")
        rule = sparsity.rule(self.hidden_dim)
        # The core's counts are of the cold neurons alone.
        most = max(0, rule.most - hot)
        least = min(max(0, rule.least - hot), most)
        unlimited = rule.kind == RULE_THRESHOLD and rule.most >= self.hidden_dim
        self.core.check(
            "sf_predictor_set_rule",
            self.handle,
            rule.kind,
            float(rule.threshold),
            least,
            self.hidden_dim if unlimited else most,
            hot,
            what="predictor rule",
        )
        self.sparsity = sparsity
        self.hot = hot

    def scores(self, x: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Scores (hidden,) of x (input,), or (n, hidden) of (n, input), float32."""
        values, single = _arrays.vectors(x, self.input_dim)
        result = _arrays.Result(len(values), self.hidden_dim, single, None)
        if len(values):
            self.core.check(
                "sf_predictor_scores",
                self.handle,
                self.core.inp(values),
                len(values),
                self.core.out(result.buffer),
                what="predictor scores",
            )
        return result.finish()

    def predict(self, x: npt.ArrayLike) -> _arrays.IntArray | list[_arrays.IntArray]:
        """Chosen neurons of x (input,), ascending int32 ids; a list of them for (n, input)."""
        values, single = _arrays.vectors(x, self.input_dim)
        chosen = [self._predict_one(each) for each in values]
        return chosen[0] if single else chosen

    def _predict_one(self, x: _arrays.FloatArray) -> _arrays.IntArray:
        ids = np.empty(self.hidden_dim, np.int32)
        found = self.core.check(
            "sf_predictor_predict",
            self.handle,
            self.core.inp(x),
            self.core.out(ids),
            what="predict",
        )
        return ids[:found].copy()


class CoreLowRank(CorePredictor):
    """A low-rank predictor in the core: scores = Q · f(P · x) + bias, f the identity or ReLU."""

    def __init__(
        self,
        core: Core,
        p: Matrix,
        q: Matrix,
        bias: npt.ArrayLike | None,
        *,
        hot: int = 0,
        sparsity: SparsityConfig | None = None,
        relu_between: bool = False,
    ) -> None:
        if q.columns != p.rows:
            raise ShapeError(
                f"P {p.shape} and Q {q.shape} must share the rank: P (rank, input), "
                f"Q (hidden, rank)"
            )
        hidden = q.rows
        biases = None if bias is None else _arrays.vector(bias, hidden, "bias")
        handle = core.open(
            "sf_predictor_open",
            core.context,
            p.handle,
            q.handle,
            None if biases is None else core.inp(biases),
            int(relu_between),
            what=f"predictor with P {p.shape} and Q {q.shape}",
        )
        nbytes = p.nbytes + q.nbytes + 4 * hidden
        super().__init__(core, handle, p.columns, hidden, nbytes, sparsity, hot)
        self.p = p
        self.q = q
        self.relu_between = relu_between
        self.bias = np.zeros(hidden, np.float32) if biases is None else biases.copy()


class InCorePredictor:
    """What the predictors of the core share. `SparseFfn.forward` runs any of them and the layer in
    one call of the core."""

    _core_predictor: CorePredictor

    @property
    def in_core(self) -> CorePredictor:
        """The predictor's part in the core, which calibrating it replaces."""
        return self._core_predictor

    @property
    def handle(self) -> int:
        """The predictor's handle in the core."""
        return self._core_predictor.handle

    @property
    def core(self) -> Core:
        """The core that holds the predictor."""
        return self._core_predictor.core

    @property
    def input_dim(self) -> int:
        """Elements of an input vector."""
        return self._core_predictor.input_dim

    @property
    def hidden_dim(self) -> int:
        """Neurons that are scored."""
        return self._core_predictor.hidden_dim

    @property
    def hot(self) -> int:
        """Neurons 0 … hot-1 are always chosen."""
        return self._core_predictor.hot

    @property
    def sparsity(self) -> SparsityConfig:
        """How the scores choose neurons."""
        return self._core_predictor.sparsity

    @property
    def nbytes(self) -> int:
        """Bytes of what the scores are computed from."""
        return self._core_predictor.nbytes

    def set_rule(self, sparsity: SparsityConfig, hot: int = 0) -> None:
        """Which neurons the scores choose from now on: the first ``hot`` always, and so many in
        all as ``sparsity`` says."""
        self._core_predictor.set_rule(sparsity, hot)

    def scores(self, x: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Scores (hidden,) of x (input,), or (n, hidden) of (n, input), float32."""
        return self._core_predictor.scores(x)

    def predict(self, x: npt.ArrayLike) -> _arrays.IntArray | list[_arrays.IntArray]:
        """Chosen neurons of x (input,), ascending int32 ids; a list of them for (n, input).
        NaN or infinity in ``x`` is a `NotFiniteError`."""
        return self._core_predictor.predict(x)


class LowRankPredictor(InCorePredictor):
    """Predicts active neurons from a low-rank product: scores (hidden) = Q · f(P · x) + bias, with
    P (rank, input), Q (hidden, rank), f the identity, or ReLU with ``relu_between``.

    ``sparsity`` says how the scores choose neurons, by default score > 0. P and Q are stored in
    ``format`` (one of `sparsefire.weights.quantized.FORMATS`). Before `calibrate` they are random
    (``seed``), so the choice is worth nothing.

    Errors: `ArgumentError`, `FormatError` (input or rank not a multiple of the format's block).
    """

    _core_predictor: CoreLowRank

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        rank: int,
        sparsity: SparsityConfig | None = None,
        *,
        seed: int = 0,
        format: str = "f32",
        relu_between: bool = False,
        core: Core | None = None,
    ) -> None:
        for name, value in (("input_dim", input_dim), ("hidden_dim", hidden_dim), ("rank", rank)):
            _arrays.count(value, name, 1)
        random = np.random.default_rng(seed)
        p = random.standard_normal((rank, input_dim), np.float32) / np.sqrt(np.float32(input_dim))
        q = random.standard_normal((hidden_dim, rank), np.float32) / np.sqrt(np.float32(rank))
        self._seed = seed
        self._calibrated = False
        factors = Factors(p, q, np.zeros(hidden_dim, np.float32), relu_between)
        self._set_factors(factors, format, core or get_core(), sparsity)

    @classmethod
    def from_matrices(
        cls,
        core: Core,
        p: Matrix,
        q: Matrix,
        bias: npt.ArrayLike | None,
        *,
        hot: int = 0,
        threshold: float = 0.0,
        relu_between: bool = False,
        sparsity: SparsityConfig | None = None,
    ) -> LowRankPredictor:
        """A predictor of matrices that are in core memory already: P (rank, input), Q (hidden,
        rank), bias (hidden,). The first ``hot`` neurons are always chosen, the others when
        their score exceeds ``threshold``, or as ``sparsity`` says when it is given."""
        self = cls.__new__(cls)
        self._seed = 0
        self._calibrated = True
        self._core_predictor = CoreLowRank(
            core,
            p,
            q,
            bias,
            hot=hot,
            sparsity=sparsity or SparsityConfig.with_threshold(threshold),
            relu_between=relu_between,
        )
        return self

    def _set_factors(
        self, factors: Factors, format: str, core: Core, sparsity: SparsityConfig | None
    ) -> None:
        self._core_predictor = CoreLowRank(
            core,
            Matrix.from_array(factors.p, format, core),
            Matrix.from_array(factors.q, format, core),
            factors.bias,
            sparsity=sparsity,
            relu_between=factors.relu,
        )

    @property
    def rank(self) -> int:
        """Rank of the product."""
        return self._core_predictor.p.rows

    @property
    def format(self) -> str:
        """What P and Q are stored in; "mixed" when they differ."""
        p, q = self._core_predictor.p.format, self._core_predictor.q.format
        return p if p == q else "mixed"

    @property
    def matrices(self) -> tuple[Matrix, Matrix, npt.NDArray[np.float32]]:
        """P (rank, input), Q (hidden, rank) and the bias (hidden,)."""
        predictor = self._core_predictor
        return predictor.p, predictor.q, predictor.bias

    @property
    def relu_between(self) -> bool:
        """True when there is a ReLU between P and Q."""
        return self._core_predictor.relu_between

    @property
    def calibrated(self) -> bool:
        """False while P and Q are random."""
        return self._calibrated

    def calibrate(
        self,
        of: SparseFfn | npt.ArrayLike,
        samples: npt.ArrayLike,
        *,
        recall: float = 0.99,
        seed: int | None = None,
    ) -> PredictorReport:
        """Fits P, Q and bias to samples: ``calibrate(ffn, samples)``, or, of a layer that is not
        at hand, ``calibrate(samples, activations)``.

        Samples are inputs (n, input) of the layer, in any order; activations (n, hidden) are what
        its neurons put out after the activation function, of which a neuron is active where they
        are not 0. Of the samples, chosen at random by ``seed``, 3 in 5 are fitted on, 1 in 5
        tuned on, and 1 in 5 held out for the report.

        With a threshold as `sparsity`, scores are set so that the neurons above it hold
        ``recall`` of the activation mass Σ |activation| at the least number of neurons: the
        threshold itself only says where the scores' zero lies. With top-k or a target sparsity
        the number is given, and as much mass as possible is found. The hot prefix is taken away.

        `CalibrationError` when there are too few samples, or inputs or activations without
        differences; `ShapeError`, `ArgumentError` and `NotFiniteError`. After an error the
        predictor is what it was.
        """
        from ..fit.predictor import calibrate_predictor

        chosen_seed = self._seed if seed is None else seed
        factors, report = calibrate_predictor(self, of, samples, recall, chosen_seed)
        self._set_factors(factors, self.format, self.core, self.sparsity)
        self._calibrated = True
        return report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the predictor, with its sparsity, to a GGUF file, in one step. `BackendError`
        when the gguf package is not installed, OSError."""
        from .files import save_predictor

        save_predictor(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], core: Core | None = None) -> LowRankPredictor:
        """Reads what `save` wrote. `ModelFileError` when it is something else, or damaged."""
        from .files import load_predictor

        return load_predictor(path, core or get_core())

    def __reduce__(self) -> tuple[Any, ...]:
        from . import pickled as _pickled

        p, q, bias = self.matrices
        options = {
            "hot": self.hot,
            "relu_between": self.relu_between,
            "sparsity": self.sparsity,
        }
        state = {"_seed": self._seed, "_calibrated": self._calibrated}
        return _pickled.low_rank_predictor, (p.weights(), q.weights(), bias, options, state)

    def __repr__(self) -> str:
        state = "" if self.calibrated else ", not calibrated"
        return (
            f"LowRankPredictor({self.input_dim}→{self.hidden_dim}, rank {self.rank}, "
            f"{self.format}, {self.nbytes:,} bytes{state})"
        )
