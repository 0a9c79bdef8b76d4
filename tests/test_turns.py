"""Prompts and decoding are multiplied differently: which of them a token belongs to follows from
the text and from what was decoded, never from what a cache holds, nor from slices or neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from model_variants import variant_path
from sparsefire._arrays import FloatArray
from sparsefire.core.core import Core
from sparsefire.core.hosts import open_core
from sparsefire.lm.model import Model
from sparsefire.lm.session import SHORT_TURN, Session
from sparsefire.lm.sessions import MOST_SESSIONS

MODE = "dense"  # all of its products differ between the phases
IDS = np.random.default_rng(3).integers(5, 260, 100).tolist()
LENGTHS = (1, 2, SHORT_TURN - 1, SHORT_TURN, 20, 65, 67, 90)


@pytest.fixture
def model(host_core: Core) -> Iterator[Model]:
    with Model.load(variant_path("calibrated q8_0", context=150), core=host_core) as model:
        yield model


def bits(logits: FloatArray) -> bytes:
    return logits.tobytes()


def as_prompt(model: Model, ids: Sequence[int]) -> bytes:
    """The last logits of a prompt, a token after the other."""
    session = model.new_session(150)
    session.rewind(0, MODE)
    logits = np.empty((1, model.config.vocab), np.float32)
    for token in ids:
        session.evaluate(np.array([token], np.int32), logits)
    return bits(logits)


def decoded(session: Session, ids: Sequence[int]) -> bytes:
    """The last logits where each token is decoded after those in the cache."""
    for token in ids:
        logits = session.step(token)
    return bits(logits)


def emptied(model: Model) -> Session:
    session = model.new_session(150)
    session.rewind(0, MODE)
    return session


def test_the_length_of_a_turn_decides(model: Model) -> None:
    for length in LENGTHS:
        ids = IDS[:length]
        found = bits(emptied(model).feed(ids, MODE))
        prompted, stepped = as_prompt(model, ids), decoded(emptied(model), ids)
        # Elsewhere both phases use the same products.
        if model.core.isa.startswith(("amx", "avx512")):
            assert prompted != stepped, "the test would not see which it is"
        assert found == (stepped if length < SHORT_TURN else prompted), length


def test_what_a_cache_holds_does_not(model: Model) -> None:
    """Every prompt after every other that begins alike, and after itself."""
    alone = {length: bits(emptied(model).feed(IDS[:length], MODE)) for length in LENGTHS}
    session = model.new_session(150)
    for before in LENGTHS:
        for length in LENGTHS:
            session.feed(IDS[:before], MODE)
            for _ in range(2):
                assert bits(session.feed(IDS[:length], MODE)) == alone[length], (before, length)


@pytest.mark.parametrize("turn", [1, SHORT_TURN - 1, SHORT_TURN, 40])
def test_a_conversation_keeps_what_was_decoded(turn: int, model: Model) -> None:
    session = model.new_session(150)
    session.feed(IDS[:20], MODE)
    decoded(session, IDS[20:25])
    if turn < SHORT_TURN:
        expected = decoded(session, IDS[25 : 25 + turn])
    else:
        last = np.empty((1, model.config.vocab), np.float32)
        session.evaluate(np.array(IDS[25 : 25 + turn], np.int32), last)
        expected = bits(last)
    session.rewind(25, MODE)
    for end in (25 + turn, 25 + turn, 60, 25 + turn, 26, 25 + turn):  # back, on, and again
        found = bits(session.feed(IDS[:end], MODE))
        assert end != 25 + turn or found == expected


def test_a_lost_session_is_made_again(model: Model) -> None:
    """What a run decoded is decoded again, many tokens at once, after any contents."""
    for prompt in (3, 20):
        session = emptied(model)
        session.feed(IDS[:prompt], MODE)
        expected = decoded(session, IDS[prompt:90])
        other = model.new_session(150)
        for before in (1, prompt, 50, 100):
            other.feed(IDS[:before], MODE)
            for _ in range(2):
                found = other.feed(IDS[:90], MODE, decoded=90 - prompt)
                assert bits(found) == expected, (prompt, before)


def test_a_restored_session_goes_on_alike(model: Model) -> None:
    for prompt in (3, 20):
        session, other = model.new_session(150), model.new_session(150)
        session.feed(IDS[:prompt], MODE)
        decoded(session, IDS[prompt : prompt + 4])
        other.restore(session.save())
        for end in (prompt + 6, prompt + 30, prompt - 1, prompt + 12):
            assert bits(session.feed(IDS[:end], MODE)) == bits(other.feed(IDS[:end], MODE))


def test_neighbours_and_threads_do_not(model: Model) -> None:
    found = set()
    for threads in (1, 3):
        core = open_core("native", threads=threads)
        with Model.load(variant_path("calibrated q8_0", context=150), core=core) as other:
            for phase in ("prompt", "decode"):
                alone = other.evaluate([(other.new_session(150), IDS[:40])], mode=MODE, phase=phase)
                several = [(other.new_session(150), IDS[at : at + 40]) for at in (0, 7, 20)]
                together = other.evaluate(several, mode=MODE, phase=phase)
                assert bits(together[0]) == bits(alone[0])
                found.add((phase, bits(alone)))
    assert len(found) == 2


def test_runs_that_lose_their_sessions_give_the_same_text(model: Model) -> None:
    prompts = [IDS[at : at + 3 + at] for at in range(MOST_SESSIONS + 2)]
    alone = []
    for prompt in prompts:
        model.session.rewind(0, MODE)
        run = model.start(prompt, 10, temperature=0, mode=MODE, logprobs=0)
        alone.append([scored for piece in run for _, scored in piece.scores])
    runs = [model.start(each, 10, temperature=0, mode=MODE, logprobs=0) for each in prompts]
    found: list[list[object]] = [[] for _ in runs]
    going = list(enumerate(runs))
    while going:
        pieces = [(place, run, next(run, None)) for place, run in going]
        going = [(place, run) for place, run, piece in pieces if piece is not None]
        for place, _, piece in pieces:
            found[place] += [] if piece is None else [scored for _, scored in piece.scores]
    assert found == alone
