"""SmolLM2, dense: tokens per second and prompt processing against llama.cpp on the same file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sparsefire as sf
from llama_decode import LlamaModel
from peer_files import smollm2_as
from rows import Row
from sparsefire.core import hosts
from timing import Times, interleave

FORMATS = ("q8_0", "q4_0", "q4_1", "f16")
TOKENS = 16  # a repetition evaluates so many, one by one
PROMPT = 128


def rows() -> Iterator[Row]:
    """Each format on 1 and 2 threads: decoding, then prompts."""
    for threads in (1, 2):
        core = hosts.open_core("native", threads=threads)
        for format in FORMATS:
            path = smollm2_as(format)
            model = sf.Model.load(path, context=1024, core=core)
            yield from compare(model, LlamaModel(path, threads), f"SmolLM2 {format}", threads)


def compare(
    model: sf.Model,
    peer: LlamaModel,
    name: str,
    threads: int,
    mode: str = "dense",
    target: float = 1.0,
) -> Iterator[Row]:
    """The rows of one model file: decoding, and for dense ones the prompt."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab, PROMPT + TOKENS).tolist()
    session = model.new_session(1024)
    name = f"{name}, {threads} thread{'s' if threads > 1 else ''}"

    def ours_decode(_index: int) -> None:
        session.rewind(PROMPT, mode)
        for token in ids[PROMPT:]:
            session.step(token)

    def peer_decode(_index: int) -> None:
        for token in ids[PROMPT:]:
            peer.feed([token])

    session.feed(ids[:PROMPT], mode)
    peer.restart()
    peer.feed(ids[:PROMPT])
    # llama.cpp goes on from where it is: 1,024 tokens hold 40 repetitions of 16 and the prompt.
    times = interleave(
        {"ours": ours_decode, "again": ours_decode, "llama.cpp": peer_decode}, 8.0, 40
    )
    what = f"{name}: decode {TOKENS / times['ours'].median:.0f} tokens/s {mode}"
    yield _row(what, target, times)
    if mode != "dense":
        return

    def ours_prompt(_index: int) -> None:
        session.rewind(0, mode)
        session.feed(ids[:PROMPT], mode)

    def peer_prompt(_index: int) -> None:
        peer.restart()
        peer.feed(ids[:PROMPT])

    times = interleave({"ours": ours_prompt, "again": ours_prompt, "llama.cpp": peer_prompt}, 6.0)
    yield _row(f"{name}: prompt {PROMPT / times['ours'].median:.0f} tokens/s", 0.7, times)


def _row(what: str, target: float, times: dict[str, Times]) -> Row:
    return Row.compare(
        "decode", what, target, times["ours"], times["again"], times["llama.cpp"], "llama.cpp"
    )
