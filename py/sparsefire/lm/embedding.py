"""Vectors of texts, from a model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError
from .completion_types import EmbeddingItem, Embeddings

if TYPE_CHECKING:
    from .model import Model

FloatArray = npt.NDArray[np.float32]
Pooling = Literal["mean", "last"]
Text = str | Sequence[int]


class Embedding:
    """Those methods of `Model` that make vectors of texts."""

    def embed(
        self,
        text: Text | Sequence[Text],
        *,
        normalize: bool = True,
        pooling: Pooling = "mean",
        mode: str | None = None,
    ) -> FloatArray:
        """The vector of a text, float32 (d,), or those of several texts, (n, d): the hidden states
        after the final norm, pooled over the text's tokens. A model that was trained only to
        predict text gives vectors of a modest quality.

        text: a text, in which names of control tokens are plain text, or token ids.
        normalize: to length 1; a vector of zeros stays.
        pooling: "mean" of all tokens, or the "last" one's.

        Errors: `ContextFullError` (a text does not fit), `ArgumentError`, `NotFiniteError`.
        """
        texts, one = texts_of(text, "text")
        vectors = np.empty((len(texts), cast("Model", self).config.d), np.float32)
        for row, each in zip(vectors, texts, strict=True):
            row[:] = _vector(cast("Model", self), each, normalize, pooling, mode)[0]
        return vectors[0] if one else vectors

    def create_embedding(
        self,
        input: Text | Sequence[Text],  # noqa: A002  its name in the field's interface
        *,
        model: str | None = None,
        normalize: bool = True,
        pooling: Pooling = "mean",
        mode: str | None = None,
    ) -> Embeddings:
        """As `embed`, in a dictionary of the shape that OpenAI's and llama-cpp-python's clients
        know. model: what the answer calls the model."""
        own = cast("Model", self)
        data: list[EmbeddingItem] = []
        tokens = 0
        for index, each in enumerate(texts_of(input, "input")[0]):
            vector, count = _vector(own, each, normalize, pooling, mode)
            data.append({"object": "embedding", "index": index, "embedding": vector.tolist()})
            tokens += count
        return {
            "object": "list",
            "data": data,
            "model": own.config.name if model is None else model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def texts_of(text: Text | Sequence[Text], name: str) -> tuple[list[Text], bool]:
    """One or several texts, each a str or token ids, and whether it was one that was not in a
    list."""
    if isinstance(text, str):
        return [text], True
    several = list(text)
    whole = [isinstance(each, (int, np.integer)) for each in several]
    if several and all(whole):
        return [cast(Sequence[int], several)], True
    if any(whole):
        raise ArgumentError(f"{name}: expected a text, token ids, or a list of either")
    return cast(list[Text], several), False


def _vector(
    model: Model, text: Text, normalize: bool, pooling: Pooling, mode: str | None
) -> tuple[FloatArray, int]:
    """The vector of a text, and how many tokens it has."""
    if pooling not in ("mean", "last"):
        raise ArgumentError(f"pooling {pooling!r}: expected 'mean' or 'last'")
    ids = model.tokenize(text, special=False) if isinstance(text, str) else text
    ids = model.prompt_ids(ids)
    states = model.hidden_states(ids, mode=mode)
    vector = states[-1] if pooling == "last" else states.mean(axis=0, dtype=np.float64)
    if normalize:
        length = float(np.linalg.norm(vector))
        vector = vector / (length or 1.0)
    return vector.astype(np.float32), len(ids)
