"""Decoders without experts that differ from Llama's kind: Gemma, Phi, OLMo, Cohere's, SmolLM3,
GPT-2 and others. What else their configs can ask for is refused, by the key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._arrays import FloatArray
from .family import Family, Keys
from .multimodal import text_parts
from .parts import Part, Parts

if TYPE_CHECKING:
    from .config import Config

_WINDOW, _ALL = "sliding_attention", "full_attention"
_LAYER_EPSILON = "layer_norm_eps", "attention.layer_norm_epsilon"


def _windows(config: Config, every: int, *, always: bool = False) -> Keys:
    """Which layers have a window: all but one of so many, the last of them, unless the config says
    otherwise. always: it is written layer by layer even then."""

    def alternating(period: int) -> list[str]:
        return [_WINDOW if (n + 1) % period else _ALL for n in range(config.layers)]

    period = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", every))
    if isinstance(period, str) and period == "L" * (len(period) - 1) + "G":
        period = len(period)
    if not isinstance(period, int) or period < 1:
        raise config.unsupported("sliding_window_pattern")
    kinds = config.get("layer_types", alternating(period))
    if not isinstance(kinds, list) or len(kinds) != config.layers or {*kinds} - {_WINDOW, _ALL}:
        raise config.unsupported("layer_types")
    if _WINDOW not in kinds or "sliding_window" not in config:
        return {}
    keys: Keys = {"attention.sliding_window": config.integer("sliding_window")}
    if always or kinds != alternating(every):
        keys["attention.sliding_window_pattern"] = np.array([kind == _WINDOW for kind in kinds])
    return keys


def _rotations(config: Config, full: float, window: float) -> tuple[Keys, float]:
    """What is said of the rotation of layers that see everything, and the base of those with a
    window, which have no scaling; full, window: the bases where the config does not say."""
    stored = config.values.get("rope_parameters")
    if not isinstance(stored, Mapping) or not {_WINDOW, _ALL} & set(stored):
        base = config.number("rope_theta", full)
        scaling = config.values.get("rope_scaling")
        stored = {
            _ALL: {"rope_theta": base, **(scaling if isinstance(scaling, Mapping) else {})},
            _WINDOW: {"rope_theta": config.number("rope_local_base_freq", window or base)},
        }
    whole, part = ({**stored.get(kind, {})} for kind in (_ALL, _WINDOW))
    local = part.get("rope_theta", window or whole.get("rope_theta", full))
    if part.get("rope_type", "default") != "default" or not isinstance(local, (int, float)):
        raise config.unsupported("rope_parameters")
    return {"rope_theta": full, **whole}, float(local)


def _only(config: Config, **values: Any) -> None:
    """Raises for a value other than the one that the architecture computes, which a config without
    the key has too."""
    for name, value in values.items():
        if config.get(name, value) != value:
            raise config.unsupported(name)


# -- Gemma -----------------------------------------------------------------------------------------

_GELU = "gelu_pytorch_tanh"
# Of Gemma 3, whose configs leave out what transformers has as a default.
_GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "hidden_activation": _GELU,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def _gemma_values(config: Config) -> Keys:
    """The activation. Older configs name "gelu" in a key that the model's class does not read."""
    named = config.get("hidden_activation")
    old = config.get("hidden_act", _GELU)
    found = named or (_GELU if old == "gelu" else old)
    return {"hidden_act": found, "hidden_activation": found}


def _gemma2_values(config: Config) -> Keys:
    return {"sliding_window": config.get("sliding_window", 4096), **_gemma_values(config)}


def _gemma3_values(config: Config) -> Keys:
    found = {name: config.get(name, value) for name, value in _GEMMA3.items()}
    rotation, _ = _rotations(config, 1e6, 1e4)
    return {**found, "rope_parameters": rotation, **_gemma_values(config)}


def _gemma_keys(config: Config) -> Keys:
    if config.get("use_bidirectional_attention"):
        raise config.unsupported("use_bidirectional_attention")
    return {}


def _check_queries(config: Config, layers: int) -> None:
    """What queries are divided by: the width of a head, but in models of so many layers, the
    largest of their kind, as it would be without a size of its own."""
    _gemma_keys(config)
    width = config.d / config.heads if config.layers == layers else config.head_dim
    if config.get("query_pre_attn_scalar", 256) != width:
        raise config.unsupported("query_pre_attn_scalar")


def _gemma2_keys(config: Config) -> Keys:
    _check_queries(config, 46)
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    for name, value in caps.items():
        caps[name] = config.number(name, value)
        if caps[name] <= 0 or config.values.get(name, value) is None:
            raise config.unsupported(name)
    return {**_windows(config, 2), **caps}


def _gemma3_keys(config: Config) -> Keys:
    _check_queries(config, 62)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name):
            raise config.unsupported(name)
    _, local = _rotations(config, 1e6, 1e4)
    return {**_windows(config, 6), "rope.freq_base_swa": local}


def _gemma_parts(config: Config, parts: Parts) -> Parts:
    """Weights of norms, which checkpoints hold less 1."""
    return {
        name: part.made(lambda x: x + 1) if name.endswith("norm.weight") else part
        for name, part in text_parts(config, parts).items()
    }


# -- Phi, OLMo, SmolLM3, Exaone 4 ------------------------------------------------------------------


def _phi3_keys(config: Config) -> Keys:
    context = config.integer("max_position_embeddings")
    original = config.rope.get("original_max_position_embeddings", context)
    trained = config.integer("original_max_position_embeddings", original)
    return {
        "rope.scaling.original_context_length": trained,
        "attention.sliding_window": 0,  # llama.cpp asks for the key; `Config` has the window
    }


def _phi_keys(config: Config) -> Keys:
    _only(config, qk_layernorm=False)
    return {}


def _olmo_keys(config: Config) -> Keys:
    limit = config.get("clip_qkv")
    return {} if limit is None else {"attention.clamp_kqv": config.number("clip_qkv", 0.0)}


def _olmo3_values(config: Config) -> Keys:
    return {"rope_parameters": _rotations(config, 5e5, 0.0)[0]}


def _olmo3_keys(config: Config) -> Keys:
    rotation, local = _rotations(config, 5e5, 0.0)
    keys = _windows(config, 4, always=True)
    return keys if rotation["rope_theta"] == local else {**keys, "rope.freq_base_swa": local}


def _smollm3_keys(config: Config) -> Keys:
    turned = [int((layer + 1) % 4 != 0) for layer in range(config.layers)]
    _only(config, no_rope_layers=turned)
    if "no_rope_layers" not in config:
        _only(config, no_rope_layer_interval=4)
    return {}


_EXAONE_LAYERS = 64  # of the model with windows, by which readers of GGUF know it


def _exaone4_keys(config: Config) -> Keys:
    keys = {}
    if config.layers == _EXAONE_LAYERS:
        keys = _windows(config, 4)
    elif config.get("sliding_window"):
        raise config.unsupported("sliding_window")
    return keys


def _seed_keys(config: Config) -> Keys:
    _only(config, attention_out_bias=False, mlp_bias=False)
    return {}


def _hunyuan_values(config: Config) -> Keys:
    """The base of the rotation, which a fixed number scales in configs that call it dynamic."""
    rope = config.rope
    if rope["rope_type"] != "dynamic" or not rope.get("alpha"):
        return {}
    d, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    dims = config.integer("head_dim", d // heads)
    base = config.number("rope_theta", config.rope_number("rope_theta", 10000.0))
    base *= config.rope_number("alpha") ** (dims / (dims - 2))
    return {"rope_scaling": {}, "rope_parameters": {"rope_theta": base}}


def _lfm2_values(config: Config) -> Keys:
    """Sizes, of which older configs have other names, and which may have to be made smaller."""
    hidden = config.integer("block_ff_dim", config.get("intermediate_size"))
    if config.get("block_auto_adjust_ff_dim", True):
        hidden = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * hidden / 3))
        multiple = config.integer("block_multiple_of", 256)
        hidden = multiple * -(-hidden // multiple)
    return {
        "hidden_act": "silu",
        "intermediate_size": hidden,
        "tie_word_embeddings": config.get("tie_word_embeddings", config.get("tie_embedding")),
    }


def _lfm2_keys(config: Config) -> Keys:
    """Convolutions have no heads of keys and values."""
    kinds = config.get("layer_types")
    attends = config.get("full_attn_idxs")
    if kinds is None and isinstance(attends, list):
        kinds = [_ALL if layer in attends else "conv" for layer in range(config.layers)]
    if not isinstance(kinds, list) or len(kinds) != config.layers or {*kinds} - {"conv", _ALL}:
        raise config.unsupported("layer_types")
    _only(config, conv_bias=False)
    heads = [config.kv_heads if kind == _ALL else 0 for kind in kinds]
    taps = config.integer("conv_L_cache", 3)
    return {"attention.head_count_kv": np.array(heads, np.uint32), "shortconv.l_cache": taps}


def _lfm2_parts(_: Config, parts: Parts) -> Parts:
    """Filters, (channels, 1, taps), as matrices."""
    return {
        name: part.made(lambda x: x[:, 0], part.shape[::2], plain=True)
        if name.endswith(".conv.conv.weight") and len(part.shape) == 3
        else part
        for name, part in parts.items()
    }


# -- Cohere ----------------------------------------------------------------------------------------


def _cohere_values(config: Config) -> Keys:
    """The context, of which configs of Command R say less than the models were trained for."""
    stored = config.integer("max_position_embeddings", 8192)
    return {"max_position_embeddings": config.integer("model_max_length", stored)}


def _cohere_keys(config: Config) -> Keys:
    if config.rope["rope_type"] != "default":
        raise config.unsupported("rope_scaling")
    return {"logit_scale": config.number("logit_scale", 0.0625), "rope.scaling.type": "none"}


def _cohere2_keys(config: Config) -> Keys:
    _only(config, use_gated_activation=True, use_parallel_block=True, rotary_pct=1.0)
    return {**_cohere_keys(config), **_windows(config, 4)}


# -- GPT-2, GPT-NeoX, StarCoder 2, Falcon, StableLM ------------------------------------------------


def _gpt2_values(config: Config) -> Keys:
    names = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
    found = {name: config.integer(own) for name, own in names.items()}
    found["intermediate_size"] = config.integer("n_inner", 4 * found["hidden_size"])
    return {**found, "hidden_act": config.get("activation_function", "gelu_new")}


def _gpt2_keys(config: Config) -> Keys:
    _only(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    _only(config, add_cross_attention=False)
    return {}


def _gpt2_parts(config: Config, parts: Parts) -> Parts:
    """Matrices that products have on their right there."""
    on_the_right = re.compile(r".+\.(c_attn|c_proj|c_fc)\.weight")
    return {
        name: part.made(lambda x: x.T, part.shape[::-1]) if on_the_right.fullmatch(name) else part
        for name, part in parts.items()
    }


def _fused(config: Config, parts: Parts, per_group: Sequence[int]) -> Parts:
    """Rows of query_key_value, which are of one group of heads after another there: so many rows of
    heads of queries, keys and values in each. Here they are of all queries, keys and values."""
    wide = sum(per_group) * config.head_dim
    cuts = np.cumsum([count * config.head_dim for count in per_group])[:-1]

    def rows(x: FloatArray) -> FloatArray:
        pieces = np.split(x.reshape(-1, wide, *x.shape[1:]), cuts, axis=1)
        return np.concatenate([piece.reshape(-1, *x.shape[1:]) for piece in pieces])

    found: Parts = {}
    for name, part in parts.items():
        fused = ".query_key_value." in name
        if fused and part.shape[0] % wide:
            raise config.fail("num_attention_heads", f"does not suit {name!r}, {part.shape}")
        found[name] = part.made(rows) if fused else part
    return found


def _neox_values(config: Config) -> Keys:
    rope = config.get("rope_parameters", {})
    return {
        "rope_theta": config.get("rope_theta", config.get("rotary_emb_base", 10000.0)),
        "partial_rotary_factor": config.get(
            "partial_rotary_factor",
            rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25)),
        ),
        "num_key_value_heads": config.get("num_attention_heads"),
    }


def _neox_keys(config: Config) -> Keys:
    return {"use_parallel_residual": bool(config.get("use_parallel_residual", True))}


def _falcon_values(config: Config) -> Keys:
    heads = config.integer("num_attention_heads", config.get("n_head"))
    groups = heads
    if config.get("new_decoder_architecture"):
        groups = config.integer("num_kv_heads", config.get("n_head_kv", heads))
    elif config.get("multi_query", True):
        groups = 1
    return {
        "num_hidden_layers": config.get("num_hidden_layers", config.get("n_layer")),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": config.get("ffn_hidden_size", 4 * config.integer("hidden_size")),
        "hidden_act": config.get("activation", "gelu"),
    }


def _falcon_keys(config: Config) -> Keys:
    _only(config, alibi=False, bias=False)
    if not config.get("new_decoder_architecture"):
        _only(config, parallel_attn=True)
    return {}


def _falcon_parts(config: Config, parts: Parts) -> Parts:
    return _fused(config, parts, (config.heads // config.kv_heads, 1, 1))


def _stablelm_keys(config: Config) -> Keys:
    return {"use_parallel_residual": bool(config.get("use_parallel_residual", False))}


def _stablelm_parts(config: Config, parts: Parts) -> Parts:
    """The norm of each head of queries and keys as a row of one tensor."""
    of_head = re.compile(r"(.+\.[qk]_layernorm)\.norms\.(\d+)\.weight")
    found: Parts = {}
    heads: dict[str, dict[int, Part]] = {}
    for name, part in parts.items():
        if match := of_head.fullmatch(name):
            heads.setdefault(match[1], {})[int(match[2])] = part
        else:
            found[name] = part
    for name, each in heads.items():
        if sorted(each) != list(range(len(each))) or any(
            one.shape != (config.head_dim,) for one in each.values()
        ):
            raise config.fail("num_attention_heads", f"does not suit the norms of {name!r}")
        found[f"{name}.weight"] = _rows([each[head] for head in sorted(each)])
    return found


def _rows(parts: Sequence[Part]) -> Part:
    def floats() -> FloatArray:
        return np.stack([each.floats() for each in parts])

    first = parts[0]
    return Part(first.name, (len(parts), *first.shape), first.format, floats, plain=True)


_GEMMA = Family(
    "gemma",
    False,
    "GemmaForCausalLM",
    _gemma_keys,
    _gemma_parts,
    values=_gemma_values,
    usual=False,
    own_windows=True,
    tied=True,
)
_GEMMA3_TEXT = _GEMMA._replace(
    architecture="gemma3", model="Gemma3ForCausalLM", keys=_gemma3_keys, values=_gemma3_values
)

ROWS = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA._replace(
        architecture="gemma2", model="Gemma2ForCausalLM", keys=_gemma2_keys, values=_gemma2_values
    ),
    "gemma3_text": _GEMMA3_TEXT,
    "gemma3": _GEMMA3_TEXT._replace(model="Gemma3ForConditionalGeneration", inner="text_config"),
    "phi": Family(
        "phi2",
        False,
        "PhiForCausalLM",
        _phi_keys,
        usual=False,
        epsilon=_LAYER_EPSILON,
        partial=True,
    ),
    "phi3": Family(
        "phi3", False, "Phi3ForCausalLM", _phi3_keys, usual=False, partial=True, long=True
    ),
    "olmo": Family(
        "olmo",
        True,
        "OlmoForCausalLM",
        _olmo_keys,
        usual=False,
        epsilon=_LAYER_EPSILON,
        norms=False,
        values=lambda _: {"layer_norm_eps": 1e-5},
    ),
    "olmo2": Family("olmo2", False, "Olmo2ForCausalLM", usual=False),
    "olmo3": Family(
        "olmo2",
        False,
        "Olmo3ForCausalLM",
        _olmo3_keys,
        values=_olmo3_values,
        usual=False,
        own_windows=True,
    ),
    "smollm3": Family("smollm3", True, "SmolLM3ForCausalLM", _smollm3_keys, tied=True),
    "exaone4": Family(
        "exaone4", False, "Exaone4ForCausalLM", _exaone4_keys, usual=False, own_windows=True
    ),
    "glm4": Family(
        "glm4",
        False,
        "Glm4ForCausalLM",
        usual=False,
        partial=True,
    ),
    "ernie4_5": Family("ernie4_5", False, "Ernie4_5ForCausalLM", usual=False, tied=True),
    "hunyuan_v1_dense": Family(
        "hunyuan-dense", False, "HunYuanDenseV1ForCausalLM", values=_hunyuan_values, usual=False
    ),
    "lfm2": Family(
        "lfm2",
        False,
        "Lfm2ForCausalLM",
        _lfm2_keys,
        _lfm2_parts,
        usual=False,
        epsilon=("norm_eps", "attention.layer_norm_rms_epsilon"),
        norms=False,
        values=_lfm2_values,
        own_windows=True,
        tied=True,
    ),
    "seed_oss": Family("seed_oss", False, "SeedOssForCausalLM", _seed_keys, usual=False),
    "cohere": Family(
        "command-r",
        False,
        "CohereForCausalLM",
        _cohere_keys,
        values=_cohere_values,
        usual=False,
        epsilon=_LAYER_EPSILON,
        tied=True,
    ),
    "cohere2": Family(
        "cohere2",
        False,
        "Cohere2ForCausalLM",
        _cohere2_keys,
        values=_cohere_values,
        usual=False,
        epsilon=_LAYER_EPSILON,
        own_windows=True,
        tied=True,
        known=("use_gated_activation",),
    ),
    "gpt2": Family(
        "gpt2",
        False,
        "GPT2LMHeadModel",
        _gpt2_keys,
        _gpt2_parts,
        values=_gpt2_values,
        usual=False,
        epsilon=("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        known=("activation_function",),
        omitted=("rope.",),
        tied=True,
    ),
    "gpt_neox": Family(
        "gptneox",
        False,
        "GPTNeoXForCausalLM",
        _neox_keys,
        lambda config, parts: _fused(config, parts, (1, 1, 1)),
        values=_neox_values,
        usual=False,
        epsilon=_LAYER_EPSILON,
        partial=True,
    ),
    "starcoder2": Family(
        "starcoder2",
        False,
        "Starcoder2ForCausalLM",
        usual=False,
        epsilon=("norm_epsilon", "attention.layer_norm_epsilon"),
        tied=True,
    ),
    "falcon": Family(
        "falcon",
        False,
        "FalconForCausalLM",
        _falcon_keys,
        _falcon_parts,
        values=_falcon_values,
        usual=False,
        epsilon=("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        known=("activation",),
        tied=True,
    ),
    "stablelm": Family(
        "stablelm",
        False,
        "StableLmForCausalLM",
        _stablelm_keys,
        _stablelm_parts,
        usual=False,
        epsilon=_LAYER_EPSILON,
        partial=True,
    ),
}
