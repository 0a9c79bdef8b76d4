"""Text embeddings from a model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import checked, flag, one_of, refuse, text
from ..errors import ArgumentError
from .completion_types import EmbeddingItem, Embeddings, EmbeddingUsage

if TYPE_CHECKING:
    from .model import Model

Pooling = Literal["mean", "last"]
Text = str | Sequence[int]


@checked(normalize=flag, pooling=one_of("mean", "last"), mode=text)
def embed(
    model: Model,
    text: Text | Sequence[Text],
    *,
    normalize: bool = True,
    pooling: Pooling = "mean",
    mode: str | None = None,
) -> FloatArray:
    """See `Model.embed`."""
    texts, is_one = texts_of(text, "text")
    vectors = np.empty((len(texts), model.config.d), np.float32)
    for row, each in zip(vectors, texts, strict=True):
        row[:] = _vector(model, ids_of(model, each), normalize, pooling, mode)
    return vectors[0] if is_one else vectors


@checked(name=text, normalize=flag, pooling=one_of("mean", "last"), mode=text)
def create_embedding(
    model: Model,
    text: Text | Sequence[Text],
    name: str | None = None,
    *,
    normalize: bool = True,
    pooling: Pooling = "mean",
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
    model: Model, ids: Sequence[int], normalize: bool, pooling: Pooling, mode: str | None
) -> FloatArray:
    """The vector of a text's token ids."""
    states = model.hidden_states(ids, mode=mode)
    vector: npt.NDArray[np.floating] = (
        states[-1] if pooling == "last" else states.mean(axis=0, dtype=np.float64)
    )
    if normalize:
        length = float(np.linalg.norm(vector))
        vector = vector / (length or 1.0)
    return vector.astype(np.float32)


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
