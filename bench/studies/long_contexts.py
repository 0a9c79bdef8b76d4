"""Prompts, decoding after them, and memory, by the format of keys and values, beside llama.cpp:

    python -m bench.studies.long_contexts MODEL.gguf --tokens 8000 --llama-bench LLAMA-BENCH

By processor time, which other work on the machine disturbs less than the clock, or with ``--clock``
by that, for several threads on an idle machine. That of llama.cpp is taken when its own benchmark
says that it goes on: with flash attention and without, and with keys and values in Q8_0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparsefire import Model
from sparsefire.core import hosts

DECODED = 32  # tokens
PEERS = {  # options of llama-bench
    "llama.cpp, f16": ("-fa", "0"),
    "llama.cpp, f16, flash attention": ("-fa", "1"),
    "llama.cpp, q8_0, flash attention": ("-fa", "1", "-ctk", "q8_0", "-ctv", "q8_0"),
}
KEPT = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB")


class Found(NamedTuple):
    """Tokens a second of a prompt and of decoding, and MiB of keys and values."""

    prompt: float
    decode: float
    kept: float


def main() -> None:
    """Prints a line of medians for each, and those of ours over the best of llama.cpp's."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.long_contexts",
        description="Prompts, decoding after them, and memory, by the format of keys and values.",
    )
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--tokens", type=int, default=8000, help="of the prompt; default 8000")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--isa", nargs="+", default=["avx512"], help="as --isa takes them")
    parser.add_argument("--formats", nargs="+", default=["f32", "f16", "q8_0"])
    parser.add_argument("--llama-bench", help="llama.cpp's own benchmark, to compare with")
    parser.add_argument("--clock", action="store_true", help="not by processor time")
    arguments = parser.parse_args()
    runs: dict[str, Callable[[int], Found]] = {}
    for isa in arguments.isa:
        core = hosts.open_core("native", isa, threads=arguments.threads)
        for kind in arguments.formats:
            context = arguments.tokens + DECODED
            model = Model.load(
                arguments.model, context=context, core=core, k_format=kind, v_format=kind
            )
            runs[f"{isa}, {kind}"] = ours(model, arguments)
    theirs = PEERS if arguments.llama_bench else {}
    runs |= {name: peer(arguments, options) for name, options in theirs.items()}
    found: dict[str, list[Found]] = {name: [] for name in runs}
    for repeat in range(arguments.repeats):
        for name, run in runs.items():
            found[name].append(run(repeat))
    middle = {
        name: Found(*(statistics.median(values) for values in zip(*each, strict=True)))
        for name, each in found.items()
    }
    for name, each in middle.items():
        line = f"{name}: prompt {each.prompt:.0f} tokens/s, decode {each.decode:.1f} tokens/s, "
        line += f"keys and values {each.kept:.0f} MiB"
        if theirs and name not in theirs:
            prompt, decode, kept = zip(*(middle[peer] for peer in theirs), strict=True)
            line += f"; over llama.cpp's best {each.prompt / max(prompt):.2f}, "
            line += f"{each.decode / max(decode):.2f}, {each.kept / kept[0]:.2f} (that of f16)"
        print(line)


def ours(model: Model, arguments: argparse.Namespace) -> Callable[[int], Found]:
    """The same of sparsefire."""
    tokens, now = arguments.tokens, time.perf_counter if arguments.clock else time.process_time

    def run(repeat: int) -> Found:
        ids = np.random.default_rng(repeat).integers(0, model.config.vocab, tokens + DECODED)
        with contextlib.closing(model.new_session(tokens + DECODED)) as session:
            start = now()
            model.evaluate([(session, ids[:tokens])], phase="prompt", mode="dense")
            prompted = now()
            for token in ids[tokens:].tolist():
                session.step(token)
            end, plan = now(), session.model.plan
            kept = plan.session_bytes(tokens + DECODED, session.model.kv_formats) / 2**20
            return Found(tokens / (prompted - start), DECODED / (end - prompted), kept)

    return run


def peer(arguments: argparse.Namespace, options: tuple[str, ...]) -> Callable[[int], Found]:
    """The same of llama.cpp, whose generation at a depth begins with a prompt of so many tokens."""
    command = (arguments.llama_bench, "-m", arguments.model, "-t", str(arguments.threads))
    test = ("-p", "0", "-n", str(DECODED), "-d", str(arguments.tokens), "-r", "1")
    begins = ("depth run", "generation run", '"avg_ts"')  # prompt, decoding, report

    def run(_repeat: int) -> Found:
        at, kept = {}, 0.0
        for line, seconds in _lines((*command, *test, *options), arguments.clock):
            if size := KEPT.search(line):
                kept = float(size[1])
            for name in begins:  # the last time: it warms up by decoding a token
                if name in line:
                    at[name] = seconds
        start, prompted, end = (at[name] for name in begins)
        return Found(arguments.tokens / (prompted - start), DECODED / (end - prompted), kept)

    return run


def _lines(command: tuple[str, ...], clock: bool) -> Iterator[tuple[str, float]]:
    """What the program writes, and the seconds when it does: of the clock, or that it has used."""
    reported = ("-v", "--progress", "-o", "jsonl")
    with subprocess.Popen(
        (*command, *reported), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            used = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks = int(used[11]) + int(used[12])  # in user mode and in the kernel
            yield line, time.perf_counter() if clock else ticks / os.sysconf("SC_CLK_TCK")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    main()
