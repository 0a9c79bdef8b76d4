"""Decoding speed of a model in each mode, with each head, or of any sessions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from .model import Model
from .session import Session

PROMPT_TOKENS, SPEED_TOKENS = 32, 192  # of a text on which modes are compared
_SPEED_SECONDS = 6.0
_BLOCK = 8  # tokens of one turn


def compare_modes(
    model: Model,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    modes: Sequence[str],
    seconds: float = 10.0,
) -> dict[str, float]:
    """Tokens per second of each mode, evaluating the same tokens after the same prompt.

    The modes take turns of a few tokens, in alternating order, so that other load on the machine
    slows all of them alike. The speed is that of the median token. After about `seconds` no further
    turn begins. `token_ids` must not be empty.
    """
    length = len(prompt_ids) + len(token_ids)
    sessions = {mode: model.new_session(length) for mode in modes}
    try:
        for mode, session in sessions.items():
            session.feed(prompt_ids, mode)
        return compare_sessions(sessions, token_ids, seconds)
    finally:
        for session in sessions.values():
            session.close()


def compare_with_dense(model: Model, token_ids: Sequence[int], mode: str) -> tuple[float, float]:
    """Tokens a second of a mode, and of dense decoding, on the beginning of a text, as much as the
    context has room for."""
    ids = token_ids[: min(PROMPT_TOKENS + SPEED_TOKENS, model.context)]
    prompt, rest = ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]
    speeds = compare_modes(model, prompt, rest, ("dense", mode), _SPEED_SECONDS)
    return speeds[mode], speeds["dense"]


def compare_heads(
    model: Model, prompt_ids: Sequence[int], token_ids: Sequence[int], seconds: float = 10.0
) -> dict[str, float]:
    """The same for "dense" and "screened" heads, in the model's default mode."""
    length = len(prompt_ids) + len(token_ids)
    sessions = {head: model.new_session(length) for head in ("screened", "dense")}
    try:
        for head, session in sessions.items():
            session.set_head(head == "screened")
            session.feed(prompt_ids, model.config.default_mode)
        return compare_sessions(sessions, token_ids, seconds)
    finally:
        for session in sessions.values():
            session.close()


def compare_sessions(
    sessions: Mapping[str, Session],
    token_ids: Sequence[int],
    seconds: float = 10.0,
    before: Callable[[str], object] = lambda _: None,
) -> dict[str, float]:
    """Tokens per second of each session, all of which hold the same prompt and take turns as those
    of `compare_modes`. ``before`` is called with a session's name before its turn, untimed."""
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    began = time.perf_counter()
    order = list(sessions)
    for start in range(0, len(token_ids), _BLOCK):
        if start and time.perf_counter() - began > seconds:
            break
        block = token_ids[start : start + _BLOCK]
        for name in order:
            before(name)
            spent[name] += _seconds(sessions[name], block)
        order.reverse()
    return {name: 1 / statistics.median(times) for name, times in spent.items()}


def _seconds(session: Session, tokens: Sequence[int]) -> list[float]:
    """The seconds that each of the tokens takes, evaluated one by one."""
    found = []
    for token in tokens:
        started = time.perf_counter()
        session.step(token)
        found.append(time.perf_counter() - started)
    return found
