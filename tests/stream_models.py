"""Small random models whose blocks read and write several residual streams, or have latent and
delta attention with gates and bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixture_models import (
    COMMON_KEYS,
    EXPERTS,
    HEADS,
    HIDDEN,
    LAYERS,
    PLAIN,
    QUERY_RANK,
    RANK,
    TURNED,
    USED,
    VALUE,
    VOCAB,
    WIDTH,
    D,
    Mixture,
    experts,
    gated,
    save,
)

NET, STREAMS, LEAD, LATENT = 8, 3, 1, 20
HASHED, GROUPS, RUNS = 1, 2, [0, 4, 3, 4, 3]
WINDOWED = [layer % 2 == 1 for layer in range(LAYERS)]
RECURRENT = [layer % 3 != 2 for layer in range(LAYERS)]

Tensors = Iterator[tuple[str, tuple[int, ...]]]


def write(path: Path, architecture: str) -> Path:
    """Writes the model of one of `MODELS`."""
    keys = {**COMMON_KEYS, **_COMMON, **MODELS[architecture]}
    own = {"token_embd.weight": (VOCAB, D), "output.weight": (VOCAB, D), "output_norm.weight": (D,)}
    return save(path, architecture, keys, own | dict(_tensors(architecture)))


def _tensors(architecture: str) -> Tensors:
    mixture = Mixture(parts=frozenset({"selection_bias"}), shared=WIDTH)
    if architecture in ("hy_v4", "deepseek4"):
        yield from _shares("output_hc", STREAMS, 1)
    if architecture == "kimi-k3":
        yield "output_res_score.weight", (D,)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for part in ("attn", "ffn"):
            yield f"{block}{part}_norm.weight", (D,)
            if architecture == "hy_v4":
                yield from _shares(f"{block}hc_{part}", 2 * STREAMS, 2)
            elif architecture in ("glm5-next", "deepseek4"):
                yield from _shares(f"{block}hc_{part}", (2 + STREAMS) * STREAMS, 3)
            elif architecture == "kimi-k3":
                yield f"{block}{part}_res_score.weight", (D,)
        if RECURRENT[layer] and "kda.head_dim" in MODELS[architecture]:
            yield from _delta(architecture, block)
        elif architecture == "dots3note" and WINDOWED[layer]:
            yield from _latent(architecture, block, RANK - 4, PLAIN - 2, VALUE - 3)
        elif architecture == "deepseek4":
            yield from _pooled(block, RUNS[layer])
        else:
            yield from _latent(architecture, block)
        if architecture == "deepseek4" and layer < HASHED:
            yield f"{block}ffn_gate_tid2eid.weight", (VOCAB, USED)
            yield from experts(Mixture(shared=WIDTH), block)
        elif layer < LEAD and architecture != "deepseek4":
            yield from gated(f"{block}ffn_", "", HIDDEN)
        elif architecture == "kimi-k3":
            yield from _latent_experts(block)
        else:
            yield from experts(mixture, block)


def _shares(name: str, count: int, factors: int) -> Tensors:
    yield f"{name}_fn.weight", (count, STREAMS * D)
    yield f"{name}_base.weight", (count,)
    yield f"{name}_scale.weight", (factors,)


def _delta(architecture: str, block: str) -> Tensors:
    inner = HEADS * NET
    for name in "qkv":
        yield f"{block}attn_{name}.weight", (inner, D)
        yield f"{block}ssm_conv1d_{name}.weight", (inner, 1, 4)
    for name in "fg":
        if architecture == "bailingmoe3":
            yield f"{block}ssm_{name}_a.weight", (inner, D)
        elif architecture == "kimi-k3" and name == "g":
            yield f"{block}ssm_g.weight", (inner, D)
        else:
            yield f"{block}ssm_{name}_a.weight", (NET, D)
            yield f"{block}ssm_{name}_b.weight", (inner, NET)
    yield f"{block}ssm_dt.bias", (inner,)
    yield f"{block}ssm_a", (HEADS, 1) if architecture == "bailingmoe3" else (HEADS,)
    yield f"{block}ssm_beta.weight", (HEADS, D)
    yield f"{block}ssm_norm.weight", (NET,)
    yield f"{block}attn_output.weight", (D, inner)


def _latent(
    architecture: str, block: str, rank: int = RANK, plain: int = PLAIN, value: int = VALUE
) -> Tensors:
    turned = 0 if architecture == "glm5-next" else TURNED
    yield f"{block}attn_q_a.weight", (QUERY_RANK, D)
    yield f"{block}attn_q_a_norm.weight", (QUERY_RANK,)
    yield f"{block}attn_q_b.weight", (HEADS * (plain + turned), QUERY_RANK)
    yield f"{block}attn_kv_a_mqa.weight", (rank + turned, D)
    yield f"{block}attn_kv_a_norm.weight", (rank,)
    yield f"{block}attn_k_b.weight", (HEADS, rank, plain)
    yield f"{block}attn_v_b.weight", (HEADS, value, rank)
    yield f"{block}attn_output.weight", (D, HEADS * value)
    if architecture == "dots3note":
        yield f"{block}attn_k_norm.weight", (TURNED,)
    if architecture == "hy_v4":
        yield f"{block}attn_sinks.weight", (HEADS,)
    if architecture != "glm5-next":
        gates = HEADS if architecture in ("bailingmoe3", "dots3note") else HEADS * value
        yield f"{block}attn_gate.weight", (gates, D)
    else:
        yield f"{block}indexer.proj.weight", (2, D)
        yield f"{block}indexer_compressor_gate.weight", (NET, D)


def _pooled(block: str, run: int) -> Tensors:
    """Of attention to a window and to pooled runs of `run` tokens."""
    head = PLAIN + TURNED
    yield f"{block}attn_q_a.weight", (QUERY_RANK, D)
    yield f"{block}attn_q_a_norm.weight", (QUERY_RANK,)
    yield f"{block}attn_q_b.weight", (HEADS * head, QUERY_RANK)
    yield f"{block}attn_kv.weight", (head, D)
    yield f"{block}attn_kv_a_norm.weight", (head,)
    yield f"{block}attn_sinks.weight", (HEADS,)
    yield f"{block}attn_output_a.weight", (GROUPS * NET, HEADS * head // GROUPS)
    yield f"{block}attn_output_b.weight", (D, GROUPS * NET)
    parts = [("attn", head), ("indexer", 6)] if run == 4 else [("attn", head)] if run else []
    for part, size in parts:
        width = 2 * size if run == 4 else size
        yield f"{block}{part}_compressor_kv.weight", (width, D)
        yield f"{block}{part}_compressor_gate.weight", (width, D)
        yield f"{block}{part}_compressor_ape.weight", (run, width)
        yield f"{block}{part}_compressor_norm.weight", (size,)
    if run == 4:
        yield f"{block}indexer.proj.weight", (2, D)
        yield f"{block}indexer.attn_q_b.weight", (2 * 6, QUERY_RANK)


def _latent_experts(block: str) -> Tensors:
    """On fewer dimensions than the stream has."""
    yield f"{block}ffn_gate_inp.weight", (EXPERTS, D)
    yield f"{block}exp_probs_b.bias", (EXPERTS,)
    for name in ("gate", "up"):
        yield f"{block}ffn_{name}_exps.weight", (EXPERTS, WIDTH, LATENT)
    yield f"{block}ffn_down_exps.weight", (EXPERTS, LATENT, WIDTH)
    yield f"{block}ffn_routed_down.weight", (LATENT, D)
    yield f"{block}ffn_routed_norm.weight", (LATENT,)
    yield f"{block}ffn_routed_up.weight", (D, LATENT)
    yield from gated(f"{block}ffn_", "_shexp", WIDTH)


_COMMON: dict[str, Any] = {
    "attention.key_length": RANK + TURNED,
    "attention.value_length": RANK,
    "attention.key_length_mla": PLAIN + TURNED,
    "attention.value_length_mla": VALUE,
    "attention.q_lora_rank": QUERY_RANK,
    "attention.kv_lora_rank": RANK,
    "rope.dimension_count": TURNED,
    "expert_feed_forward_length": WIDTH,
    "expert_gating_func": 2,
    "expert_shared_count": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "leading_dense_block_count": LEAD,
}
_DELTA: dict[str, Any] = {
    "attention.head_count_kv": [0 if each else HEADS for each in RECURRENT],
    "kda.head_dim": NET,
    "kda.gate_lower_bound": -2.0,
    "ssm.conv_kernel": 4,
}
_HYPER: dict[str, Any] = {"hyper_connection.count": STREAMS, "hyper_connection.epsilon": 0.01}
MODELS: dict[str, dict[str, Any]] = {
    "hy_v4": {
        **_HYPER,
        "attention.head_count_kv": 1,
        "attention.indexer.top_k": 16,
        "hyper_connection.magnitude": 1.5,
        "swiglu_clamp_exp": 0.3,
    },
    "deepseek4": {
        **_HYPER,
        "attention.head_count_kv": 1,
        "attention.compress_ratios": RUNS,
        "attention.compress_rope_freq_base": 500.0,
        "attention.indexer.top_k": 4,
        "attention.key_length": PLAIN + TURNED,
        "attention.output_group_count": GROUPS,
        "attention.output_lora_rank": NET,
        "attention.sliding_window": 5,
        "attention.value_length": PLAIN + TURNED,
        "expert_gating_func": 4,
        "hash_layer_count": HASHED,
        "hyper_connection.sinkhorn_iterations": 3,
        "leading_dense_block_count": 0,
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 8,
        "rope.scaling.type": "yarn",
        "swiglu_clamp_exp": [0.2, 0.0, 0.3, 0.4, 0.1],
    },
    "dots3note": {
        "attention.head_count_kv": 1,
        "attention.indexer.top_k": 16,
        "attention.sliding_window": 5,
        "attention.sliding_window_pattern": WINDOWED,
        "attention.kv_lora_rank_swa": RANK - 4,
        "attention.key_length_mla_swa": PLAIN - 2 + TURNED,
        "attention.value_length_mla_swa": VALUE - 3,
        "rope.freq_base_swa": 500.0,
    },
    "glm5-next": {
        **_HYPER,
        **_DELTA,
        "attention.indexer.top_k": 16,
        "attention.indexer.kpool_select_tail": True,
        "attention.key_length": RANK,
        "attention.key_length_mla": PLAIN,
        "hyper_connection.sinkhorn_iterations": 3,
        "rope.dimension_count": 0,
        "swiglu_clamp_exp": [0.2, 0.0, 0.3, 0.4, 0.1],
    },
    "bailingmoe3": {
        **_DELTA,
        "swiglu_clamp_exp": [0.2, 0.0, 0.1, 0.4, 0.1],
        "swiglu_clamp_shexp": [0.1, 0.2, 0.1, 0.0, 0.2],
    },
    "kimi-k3": {
        **_DELTA,
        "activation.situ_beta": 0.6,
        "activation.situ_linear_beta": 1.7,
        "attn_res.block_size": 2,
        "expert_latent_length": LATENT,
    },
}
