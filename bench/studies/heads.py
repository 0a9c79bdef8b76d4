"""Decoding with the screened head, with the dense one and by llama.cpp, in turns:

sparsefire calibrate -m MODEL.gguf --method head --text TEXT
python -m bench.studies.heads MODEL.gguf path/to/llama-bench
python -m bench.studies.heads MODEL.gguf path/to/llama-bench --heads proven dense
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from sparsefire import Model
from sparsefire.core import hosts

from ..lib.llama_bench import seconds

PROMPT, TOKENS, ROUNDS = "The people of the United States", 64, 5


def main() -> None:
    """Prints the median and the range of each in tokens a second, and the ratio to llama.cpp."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.heads",
        description="How fast is decoding with a screened head?",
    )
    parser.add_argument("model", type=Path, help="GGUF file; for screened with a screen")
    parser.add_argument("llama_bench", type=Path, help="llama.cpp's program llama-bench")
    add = parser.add_argument
    names = ["screened", "proven", "dense"]
    add("--heads", nargs="+", choices=names, default=["screened", "dense"], help="see `Model.load`")
    add("--rounds", type=int, default=ROUNDS, help="default %(default)s")
    arguments = parser.parse_args()
    program = arguments.llama_bench
    for threads in (1, 2):
        core, heads = hosts.open_core("native", threads=threads), arguments.heads
        models = {head: Model.load(arguments.model, head=head, core=core) for head in heads}
        speeds: dict[str, list[float]] = {name: [] for name in (*heads, "llama.cpp")}
        for measured in range(arguments.rounds + 1):  # the first warms up
            for head, model in models.items():
                list(model.generate(PROMPT, TOKENS, temperature=0))
                if measured:
                    speeds[head].append(model.stats.tokens_per_s)
            if measured:
                took = seconds(program, arguments.model, threads, "decode", TOKENS, repeats=3)
                speeds["llama.cpp"].append(TOKENS / took)
        theirs = statistics.median(speeds["llama.cpp"])
        for name, each in speeds.items():
            middle = statistics.median(each)
            print(
                f"{name}, {threads} threads: {middle:.1f} tokens/s "
                f"({min(each):.1f} … {max(each):.1f}), {middle / theirs:.2f}×",
                flush=True,
            )


if __name__ == "__main__":
    main()
