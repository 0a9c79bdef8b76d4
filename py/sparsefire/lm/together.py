"""Tokens of several sessions in one evaluation, for which rows of weights are read once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray, IntArray
from ..core.enums import EvalStatus, Limit
from ..errors import ArgumentError, ContextFullError, NotFiniteError
from ..ffn.forward import MODES
from .session import Session, phase_of


def evaluate_together(
    parts: Sequence[tuple[Session, IntArray]],
    mode: str,
    vocab: int,
    *,
    mark: int,
    rows: Sequence[int] | None = None,
) -> FloatArray:
    """Appends each session's tokens, int32 (n,) with n ≥ 1; the logits after the last one of each,
    float32 (sessions, vocab), or after the last `rows` (sessions,) of each, one session after the
    other. What a session's tokens give does not depend on the others.

    mark: what evaluates them; see `Session.marks`.

    Errors: `ArgumentError` (no session, one twice, one of another model or mode, no tokens),
    `ContextFullError`, `NotFiniteError`, `ModelFileError` (the file was changed). After an error no
    session has changed, except that those are empty that cannot go back: see `Session.rewind`.
    """
    _check(parts, mode)
    first = parts[0][0]
    owners = [session for session, tokens in parts for _ in tokens]
    tokens = np.concatenate([tokens for _, tokens in parts])
    wanted = np.zeros(len(tokens), np.int32)
    ends = np.cumsum([len(tokens) for _, tokens in parts])
    for end, count in zip(ends, rows or [1] * len(parts), strict=True):
        wanted[end - count : end] = 1
    logits = np.empty((int(wanted.sum()), vocab), np.float32)
    done = 0
    most = len(tokens) if first.model.neurons is None else Limit.BATCH
    for start in range(0, len(tokens), most):
        span = slice(start, start + most)
        count = int(wanted[span].sum())
        _call(owners[span], tokens[span], wanted[span], mode, mark, logits[done : done + count])
        done += count
    return logits


def _check(parts: Sequence[tuple[Session, IntArray]], mode: str) -> None:
    if not parts:
        raise ArgumentError("evaluate: expected at least one session with its tokens")
    sessions = [session for session, _ in parts]
    if len({id(session) for session in sessions}) < len(sessions):
        raise ArgumentError("evaluate: a session may come once")
    for index, (session, tokens) in enumerate(parts):
        if session.model is not sessions[0].model:
            raise ArgumentError(f"evaluate: session {index} is of another model")
        if not len(tokens):
            raise ArgumentError(f"evaluate: session {index} has no tokens")
        if session.tokens and session.mode != mode:
            raise ArgumentError(
                f"evaluate: session {index} holds tokens in {session.mode} mode, not {mode}; "
                "rewind it first"
            )
        room = session.context - len(session.tokens)
        if len(tokens) > room:
            raise ContextFullError(
                f"evaluate: the context of session {index} holds {session.context} tokens, of "
                f"which {room} are free, not {len(tokens)}"
            )


def _call(
    owners: list[Session],
    tokens: IntArray,
    wanted: npt.NDArray[np.int32],
    mode: str,
    mark: int,
    logits: FloatArray,
) -> None:
    """One call of the core."""
    model, core = owners[0].model, owners[0].core
    model.check_file()
    handles = np.array([session.handle for session in owners], core.pointer_dtype)
    tokens, wanted = np.ascontiguousarray(tokens), np.ascontiguousarray(wanted)
    out = core.out(logits) if len(logits) else None
    given = core.inp(handles), core.inp(tokens), core.inp(wanted), len(tokens), MODES[mode]
    what = "evaluating tokens of several sessions"
    if model.neurons is not None:
        model.neurons.settle()
    try:
        status = core.check(
            "sf_model_eval", model.handle, *given, phase_of(mark), out, len(logits), what=what
        )
        while status == EvalStatus.WAITING:
            owners[0].read_missing()
            status = core.check("sf_model_resume", model.handle, out, what=what)
    except BaseException as error:
        if model.neurons is not None:
            model.neurons.settle()
        for session in owners:
            session.rewind(len(session.tokens), session.mode)
        if isinstance(error, NotFiniteError):
            raise NotFiniteError(f"{error}; {model.why_not_finite()}") from None
        raise
    for session, token in zip(owners, tokens.tolist(), strict=True):
        session.mode = mode
        session.appended(token, mark)
