"""Gemma 4's text part against its forward pass in float64 numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4_reference import Gemma4Reference
from mixture_models import VOCAB, save
from sparsefire.core.core import Core
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]
D, HEADS, HEAD, WHOLE_HEAD, HIDDEN = 32, 4, 8, 12, 48
WINDOWED = [True, True, False, True, False]

COMMON: dict[str, Any] = {
    "block_count": len(WINDOWED),
    "context_length": 64,
    "embedding_length": D,
    "attention.head_count": HEADS,
    "attention.head_count_kv": [2 if each else 1 for each in WINDOWED],
    "attention.key_length": WHOLE_HEAD,
    "attention.value_length": WHOLE_HEAD,
    "attention.key_length_swa": HEAD,
    "attention.value_length_swa": HEAD,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 5,
    "attention.sliding_window_pattern": WINDOWED,
    "rope.dimension_count": WHOLE_HEAD,
    "rope.dimension_count_swa": HEAD // 2,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
}
# The small models have inputs by token and share keys, the large ones have keys for values.
SMALL: dict[str, Any] = {
    **COMMON,
    "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 16,
    "feed_forward_length": [HIDDEN] * 3 + [2 * HIDDEN] * 2,
    "final_logit_softcapping": 5.0,
}
LARGE: dict[str, Any] = {
    **COMMON,
    "attention.shared_kv_layers": 0,
    "embedding_length_per_layer_input": 0,
    "feed_forward_length": HIDDEN,
}
EXPERTS, WIDTH = 6, 16
MIXTURE: dict[str, Any] = {
    **LARGE,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": WIDTH,
}
VARIANTS = {"small": SMALL, "large": LARGE, "mixture": MIXTURE}


def write(path: Path, keys: dict[str, Any]) -> Path:
    """Writes a random model with these keys."""
    return save(path, "gemma4", keys, dict(_tensors(keys)))


def _tensors(keys: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    layers, inputs = keys["block_count"], keys["embedding_length_per_layer_input"]
    yield "token_embd.weight", (VOCAB, D)
    yield "output_norm.weight", (D,)
    yield "rope_freqs.weight", (WHOLE_HEAD // 2,)
    if inputs:
        yield "per_layer_token_embd.weight", (VOCAB, inputs * layers)
        yield "per_layer_model_proj.weight", (inputs * layers, D)
        yield "per_layer_proj_norm.weight", (inputs,)
    for layer in range(layers):
        for name, shape in _block(keys, layer).items():
            yield f"blk.{layer}.{name}.weight", shape
        if "expert_count" in keys:
            yield f"blk.{layer}.ffn_gate_inp.scale", (D,)
            yield f"blk.{layer}.ffn_down_exps.scale", (EXPERTS,)


def _block(keys: dict[str, Any], layer: int) -> dict[str, tuple[int, ...]]:
    windowed, inputs = WINDOWED[layer], keys["embedding_length_per_layer_input"]
    size, kv_heads = (HEAD, 2) if windowed else (WHOLE_HEAD, 1)
    hidden = keys["feed_forward_length"]
    hidden = hidden[layer] if isinstance(hidden, list) else hidden
    norms = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"]
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(norms, (D,)),
        "attn_q": (HEADS * size, D),
        "attn_q_norm": (size,),
        "attn_output": (D, HEADS * size),
        **{f"ffn_{name}": (hidden, D) for name in ("gate", "up")},
        "ffn_down": (D, hidden),
        "layer_output_scale": (1,),
    }
    if layer < len(WINDOWED) - keys["attention.shared_kv_layers"]:
        shapes |= {"attn_k": (kv_heads * size, D), "attn_k_norm": (size,)}
        if inputs or windowed:
            shapes["attn_v"] = shapes["attn_k"]
    if "expert_count" in keys:
        norms = ["post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"]
        shapes |= {
            **dict.fromkeys(norms, (D,)),
            "ffn_gate_inp": (EXPERTS, D),
            "ffn_gate_up_exps": (EXPERTS, 2 * WIDTH, D),
            "ffn_down_exps": (EXPERTS, D, WIDTH),
        }
    if inputs:
        shapes |= {"inp_gate": (inputs, D), "proj": (D, inputs), "post_norm": (D,)}
    return shapes


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", VARIANTS[variant])
    expected = Gemma4Reference(path).logits(TOKENS)
    with Model.load(path) as model:
        assert model.config.default_mode == "dense"
        found = model.logits(TOKENS)
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-9


def test_experts_that_are_read_have_their_scales(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", MIXTURE)
    with Model.load(path) as model, Model.load(path, neuron_budget=100_000) as cached:
        assert np.array_equal(cached.logits(TOKENS), model.logits(TOKENS))


def test_hosts_agree(tmp_path: Path, host_core: Core) -> None:
    path = write(tmp_path / "model.gguf", SMALL)
    expected = Gemma4Reference(path).logits(TOKENS)
    with Model.load(path, core=host_core) as model:
        found = model.logits(TOKENS)
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < 1e-9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.shared_kv_layers", 4),
        ("attention.sliding_window_pattern", 2),
        ("attention.value_length_swa", HEAD + 2),
        ("rope.dimension_count_swa", HEAD + 2),
        ("rope.dimension_count_swa", 3),
    ],
)
def test_keys_that_cannot_be(key: str, value: object, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", {**SMALL, key: value})
    with pytest.raises((ModelFileError, UnsupportedError), match=key):
        Model.load(path)
