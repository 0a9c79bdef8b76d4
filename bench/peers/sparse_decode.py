"""Decoding of naturally sparse models: sparse against our own dense and against llama.cpp, which
reads a file of the same sizes densely."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sparsefire as sf
from sparsefire.core import hosts

from ..lib.big_model import BIG, TINY, plain_model, sparse_model
from ..lib.command import Effort
from ..lib.llama import LlamaModel
from ..lib.rows import Row
from ..lib.timing import interleave

TOKENS, START = 32, 32
PROMPT = "The people of the United States"


def rows(effort: Effort) -> Iterator[Row]:
    """The embedded model, then the large one, on 1 and 2 threads."""
    core = hosts.open_core("native", threads=1)
    model = sf.Model.load(core=core)
    yield from _compare(model, "embedded model, 1 thread", _own_text(model), None, effort)
    sizes = TINY if effort.quick else BIG
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        model = sf.Model.load(sparse_model(sizes), context=1024, core=core)
        name = f"{sizes.name}, random weights, {threads} thread{'s' if threads > 1 else ''}"
        # Its answers mean nothing, whatever it is asked.
        ids = np.random.default_rng(0).integers(0, model.config.vocab, START + 8).tolist()
        yield from _compare(model, name, ids, LlamaModel(plain_model(sizes), threads), effort)


def _own_text(model: sf.Model) -> list[int]:
    """Tokens of a text by the model: dense and drawn, so as not to favour what sparsity keeps."""
    ids = model.tokenizer.encode(PROMPT)
    session = model.new_session(START + TOKENS)
    logits, random = session.feed(ids, "dense"), np.random.default_rng(0)
    while len(ids) < START + TOKENS:
        weights = np.exp(logits.astype(np.float64) - logits.max())
        ids.append(int(random.choice(len(weights), p=weights / weights.sum())))
        logits = session.step(ids[-1])
    session.close()
    return ids


def _compare(
    model: sf.Model, name: str, ids: list[int], peer: LlamaModel | None, effort: Effort
) -> Iterator[Row]:
    sessions = {mode: model.new_session(len(ids)) for mode in ("sparse", "dense")}
    for mode, session in sessions.items():
        session.feed(ids[:START], mode)

    def decode(mode: str) -> None:
        session = sessions[mode]
        session.rewind(START, mode)
        for token in ids[START:]:
            session.step(token)

    runs = {
        "sparse": lambda _i: decode("sparse"),
        "again": lambda _i: decode("sparse"),
        "dense": lambda _i: decode("dense"),
    }
    if peer is not None:
        peer.restart()
        peer.feed(ids[:START])

        def peer_decode(_index: int) -> None:
            for token in ids[START:]:
                peer.feed([token])

        runs["llama.cpp"] = peer_decode
    times = interleave(runs, effort.seconds(10.0), 60)
    speed = (len(ids) - START) / times["sparse"].median
    for other in ("dense", "llama.cpp"):
        if other in times:
            what = f"{name}: sparse {speed:.0f} tokens/s against {other}"
            yield Row.compare("sparse-decode", what, times, "sparse", other)
