"""Small random models with recurrent layers that `bench.lib.further_models` does not make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixture_models import (
    COMMON_KEYS,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    PLAIN,
    RANK,
    TURNED,
    VALUE,
    VOCAB,
    WIDTH,
    D,
    Mixture,
    experts,
    gated,
    save,
)

# Of delta nets: heads, heads of keys, and their size.
NET_HEADS, NET_KEYS, NET = 4, 2, 8
TAPS, LEAD = 3, 1

Tensors = Iterator[tuple[str, tuple[int, ...]]]


def write(path: Path, architecture: str) -> Path:
    """Writes the model of one of `MODELS`."""
    tensors, keys = MODELS[architecture]
    # LFM 2's last norm has this name.
    last = "token_embd_norm" if architecture == "lfm2moe" else "output_norm"
    own = {"token_embd.weight": (VOCAB, D), f"{last}.weight": (D,), **dict(tensors())}
    return save(path, architecture, {**COMMON_KEYS, **keys}, own)


def _attention(block: str, query: int) -> Tensors:
    yield f"{block}attn_q.weight", (query, D)
    for name in "kv":
        yield f"{block}attn_{name}.weight", (KV_HEADS * HEAD, D)
    yield f"{block}attn_output.weight", (D, HEADS * HEAD)
    for name in "qk":
        yield f"{block}attn_{name}_norm.weight", (HEAD,)


def _lfm2moe() -> Tensors:
    mixture = Mixture(parts=frozenset({"selection_bias"}))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (D,)
        yield f"{block}ffn_norm.weight", (D,)
        if layer % 2:
            yield from _attention(block, HEADS * HEAD)
        else:
            yield f"{block}shortconv.conv.weight", (D, TAPS)
            yield f"{block}shortconv.in_proj.weight", (3 * D, D)
            yield f"{block}shortconv.out_proj.weight", (D, D)
        if layer < LEAD:
            yield from gated(f"{block}ffn_", "", HIDDEN)
        else:
            yield from experts(mixture, block)


def _kimi() -> Tensors:
    mixture = Mixture(parts=frozenset({"selection_bias"}), shared=WIDTH)
    inner = HEADS * NET
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (D,)
        yield f"{block}ffn_norm.weight", (D,)
        if layer % 4 == 3:
            yield f"{block}attn_q.weight", (HEADS * (PLAIN + TURNED), D)
            yield f"{block}attn_kv_a_mqa.weight", (RANK + TURNED, D)
            yield f"{block}attn_kv_a_norm.weight", (RANK,)
            yield f"{block}attn_k_b.weight", (HEADS, RANK, PLAIN)
            yield f"{block}attn_v_b.weight", (HEADS, VALUE, RANK)
            yield f"{block}attn_output.weight", (D, HEADS * VALUE)
        else:
            for name in "qkv":
                yield f"{block}attn_{name}.weight", (inner, D)
                yield f"{block}ssm_conv1d_{name}.weight", (inner, 1, 4)
            for name in "fg":
                yield f"{block}ssm_{name}_a.weight", (NET, D)
                yield f"{block}ssm_{name}_b.weight", (inner, NET)
            yield f"{block}ssm_dt.bias", (inner,)
            yield f"{block}ssm_a", (HEADS, 1)
            yield f"{block}ssm_beta.weight", (HEADS, D)
            yield f"{block}ssm_norm.weight", (NET,)
            yield f"{block}attn_output.weight", (D, inner)
        if layer < LEAD:
            yield from gated(f"{block}ffn_", "", HIDDEN)
        else:
            yield from experts(mixture, block)


def _minimax() -> Tensors:
    inner = HEADS * HEAD
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (D,)
        yield f"{block}ffn_norm.weight", (D,)
        if layer % 3 == 2:
            yield f"{block}attn_q.weight", (inner, D)
            for name in "kv":
                yield f"{block}attn_{name}.weight", (KV_HEADS * HEAD, D)
        else:
            yield f"{block}attn_qkv.weight", (3 * inner, D)
            yield f"{block}attn_gate.weight", (inner, D)
            yield f"{block}attn_norm_2.weight", (inner,)
        yield f"{block}attn_output.weight", (D, inner)
        yield from experts(Mixture(), block)


def _qwen(apart: bool) -> Tensors:
    """``apart``: rates and decays from matrices of their own."""
    mixture = Mixture(parts=frozenset({"gated_shared"}), shared=32)
    width = NET_HEADS * NET
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (D,)
        yield f"{block}post_attention_norm.weight", (D,)
        if layer % 4 == 3:
            yield from _attention(block, 2 * HEADS * HEAD)
        else:
            channels = 2 * NET_KEYS * NET + width
            yield f"{block}attn_qkv.weight", (channels, D)
            yield f"{block}attn_gate.weight", (width, D)
            yield f"{block}ssm_conv1d.weight", (channels, 4)
            yield f"{block}ssm_dt.bias", (NET_HEADS,)
            yield f"{block}ssm_a", (NET_HEADS,)
            for name in ("beta", "alpha") if apart else ():
                yield f"{block}ssm_{name}.weight", (NET_HEADS, D)
            if not apart:
                yield f"{block}ssm_ba.weight", (2 * NET_HEADS, D)
            yield f"{block}ssm_norm.weight", (NET,)
            yield f"{block}ssm_out.weight", (D, width)
        yield from experts(mixture, block)


_NET: dict[str, Any] = {
    "expert_feed_forward_length": WIDTH,
    "expert_shared_feed_forward_length": 32,
    "rope.dimension_count": 8,
    "ssm.conv_kernel": 4,
    "ssm.group_count": NET_KEYS,
    "ssm.inner_size": NET_HEADS * NET,
    "ssm.state_size": NET,
    "ssm.time_step_rank": NET_HEADS,
}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lfm2moe": (
        _lfm2moe,
        {
            "attention.head_count_kv": [KV_HEADS if layer % 2 else 0 for layer in range(LAYERS)],
            "expert_feed_forward_length": WIDTH,
            "expert_gating_func": 2,
            "leading_dense_block_count": LEAD,
            "shortconv.l_cache": TAPS,
        },
    ),
    "kimi-linear": (
        _kimi,
        {
            "attention.head_count_kv": [HEADS if each % 4 == 3 else 0 for each in range(LAYERS)],
            "attention.key_length": RANK + TURNED,
            "attention.value_length": RANK,
            "attention.key_length_mla": PLAIN + TURNED,
            "attention.value_length_mla": VALUE,
            "attention.kv_lora_rank": RANK,
            "rope.dimension_count": TURNED,
            "expert_feed_forward_length": WIDTH,
            "expert_gating_func": 2,
            "expert_shared_count": 1,
            "expert_weights_scale": 2.5,
            "kda.head_dim": NET,
            "leading_dense_block_count": LEAD,
            "ssm.conv_kernel": 4,
        },
    ),
    "minimax-01": (_minimax, {"residual_scale": 3.5, "feed_forward_length": WIDTH}),
    "qwen3next": (lambda: _qwen(apart=False), _NET),
    "qwen35moe": (
        lambda: _qwen(apart=True),
        {**_NET, "rope.dimension_sections": [2, 1, 1, 0]},
    ),
}
