"""Prompt tokens a second with several instruction sets, in turns:

    python -m bench.studies.prompts MODEL.gguf amx avx512

By processor time, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from sparsefire import Model
from sparsefire.core import hosts

LENGTH, REPEATS = 512, 5


def main() -> None:
    """Prints a line for each instruction set: the median, and the range."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.prompts",
        description="Prompt tokens a second with several instruction sets, in turns.",
    )
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("isa", nargs="+", help="instruction sets, as --isa takes them")
    arguments = parser.parse_args()
    models = {
        isa: Model.load(
            arguments.model, context=LENGTH, core=hosts.open_core("native", isa, threads=1)
        )
        for isa in arguments.isa
    }
    speeds: dict[str, list[float]] = {isa: [] for isa in models}
    for repeat in range(REPEATS + 1):
        for isa, model in models.items():
            ids = np.random.default_rng(repeat).integers(0, model.config.vocab, LENGTH)
            session = model.new_session(LENGTH)
            start = time.process_time()
            model.evaluate([(session, ids)], phase="prompt")
            if repeat:
                speeds[isa].append(LENGTH / (time.process_time() - start))
    for isa, each in speeds.items():
        print(f"{isa}: {statistics.median(each):.0f} tokens/s ({min(each):.0f} … {max(each):.0f})")


if __name__ == "__main__":
    main()
