"""Writes docs/reference/models.md, the table of architectures, from the rows that describe them.

    python scripts/make_models_reference.py [FILE]

tests/test_docs.py compares the page with what this program writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from sparsefire.arch.architecture import Architecture
from sparsefire.arch.table import ARCHITECTURES
from sparsefire.weights.activation import ActivationType

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "models.md"

INTRODUCTION = """\
# Models

Generated from the rows of `py/sparsefire/arch/` by `python scripts/make_models_reference.py`; do
not edit. [Architectures](../guide/architectures.md) says what distinguishes them.

What is sparse: *neurons* are exactly 0 where the activation is, and are left out in exact mode;
*experts* are chosen by a router. The neurons of other models can be left out below calibrated
cutoffs. Small random models are compared with llama.cpp (`python -m bench.archs`), where it has the
architecture, and in the tests with a forward pass in float64.

Models of images, sound and speech are refused; of models of text and images, the text part runs.

| `general.architecture` | activation | sparse | compared with |
|---|---|---|---|"""

# llama.cpp has no such model, or computes something else.
_NO_PEER = {
    "bamboo": "float64",
    "bitnet": "float64",
    "bitnet-b1.58": "float64: llama.cpp computes SiLU",
    "grovemoe": "float64: llama.cpp gives small experts the output of the large ones",
    "apertus": "float64",
    "nanochat": "transformers, through `convert`",
    "phimoe": "float64 and transformers: llama.cpp computes RMS norms and a softmax",
}
# Whose plan has a router of its own.
_ROUTED = ("smallthinker",)
# Without feed-forward layers.
_BARE = ("mamba", "mamba2")


def row(name: str, kind: Architecture) -> str:
    """The line of an architecture."""
    sparse = []
    if kind.skips or (kind.activation and ActivationType(kind.activation).is_relu_family):
        sparse.append("neurons")
    if kind.mixture or name in _ROUTED:
        sparse.append("experts")
    activation = "none" if name in _BARE else kind.activation or "as the file or the user says"
    activation = kind.own_activation or activation
    return f"| `{name}` | {activation} | {', '.join(sparse)} | {_NO_PEER.get(name, 'llama.cpp')} |"


def lines() -> Iterator[str]:
    """The page."""
    yield INTRODUCTION
    for name, kind in sorted(ARCHITECTURES.items()):
        yield row(name, kind)


def main() -> None:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    page.write_text("\n".join(lines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
