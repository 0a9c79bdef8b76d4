"""Small random encoders, which llama.cpp's test of architectures does not save."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .tensor_lists import (
    BIAS,
    LAYERS,
    MATRIX,
    NORM,
    VOCABULARY,
    WIDE,
    WIDTH,
    RandomModel,
    add_attention,
    add_ffn,
)

_HEADS, _HEAD, _HIDDEN, _EXPERTS = 4, 32, 192, 8
_LAYER: dict[str, Any] = {"attention.layer_norm_epsilon": 1e-5}
_RMS: dict[str, Any] = {"attention.layer_norm_rms_epsilon": 1e-5}
_WINDOW: dict[str, Any] = {"attention.sliding_window": 10}


def encoder_models() -> Iterator[tuple[str, RandomModel]]:
    """Their names and models."""
    yield "bert", _bert("bert", positions=True)
    yield "bert-fused", _bert("bert", positions=True, fused=True)
    yield "nomic-bert", _bert("nomic-bert", gated=True, biases=False)
    yield "nomic-bert-moe", _nomic_bert_moe()
    yield "jina-bert-v2", _bert("jina-bert-v2", gated=True)
    yield "jina-bert-v2-code", _jina_code()
    yield "jina-bert-v3", _bert("jina-bert-v3")
    yield "modern-bert", _modern_bert()
    yield "neo-bert", _neo_bert()
    yield "eurobert", _eurobert()
    yield "gemma-embedding", _gemma_embedding()
    yield "t5encoder", _t5(gated=True)
    yield "t5encoder-relu", _t5(gated=False)


def add_classifier(model: RandomModel, *, dense: int = WIDTH, norm: bool, outputs: int) -> None:
    """Makes a model a reranker: a layer of `dense` outputs, a norm, an output matrix."""
    model.keys["pooling_type"] = 4
    if dense:
        model.add("", MATRIX, cls=(dense, WIDTH))
        model.tensors["cls.bias"] = (dense,), BIAS
    if norm:
        model.add_norm("cls.", "norm")
        del model.tensors["cls.bias"]
    if outputs:
        model.add("cls.", MATRIX, output=(outputs, WIDTH))
        model.tensors["cls.output.bias"] = (outputs,), BIAS


def _model(architecture: str, **keys: Any) -> RandomModel:
    both = {
        "feed_forward_length": _HIDDEN,
        "attention.head_count": _HEADS,
        "attention.causal": False,
        "pooling_type": 1,
    }
    model = RandomModel(architecture, {**both, **keys})
    model.add("", WIDE, token_embd=(VOCABULARY, WIDTH))
    return model


def _bert(
    architecture: str,
    *,
    positions: bool = False,
    gated: bool = False,
    biases: bool = True,
    fused: bool = False,
    **keys: Any,
) -> RandomModel:
    """BERT, and those that have rotary or ALiBi positions instead of learned ones."""
    model = _model(architecture, **_LAYER, **keys)
    model.add("", WIDE, token_types=(2, WIDTH))
    model.add_norm("", "token_embd_norm", bias=True)
    if positions:
        model.add("", WIDE, position_embd=(256, WIDTH))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        names = {"attn_output": WIDTH, "ffn_up": _HIDDEN, "ffn_down": WIDTH}
        if fused:
            model.add(block, MATRIX, attn_qkv=(3 * WIDTH, WIDTH), attn_output=(WIDTH, WIDTH))
            names["attn_qkv"] = 3 * WIDTH
        else:
            add_attention(model, block, _HEADS, _HEADS, _HEAD)
            names |= {"attn_q": WIDTH, "attn_k": WIDTH, "attn_v": WIDTH}
        model.add(block, MATRIX, ffn_up=(_HIDDEN, WIDTH), ffn_down=(WIDTH, _HIDDEN))
        if gated:
            model.add(block, MATRIX, ffn_gate=(_HIDDEN, WIDTH))
        if biases:
            for name, size in names.items():
                model.tensors[f"{block}{name}.bias"] = (size,), BIAS
        model.add_norm(block, "attn_output_norm", "layer_output_norm", bias=True)
    return model


def _nomic_bert_moe() -> RandomModel:
    keys: dict[str, Any] = {
        "moe_every_n_layers": 2,
        "expert_count": _EXPERTS,
        "expert_used_count": 2,
    }
    model = _bert("nomic-bert-moe", **keys)
    for name in [name for name in model.tensors if name.startswith("blk.1.ffn_")]:
        del model.tensors[name]
    block = "blk.1."
    model.add(block, MATRIX, ffn_gate_inp=(_EXPERTS, WIDTH))
    model.add(block, MATRIX, ffn_up_exps=(_EXPERTS, _HIDDEN, WIDTH))
    model.add(block, MATRIX, ffn_down_exps=(_EXPERTS, WIDTH, _HIDDEN))
    return model


def _jina_code() -> RandomModel:
    """With norms of queries and keys, and one more norm."""
    model = _bert("jina-bert-v2", gated=True)
    for layer in range(LAYERS):
        names = "attn_q_norm", "attn_k_norm", "attn_norm_2"
        model.add_norm(f"blk.{layer}.", *names, bias=True)
    return model


def _modern_bert() -> RandomModel:
    model = _model("modern-bert", **_LAYER, **_WINDOW, **{"rope.freq_base_swa": 1000.0})
    model.add_norm("", "token_embd_norm", "output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        _add_fused(model, block)
        model.add_norm(block, *(["attn_norm"] if layer else []), "ffn_norm")
    return model


def _neo_bert() -> RandomModel:
    model = _model("neo-bert", **_RMS)
    model.add_norm("", "enc.output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        _add_fused(model, block)
        model.add_norm(block, "attn_norm", "ffn_norm")
    return model


def _add_fused(model: RandomModel, block: str) -> None:
    model.add(block, MATRIX, attn_qkv=(3 * WIDTH, WIDTH), attn_output=(WIDTH, WIDTH))
    model.add(block, MATRIX, ffn_up=(2 * _HIDDEN, WIDTH), ffn_down=(WIDTH, _HIDDEN))


def _eurobert() -> RandomModel:
    model = _model("eurobert", **_RMS)
    model.add_norm("", "output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add_attention(model, block, _HEADS, _HEADS, _HEAD)
        add_ffn(model, block, _HIDDEN)
        model.add_norm(block, "attn_norm", "ffn_norm")
    return model


def _gemma_embedding() -> RandomModel:
    keys = {"block_count": 7, "attention.key_length": _HEAD, "attention.value_length": _HEAD}
    base = {"rope.freq_base": 1e6, "rope.freq_base_swa": 1e4}
    model = _model("gemma-embedding", **_RMS, **_WINDOW, **base, **keys)
    model.add_norm("", "output_norm")
    for layer in range(7):
        block = f"blk.{layer}."
        add_attention(model, block, _HEADS, 2, _HEAD)
        add_ffn(model, block, _HIDDEN)
        model.add_norm(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        model.add_norm(block, "attn_q_norm", "attn_k_norm", size=_HEAD)
    model.keys["attention.head_count_kv"] = 2
    return model


def _t5(*, gated: bool) -> RandomModel:
    keys = {"attention.relative_buckets_count": 8, "attention.key_length": 16}
    model = _model("t5encoder", **_RMS, **keys, **{"attention.value_length": 16})
    model.add_norm("", "enc.output_norm")
    model.add("enc.blk.0.", NORM, attn_rel_b=(8, _HEADS))
    for layer in range(LAYERS):
        block, inner = f"enc.blk.{layer}.", 16 * _HEADS
        shape = (inner, WIDTH)
        model.add(block, MATRIX, attn_q=shape, attn_k=shape, attn_v=shape, attn_o=(WIDTH, inner))
        model.add(block, MATRIX, ffn_up=(_HIDDEN, WIDTH), ffn_down=(WIDTH, _HIDDEN))
        if gated:
            model.add(block, MATRIX, ffn_gate=(_HIDDEN, WIDTH))
        model.add_norm(block, "attn_norm", "ffn_norm")
    return model
