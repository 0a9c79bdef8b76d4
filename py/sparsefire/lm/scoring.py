"""How likely a model finds given tokens: scores, losses and perplexity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import FloatArray, IntArray
from ..errors import ArgumentError
from .sampling import TokenScore, score
from .session import scored_at_once
from .sessions import Lease
from .stats import Share

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer
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


def perplexity_of(loss: float, scored: float) -> float:
    """exp of the mean of ``scored`` losses with this sum; infinite where no float holds it, as of a
    damaged model."""
    with np.errstate(over="ignore"):
        return float(np.exp(loss / scored))


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
            progress(start + len(window), len(ids), perplexity_of(loss, scored))
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
    step = scored_at_once(lease.vocab)
    logits = np.empty((min(step, len(ids)), lease.vocab), np.float32)
    for start in range(0, len(ids) - 1, step):
        batch = ids[start : min(start + step, len(ids) - 1)]
        rows = logits[: len(batch)]
        with lease.lock:
            lease.holding(ids[:start].tolist(), mode).evaluate(batch, rows, lease.scored)
        yield rows, ids[start + 1 : start + 1 + len(batch)]


def continuation_ids(model: Model, context: str, continuation: str) -> tuple[list[int], int]:
    """`pair_ids`, checked as `scored_ids`, with names of control tokens as plain text."""
    ids, first = pair_ids(model.tokenizer, context, continuation, special=False)
    return scored_ids(model, ids), first


def pair_ids(
    tokenizer: Tokenizer, context: str, continuation: str, *, special: bool
) -> tuple[list[int], int]:
    """The token ids of a text in two parts, and the place of the first token of the second part, at
    least 1. Spaces between the two are the continuation's, since tokens usually begin with them.
    `special`: see `Tokenizer.encode`. `ArgumentError` if there is nothing to score."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    ids = tokenizer.encode(stripped + continuation, special=special)
    first = len(tokenizer.encode(stripped, special=special)) if stripped else 0
    if not first and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids = [tokenizer.bos, *ids]
    first = max(first, 1)
    if first >= len(ids):
        raise ArgumentError("continuation: there is no token to score")
    return ids, first


def scored_ids(model: Model, ids: Sequence[int]) -> list[int]:
    """Token ids, checked. The last one is predicted, never evaluated, and needs no room in the
    context. Errors: `ArgumentError` (no such token, none), `ContextFullError`."""
    return [*model.prompt_ids(ids[:-1]), *model.prompt_ids(ids[-1:])]


def rolling_windows(ids: Sequence[int], context: int) -> Iterator[tuple[Sequence[int], int]]:
    """Windows in which each token but the first is scored once, after as many tokens as fit into
    `context`: the tokens of each, and the place of the first that is scored."""
    done = 1
    while done < len(ids):
        end = min(done + context, len(ids))
        start = max(0, end - context - 1)
        yield ids[start:end], done - start
        done = end
