"""One side of `bench.versions`: runs in an interpreter of its own and imports the sparsefire that
is installed there, by public names alone, so that versions with other modules inside can be
compared. Reads messages as lines of JSON, and answers each with a line: to a case, the seconds of
one call, or null when the case cannot be run; to `run`, the seconds of so many calls."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

import sparsefire as sf

INPUTS, PROMPT, TOKENS = 32, 32, 16

Run = Callable[[], object]


def layer(case: dict[str, Any]) -> Run:
    """A function that sends one vector through a gated layer in which a tenth of the neurons is
    active: by its predictor in sparse mode, by its gates in exact mode."""
    d, hidden = case["shape"]
    random = np.random.default_rng(0)
    gate, up, down = (random.standard_normal((hidden, d), np.float32) * d**-0.5 for _ in range(3))
    bias = np.full(
        hidden, NormalDist().inv_cdf(0.1) if case["mode"] == "exact" else 8.0, np.float32
    )
    ffn = sf.SparseFfn(up, down.T, "relu", gate=gate, gate_bias=bias, format=case["format"])
    rule = sf.SparsityConfig.with_top_k(hidden // 10)
    ffn.set_predictor(sf.LowRankPredictor(d, hidden, 128, rule, format="q8_0"))
    inputs = random.standard_normal((INPUTS, d), np.float32)
    out = np.empty(d, np.float32)
    turn = 0

    def run() -> None:
        nonlocal turn
        turn += 1
        ffn.forward(inputs[turn % INPUTS], mode=case["mode"], out=out)

    return run


def decode(case: dict[str, Any]) -> Run | None:
    """A function that evaluates one token after a prompt; None when the model lacks the mode."""
    model = sf.Model.load(case["model"], context=PROMPT + TOKENS)
    ids = np.random.default_rng(0).integers(0, model.config.vocab, PROMPT + TOKENS).tolist()
    session = model.new_session(PROMPT + TOKENS)
    try:
        session.feed(ids[:PROMPT], case["mode"])
    except sf.SparsefireError:
        return None
    done = 0

    def run() -> None:
        nonlocal done
        if done == TOKENS:
            session.rewind(PROMPT, case["mode"])
            done = 0
        session.step(ids[PROMPT + done])
        done += 1

    return run


def prompt(case: dict[str, Any]) -> Run:
    """A function that evaluates a prompt of so many tokens, dense."""
    tokens = case["tokens"]
    model = sf.Model.load(case["model"], context=tokens)
    ids = np.random.default_rng(0).integers(0, model.config.vocab, tokens).tolist()
    return lambda: model.new_session(tokens).feed(ids, "dense")


def seconds(run: Run, calls: int) -> float:
    """Of ``calls`` calls."""
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - began


def main() -> None:
    """Answers messages until there are no more."""
    run: Run | None = None
    for line in sys.stdin:
        message = json.loads(line)
        answer: float | None = None
        if message["kind"] == "run" and run is not None:
            answer = seconds(run, message["calls"])
        else:
            run = None  # its memory is needed
            sf.use_backend(message["backend"], threads=message["threads"])
            run = {"layer": layer, "decode": decode, "prompt": prompt}[message["kind"]](message)
            if run is not None:
                warm = 1 if message["kind"] == "prompt" else TOKENS
                seconds(run, warm)
                answer = seconds(run, warm) / warm
        print(json.dumps(answer), flush=True)


main()
