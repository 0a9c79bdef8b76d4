"""Small random models of architectures that mix otherwise than by attention, or in another order:
the usual tensors of `decoder_models`, and what each has instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import decoder_models
from decoder_models import decoder_of
from mixture_models import EXPERTS, HEAD, HEADS, LAYERS, USED, WIDTH, D, save

INNER, STATE, TAPS, RANK, GROUPS, SSM_HEADS = 24, 6, 4, 3, 2, 4
PLAMO_RANK = 64  # the least that there is
QUERY_RANK, KEY_RANK, TURNED, VALUE = 20, 16, 4, 10  # of latent attention

_SOME = {"attention.head_count": [0, 4, 0, 0, 4], "attention.head_count_kv": [0, 2, 0, 0, 2]}
_SSM: dict[str, Any] = {
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.conv_kernel": TAPS,
    "ssm.time_step_rank": RANK,
}
_SSM2: dict[str, Any] = {**_SSM, "ssm.time_step_rank": SSM_HEADS, "ssm.group_count": GROUPS}
_EXPERTS: dict[str, Any] = {
    "expert_count": EXPERTS,
    "expert_used_count": USED,
    "feed_forward_length": WIDTH,
}

MIXED = {
    "arctic": decoder_of("plain experts", keys=_EXPERTS),
    "deci": decoder_of(
        "plain",
        keys={
            "attention.head_count": [4, 0, 4, 2, 4],
            "attention.head_count_kv": [2, 0, 0, 1, 4],
            "feed_forward_length": [40, 24, 0, 16, 32],
        },
    ),
    "falcon-h1": decoder_of("halves", keys=_SSM2),
    "granitehybrid": decoder_of(
        "unturned_at_all",
        keys={**_SSM2, **_SOME, "rope.scaling.finetuned": False},
    ),
    "hrm_text": decoder_of(
        "halves bare gate_each",
        keys={
            "block_count": 12,
            "hrm.layers_per_stack": 2,
            "hrm.h_cycles": 2,
            "hrm.l_cycles": 2,
        },
    ),
    "jamba": decoder_of(
        "experts unnormalised", keys={**_SSM, **_SOME, **_EXPERTS, "leading_dense_block_count": 1}
    ),
    "mamba": decoder_of("", keys=_SSM),
    "minicpm3": decoder_of(
        "halves",
        embedding_scale=12.0,
        logit_scale=256 / D,
        keys={
            "attention.value_length": VALUE,
            "attention.q_lora_rank": QUERY_RANK,
            "attention.kv_lora_rank": KEY_RANK,
            "attention.head_count_kv": HEADS,
            "rope.dimension_count": TURNED,
        },
    ),
    "nanbeige": decoder_of("plain", keys={"num_loops": 2}),
    "plamo2": decoder_of(
        "halves fused own_norms gate_up after bare_names",
        keys={**_SSM, **_SOME, "ssm.time_step_rank": SSM_HEADS},
    ),
    "talkie": decoder_of(
        "halves bare bare_embedding_norm", keys={"logit_scale": 0.25}, logit_scale=0.25
    ),
}


def write(path: Path, architecture: str) -> Path:
    """Writes the model of an architecture."""
    decoder = MIXED[architecture]
    keys = decoder_models.keys_of(decoder)
    flat = {name: max(value) if isinstance(value, list) else value for name, value in keys.items()}
    tensors = dict(decoder_models.tensors_of(decoder, keys if architecture == "deci" else flat))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        attends = decoder_models.of_layer(keys, "attention.head_count_kv", layer) > 0
        if architecture == "mamba":
            _remove(tensors, block, "attn_q", "attn_k", "attn_v", "attn_output", "ffn")
            tensors |= _mamba(block)
        elif architecture in ("jamba", "plamo2", "granitehybrid") and not attends:
            _remove(tensors, block, "attn_q", "attn_k", "attn_v", "attn_output")
            tensors |= {"jamba": _jamba, "plamo2": _plamo, "granitehybrid": _mamba2}[architecture](
                block
            )
        elif architecture == "falcon-h1":
            tensors |= _mamba2(block)
        elif architecture == "minicpm3":
            _remove(tensors, block, "attn_q", "attn_k", "attn_v", "attn_output")
            tensors |= _latent(block)
        elif architecture == "deci" and not attends:
            whole = keys["attention.head_count"][layer] > 0
            _remove(tensors, block, *(["attn_q", "attn_k", "attn_v"] if whole else ["attn"]))
            tensors |= {f"{block}attn_output.weight": (D, D)} if whole else {}
        elif architecture == "arctic":
            tensors |= {f"{block}ffn_{name}.weight": (D, D) for name in ("gate", "up", "down")}
            tensors[f"{block}ffn_norm_exps.weight"] = (D,)
        elif architecture == "talkie":
            tensors[f"{block}layer_output_scale.weight"] = (1,)
            tensors[f"{block}attn_q_norm.weight"] = (HEADS, 1)
        if architecture == "deci" and not keys["feed_forward_length"][layer]:
            _remove(tensors, block, "ffn")
    if architecture == "hrm_text":
        _remove(tensors, "blk.4.", "")  # two stacks of two blocks
        tensors["hrm.z_l_init"] = (D,)
    return save(path, architecture, keys, tensors)


def _remove(tensors: dict[str, tuple[int, ...]], block: str, *starts: str) -> None:
    for name in [name for name in tensors if name.startswith(tuple(block + s for s in starts))]:
        del tensors[name]


def _mamba(block: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}ssm_in.weight": (2 * INNER, D),
        f"{block}ssm_conv1d.weight": (INNER, TAPS),
        f"{block}ssm_conv1d.bias": (INNER,),
        f"{block}ssm_x.weight": (RANK + 2 * STATE, INNER),
        f"{block}ssm_dt.weight": (INNER, RANK),
        f"{block}ssm_dt.bias": (INNER,),
        f"{block}ssm_a": (INNER, STATE),
        f"{block}ssm_d": (INNER,),
        f"{block}ssm_out.weight": (D, INNER),
    }


def _jamba(block: str) -> dict[str, tuple[int, ...]]:
    norms = {"dt": RANK, "b": STATE, "c": STATE}
    return _mamba(block) | {f"{block}ssm_{name}_norm.weight": (n,) for name, n in norms.items()}


def _plamo(block: str) -> dict[str, tuple[int, ...]]:
    norms = {"dt": PLAMO_RANK, "b": STATE, "c": STATE}
    return {
        f"{block}ssm_in.weight": (2 * INNER, D),
        f"{block}ssm_conv1d.weight": (INNER, TAPS),
        f"{block}ssm_x.weight": (PLAMO_RANK + 2 * STATE, INNER),
        f"{block}ssm_dt.weight": (SSM_HEADS, PLAMO_RANK),
        f"{block}ssm_dt.bias": (SSM_HEADS,),
        f"{block}ssm_a": (SSM_HEADS,),
        f"{block}ssm_d": (SSM_HEADS,),
        f"{block}ssm_out.weight": (D, INNER),
        **{f"{block}ssm_{name}_norm": (n,) for name, n in norms.items()},
    }


def _mamba2(block: str) -> dict[str, tuple[int, ...]]:
    mixed = INNER + 2 * GROUPS * STATE
    return {
        f"{block}ssm_in.weight": (INNER + mixed + SSM_HEADS, D),
        f"{block}ssm_conv1d.weight": (mixed, TAPS),
        f"{block}ssm_conv1d.bias": (mixed,),
        f"{block}ssm_dt.bias": (SSM_HEADS,),
        f"{block}ssm_a": (SSM_HEADS, 1),
        f"{block}ssm_d": (SSM_HEADS, 1),
        f"{block}ssm_norm.weight": (GROUPS, INNER // GROUPS),
        f"{block}ssm_out.weight": (D, INNER),
    }


def _latent(block: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}attn_q_a.weight": (QUERY_RANK, D),
        f"{block}attn_q_a_norm.weight": (QUERY_RANK,),
        f"{block}attn_q_b.weight": (HEADS * HEAD, QUERY_RANK),
        f"{block}attn_kv_a_mqa.weight": (KEY_RANK + TURNED, D),
        f"{block}attn_kv_a_norm.weight": (KEY_RANK,),
        f"{block}attn_kv_b.weight": (HEADS * (HEAD - TURNED + VALUE), KEY_RANK),
        f"{block}attn_output.weight": (D, HEADS * VALUE),
    }
