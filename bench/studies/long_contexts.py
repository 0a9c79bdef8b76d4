"""Prompts, and decoding after them, by the format of keys and values, in turns, beside llama.cpp:

    python -m bench.studies.long_contexts MODEL.gguf --tokens 8000 --llama-bench LLAMA-BENCH

By processor time, which other work on the machine disturbs less than the clock; that of llama.cpp
is what further repetitions of its own benchmark take, with flash attention and without.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import time
from collections.abc import Callable

import numpy as np

from sparsefire import Model
from sparsefire.core import hosts

DECODED = 32  # tokens
MORE = 8  # repetitions of llama.cpp's decoding, each of which restores the state after the prompt


def main() -> None:
    """Prints a line for each: medians of tokens in a second of processor time."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.long_contexts",
        description="Prompts, and decoding after them, by the format of keys and values.",
    )
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--tokens", type=int, default=8000, help="of the prompt; default 8000")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--isa", nargs="+", default=["avx512"], help="as --isa takes them")
    parser.add_argument("--formats", nargs="+", default=["f32", "f16", "q8_0"])
    parser.add_argument("--llama-bench", help="llama.cpp's own benchmark, to compare with")
    arguments = parser.parse_args()
    runs: dict[str, Callable[[int], tuple[float, float]]] = {}
    for isa in arguments.isa:
        core = hosts.open_core("native", isa, threads=arguments.threads)
        for kind in arguments.formats:
            context = arguments.tokens + DECODED
            model = Model.load(
                arguments.model, context=context, core=core, k_format=kind, v_format=kind
            )
            runs[f"{isa}, {kind}"] = ours(model, arguments.tokens)
    if arguments.llama_bench:
        for flash in ("0", "1"):
            runs[f"llama.cpp, -fa {flash}"] = peer(arguments, flash)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(arguments.repeats):
        for name, run in runs.items():
            found[name].append(run(repeat))
    for name, each in found.items():
        prompt, decode = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{name}: prompt {prompt:.0f} tokens/s, decode {decode:.1f} tokens/s")


def ours(model: Model, tokens: int) -> Callable[[int], tuple[float, float]]:
    """Speeds of the prompt and of decoding."""

    def run(repeat: int) -> tuple[float, float]:
        ids = np.random.default_rng(repeat).integers(0, model.config.vocab, tokens + DECODED)
        with contextlib.closing(model.new_session(tokens + DECODED)) as session:
            start = time.process_time()
            model.evaluate([(session, ids[:tokens])], phase="prompt", mode="dense")
            prompted = time.process_time()
            for token in ids[tokens:].tolist():
                session.step(token)
            return tokens / (prompted - start), DECODED / (time.process_time() - prompted)

    return run


def peer(arguments: argparse.Namespace, flash: str) -> Callable[[int], tuple[float, float]]:
    """The same of llama.cpp."""

    def seconds(more: int, *test: str) -> float:
        command = (arguments.llama_bench, "-m", arguments.model, "-t", str(arguments.threads))
        used = []
        for repeats in (1, 1 + more):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                (*command, "-fa", flash, "-r", str(repeats), "--no-warmup", *test),
                check=True,
                capture_output=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return (used[1] - used[0]) / more

    def run(_repeat: int) -> tuple[float, float]:
        tokens = str(arguments.tokens)
        prompt = seconds(1, "-p", tokens, "-n", "0")
        decode = seconds(MORE, "-p", "0", "-n", str(DECODED), "-d", tokens)
        return arguments.tokens / prompt, DECODED / decode

    return run


if __name__ == "__main__":
    main()
