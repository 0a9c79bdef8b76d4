"""Speed of the modes of a model, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from .model import Model
from .session import Session

_BLOCK = 16  # tokens that a mode evaluates at a stretch


def compare_modes(
    model: Model,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    modes: Sequence[str],
    seconds: float = 10.0,
) -> dict[str, float]:
    """Tokens per second of each mode, evaluating the same tokens after the same prompt.

    The modes take turns, some tokens each, so that what else the machine does slows all of them
    alike; who begins changes too. What counts is the median time of a token. After about `seconds`
    no further turn begins. There must be at least one token.
    """
    length = len(prompt_ids) + len(token_ids)
    sessions = {mode: model.new_session(length) for mode in modes}
    spent: dict[str, list[float]] = {mode: [] for mode in modes}
    began = time.perf_counter()
    try:
        for mode, session in sessions.items():
            session.feed(prompt_ids, mode)
        order = list(modes)
        for start in range(0, len(token_ids), _BLOCK):
            if start and time.perf_counter() - began > seconds:
                break
            block = token_ids[start : start + _BLOCK]
            for mode in order:
                spent[mode] += _seconds(sessions[mode], block)
            order.reverse()
    finally:
        for session in sessions.values():
            session.close()
    return {mode: 1 / statistics.median(times) for mode, times in spent.items()}


def _seconds(session: Session, tokens: Sequence[int]) -> list[float]:
    """How long evaluating each of the tokens, one by one, takes."""
    found = []
    for token in tokens:
        started = time.perf_counter()
        session.step(token)
        found.append(time.perf_counter() - started)
    return found
