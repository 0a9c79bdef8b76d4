"""Gemma 3n against its forward pass in float64 numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma3n_reference import INPUTS, STREAMS, Gemma3nReference
from mixture_models import VOCAB, save
from sparsefire.calibrate.predictors import calibrate_model
from sparsefire.core.core import Core
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

TOKENS = [(37 * i + 11) % VOCAB for i in range(14)]
D, HEADS, KV_HEADS, HEAD, HIDDEN, RANK = 32, 4, 2, 8, 96, 8

# As real files say it, and a file that says nothing.
STATED: dict[str, Any] = {
    "block_count": 7,
    "activation_sparsity_scale": [1.6, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0],
    "altup.active_idx": 0,
    "altup.num_inputs": STREAMS,
    "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 16,
}
VARIANTS: dict[str, dict[str, Any]] = {"stated": STATED, "silent": {"block_count": 21}}


def write(path: Path, own: dict[str, Any]) -> Path:
    """Writes a random model with these keys beside the usual ones."""
    keys = {
        "context_length": 64,
        "embedding_length": D,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 5,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        **own,
    }
    return save(path, "gemma3n", keys, dict(_tensors(keys)))


def _tensors(keys: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    layers, inputs = keys["block_count"], keys.get("embedding_length_per_layer_input", INPUTS)
    yield "token_embd.weight", (VOCAB, D)
    yield "output_norm.weight", (D,)
    for name in ("altup_proj", "altup_unembd_proj"):
        yield f"{name}.weight", (STREAMS - 1, D, D)
    yield "per_layer_token_embd.weight", (VOCAB, inputs * layers)
    yield "per_layer_model_proj.weight", (inputs * layers, D)
    yield "per_layer_proj_norm.weight", (inputs,)
    norms = "attn_norm post_attention_norm ffn_norm post_ffw_norm post_norm laurel_post_norm"
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys((*norms.split(), "altup_router_norm", "altup_correct_scale"), (D,)),
        **{f"attn_{name}_norm": (HEAD,) for name in "qk"},
        **{f"attn_{name}": (KV_HEADS * HEAD, D) for name in "kv"},
        "attn_q": (HEADS * HEAD, D),
        "attn_output": (D, HEADS * HEAD),
        **{f"ffn_{name}": (HIDDEN, D) for name in ("gate", "up")},
        "ffn_down": (D, HIDDEN),
        "inp_gate": (inputs, D),
        "proj": (D, inputs),
        "altup_correct_coef": (STREAMS, STREAMS),
        "altup_predict_coef": (STREAMS * STREAMS, STREAMS),
        "altup_router": (STREAMS, D),
        "laurel_l": (RANK, D),
        "laurel_r": (D, RANK),
    }
    for layer in range(layers):
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}.weight", shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_what_exact_mode_leaves_out(variant: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", VARIANTS[variant])
    expected = Gemma3nReference(path).logits(TOKENS)
    with Model.load(path) as model:
        assert model.config.default_mode == "exact"
        for mode in ("exact", "dense"):
            found = model.logits(TOKENS, mode=mode)
            bound = 1e-8 if model.core.isa == "amx" else 1e-9  # whose prompts have 16 bits
            assert ((found - expected) ** 2).sum() / (expected**2).sum() < bound, mode
        session = model.new_session(32)
        session.feed(TOKENS, "exact")
        shares = session.active / (len(TOKENS) * HIDDEN)
    cut = [0, 1, 4] if variant == "stated" else range(10)
    assert all((share < 0.4) == (layer in cut) for layer, share in enumerate(shares))


def test_hosts_agree(tmp_path: Path, host_core: Core) -> None:
    path = write(tmp_path / "model.gguf", STATED)
    expected = Gemma3nReference(path).logits(TOKENS)
    with Model.load(path, core=host_core) as model:
        found = model.logits(TOKENS)
    bound = 1e-8 if host_core.isa == "amx" else 1e-9
    assert ((found - expected) ** 2).sum() / (expected**2).sum() < bound


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_sparsity_scale", [1.0]),
        ("activation_sparsity_scale", [-1.0] * 7),
        ("attention.shared_kv_layers", 7),
        ("altup.active_idx", 1),
    ],
)
def test_keys_that_cannot_be(key: str, value: object, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", {**STATED, key: value})
    with pytest.raises((ModelFileError, UnsupportedError), match=key):
        Model.load(path)


def test_it_is_not_calibrated_yet(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", STATED)
    with pytest.raises(UnsupportedError, match="cannot be calibrated yet"):
        calibrate_model(path, tmp_path / "out.gguf", "text")
