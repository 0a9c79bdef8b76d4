"""How well documents answer a query: the scores of models that were trained to judge such pairs
(cross-encoders, Nogueira and Cho 2019), and causal rerankers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import checked, flag, positive, text
from ..arch.keys import Keys
from ..arch.read import read_floats, read_vector
from ..errors import ArgumentError, ModelFileError, UnsupportedError
from .completion_types import RankedDocument, Ranking

if TYPE_CHECKING:
    from .model import Model

_TEMPLATE = "tokenizer.chat_template.rerank"
_MEAN = 1  # among the numbers of `pooling_type`

_Numbers = npt.NDArray[np.float64]


class Pair(NamedTuple):
    """A query and a document as tokens, and the type of each, if the model has types."""

    ids: list[int]
    types: list[int] | None


@checked(query=text, mode=text)
def rerank(
    model: Model, query: str, documents: Sequence[str], *, mode: str | None = None
) -> FloatArray:
    """See `Model.rerank`."""
    return np.array(_judged(model, query, _texts(documents), mode)[0], np.float32)


@checked(query=text, name=text, top_n=positive, return_documents=flag, mode=text)
def create_rerank(
    model: Model,
    query: str,
    documents: Sequence[str],
    name: str | None = None,
    *,
    top_n: int | None = None,
    return_documents: bool = False,
    mode: str | None = None,
) -> Ranking:
    """See `Model.create_rerank`; `name` is the model's name in the answer."""
    texts = _texts(documents)
    scores, tokens = _judged(model, query, texts, mode)
    shown = texts if return_documents else None
    name = model.config.name if name is None else name
    return ranking_of(scores, tokens, name, top_n=top_n, documents=shown)


def _judged(
    model: Model, query: str, documents: Sequence[str], mode: str | None
) -> tuple[list[float], int]:
    """The scores of the documents, and how many tokens the pairs have."""
    judge = model.judge
    pairs = [judge.pair(query, document) for document in documents]
    return [judge.score(pair, mode) for pair in pairs], sum(len(pair.ids) for pair in pairs)


def ranking_of(
    scores: Sequence[float],
    tokens: int,
    name: str,
    *,
    top_n: int | None = None,
    documents: Sequence[str] | None = None,
) -> Ranking:
    """The answer with these scores, the best first and of equal ones the first, for pairs of
    `tokens` tokens in total. name: the model's. documents: to be shown beside the scores."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    results: list[RankedDocument] = [
        {"index": index, "relevance_score": float(scores[index])} for index in best[:top_n]
    ]
    for item in results if documents is not None else ():
        item["document"] = {"text": documents[item["index"]]}  # type: ignore[index]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": name, "results": results, "usage": usage}  # type: ignore[typeddict-item]


def _texts(documents: Sequence[str]) -> list[str]:
    if isinstance(documents, str) or not all(isinstance(each, str) for each in documents):
        raise ArgumentError("documents must be a list of texts")
    return list(documents)


class _Linear(NamedTuple):
    """A matrix (outputs, inputs) and what is added to its products (outputs,)."""

    matrix: _Numbers
    bias: _Numbers

    def __call__(self, x: _Numbers) -> _Numbers:
        return np.asarray(self.matrix @ x + self.bias)


class Judge:
    """A model's judgement of pairs. Errors: `UnsupportedError` (it judges none),
    `ModelFileError`."""

    def __init__(self, model: Model) -> None:
        self.model, name = model, model.file.name
        self._keys = Keys(model.file, model.config.architecture)
        if model.config.pooling != "rank":
            raise UnsupportedError(
                f"{name}: the model does not judge pairs of texts: its file does not have the "
                "pooling_type of rerankers; embed gives vectors to compare"
            )
        self._dense = self._read("cls", model.config.d)
        inner = model.config.d if self._dense is None else len(self._dense.matrix)
        self._norm = self._vector("cls.norm.weight", inner) if self._dense else None
        self._output = self._read("cls.output", inner)
        last = self._output or self._dense
        if last is None:
            raise ModelFileError(f"{name}: a reranker has cls or cls.output, and it has neither")
        outputs = len(last.matrix)
        # The answers of a causal model are yes and no.
        self._answers = outputs == 2 and not model.config.both_sides
        if outputs > 1 and not self._answers:
            raise UnsupportedError(
                f"{name}: the model sorts texts into {outputs} classes; a reranker has one output"
            )
        types = model.file.tensors.get("token_types.weight")
        several = types is not None and len(types.shape) == 2 and types.shape[0] > 1
        self._one_end = model.tokenizer.kind == "WordPiece"
        self._has_types = several and self._one_end

    def _read(self, name: str, columns: int) -> _Linear | None:
        """The matrix and bias of this name, if the file has them."""
        file, full = self.model.file, f"{name}.weight"
        if full not in file.tensors:
            return None
        shape = file.tensors[full].shape
        if len(shape) == 1:  # as files store a single row
            matrix = read_vector(file, full)[None]
        else:
            matrix = read_floats(self.model.core, file, full)
        if matrix.shape[1] != columns or not np.isfinite(matrix).all():
            raise ModelFileError(
                f"{file.name}: tensor {full!r} has shape {shape}; expected finite rows of {columns}"
            )
        bias = self._vector(f"{name}.bias", len(matrix))
        zeros = np.zeros(len(matrix), np.float64)
        return _Linear(matrix.astype(np.float64), zeros if bias is None else bias)

    def _vector(self, name: str, count: int) -> _Numbers | None:
        file = self.model.file
        if name not in file.tensors:
            return None
        values = read_vector(file, name)
        if len(values) != count:
            raise ModelFileError(
                f"{file.name}: tensor {name!r} has {len(values)} elements, expected {count}"
            )
        return values.astype(np.float64)

    def pair(self, query: str, document: str) -> Pair:
        """The tokens of a query and a document. Errors as `Model.prompt_ids`."""
        template = self.model.file.metadata.get(_TEMPLATE)
        if isinstance(template, str):
            # Each text is put in once, also one that has a name in braces.
            parts = template.partition("{document}")
            before, after = parts[0].replace("{query}", query), parts[2].replace("{query}", query)
            filled = f"{before}{document}{after}" if parts[1] else before
            ids = self.model.tokenizer.encode(filled, add_bos=False, add_eos=False)
            return Pair(self.model.prompt_ids(ids), None)
        first, second = self._joined(query, document)
        types = [0] * len(first) + [1] * len(second) if self._has_types else None
        return Pair(self.model.prompt_ids(first + second), types)

    def _joined(self, query: str, document: str) -> tuple[list[int], list[int]]:
        """BOS query EOS, and separator document EOS, of these what the vocabulary adds; WordPiece
        has one separator between texts, and one at the end."""
        tokenizer = self.model.tokenizer
        vocabulary = tokenizer.vocabulary
        plain = [
            tokenizer.encode(each, add_bos=False, add_eos=False, special=False)
            for each in (query, document)
        ]
        begin = [vocabulary.bos] if tokenizer.add_bos else []
        end = [vocabulary.eos] if tokenizer.add_eos else []
        separator = [vocabulary.separator] if vocabulary.add_separator else []
        if self._one_end:
            separator = []
        parts = [*begin, *plain[0], *end], [*separator, *plain[1], *end]
        return [int(each or 0) for each in parts[0]], [int(each or 0) for each in parts[1]]

    def score(self, pair: Pair, mode: str | None = None) -> float:
        """The score of a pair: the larger, the better the document answers the query."""
        model = self.model
        states = model.hidden_states(pair.ids, mode=mode, types=pair.types).astype(np.float64)
        vector = states[0] if model.config.both_sides else states[-1]
        if self._pools_mean():
            vector = states.mean(axis=0)
        found = self._classified(vector)
        if self._answers:
            found = np.exp(found - found.max())
            found /= found.sum()
        return float(np.float32(found[0]))

    def _pools_mean(self) -> bool:
        """Whether the classifier reads the mean of the tokens' states."""
        default = _MEAN if self.model.config.architecture == "modern-bert" else 0
        return self._keys.integer("classifier.pooling_type", 3, default, least=0) == _MEAN

    def _classified(self, x: _Numbers) -> _Numbers:
        """What the classifier makes of a vector: a layer with an activation, its norm, the output
        matrix; each only where the file has it."""
        if self._dense is not None:
            x = self._dense(x)
            if self.model.config.architecture == "modern-bert":
                x = x / 2 * np.array([1 + math.erf(each / math.sqrt(2)) for each in x])
            else:
                x = np.tanh(x)
        if self._norm is not None:
            x = x - x.mean()
            x = x / np.sqrt(np.square(x).mean() + self.model.config.norm_epsilon) * self._norm
        return x if self._output is None else self._output(x)
