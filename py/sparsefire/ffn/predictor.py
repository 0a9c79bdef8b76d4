"""Predictors: cheap estimates of which neurons of a feed-forward layer will be active."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, Self, SupportsIndex, runtime_checkable

import numpy as np
import numpy.typing as npt

from .. import _arrays
from .._options import checked, count, instance, path
from ..core.core import Core
from ..core.enums import Rule
from ..core.handle import CoreObject
from ..core.hosts import get_core
from ..errors import ArgumentError, ModelFileError
from ..gguf.reader import GgufFile
from ..gguf.writer import Writable, write_gguf
from .sparsity import SparsityConfig

ARCHITECTURE = "sparsefire-predictor"  # of a GGUF file that holds one predictor
_RULES = ("top_k", "threshold", "target_sparsity", "minimum", "maximum")


@runtime_checkable
class Predictor(Protocol):
    """Any object with this method can select the neurons of `SparseFfn.forward`."""

    def predict(
        self, x: npt.ArrayLike
    ) -> npt.NDArray[np.integer[Any]] | list[npt.NDArray[np.integer[Any]]]:
        """Ids of the neurons to compute for ``x`` (input,); a list of id arrays for
        (n, input)."""
        ...


class CorePredictor(CoreObject):
    """A predictor in the core, of any kind; the kind determines how scores are computed."""

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
        if sparsity is None:
            sparsity = SparsityConfig.with_threshold(0.0)
        self.set_rule(sparsity, hot)

    def set_rule(self, sparsity: SparsityConfig, hot: int = 0) -> None:
        """Sets which neurons the scores select: the first ``hot`` always, ``sparsity`` in total."""
        if not isinstance(sparsity, SparsityConfig):
            raise ArgumentError(
                f"sparsity: expected a SparsityConfig, such as SparsityConfig.with_top_k(50), got "
                f"{sparsity!r}"
            )
        hot = count(0 if hot is None else hot, "hot")
        if hot > self.hidden_dim:
            raise ArgumentError(f"hot: expected 0 … {self.hidden_dim} neurons, got {hot}")
        rule = sparsity.rule(self.hidden_dim)
        # The core counts only the cold neurons.
        most = max(0, rule.most - hot)
        least = min(max(0, rule.least - hot), most)
        unlimited = rule.kind == Rule.RULE_THRESHOLD and rule.most >= self.hidden_dim
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
        """Selected neurons for x (input,), ascending int32 ids; a list of them for (n, input)."""
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


class InCorePredictor(ABC):
    """Base class of the predictors in the core. `SparseFfn.forward` runs any of them together with
    the layer in one call of the core.

    A subclass names its kind, ``class Mine(InCorePredictor, kind="mine")``: under that name files
    hold it, and `KINDS` has the class."""

    kind: ClassVar[str]
    _core_predictor: CorePredictor

    def __init_subclass__(cls, *, kind: str) -> None:
        cls.kind = kind
        KINDS[kind] = cls

    @abstractmethod
    def _stored(self) -> tuple[dict[str, Any], dict[str, Writable]]:
        """Metadata and tensors from which `_restored` recreates the predictor."""

    @classmethod
    @abstractmethod
    def _restored(
        cls, core: Core, file: GgufFile, keys: dict[str, Any], options: dict[str, Any]
    ) -> Self:
        """A predictor from the result of `_stored`; ``options`` are ``sparsity`` and ``hot``."""

    @property
    def in_core(self) -> CorePredictor:
        """The predictor's object in the core, which calibration replaces."""
        return self._core_predictor

    @property
    def handle(self) -> SupportsIndex:
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
        """Neurons 0 … hot-1 are always selected."""
        return self._core_predictor.hot

    @property
    def sparsity(self) -> SparsityConfig:
        """The rule by which scores select neurons."""
        return self._core_predictor.sparsity

    @property
    def nbytes(self) -> int:
        """Bytes of the data that scores are computed from."""
        return self._core_predictor.nbytes

    def set_rule(self, sparsity: SparsityConfig, hot: int = 0) -> None:
        """Sets which neurons the scores select from now on: the first ``hot`` always, and
        ``sparsity`` in total."""
        self._core_predictor.set_rule(sparsity, hot)

    def scores(self, x: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Scores (hidden,) of x (input,), or (n, hidden) of (n, input), float32."""
        return self._core_predictor.scores(x)

    def predict(self, x: npt.ArrayLike) -> _arrays.IntArray | list[_arrays.IntArray]:
        """Selected neurons for x (input,), ascending int32 ids; a list of them for (n, input).
        NaN or infinity in ``x`` raises `NotFiniteError`."""
        return self._core_predictor.predict(x)

    @checked(path=path)
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the predictor with its sparsity to a GGUF file, atomically. Raises `BackendError`
        if the gguf package is not installed, OSError."""
        keys, tensors = self._stored()
        rules = {each: getattr(self.sparsity, each) for each in _RULES}
        keys |= {each: value for each, value in rules.items() if value is not None}
        metadata = {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}
        metadata |= {
            "general.architecture": ARCHITECTURE,
            f"{ARCHITECTURE}.kind": self.kind,
            f"{ARCHITECTURE}.hot": self.hot,
        }
        write_gguf(path, metadata, tensors)

    @classmethod
    @checked(path=path, core=instance(Core))
    def load(cls, path: str | os.PathLike[str], core: Core | None = None) -> Self:
        """Loads a file written by `save`. `ModelFileError` if it is something else, another kind of
        predictor, or damaged."""
        # Read, not mapped, so that the file can be replaced while the predictor is in use.
        with GgufFile.open(path, mapped=False) as file:
            if file.metadata.get("general.architecture") != ARCHITECTURE:
                raise ModelFileError(
                    f"{file.name}: holds no predictor; {cls.__name__}.save makes one"
                )
            keys = {
                key.removeprefix(f"{ARCHITECTURE}."): value
                for key, value in file.metadata.items()
                if key.startswith(f"{ARCHITECTURE}.")
            }
            kind = keys.get("kind")
            if kind != cls.kind:
                known = KINDS[kind].__name__ if kind in KINDS else None
                hint = f"; read it with {known}.load" if known else ""
                raise ModelFileError(
                    f"{file.name}: holds a predictor of kind {kind!r}, not {cls.kind!r}{hint}"
                )
            try:
                rules = {each: keys[each] for each in _RULES if each in keys}
                options = {"sparsity": SparsityConfig(**rules), "hot": int(keys.get("hot", 0))}
                return cls._restored(core or get_core(), file, keys, options)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelFileError(f"{file.name}: the predictor is damaged: {error}") from error


KINDS: dict[str, type[InCorePredictor]] = {}  # predictor classes by their name in files
