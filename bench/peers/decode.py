"""SmolLM2, dense: tokens per second and prompt processing against llama.cpp on the same file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sparsefire as sf
from sparsefire.core import hosts

from ..lib.command import Effort
from ..lib.llama import LlamaModel
from ..lib.peer_files import smollm2_as
from ..lib.rows import Row
from ..lib.timing import interleave

FORMATS = ("q8_0", "q4_0", "q4_1", "f16")
TOKENS = 16  # a repetition evaluates so many, one by one
PROMPT = 128


def rows(effort: Effort) -> Iterator[Row]:
    """Each format on 1 and 2 threads: decoding, then prompts."""
    for threads in effort.some((1, 2)):
        core = hosts.open_core("native", threads=threads)
        for format in effort.some(FORMATS):
            path = smollm2_as(format)
            model = sf.Model.load(path, context=1024, core=core)
            peer = LlamaModel(path, threads)
            yield from _compare(model, peer, f"SmolLM2 {format}", threads, effort)


def _compare(
    model: sf.Model, peer: LlamaModel, name: str, threads: int, effort: Effort
) -> Iterator[Row]:
    """The rows of one model file: decoding, then the prompt."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab, PROMPT + TOKENS).tolist()
    session = model.new_session(1024)
    name = f"{name}, {threads} thread{'s' if threads > 1 else ''}"

    def ours_decode(_index: int) -> None:
        session.rewind(PROMPT, "dense")
        for token in ids[PROMPT:]:
            session.step(token)

    def peer_decode(_index: int) -> None:
        for token in ids[PROMPT:]:
            peer.feed([token])

    session.feed(ids[:PROMPT], "dense")
    peer.restart()
    peer.feed(ids[:PROMPT])
    # llama.cpp goes on from where it is: 1,024 tokens hold 40 repetitions of 16 and the prompt.
    runs = {"ours": ours_decode, "again": ours_decode, "llama.cpp": peer_decode}
    times = interleave(runs, effort.seconds(8.0), 40)
    speed = TOKENS / times["ours"].median
    yield Row.compare("decode", f"{name}: decode {speed:.0f} tokens/s dense", times)

    def ours_prompt(_index: int) -> None:
        session.rewind(0, "dense")
        session.feed(ids[:PROMPT], "dense")

    def peer_prompt(_index: int) -> None:
        peer.restart()
        peer.feed(ids[:PROMPT])

    runs = {"ours": ours_prompt, "again": ours_prompt, "llama.cpp": peer_prompt}
    times = interleave(runs, effort.seconds(6.0))
    speed = PROMPT / times["ours"].median
    yield Row.compare("decode", f"{name}: prompt {speed:.0f} tokens/s", times)
