"""Families whose activations are sparse as they were trained: Nemotron-H and Nemotron 3 (ReLU² in
layers or experts, beside Mamba-2 and attention), RWKV 7 as flash-linear-attention stores it (ReLU²
channel mixes), and SmallThinker (ReLU experts)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._arrays import FloatArray
from .family import Keys
from .parts import Part, Parts

if TYPE_CHECKING:
    from .config import Config

# -- Nemotron-H ------------------------------------------------------------------------------------

# What a block is: the names that configs have had for it.
_BLOCKS = {
    **dict.fromkeys(("M", "mamba", "linear_attention"), "mamba"),
    **dict.fromkeys(("*", "attention", "full_attention"), "attention"),
    **dict.fromkeys(("-", "mlp"), "mlp"),
    **dict.fromkeys(("E", "moe"), "moe"),
}
_NO_LIMITS = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])  # as JSON is read, old and new


def _blocks(config: Config) -> list[str]:
    key = "layers_block_type" if "layers_block_type" in config else "hybrid_override_pattern"
    names = config.get(key, [])
    if not isinstance(names, Sequence) or not names or not set(names) <= set(_BLOCKS):
        raise config.fail(key, f"is {names!r}; expected one of {', '.join(_BLOCKS)} a layer")
    blocks = [_BLOCKS[name] for name in names]
    if config.get("num_hidden_layers", len(blocks)) != len(blocks):
        raise config.fail("num_hidden_layers", f"is not {len(blocks)}, as {key!r} says")
    if "moe" in blocks and "mlp" in blocks:
        raise config.unsupported(key)
    return blocks


def nemotron_h(config: Config) -> str:
    """GGUF's name, which tells mixtures from others."""
    return "nemotron_h_moe" if "moe" in _blocks(config) else "nemotron_h"


def nemotron_h_values(config: Config) -> Keys:
    """Values under their usual names."""
    return {
        "num_hidden_layers": len(_blocks(config)),
        "head_dim": config.get("head_dim", config.get("attention_head_dim")),
        "hidden_act": config.get("mlp_hidden_act"),
    }


def nemotron_h_keys(config: Config) -> Keys:
    """The keys of its layers."""
    if config.get("mamba_hidden_act", "silu") != "silu":
        raise config.unsupported("mamba_hidden_act")
    limit = config.get("time_step_limit", _NO_LIMITS[0])
    if limit not in _NO_LIMITS:
        raise config.unsupported("time_step_limit")
    heads, blocks = config.integer("mamba_num_heads"), _blocks(config)
    experts = "moe" in blocks
    hidden = config.integer("moe_intermediate_size") if experts else config.hidden
    neurons = {"moe": hidden, "mlp": hidden}

    def of_blocks(sizes: dict[str, int]) -> Any:
        return np.array([sizes.get(block, 0) for block in blocks], np.uint32)

    keys: Keys = {
        "attention.head_count_kv": of_blocks({"attention": config.kv_heads}),
        "feed_forward_length": of_blocks(neurons),
        "ssm.conv_kernel": config.integer("conv_kernel"),
        "ssm.inner_size": heads * config.integer("mamba_head_dim"),
        "ssm.state_size": config.integer("ssm_state_size"),
        "ssm.time_step_rank": heads,
        "ssm.group_count": config.integer("n_groups"),
    }
    if not experts:
        return keys
    if "moe_latent_size" in config:
        keys["moe_latent_size"] = config.integer("moe_latent_size")
    return {
        **keys,
        "expert_count": config.experts,
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": hidden,
        "expert_shared_feed_forward_length": config.integer("moe_shared_expert_intermediate_size"),
        "expert_shared_count": config.integer("n_shared_experts"),
        "expert_weights_norm": bool(config.get("norm_topk_prob", True)),
        "expert_weights_scale": config.number("routed_scaling_factor", 1.0),
        "expert_group_count": config.integer("n_group", 1),
        "expert_group_used_count": config.integer("topk_group", 1),
    }


def nemotron_h_parts(config: Config, parts: Parts) -> Parts:
    """Filters as matrices, and vectors as columns. Layers that only draft tokens are left out."""
    inner, groups = config.integer("mamba_num_heads"), config.integer("n_groups")
    inner *= config.integer("mamba_head_dim")
    found: Parts = {}
    for stored, part in parts.items():
        if stored.startswith("mtp."):
            continue
        name = re.sub(r"^model\.", "backbone.", stored)
        name = re.sub(
            r"^backbone(.+mixer)(\.experts\.\w+_proj)(\.weight)?$", r"model\1\2.weight", name
        )
        if name.startswith("model."):
            name = name.replace(".mixer.", ".mlp.")
        elif name.endswith(".mixer.conv1d.weight"):
            part = _filters(config, part)
        elif name.endswith(".mixer.A_log"):
            part = part.made(lambda x: -np.exp(x).reshape(-1, 1), (*part.shape, 1), plain=True)
        elif name.endswith(".mixer.D"):
            part = part.made(lambda x: x.reshape(-1, 1), (*part.shape, 1), plain=True)
        elif name.endswith(".mixer.norm.weight"):
            if part.shape != (inner,) or inner % groups:
                raise config.fail("n_groups", f"does not suit {stored!r}, {part.shape}")
            rows = groups, inner // groups
            part = part.made(lambda x: x.reshape(groups, -1), rows, plain=True)
        name = name.replace(".dt_bias", ".dt.bias")
        found[name.replace("e_score_correction_bias", "e_score_correction.bias")] = part
    return found


def _filters(config: Config, part: Part) -> Part:
    """(channels, 1, taps) as a matrix."""
    if len(part.shape) != 3 or part.shape[1] != 1:
        raise config.fail("conv_kernel", f"does not suit {part.name!r}, {part.shape}")
    return part.made(lambda x: x[:, 0], part.shape[::2], plain=True)


# -- RWKV 7 ----------------------------------------------------------------------------------------

_HEAD_EPSILON = 64e-5  # of the norm of each head, wherever the architecture runs
_CONTEXT = 1 << 20  # llama.cpp writes it for a model that has no limit
_SHIFTS = "rwkvag"  # the order of their shares in one tensor
_PARTS = {
    "attn_norm": "attn_norm",
    "ffn_norm": "attn_norm_2",
    **{f"attn.{name[0]}_proj": f"time_mix_{name}" for name in ("receptance", "key", "value")},
    "attn.o_proj": "time_mix_output",
    "attn.g_norm": "time_mix_ln",
    **{f"attn.{name}": f"time_mix_{name}" for name in ("k_k", "k_a", "r_k")},
    "ffn.x_k": "channel_mix_lerp_k",
    "ffn.key": "channel_mix_key",
    "ffn.value": "channel_mix_value",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+?)(\.weight|\.bias)?")
_LOW_RANK = re.compile(r"attn\.([wavg])_lora\.lora\.([02])")


def rwkv7_values(config: Config) -> Keys:
    """Values under their usual names."""
    d, head = config.integer("hidden_size"), config.integer("head_dim", 64)
    if d % head:
        raise config.fail("head_dim", f"does not divide hidden_size, {d}")
    hidden = 32 * math.ceil(int(d * config.number("hidden_ratio", 4)) / 32)
    return {
        "num_attention_heads": d // head,
        "num_key_value_heads": d // head,
        "head_dim": head,
        "intermediate_size": config.integer("intermediate_size", hidden),
    }


def rwkv7_keys(config: Config) -> Keys:
    """The keys of its layers."""
    if "attn" in config:
        raise config.unsupported("attn")
    if not math.isclose(config.head_dim * config.number("norm_eps", 1e-5), _HEAD_EPSILON):
        raise config.unsupported("norm_eps")
    ranks = {
        "attention.decay_lora_rank": "decay_low_rank_dim",
        "attention.iclr_lora_rank": "a_low_rank_dim",
        "attention.value_residual_mix_lora_rank": "v_low_rank_dim",
        "attention.gate_lora_rank": "gate_low_rank_dim",
    }
    return {
        "context_length": _CONTEXT,
        "attention.head_count": 0,
        "wkv.head_size": config.head_dim,
        **{key: config.integer(name) for key, name in ranks.items()},
    }


def rwkv7_parts(config: Config, parts: Parts) -> Parts:
    """The shares of the token before as one tensor, and matrices of low rank by their letters."""
    found: Parts = {}
    shares: dict[str, dict[str, Part]] = {}
    for name, part in parts.items():
        layer = _LAYER.fullmatch(name)
        if layer is None or layer[2] == "pre_norm":
            found[name] = part
            continue
        block, inner, kind = f"blk.{layer[1]}.", layer[2], layer[3] or ".weight"
        low = _LOW_RANK.fullmatch(inner)
        if inner == "attn.x_x":
            whole = (len(_SHIFTS), 1, 1, config.d)
            shape = _sized(part, config.d * len(_SHIFTS), config)
            found[f"{block}time_mix_lerp_fused.weight"] = part.made(shape, whole, plain=True)
        elif inner.startswith("attn.x_"):
            shares.setdefault(block, {})[inner[-1]] = part
        elif low is not None:
            number = "0" if kind == ".bias" else {"0": "1", "2": "2"}[low[2]]
            low_rank = part.made(lambda x: x, plain=True)
            found[f"{block}time_mix_{low[1]}{number}.weight"] = low_rank
        elif inner == "ffn.x_k" or inner == "attn.r_k":
            flat = part.made(_sized(part, config.d, config), (config.d,))
            found[f"{block}{_PARTS[inner]}.weight"] = flat
        else:
            found[f"{block}{_PARTS[inner]}{kind}" if inner in _PARTS else name] = part
    for block, each in shares.items():
        if set(each) != set(_SHIFTS):
            raise config.fail("model_type", f"asks for the shares {_SHIFTS}, not {''.join(each)}")
        found[f"{block}time_mix_lerp_fused.weight"] = _stacked([each[c] for c in _SHIFTS], config)
    return found


def _sized(part: Part, size: int, config: Config) -> Any:
    """What makes an array flat, of a tensor that has this many elements."""
    if math.prod(part.shape) != size:
        raise config.fail("hidden_size", f"does not suit {part.name!r}, {part.shape}")
    return np.ravel


def _stacked(shares: Sequence[Part], config: Config) -> Part:
    for each in shares:
        _sized(each, config.d, config)

    def rows() -> FloatArray:
        return np.stack([each.floats().ravel() for each in shares])

    shape = (len(shares), 1, 1, config.d)
    return Part(shares[0].name, shape, shares[0].format, rows, plain=True)


# -- SmallThinker ----------------------------------------------------------------------------------

_WINDOW = 4096  # of every model with a window
_PERIOD = 4  # of so many layers, the first one sees everything, and has no positions


def smallthinker_values(config: Config) -> Keys:
    """Values under their usual names. The model's class computes ReLU, and no key says so."""
    return {
        "num_experts": config.integer("moe_num_primary_experts"),
        "intermediate_size": config.integer("moe_ffn_hidden_size"),
        "hidden_act": config.get("hidden_act", "relu"),
    }


def smallthinker_keys(config: Config) -> Keys:
    """The keys of its experts, and of its windows."""
    other = ("use_qk_norm", "moe_enable_secondary_experts", "moe_shared_primary_experts")
    for name in other:
        if config.get(name):
            raise config.unsupported(name)
    if not config.get("moe_enable_early_router", True):
        raise config.unsupported("moe_enable_early_router")
    everywhere = [1] * config.layers
    if config.get("moe_layer_layout", everywhere) != everywhere:
        raise config.unsupported("moe_layer_layout")
    windows = config.get("sliding_window_layout", [0] * config.layers)
    turned, windowed = everywhere, any(windows)
    if windowed:
        turned = [int(layer % _PERIOD != 0) for layer in range(config.layers)]
        if windows != turned:
            raise config.unsupported("sliding_window_layout")
        if config.integer("sliding_window_size") != _WINDOW:
            raise config.unsupported("sliding_window_size")
    if config.get("rope_layout", turned) != turned:
        raise config.unsupported("rope_layout")
    keys: Keys = {
        "expert_count": config.experts,
        "expert_used_count": config.integer("moe_num_active_primary_experts"),
        "expert_feed_forward_length": config.hidden,
        "expert_gating_func": 1 if config.get("moe_primary_router_apply_softmax") else 2,
    }
    return {**keys, "attention.sliding_window": _WINDOW} if windowed else keys
