"""For how many tokens WebAssembly makes the native greedy text, with strict and relaxed SIMD.

    python bench/same_text.py                 # the embedded model, and SmolLM2 as Q8_0 and Q4_0

In wasmtime, whose results are those of browsers: the products of 8-bit numbers are integers.
"""

from __future__ import annotations

import sys
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peer_files import smollm2_as
from sparsefire.core.core import Core
from sparsefire.core.hosts import open_core
from sparsefire.lm.model import Model, default_model

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


def greedy(path: Path, core: Core) -> list[list[int]]:
    """The tokens of each prompt's text, in the model's own mode."""
    with Model.load(path, core=core) as model:
        texts = []
        for prompt in PROMPTS:
            list(model.generate(prompt, TOKENS, temperature=0))
            texts.append(list(model.stats.token_ids))
        return texts


def main() -> int:
    """Prints, for each model, how many texts are the native ones, and how far the others are."""
    models = {
        "embedded model": default_model(),
        "SmolLM2 Q8_0": smollm2_as("q8_0"),
        "SmolLM2 Q4_0": smollm2_as("q4_0"),
    }
    for name, path in models.items():
        native = greedy(path, open_core("native"))
        for simd, isa in (("strict", None), ("relaxed", "relaxed128")):
            texts = greedy(path, open_core("wasmtime", isa, 1))
            same = [
                sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
                for a, b in zip(native, texts, strict=True)
            ]
            whole = sum(a == b for a, b in zip(native, texts, strict=True))
            others = sorted(n for n, a, b in zip(same, native, texts, strict=True) if a != b)
            print(
                f"{name}, {simd}: {whole} of {len(PROMPTS)} texts; the others for {others} tokens"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
