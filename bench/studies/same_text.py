"""For how many tokens WebAssembly makes the native greedy text, with strict and relaxed SIMD.

    python -m bench.studies.same_text         # the embedded model, SmolLM2 as Q8_0 and Q4_0
    python -m bench.studies.same_text --quick # the embedded model, one prompt

In wasmtime, whose results are those of browsers: the products of 8-bit numbers are integers.
"""

from __future__ import annotations

import argparse
from itertools import takewhile
from pathlib import Path

from sparsefire.core.core import Core
from sparsefire.core.hosts import open_core
from sparsefire.lm.model import Model
from sparsefire.lm.opening import default_model

from ..lib.command import Effort, add_quick, run_program
from ..lib.peer_files import smollm2_as

TOKENS = 64
PROMPTS = (
    "The history of the steam engine begins with",
    "Once upon a time",
    "The people of",
    "In the year 1920,",
    "Water boils at",
    "def fibonacci(n):",
    "The most important thing about",
    "Dear Sir,",
    "A list of fruits:",
    "My name is",
    "Paris is the capital of",
    "The president said that",
)


def greedy(path: Path, core: Core, effort: Effort) -> list[list[int]]:
    """The tokens of each prompt's text, in the model's own mode."""
    with Model.load(path, core=core) as model:
        texts = []
        for prompt in effort.some(PROMPTS):
            list(model.generate(prompt, TOKENS, temperature=0))
            texts.append(list(model.stats.token_ids))
        return texts


def main() -> None:
    """Prints, for each model, how many texts are the native ones, and how far the others are."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.same_text",
        description="For how many tokens WebAssembly makes the native greedy text.",
    )
    add_quick(parser)
    effort = Effort(parser.parse_args().quick)
    models = {"embedded model": default_model()}
    if not effort.quick:
        models["SmolLM2 Q8_0"] = smollm2_as("q8_0")
        models["SmolLM2 Q4_0"] = smollm2_as("q4_0")
    for name, path in models.items():
        native = greedy(path, open_core("native"), effort)
        for simd, isa in (("strict", None), ("relaxed", "relaxed128")):
            texts = greedy(path, open_core("wasmtime", isa, 1), effort)
            same = [
                sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
                for a, b in zip(native, texts, strict=True)
            ]
            whole = sum(a == b for a, b in zip(native, texts, strict=True))
            others = sorted(n for n, a, b in zip(same, native, texts, strict=True) if a != b)
            print(f"{name}, {simd}: {whole} of {len(native)} texts; the others for {others} tokens")


if __name__ == "__main__":
    run_program(main)
