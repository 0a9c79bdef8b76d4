"""Decoding with the screened head, with the dense one and by llama.cpp, in turns:

sparsefire calibrate -m MODEL.gguf --method head --text TEXT
python -m bench.studies.heads MODEL.gguf path/to/llama-bench
python -m bench.studies.heads MODEL.gguf path/to/llama-bench --heads proven dense
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from sparsefire import Model
from sparsefire.core import hosts

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
                speeds["llama.cpp"].append(_peer(arguments.llama_bench, arguments.model, threads))
        theirs = statistics.median(speeds["llama.cpp"])
        for name, each in speeds.items():
            middle = statistics.median(each)
            print(
                f"{name}, {threads} threads: {middle:.1f} tokens/s "
                f"({min(each):.1f} … {max(each):.1f}), {middle / theirs:.2f}×",
                flush=True,
            )


def _peer(program: Path, model: Path, threads: int) -> float:
    options = ("-p", "0", "-n", str(TOKENS), "-t", str(threads), "-r", "3", "-o", "json")
    done = subprocess.run(
        [str(program), "-m", str(model), *options], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)[0]["avg_ts"])


if __name__ == "__main__":
    main()
