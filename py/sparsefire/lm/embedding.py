"""Text embeddings from a model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import checked, flag, one_of, refuse, text
from ..arch.read import read_floats
from ..arch.writer import POOLED_MATRICES
from ..errors import ArgumentError, UnsupportedError
from .completion_types import EmbeddingItem, Embeddings, EmbeddingUsage

if TYPE_CHECKING:
    from .model import Model

Pooling = Literal["mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Text = str | Sequence[int]


@checked(normalize=flag, pooling=one_of(*POOLINGS), mode=text)
def embed(
    model: Model,
    text: Text | Sequence[Text],
    *,
    normalize: bool = True,
    pooling: Pooling | None = None,
    mode: str | None = None,
) -> FloatArray:
    """See `Model.embed`."""
    texts, is_one = texts_of(text, "text")
    vectors = [_vector(model, ids_of(model, each), normalize, pooling, mode) for each in texts]
    if is_one:
        return vectors[0]
    return np.array(vectors, np.float32).reshape(len(texts), vector_width(model))


@checked(name=text, normalize=flag, pooling=one_of(*POOLINGS), mode=text)
def create_embedding(
    model: Model,
    text: Text | Sequence[Text],
    name: str | None = None,
    *,
    normalize: bool = True,
    pooling: Pooling | None = None,
    mode: str | None = None,
) -> Embeddings:
    """See `Model.create_embedding`; `name` is the model's name in the answer."""
    vectors, tokens = [], 0
    for each in texts_of(text, "input")[0]:
        ids = ids_of(model, each)
        vectors.append(_vector(model, ids, normalize, pooling, mode))
        tokens += len(ids)
    return embeddings_of(vectors, tokens, model.config.name if name is None else name)


def ids_of(model: Model, text: Text) -> list[int]:
    """The token ids of a text to embed, in which names of control tokens are plain text. Errors
    as `Model.prompt_ids`."""
    return model.prompt_ids(model.tokenize(text, special=False) if isinstance(text, str) else text)


def embeddings_of(vectors: Sequence[FloatArray], tokens: int, name: str) -> Embeddings:
    """The answer with these vectors, for texts of `tokens` tokens in total. `name` is the model's
    name in the answer."""
    data: list[EmbeddingItem] = [
        {"object": "embedding", "index": index, "embedding": vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    usage: EmbeddingUsage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def _vector(
    model: Model, ids: Sequence[int], normalize: bool, pooling: Pooling | None, mode: str | None
) -> FloatArray:
    """The vector of a text's token ids."""
    states = model.hidden_states(ids, mode=mode)
    pooling = pooling or _pooling_of(model)
    vector: npt.NDArray[np.floating]
    if pooling == "mean":
        vector = states.mean(axis=0, dtype=np.float64)
    else:
        vector = states[-1 if pooling == "last" else 0]
    for matrix in _matrices(model):
        vector = matrix @ vector
    if normalize:
        length = float(np.linalg.norm(vector))
        vector = vector / (length or 1.0)
    return vector.astype(np.float32)


def vector_width(model: Model) -> int:
    """Elements of a text's vector: of the residual stream, or of the last of the matrices that the
    file has for such vectors."""
    shapes = [model.file.tensors[name].shape for name in _names(model)]
    return shapes[-1][0] if shapes else model.config.d


def _names(model: Model) -> list[str]:
    return [name for name in POOLED_MATRICES if name in model.file.tensors]


def _matrices(model: Model) -> list[FloatArray]:
    """The matrices that multiply the vector of a text, one after the other."""
    return [read_floats(model.core, model.file, name) for name in _names(model)]


def _pooling_of(model: Model) -> Pooling:
    """How the file says that a text's vector is made, or else the mean."""
    pooling = model.config.pooling or "mean"
    for known in POOLINGS:
        if pooling == known:
            return known
    raise UnsupportedError(
        f"{model.file.name}: the model gives scores of pairs of texts, not vectors; choose a "
        f"pooling, one of {', '.join(POOLINGS)}, to have the vectors that they are made of"
    )


def texts_of(text: Text | Sequence[Text], name: str) -> tuple[list[Text], bool]:
    """One or several texts, each a str or token ids, as a list, and whether it was a single one."""
    if isinstance(text, str):
        return [text], True
    if not isinstance(text, (Sequence, np.ndarray)) or isinstance(text, (bytes, bytearray)):
        refuse(text, name, "a text, token ids, or a list of either")
    several = list(text)
    whole = [isinstance(each, (int, np.integer)) for each in several]
    if several and all(whole):
        return [cast(Sequence[int], several)], True
    if any(whole):
        raise ArgumentError(f"{name}: expected a text, token ids, or a list of either")
    return cast(list[Text], several), False
