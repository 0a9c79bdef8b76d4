"""SmolLM2, dense, beside the programs llama-bench of llama.cpp and ik_llama.cpp, each with its best
options: prompts and decoding."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal

import numpy as np

import sparsefire as sf
from sparsefire.core import hosts

from ..lib.command import Effort
from ..lib.llama_bench import OPTIONS, programs, seconds
from ..lib.peer_files import smollm2_as
from ..lib.rows import Row
from ..lib.timing import Times

FORMATS = ("q4_0", "q8_0", "q4_1", "q4_k", "f16")
TESTS: dict[Literal["prompt", "decode"], int] = {"prompt": 512, "decode": 64}  # tokens
ROUNDS = 7


def rows(effort: Effort) -> Iterator[Row]:
    """Each format on 1 and 2 threads: prompts, then decoding, beside each program with the options
    that are its fastest. With AMX also without it, since ik_llama.cpp has no products of tiles."""
    found = programs()
    isas = ("amx", "avx512_vnni") if hosts.open_core("native").isa == "amx" else (None,)
    for threads in effort.some((1, 2)):
        cores = [hosts.open_core("native", isa, threads=threads) for isa in isas]
        for format in effort.some(FORMATS):
            path = smollm2_as(format)
            models = {core.isa: sf.Model.load(path, context=1024, core=core) for core in cores}
            for test, tokens in TESTS.items():
                runs = {isa: partial(_ours, model, test, tokens) for isa, model in models.items()}
                runs |= {f"{isa} again": run for isa, run in runs.items()}
                for name, program in found.items():
                    run = partial(seconds, program, path, threads, test, tokens)
                    runs |= {_way(name, way): partial(run, options=way) for way in OPTIONS[name]}
                times = _turns(runs, 2 if effort.quick else ROUNDS)
                s = "s" if threads > 1 else ""
                for isa, name in itertools.product(models, found):
                    ways = [_way(name, way) for way in OPTIONS[name]]
                    best = min(ways, key=lambda way: times[way].median)
                    speed = tokens / times[isa].median
                    what = (
                        f"SmolLM2 {format}, {isa}, {threads} thread{s}: {test} {speed:.0f} tokens/s"
                    )
                    yield Row.compare("programs", what, times, isa, best, f"{isa} again")


def _way(program: str, options: tuple[str, ...]) -> str:
    return f"{program} {' '.join(options)}"


def _turns(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Times]:
    """Seconds of each side in each round; the first, which is not counted, warms up."""
    taken: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(rounds + 1):
        for side, run in runs.items():
            taken[side].append(run())
    return {side: Times(tuple(each[1:])) for side, each in taken.items()}


def _ours(model: sf.Model, test: str, tokens: int) -> float:
    """The seconds that a prompt of random tokens takes, or decoding them after one token."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab, tokens + 1).tolist()
    with contextlib.closing(model.new_session(tokens + 1)) as session:
        if test == "decode":
            session.feed(ids[:1], "dense")
        began = time.perf_counter()
        if test == "prompt":
            session.feed(ids[:tokens], "dense")
        else:
            for token in ids[1:]:
                session.step(token)
        return time.perf_counter() - began
