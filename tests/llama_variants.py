"""The tests' small random models that llama.cpp reads too.

    python tests/llama_variants.py FOLDER

They are in F32 and with the architecture's own activation, since llama.cpp knows no other.
`bench/studies/compare_llama.py` compares both programs on them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from model_variants import VARIANTS
from tiny_model import Tiny, write

# What llama.cpp lacks or reads otherwise: a scaling type llama3, windows and an output bias in
# `llama`, biases of the attention's output in `qwen2`, and the scale of logits in MiniCPM files
# without keys.
_LEFT_OUT = ("llama3 factors", "llama, windows", "llama, output bias", "minicpm")


def llama_variants() -> Iterator[tuple[str, Tiny]]:
    """Names and models."""
    for name, tiny in VARIANTS.items():
        arch = tiny.arch.replace("-b1.58", "")
        if (
            tiny.bundled
            or tiny.powerinfer
            or tiny.cutoffs
            or arch == "bamboo"
            or name in _LEFT_OUT
            or (arch == "llama" and tiny.rope_dims)
        ):
            continue
        keys = {key.replace(tiny.arch, arch): value for key, value in tiny.keys.items()}
        if tiny.head_dim:
            keys[f"{arch}.attention.value_length"] = tiny.head_dim
        tensors = dict(tiny.tensors)
        if arch == "qwen2":
            tensors |= {f"blk.{layer}.attn_output.bias": None for layer in range(tiny.layers)}
        yield (
            name,
            replace(
                tiny,
                arch=arch,
                activation="silu" if arch == "bitnet" else None,
                format="F32",
                down_format=None,
                keys=keys,
                tensors=tensors,
            ),
        )


def main() -> None:
    """Writes them into the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, tiny in llama_variants():
        print(write(folder / f"{name}.gguf", tiny))


if __name__ == "__main__":
    main()
