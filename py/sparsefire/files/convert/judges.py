"""Causal models that judge how well a document answers a query: Qwen3's rerankers, which are asked
in a chat and answer yes or no (Zhang et al. 2025), and classifiers with one output made of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from .encoders import RANK, check_labels, classifies
from .family import Keys
from .parts import Parts
from .safetensors import read_json_object

if TYPE_CHECKING:
    from .config import Config

_NAMED = re.compile(r"^# Qwen3-Reranker", re.IGNORECASE | re.MULTILINE)
_ANSWERS = "yes", "no"
# As the models were trained (Qwen3-Reranker's README).
_TEMPLATE = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n"
    "<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def _asked(config: Config) -> bool:
    """Whether it is one of Qwen's own, whose class and config are those of a chat model: the
    directory or the heading of the README say so."""
    readme = config.folder / "README.md"
    text = readme.read_text("utf-8", errors="replace") if readme.exists() else ""
    named = any("qwen3-reranker" in part.lower() for part in config.folder.resolve().parts[-3:])
    return named or _NAMED.search(text) is not None


def values(config: Config) -> Keys:
    """A reranker's file has no output matrix but the rows of its answers."""
    return {"tie_word_embeddings": True} if _judges(config) else {}


def _judges(config: Config) -> bool:
    return classifies(config) or _asked(config)


def keys(config: Config) -> Keys:
    """The keys of rerankers; none for other models."""
    if not _judges(config):
        return {}
    if classifies(config):
        check_labels(config)
    return {"pooling_type": RANK, "classifier.output_labels": [*_ANSWERS]}


def templates(config: Config) -> Keys:
    """The key of the chat in which a reranker is asked."""
    return {"tokenizer.chat_template.rerank": _TEMPLATE} if _judges(config) else {}


def answers(config: Config, parts: Parts) -> Parts:
    """The rows of the output matrix for the answers, yes and no. A classifier's one output says how
    much more likely yes is than no, whose row is then zeros."""
    if not _judges(config):
        return parts
    found, d = dict(parts), config.d
    name = "score.weight" if classifies(config) else "lm_head.weight"
    if name == "lm_head.weight" and config.values.get("tie_word_embeddings", False):
        name = "model.embed_tokens.weight"
    stored = found.get(name)
    if stored is None or stored.shape != (1 if classifies(config) else config.vocab, d):
        raise config.fail("architectures", f"asks for another {name!r}")
    if name != "model.embed_tokens.weight":
        del found[name]
    if classifies(config):
        both = stored.made(lambda x: np.concatenate([x, np.zeros_like(x)]), (2, d))
    else:
        ids = _answer_ids(config)
        both = stored.made(lambda x: x[ids], (2, d))
    return {**found, "cls.output.weight": both}


def _answer_ids(config: Config) -> list[int]:
    """The tokens of the answers."""
    model = read_json_object(config.folder / "tokenizer.json").get("model")
    words = model.get("vocab", {}) if isinstance(model, dict) else {}
    ids = [words.get(answer) for answer in _ANSWERS]
    found = [each for each in ids if isinstance(each, int) and 0 <= each < config.vocab]
    if len(found) != len(_ANSWERS):
        raise config.fail("model_type", "is a reranker's, and tokenizer.json has no yes and no")
    return found
