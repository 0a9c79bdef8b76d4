"""How far one way to compute a model is from another one, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import FloatArray, IntArray
from ..lm.session import PROMPTED, Session, scored_at_once


@dataclass(frozen=True)
class Divergence:
    """The mean Kullback-Leibler divergence from the exact distribution in nats, the share of tokens
    whose most likely one is the same, and both perplexities."""

    kl: float
    agreement: float
    perplexity: float
    perplexity_dense: float


def divergence(
    one: tuple[Session, str], exact: tuple[Session, str], windows: IntArray, mark: int = PROMPTED
) -> Divergence:
    """Of two sessions, each with its mode, over all tokens but the last of the windows (n, length);
    ``mark``: the products that evaluate them, see `Session.evaluate`."""
    scored, kl, same, loss, dense_loss = sum(
        (_compared(one, exact, window, mark) for window in windows), np.zeros(5)
    )
    perplexities = float(np.exp(loss / scored)), float(np.exp(dense_loss / scored))
    return Divergence(float(kl / scored), float(same / scored), *perplexities)


def _compared(one: tuple[Session, str], exact: tuple[Session, str], window: Any, mark: int) -> Any:
    """Over a window's tokens but the last: their number, and sums of the divergence, of the same
    most likely tokens, and of -log p of both."""
    totals, ids = np.zeros(5), np.asarray(window, np.int32)
    for session, mode in (one, exact):
        session.rewind(0, mode)
    step = scored_at_once(one[0].vocab)
    for start in range(0, len(ids) - 1, step):
        batch = np.ascontiguousarray(ids[start : min(start + step, len(ids) - 1)])
        both = []
        for session, _ in (one, exact):
            logits = np.empty((len(batch), session.vocab), np.float32)
            session.evaluate(batch, logits, mark)
            both.append(logits)
        targets = ids[start + 1 :][: len(batch)]
        for found, wanted, target in zip(*both, targets, strict=True):
            totals += _sums(found, wanted, int(target))
    return totals


def _sums(found: FloatArray, exact: FloatArray, target: int) -> Any:
    logs = []
    for each in (found, exact):
        logits = each - each.max()
        logs.append(logits - np.log(np.exp(logits).sum(dtype=np.float64)).astype(np.float32))
    kl = (np.exp(logs[1]) * (logs[1] - logs[0])).sum(dtype=np.float64)
    same = found.argmax() == exact.argmax()
    return np.array([1, kl, same, -logs[0][target], -logs[1][target]], np.float64)
