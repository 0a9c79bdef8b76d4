"""The small models that tests of models share, each written once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tiny_model
from reference import Reference
from sparsefire.model import Model
from tiny_model import Tiny

VARIANTS: dict[str, Tiny] = {
    "f32": Tiny(),
    "f16": Tiny(format="F16"),
    "q8_0": Tiny(format="Q8_0"),
    "bf16": Tiny(format="BF16"),
    "q4_0": Tiny(format="Q4_0"),
    "silu q5_1": Tiny(activation="silu", format="Q5_1"),
    "q4_k, q6_k": Tiny(d=256, hidden=256, heads=8, layers=1, format="Q4_K", down_format="Q6_K"),
    "untied, no groups": Tiny(tied=False, kv_heads=4),
    "one group": Tiny(kv_heads=1),
    "three heads a group": Tiny(d=96, heads=6, kv_heads=2, format="Q8_0"),
    "odd sizes": Tiny(d=40, hidden=37, heads=5, kv_heads=1, vocab=263),
    "head_dim of its own": Tiny(head_dim=24, rope_dims=16),
    "silu": Tiny(activation=None),
    "silu q8_0": Tiny(activation="silu", format="Q8_0"),
    "gelu": Tiny(activation="gelu_erf"),
    "relu2": Tiny(activation="relu2", layers=1),
    "biases": Tiny(biases=True, format="F16"),
    "rope factors": Tiny(rope_factors=True),
    "llama3 factors": Tiny(rope_factors=True, keys={"llama.rope.scaling.type": "llama3"}),
    "linear scaling": Tiny(
        keys={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    ),
    "mixed formats": Tiny(format="Q8_0", down_format="F16"),
    "mixed formats, odd": Tiny(d=40, hidden=64, heads=5, kv_heads=1, down_format="Q8_0"),
    "calibrated": Tiny(bundled=True, rank=16),
    "calibrated q8_0": Tiny(bundled=True, rank=32, format="Q8_0"),
    "calibrated, ungated": Tiny(bundled=True, gated=False, rank=16, format="F16"),
    "calibrated silu": Tiny(bundled=True, activation="silu", biases=True),
}
PLAIN = ("F32", "F16", "BF16", None)  # formats whose weights meet inputs as they are
RELU_LIKE = ("relu", "relu2")


def modes(tiny: Tiny) -> list[str]:
    found = ["dense"]
    if tiny.activation in RELU_LIKE or tiny.bundled:
        found.append("exact")
    if tiny.rank:
        found.append("sparse")
    return found


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="sparsefire-models-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def variant_path(name: str, context: int = 48) -> Path:
    """The file of the variant."""
    path = _folder() / f"{name} {context}.gguf"
    return tiny_model.write(path, VARIANTS[name], context=context)


IDS = np.random.default_rng(1).integers(0, 263, 21).tolist()


@cache
def reference_logits(path: Path, sparse: bool) -> Any:
    """Logits, up to where a neuron is too close to being chosen or not."""
    reference = Reference(path)
    logits = reference.logits(IDS, sparse=sparse)
    error = 3e-4 if "q" in path.name else 1e-5
    clear = [margin > error for margin in reference.margins]
    return logits[: clear.index(False) if sparse and False in clear else None]


def greedy(model: Model, prompt: Any, n: int, **options: Any) -> list[int]:
    "".join(model.generate(prompt, n, temperature=0, **options))
    return list(model.stats.token_ids)
