"""Decoders with experts that differ from Llama's kind in what their rows say."""

from __future__ import annotations

import math

from ..core.enums import Function, Route
from ..weights.activation import ActivationType
from .architecture import Architecture
from .decoder import BY_KEYS, HEAD_NORMS, LLAMA, QWEN3_MOE, SINKS, write
from .mixture import Mixture

_NEOX = LLAMA._replace(rope_halves=True)
_INDEXER = "q_proj", "k_proj", "q_norm", "k_norm"
_GROK_WIDTH, _GROK_HEAD = 6144, 128  # of the published model, in its constants whatever a file has

ROWS = {
    "cohere2moe": LLAMA._replace(
        layer_norm=None,
        rotary_leads=True,
        parallel="same",
        logit_factor=True,
        full_every=4,
        full_first=True,
        rotary_windows=True,
        mixture=BY_KEYS._replace(shared_factor=0.5),
    ),
    "dbrx": _NEOX._replace(
        layer_norm=True,
        clamped=True,
        ffn_norm="attn_output_norm",
        mixture=Mixture(own_width=False),
    ),
    "exaone-moe": _NEOX._replace(
        vectors=HEAD_NORMS,
        window=128,
        full_every=4,
        rotary_windows=True,
        mixture=BY_KEYS._replace(scoring=None),
    ),
    "grok": Architecture(
        "gelu_tanh",
        write,
        rope_halves=True,
        vectors=("attn_output_norm.weight", "layer_output_norm.weight"),
        post_norms=("attn_output_norm", "layer_output_norm"),
        embedding_scale=lambda _: _GROK_WIDTH**0.5,
        logit_factor=True,
        logit_divisor=lambda _: math.sqrt(3),
        attention_scale=lambda _: _GROK_HEAD**-0.5,
        scale_key="attention.output_scale",
        attention_cap=30.0,
        mixture=Mixture(shared="hidden", shared_suffix="", shared_factor=math.sqrt(0.5)),
        own_keys=("final_logit_softcapping",),
    ),
    "hy_v3": _NEOX._replace(
        vectors=HEAD_NORMS, mixture=BY_KEYS._replace(shared="either", found=True)
    ),
    "laguna": _NEOX._replace(
        vectors=HEAD_NORMS,
        full_every=4,
        full_first=True,
        window_rope_base=0.0,
        gated_heads=Function.SOFTPLUS,
        mixture=BY_KEYS,
        own_keys=("attention.head_count", "attention.head_count_kv"),
    ),
    "maple": QWEN3_MOE._replace(
        window_rope_base=0.0,
        rotary_windows=True,
        mixture=Mixture(limits=ActivationType.SILU_LIMITED, limit=7.0, shared_limited=False),
    ),
    "mimo2": _NEOX._replace(
        optional=(SINKS,),
        window_rope_base=0.0,
        mixture=Mixture(Route.ROUTE_SIGMOID, found=True),
        unused=("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias"),
        own_keys=("attention.head_count", "attention.head_count_kv"),
    ),
    # MiniMax 2026. It attends to a choice of blocks of tokens in longer texts than those of
    # `attention.indexer.top_k` blocks, and runs up to that.
    "minimax-m3": _NEOX._replace(
        activation="silu_clamped",
        vectors=HEAD_NORMS,
        mixture=BY_KEYS,
        chosen_blocks=True,
        unused_matrices=tuple(f"indexer.{name}" for name in _INDEXER),
    ),
    "qwen3vlmoe": QWEN3_MOE,
}
