"""The small models that tests of models share, each written once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tiny_model
from reference import ACTIVATION_OF, Reference
from sparsefire.lm.model import Model
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
    "cutoffs": Tiny(activation="silu", cutoffs={"product": [0.1, 0.02], "gate": [0.0, 0.03]}),
    "cutoffs, two downs": Tiny(
        activation="gelu_tanh", biases=True, both_downs=True, cutoffs={"product": [0.5, 0.05]}
    ),
    "cutoffs, bundled": Tiny(
        activation="silu", bundled=True, cutoffs={"product": [0.1, 0.02], "gate": [0.0, 0.03]}
    ),
    "cutoffs f16": Tiny(
        activation="silu", format="F16", both_downs=True, cutoffs={"gate": [0.08, 0.15]}
    ),
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
HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
NORM_BIASES = ("attn_norm.bias", "ffn_norm.bias", "output_norm.bias")
SUB_NORMS = ("attn_sub_norm.weight", "ffn_sub_norm.weight")
GEMMA2 = Tiny(arch="gemma2", activation=None, vectors=POST_NORMS, head_dim=24)
GEMMA3 = Tiny(
    arch="gemma3",
    activation=None,
    vectors=(*HEAD_NORMS, *POST_NORMS),
    layers=7,
    hidden=64,
    head_dim=20,
    keys={"gemma3.attention.sliding_window": 5},
)
ARCHITECTURE_VARIANTS: dict[str, Tiny] = {
    "llama, attention biases": Tiny(attention_biases=True),
    "llama, windows": Tiny(keys={"llama.attention.sliding_window": 3}),
    "llama, output bias": Tiny(
        activation=None, tensors={"output.bias": np.linspace(-1, 1, 270, dtype=np.float32)}
    ),
    "yarn": Tiny(
        context=48,
        keys={
            "llama.rope.freq_base": 10000.0,
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 1200,
        },
    ),
    "yarn, short": Tiny(keys={"llama.rope.freq_base": 10000.0}),
    "qwen2": Tiny(arch="qwen2", activation=None, attention_biases=True),
    "qwen3": Tiny(arch="qwen3", activation=None, vectors=HEAD_NORMS, head_dim=24, format="Q8_0"),
    "qwen3, relu": Tiny(arch="qwen3", vectors=HEAD_NORMS, bundled=True, rank=16),
    "gemma": Tiny(arch="gemma", activation=None, head_dim=24),
    "gemma2": replace(GEMMA2, keys={"gemma2.attention.sliding_window": 4}),
    "gemma2, low caps": replace(
        GEMMA2,
        keys={"gemma2.attn_logit_softcapping": 0.5, "gemma2.final_logit_softcapping": 2.0},
    ),
    "gemma3": replace(GEMMA3, head_dim=32, format="F16"),
    "gemma3, stretched": replace(
        GEMMA3,
        keys={
            **GEMMA3.keys,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
            "gemma3.rope.freq_base_swa": 300.0,
        },
    ),
    "gemma3, in one piece": replace(
        GEMMA3, keys={**GEMMA3.keys, "gemma3.rope.freq_base_swa": 300.0}
    ),
    "gemma3, a pattern": replace(
        GEMMA3,
        layers=3,
        keys={**GEMMA3.keys, "gemma3.attention.sliding_window_pattern": [True, False, True]},
    ),
    "minicpm": Tiny(arch="minicpm", layers=3),
    "minicpm, keys": Tiny(
        arch="minicpm",
        keys={
            "minicpm.embedding_scale": 3.0,
            "minicpm.residual_scale": 0.5,
            "minicpm.logit_scale": 4.0,
        },
    ),
    "granite": Tiny(
        arch="granite",
        activation=None,
        keys={
            "granite.embedding_scale": 6.0,
            "granite.residual_scale": 0.25,
            "granite.logit_scale": 8.0,
            "granite.attention.scale": 0.0625,
        },
    ),
    "mistral3": Tiny(arch="mistral3", activation=None, tied=False, head_dim=24),
    "arcee": Tiny(arch="arcee", activation=None, gated=False),
    "nemotron": Tiny(
        arch="nemotron", activation=None, gated=False, tied=False, rope_dims=8, vectors=NORM_BIASES
    ),
    "nemotron, biases, q8_0": Tiny(
        arch="nemotron",
        activation=None,
        gated=False,
        tied=False,
        rope_dims=8,
        vectors=NORM_BIASES,
        biases=True,
        attention_biases=True,
        format="Q8_0",
    ),
    "powerinfer": Tiny(powerinfer=True, activation=None, tied=False, rank=12),
    "powerinfer q8_0": Tiny(
        powerinfer=True, activation=None, tied=False, rank=32, format="Q8_0", kv_heads=4
    ),
    "bamboo": Tiny(powerinfer=True, arch="bamboo", activation=None, rank=12),
    "bamboo, dense": Tiny(arch="bamboo", activation=None),
    "bitnet": Tiny(arch="bitnet-b1.58", activation=None, vectors=SUB_NORMS),
    "bitnet, no norms": Tiny(
        arch="bitnet-b1.58",
        activation=None,
        vectors=SUB_NORMS,
        tensors={f"blk.{i}.ffn_sub_norm.weight": np.ones(96, np.float32) for i in range(2)},
    ),
    "bitnet, dense": Tiny(arch="bitnet-b1.58", activation="silu", vectors=SUB_NORMS),
    "bitnet, calibrated": Tiny(
        arch="bitnet-b1.58", activation="relu2", vectors=SUB_NORMS, bundled=True, rank=16
    ),
}
VARIANTS |= ARCHITECTURE_VARIANTS
RELU_LIKE = ("relu", "relu2")


def modes(tiny: Tiny) -> list[str]:
    found = ["dense"]
    own = "relu" if tiny.powerinfer else ACTIVATION_OF.get(tiny.arch, "silu")
    # With cutoffs exact mode computes what sparse mode does, which the reference knows as that.
    if ((tiny.activation or own) in RELU_LIKE or tiny.bundled) and not tiny.cutoffs:
        found.append("exact")
    if tiny.rank or tiny.cutoffs:
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
