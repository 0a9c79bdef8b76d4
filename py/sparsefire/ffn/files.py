"""Predictors in files of their own."""

from __future__ import annotations

import os
from typing import Any

from ..core.core import Core
from ..errors import ModelFileError
from ..gguf.reader import GgufFile
from ..gguf.writer import TensorData, Writable, write_gguf
from ..lm.loader import read_matrix, read_vector
from .predictor import LowRankPredictor
from .sparsity import SparsityConfig

ARCHITECTURE = "sparsefire-predictor"

_P, _Q, _BIAS = "predictor_p.weight", "predictor_q.weight", "predictor.bias"
_RULES = ("top_k", "threshold", "target_sparsity", "minimum", "maximum")


def save_predictor(predictor: LowRankPredictor, path: str | os.PathLike[str]) -> None:
    """See `LowRankPredictor.save`."""
    p, q, bias = predictor.matrices
    metadata: dict[str, Any] = {
        "general.architecture": ARCHITECTURE,
        f"{ARCHITECTURE}.relu_between": predictor.relu_between,
        f"{ARCHITECTURE}.hot": predictor.hot,
    }
    for name in _RULES:
        value = getattr(predictor.sparsity, name)
        if value is not None:
            metadata[f"{ARCHITECTURE}.{name}"] = value
    tensors: dict[str, Writable] = {
        _P: TensorData(p.format, p.shape, p.packed()),
        _Q: TensorData(q.format, q.shape, q.packed()),
        _BIAS: bias,
    }
    write_gguf(path, metadata, tensors)


def load_predictor(path: str | os.PathLike[str], core: Core) -> LowRankPredictor:
    """See `LowRankPredictor.load`."""
    # Read, not mapped, so that the file may be written anew while the predictor is used.
    with GgufFile.open(path, mapped=False) as file:
        if file.metadata.get("general.architecture") != ARCHITECTURE:
            raise ModelFileError(
                f"{file.name}: holds no predictor; LowRankPredictor.save makes one"
            )
        keys = {
            key.removeprefix(f"{ARCHITECTURE}."): value
            for key, value in file.metadata.items()
            if key.startswith(f"{ARCHITECTURE}.")
        }
        try:
            return LowRankPredictor.from_matrices(
                core,
                read_matrix(core, file, _P),
                read_matrix(core, file, _Q),
                read_vector(file, _BIAS),
                hot=int(keys.get("hot", 0)),
                relu_between=bool(keys.get("relu_between", False)),
                sparsity=SparsityConfig(**{each: keys[each] for each in _RULES if each in keys}),
            )
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"{file.name}: the predictor is damaged: {error}") from error
