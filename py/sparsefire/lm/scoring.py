"""How likely a model finds given tokens: scores, losses and perplexity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import FloatArray, IntArray
from ..errors import ArgumentError
from .sampling import TokenScore, score
from .session import BATCH
from .sessions import Lease
from .stats import Share

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class TextLoss:
    """How well a model predicts a text. `perplexity` is exp of `loss`, the mean negative log
    probability in nats of the `n_scored` tokens."""

    perplexity: float
    loss: float
    n_scored: int


@dataclass(frozen=True)
class Perplexity(TextLoss):
    """The loss of a text, with its sum `total` and what measuring it took."""

    active_share: Share
    selected_share: Share
    tokens_per_s: float
    total: float


def token_scores(lease: Lease, ids: IntArray, top: int, mode: str) -> Iterator[TokenScore]:
    """The score of each token except the first; see `Model.token_scores`."""
    for rows, targets in _predictions(lease, ids, mode):
        for row, target in zip(rows, targets, strict=True):
            yield score(row, int(target), top)


def windows_loss(
    lease: Lease,
    ids: IntArray,
    context: int,
    mode: str,
    progress: Callable[[int, int, float], object] | None,
) -> tuple[float, int, float]:
    """The sum of -log p, in nats, over all tokens but the first of each window of `context` tokens;
    how many tokens those are; and the seconds spent. See `Model.perplexity`."""
    loss, scored, seconds = 0.0, 0, 0.0
    for start, window in windows_of(ids, context):
        began = time.perf_counter()
        loss += _window_loss(lease, window, mode)
        seconds += time.perf_counter() - began
        scored += len(window) - 1
        if progress is not None:
            progress(start + len(window), len(ids), float(np.exp(loss / scored)))
    return loss, scored, seconds


def windows_of(ids: IntArray, context: int) -> Iterator[tuple[int, IntArray]]:
    """Consecutive windows of `context` token ids, the last one shorter, each with where it begins.
    A single token that is left is none."""
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        if len(window) > 1:
            yield start, window


def _window_loss(lease: Lease, window: IntArray, mode: str) -> float:
    """The sum over the window's tokens but the first of -log p, in nats."""
    total = 0.0
    for rows, targets in _predictions(lease, window, mode):
        greatest = rows.max(axis=1)
        sums = np.exp(rows - greatest[:, None]).sum(axis=1, dtype=np.float64)
        wanted = rows[np.arange(len(rows)), targets].astype(np.float64)
        total += float((np.log(sums) + greatest - wanted).sum())
    return total


def _predictions(lease: Lease, ids: IntArray, mode: str) -> Iterator[tuple[FloatArray, IntArray]]:
    """The logits (n, vocab) after each token but the last, in batches, with the tokens (n,) that
    come next. The arrays of logits are used again for the next batch. Between two batches other
    runs may go on."""
    logits = np.empty((min(BATCH, len(ids)), lease.vocab), np.float32)
    for start in range(0, len(ids) - 1, BATCH):
        batch = ids[start : min(start + BATCH, len(ids) - 1)]
        rows = logits[: len(batch)]
        with lease.lock:
            lease.holding(ids[:start].tolist(), mode).evaluate(batch, rows)
        yield rows, ids[start + 1 : start + 1 + len(batch)]


def continuation_ids(model: Model, context: str, continuation: str) -> tuple[list[int], int]:
    """The token ids of a text in two parts, in which names of control tokens are plain text, and
    the place of the first token of the second part, at least 1. Spaces between the two are the
    continuation's, since tokens usually begin with them.

    Errors: `ArgumentError` (nothing to score, no token before it), `ContextFullError`.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    ids = model.prompt_ids(model.tokenize(stripped + continuation, special=False))
    first = len(model.tokenize(stripped, special=False)) if stripped else 0
    if not first and ids[0] != model.tokenizer.bos and model.tokenizer.bos is not None:
        ids = model.prompt_ids([model.tokenizer.bos, *ids])
    first = max(first, 1)
    if first >= len(ids):
        raise ArgumentError("continuation: there is no token to score")
    return ids, first
