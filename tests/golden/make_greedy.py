"""Writes greedy.json: the tokens that the embedded model chooses, by the plain C core.

python tests/golden/make_greedy.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sparsefire as sf

PROMPTS = ("The people of", "Fellow citizens of the Senate", "The whale")
COUNT = 32


def greedy(model: sf.Model, prompt: str, mode: str, count: int) -> list[int]:
    """The likeliest token, ``count`` times."""
    "".join(model.generate(prompt, count, temperature=0, mode=mode))
    return list(model.stats.token_ids)


MODES = ("dense", "exact", "sparse")


def make(count: int = COUNT) -> dict[str, Any]:
    """By prompt and mode."""
    with sf.Model.load() as model:
        return {
            prompt: {
                mode: greedy(model, prompt, mode, count) for mode in ("dense", "exact", "sparse")
            }
            for prompt in PROMPTS
        }


if __name__ == "__main__":
    sf.use_backend("native", isa="scalar", threads=1)
    lines = [
        f"  {json.dumps(prompt)}: {{\n"
        + ",\n".join(f'    "{mode}": {ids}' for mode, ids in modes.items())
        + "\n  }"
        for prompt, modes in make().items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (Path(__file__).parent / "greedy.json").write_text(text, encoding="utf-8")
