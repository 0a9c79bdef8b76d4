"""Low-rank predictors: scores = Q · (P · x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._arrays import FloatArray
from .._options import checked, count, flag, instance, number, positive, share
from ..arch.read import read_matrix, read_vector
from ..core.core import Core
from ..core.hosts import get_core
from ..errors import ShapeError
from ..gguf.reader import GgufFile
from ..gguf.writer import TensorData, Writable
from ..weights.formats import format_name
from ..weights.matrix import Matrix
from ..weights.quantized import QuantizedWeights
from .factors import Factors
from .predictor import CorePredictor, InCorePredictor
from .sparsity import SparsityConfig

if TYPE_CHECKING:
    from ..fit.predictor import PredictorReport
    from .layer import SparseFfn

_P, _Q, _BIAS = "predictor_p.weight", "predictor_q.weight", "predictor.bias"


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


class LowRankPredictor(InCorePredictor, kind="low_rank"):
    """Predicts active neurons from a low-rank product: scores (hidden) = Q · f(P · x) + bias, with
    P (rank, input), Q (hidden, rank), f the identity, or ReLU with ``relu_between``.

    ``sparsity`` controls which neurons the scores select, by default those with a score above 0. P
    and Q are stored in ``format`` (one of `sparsefire.weights.quantized.FORMATS`). Before
    `calibrate` they are random (``seed``), and the selection is meaningless.

    Errors: `ArgumentError`, `FormatError` (input or rank not a multiple of the format's block).
    """

    _core_predictor: CoreLowRank

    @checked(
        input_dim=positive,
        hidden_dim=positive,
        rank=positive,
        seed=count,
        format=format_name,
        relu_between=flag,
        core=instance(Core),
    )
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
        random = np.random.default_rng(seed)
        p = random.standard_normal((rank, input_dim), np.float32) / np.sqrt(np.float32(input_dim))
        q = random.standard_normal((hidden_dim, rank), np.float32) / np.sqrt(np.float32(rank))
        self._seed = seed
        self._calibrated = False
        factors = Factors(p, q, np.zeros(hidden_dim, np.float32), relu_between)
        self._set_factors(factors, format, core or get_core(), sparsity)

    @classmethod
    @checked(core=instance(Core), hot=count, threshold=number, relu_between=flag)
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
    ) -> Self:
        """A predictor of matrices that are already in core memory: P (rank, input), Q (hidden,
        rank), bias (hidden,). The first ``hot`` neurons are always selected, the others if their
        score exceeds ``threshold``, or according to ``sparsity`` if it is given."""
        self = cls.__new__(cls)
        self._seed = 0
        self._calibrated = True
        self._core_predictor = CoreLowRank(
            core,
            p,
            q,
            bias,
            hot=hot,
            sparsity=SparsityConfig.with_threshold(threshold) if sparsity is None else sparsity,
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
        """Weight format of P and Q; "mixed" if they differ."""
        p, q = self._core_predictor.p.format, self._core_predictor.q.format
        return p if p == q else "mixed"

    @property
    def matrices(self) -> tuple[Matrix, Matrix, npt.NDArray[np.float32]]:
        """P (rank, input), Q (hidden, rank) and the bias (hidden,)."""
        predictor = self._core_predictor
        return predictor.p, predictor.q, predictor.bias

    @property
    def relu_between(self) -> bool:
        """True if there is a ReLU between P and Q."""
        return self._core_predictor.relu_between

    @property
    def calibrated(self) -> bool:
        """False while P and Q are random."""
        return self._calibrated

    @checked(recall=share, seed=count)
    def calibrate(
        self,
        of: SparseFfn | npt.ArrayLike,
        samples: npt.ArrayLike,
        *,
        recall: float = 0.99,
        seed: int | None = None,
    ) -> PredictorReport:
        """Fits P, Q and bias to samples: ``calibrate(ffn, samples)``, or, if only recorded
        activations are available, ``calibrate(samples, activations)``.

        Samples are inputs (n, input) of the layer, in any order; activations (n, hidden) are the
        values of its neurons after the activation function, and a neuron is active if its value is
        not 0. The samples are split at random (``seed``): 3 in 5 for fitting, 1 in 5 for tuning,
        and 1 in 5 held out for the report.

        With a threshold as `sparsity`, the scores are shifted so that the neurons above it have
        ``recall`` of the activation mass Σ |activation| with as few neurons as possible. With top-k
        or a target sparsity the number of neurons is given, and the mass is maximised. The hot
        prefix is removed.

        Raises `CalibrationError` for too few samples or identical inputs or activations, and
        `ShapeError`, `ArgumentError` and `NotFiniteError`. After an error the predictor is
        unchanged.
        """
        # Fitting builds on layers; this method, which only calls it, is the one exception.
        from ..fit.predictor import calibrate_predictor

        chosen_seed = self._seed if seed is None else seed
        factors, report = calibrate_predictor(self, of, samples, recall, chosen_seed)
        self._set_factors(factors, self.format, self.core, self.sparsity)
        self._calibrated = True
        return report

    def _stored(self) -> tuple[dict[str, Any], dict[str, Writable]]:
        p, q, bias = self.matrices
        tensors: dict[str, Writable] = {
            _P: TensorData(p.format, p.shape, p.packed()),
            _Q: TensorData(q.format, q.shape, q.packed()),
            _BIAS: bias,
        }
        return {"relu_between": self.relu_between}, tensors

    @classmethod
    def _restored(
        cls, core: Core, file: GgufFile, keys: dict[str, Any], options: dict[str, Any]
    ) -> Self:
        p, q = (read_matrix(core, file, name) for name in (_P, _Q))
        relu = bool(keys.get("relu_between", False))
        return cls.from_matrices(core, p, q, read_vector(file, _BIAS), relu_between=relu, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        p, q, bias = self.matrices
        options = {
            "hot": self.hot,
            "relu_between": self.relu_between,
            "sparsity": self.sparsity,
        }
        state = {"_seed": self._seed, "_calibrated": self._calibrated}
        return _unpickled, (p.weights(), q.weights(), bias, options, state)

    def __repr__(self) -> str:
        state = "" if self.calibrated else ", not calibrated"
        return (
            f"LowRankPredictor({self.input_dim}→{self.hidden_dim}, rank {self.rank}, "
            f"{self.format}, {self.nbytes:,} bytes{state})"
        )


def _unpickled(
    p: QuantizedWeights,
    q: QuantizedWeights,
    bias: FloatArray,
    options: dict[str, Any],
    state: dict[str, Any],
) -> LowRankPredictor:
    """A pickled predictor, in the current core; ``options`` as of `from_matrices`."""
    core = get_core()
    matrices = Matrix.from_array(p, core=core), Matrix.from_array(q, core=core)
    found = LowRankPredictor.from_matrices(core, *matrices, bias, **options)
    found.__dict__.update(state)
    return found
