"""How far one way to compute a model is from another one, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import FloatArray, IntArray
from ..lm.scoring import perplexity_of
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
    """Of two sessions, each with its mode, over all tokens but the last of the windows (n, length),
    or of one from itself; ``mark``: the products that evaluate them, see `Session.evaluate`."""
    scored, kl, same, loss, dense_loss = sum(
        (_compared(one, exact, window, mark) for window in windows), np.zeros(5)
    )
    perplexities = perplexity_of(loss, scored), perplexity_of(dense_loss, scored)
    return Divergence(float(kl / scored), float(same / scored), *perplexities)


def _compared(one: tuple[Session, str], exact: tuple[Session, str], window: Any, mark: int) -> Any:
    """Over a window's tokens but the last: their number, and sums of the divergence, of the same
    most likely tokens, and of -log p of both."""
    totals, ids = np.zeros(5), np.asarray(window, np.int32)
    sessions = {id(session): (session, mode) for session, mode in (one, exact)}
    for session, mode in sessions.values():
        session.rewind(0, mode)
    step = scored_at_once(one[0].vocab)
    for start in range(0, len(ids) - 1, step):
        batch = np.ascontiguousarray(ids[start : min(start + step, len(ids) - 1)])
        logits = {}
        for name, (session, _) in sessions.items():
            logits[name] = np.empty((len(batch), session.vocab), np.float32)
            session.evaluate(batch, logits[name], mark)
        both = (logits[id(session)] for session, _ in (one, exact))
        targets = ids[start + 1 :][: len(batch)]
        for found, wanted, target in zip(*both, targets, strict=True):
            totals += _sums(found, wanted, int(target))
    return totals


def _sums(found: FloatArray, exact: FloatArray, target: int) -> Any:
    (above, masses), (exact_above, exact_masses) = _masses(found), _masses(exact)
    log, exact_log = (math.log(each.sum(dtype=np.float64)) for each in (masses, exact_masses))
    # Of differences, whose sum is as small as they are.
    kl = float(exact_masses @ (exact_above - above)) / math.exp(exact_log) + log - exact_log
    same = found.argmax() == exact.argmax()
    losses = log - above[target], exact_log - exact_above[target]
    return np.array([1, kl, same, *losses], np.float64)


def _masses(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The logits over the largest one, and exp of that."""
    above = logits - logits.max()
    return above, np.exp(above)
