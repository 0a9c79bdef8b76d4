"""The families of models that are converted: what the values of a config.json become, and how
tensors that GGUF holds otherwise are made."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..._arrays import FloatArray
from . import dense_families, encoders, judges, multimodal
from . import sparse_families as sparse
from .family import Family, Keys
from .parts import Part, Parts

if TYPE_CHECKING:
    from .config import Config

# -- mixtures of experts ---------------------------------------------------------------------------


def _experts(config: Config, *, normalised: bool | None = None) -> Keys:
    """The keys of mixtures. normalised: whether GGUF's architecture divides the weights of the
    chosen experts by their sum, which the model then has to do too."""
    if normalised is not None and bool(config.get("norm_topk_prob", normalised)) != normalised:
        raise config.unsupported("norm_topk_prob")
    if config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"):
        raise config.unsupported("decoder_sparse_step")
    keys: Keys = {
        "expert_count": config.experts,
        "expert_used_count": config.integer("num_experts_per_tok"),
    }
    if "moe_intermediate_size" in config:
        keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    return keys


def _qwen2_moe(config: Config) -> Keys:
    shared = config.integer("shared_expert_intermediate_size")
    return {
        **_experts(config, normalised=False),
        "expert_shared_feed_forward_length": shared,
    }


def _flat_gates(config: Config, parts: Parts) -> Parts:
    """The gates of shared experts, matrices of one row, as vectors."""
    flat = re.compile(r".+\.shared_expert_gate\.weight")
    return {
        name: part.made(lambda x: x.reshape(-1), part.shape[1:]) if flat.fullmatch(name) else part
        for name, part in parts.items()
    }


def _olmoe(config: Config) -> Keys:
    if config.get("clip_qkv"):
        raise config.unsupported("clip_qkv")
    return _experts(config, normalised=False)


def _transposed(part: Part) -> Part:
    """The matrix of each expert transposed."""
    shape = part.shape[0], part.shape[2], part.shape[1]
    return part.made(lambda x: x.swapaxes(1, 2), shape)


def _part_of_rows(part: Part, rows: slice) -> Part:
    """Some rows of each expert, packed if they are."""
    experts, whole = part.shape[:2]
    count, packed = len(range(*rows.indices(whole))), part.packed
    made = part.made(lambda x: x[:, rows], (experts, count, *part.shape[2:]))
    if packed is None:
        return made
    return replace(
        made, packed=lambda: packed().reshape(experts, whole, -1)[:, rows].reshape(-1).copy()
    )


def _bitnet_parts(_: Config, parts: Parts) -> Parts:
    """Under the older names of norms, which the gguf package knows."""
    older = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}

    def named(name: str) -> str:
        return re.sub("|".join(older), lambda match: older[match[0]], name)

    return {named(name): part for name, part in parts.items()}


# -- gpt-oss ---------------------------------------------------------------------------------------


def _gpt_oss(config: Config) -> Keys:
    if config.get("swiglu_limit", 7.0) != 7.0 or config.get("swiglu_alpha", 1.702) != 1.702:
        raise config.unsupported("swiglu_limit")
    kinds = [
        "full_attention" if layer % 2 else "sliding_attention" for layer in range(config.layers)
    ]
    if config.get("layer_types", kinds) != kinds:
        raise config.unsupported("layer_types")
    return {
        **_experts(config),
        "expert_feed_forward_length": config.hidden,
        "attention.sliding_window": config.integer("sliding_window"),
        "hidden_activation": "silu_clamped",
    }


def _gpt_oss_parts(config: Config, parts: Parts) -> Parts:
    """Experts' matrices are transposed there, unless they are blocks, and rows of gate and up
    alternate."""
    found: Parts = {}
    for stored, part in parts.items():
        name = stored.removesuffix("_blocks")
        turned = part if name != stored or len(part.shape) != 3 else _transposed(part)
        if name.endswith(".self_attn.sinks"):
            found[f"{name}.weight"] = part
        elif name.endswith(".gate_up_proj"):
            for first, each in enumerate(("gate_proj", "up_proj")):
                new = name.replace("gate_up_proj", f"{each}.weight")
                found[new] = _part_of_rows(turned, slice(first, None, 2))
        elif name.endswith(".gate_up_proj_bias"):
            for first, each in enumerate(("gate_proj", "up_proj")):
                new = name.replace("gate_up_proj_bias", f"{each}.bias")
                found[new] = _part_of_rows(part, slice(first, None, 2))
        elif name.endswith(".experts.down_proj"):
            found[f"{name}.weight"] = turned
        elif name.endswith(".experts.down_proj_bias"):
            found[name.replace("down_proj_bias", "down_proj.bias")] = part
        else:
            found[name] = part
    return found


# -- DeepSeek --------------------------------------------------------------------------------------


def _deepseek(config: Config, scoring: int) -> Keys:
    """scoring: as in `expert_gating_func`."""
    rank, turned = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    keys: Keys = {
        **_experts(config),
        "attention.head_count_kv": 1,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": config.integer("qk_nope_head_dim") + turned,
        "attention.value_length_mla": config.integer("v_head_dim"),
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": turned,
        "leading_dense_block_count": config.get("first_k_dense_replace", 0),
        "expert_shared_count": config.get("n_shared_experts", 0),
        "expert_gating_func": scoring,
        "expert_weights_norm": bool(config.get("norm_topk_prob", False)),
        "expert_weights_scale": config.number("routed_scaling_factor", 1.0),
    }
    if config.get("moe_layer_freq", 1) != 1:
        raise config.unsupported("moe_layer_freq")
    if config.get("q_lora_rank"):
        keys["attention.q_lora_rank"] = config.integer("q_lora_rank")
    if config.rope["rope_type"] == "yarn":
        share = config.rope_number("mscale_all_dim", 0.0)
        if config.rope_number("mscale", share) != share:
            raise config.unsupported("rope_scaling")
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * share
    return keys


def _deepseek_v2(config: Config) -> Keys:
    if config.get("topk_method", "greedy") != "greedy":
        raise config.unsupported("topk_method")
    return _deepseek(config, 1)


def _deepseek_v3(config: Config) -> Keys:
    groups = {
        "expert_group_count": config.integer("n_group", 1),
        "expert_group_used_count": config.integer("topk_group", 1),
    }
    if not config.get("rope_interleave", True):
        raise config.unsupported("rope_interleave")
    return {**_deepseek(config, 2), **groups}


def _deepseek_parts(config: Config, parts: Parts) -> Parts:
    """The matrix of keys and values is two there, one of them transposed, so that a session keeps
    latent vectors. Layers that only draft tokens are left out."""
    heads, plain = config.heads, config.integer("qk_nope_head_dim")
    value, rank = config.integer("v_head_dim"), config.integer("kv_lora_rank")
    found: Parts = {}

    def keys(x: FloatArray) -> FloatArray:
        return x.reshape(heads, -1, rank)[:, :plain].swapaxes(1, 2)

    def values(x: FloatArray) -> FloatArray:
        return x.reshape(heads, -1, rank)[:, plain:]

    for name, part in _without_drafts(config, parts).items():
        if name.endswith(".kv_b_proj.weight"):
            if part.shape != (heads * (plain + value), rank):
                raise config.fail("kv_lora_rank", f"does not suit {name!r}, {part.shape}")
            found[name.replace("kv_b_proj", "k_b_proj")] = part.made(keys, (heads, rank, plain))
            found[name.replace("kv_b_proj", "v_b_proj")] = part.made(values, (heads, value, rank))
        else:
            found[name] = part
    return found


def _without_drafts(config: Config, parts: Parts) -> Parts:
    """Without layers that only draft tokens; biases of routers under a name that GGUF has."""
    layer = re.compile(r"model\.layers\.(\d+)\..+")
    drafts = bool(config.get("num_nextn_predict_layers"))
    found: Parts = {}
    for name, part in parts.items():
        match = layer.fullmatch(name)
        if not (drafts and match and int(match[1]) >= config.layers):
            found[name.replace("e_score_correction_bias", "e_score_correction.bias")] = part
    return found


def _glm4_moe(config: Config) -> Keys:
    if config.get("n_group", 1) != 1:
        raise config.unsupported("n_group")
    return {
        **_experts(config),
        "leading_dense_block_count": config.get("first_k_dense_replace", 1),
        "expert_shared_count": config.get("n_shared_experts", 1),
        "expert_gating_func": 2,
        "expert_weights_norm": bool(config.get("norm_topk_prob", True)),
        "expert_weights_scale": config.number("routed_scaling_factor", 1.0),
    }


# -- Granite, Nemotron -----------------------------------------------------------------------------


def _granite(config: Config) -> Keys:
    scales = {
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "attention.scale": "attention_multiplier",
        "logit_scale": "logits_scaling",
    }
    return {key: config.number(name, 1.0) for key, name in scales.items()}


def _granite_moe(config: Config) -> Keys:
    return {**_granite(config), **_experts(config)}


def _granite_moe_parts(config: Config, parts: Parts) -> Parts:
    """Gate and up of the experts are one matrix there."""
    hidden, found = config.hidden, {}
    for name, part in parts.items():
        block, _, rest = name.partition("block_sparse_moe.")
        if rest == "input_linear.weight":
            for each, half in (("w1", slice(hidden)), ("w3", slice(hidden, None))):
                new = f"{block}block_sparse_moe.experts.{each}.weight"
                found[new] = _part_of_rows(part, half)
        elif rest == "output_linear.weight":
            found[f"{block}block_sparse_moe.experts.w2.weight"] = part
        elif rest == "router.layer.weight":
            found[f"{block}block_sparse_moe.gate.weight"] = part
        else:
            found[name] = part
    return found


def _more_by_one(config: Config, parts: Parts) -> Parts:
    """Weights of norms, which Nemotron's checkpoints hold less 1."""
    norms = re.compile(r".+(layernorm|\.norm)\.weight")
    return {
        name: part.made(lambda x: x + 1) if norms.fullmatch(name) else part
        for name, part in parts.items()
    }


# -- nanochat --------------------------------------------------------------------------------------


def _nanochat(config: Config) -> Keys:
    return {"final_logit_softcapping": config.number("final_logit_softcapping", 0.0)}


def _nanochat_parts(config: Config, parts: Parts) -> Parts:
    """It turns the other way: the halves of each head's queries and keys change places."""

    def swapped(x: FloatArray) -> FloatArray:
        halves = x.reshape(-1, 2, config.head_dim // 2, x.shape[-1])
        return halves[:, ::-1].reshape(x.shape)

    found: Parts = {}
    for name, part in parts.items():
        turned = name.endswith((".q_proj.weight", ".k_proj.weight"))
        if turned and part.shape[0] % config.head_dim:
            raise config.fail("head_dim", f"does not suit {name!r}, {part.shape}")
        new = name.replace(".mlp.fc1.", ".mlp.up_proj.").replace(".mlp.fc2.", ".mlp.down_proj.")
        found[new] = part.made(swapped) if turned else part
    return found


def _phimoe(config: Config) -> Keys:
    if config.get("router_jitter_noise", 0.01) != 0.01:
        raise config.unsupported("router_jitter_noise")
    if config.integer("num_experts_per_tok") != 2:
        raise config.unsupported("num_experts_per_tok")
    return _experts(config)


_STEP = ("decoder_sparse_step",)
_LAYER_EPSILON = "layer_norm_eps", "attention.layer_norm_epsilon"
_ENCODER: dict[str, Any] = {"usual": False, "norms": False, "encoder": True}
_ROBERTA = Family(
    "bert",
    False,
    "RobertaModel|RobertaForMaskedLM|RobertaForSequenceClassification",
    encoders.bert_keys,
    encoders.roberta_parts,
    epsilon=_LAYER_EPSILON,
    values=encoders.roberta_values,
    omitted=("rope.",),
    **_ENCODER,
)

FAMILIES = {
    **dense_families.ROWS,
    **multimodal.ROWS,
    "llama": Family("llama", True, "LlamaForCausalLM"),
    "mistral": Family("llama", True, "MistralForCausalLM"),
    "qwen2": Family("qwen2", False, "Qwen2ForCausalLM"),
    "bitnet": Family(
        "bitnet", pairs=False, model="BitNetForCausalLM", arrange=_bitnet_parts, usual=False
    ),
    "qwen3": Family(
        "qwen3",
        False,
        "Qwen3ForCausalLM|Qwen3ForSequenceClassification",
        judges.keys,
        judges.answers,
        values=judges.values,
        templates=judges.templates,
    ),
    "arcee": Family("arcee", True, "ArceeForCausalLM", usual=False),
    "granite": Family("granite", True, "GraniteForCausalLM", _granite),
    "nemotron": Family(
        "nemotron",
        False,
        "NemotronForCausalLM",
        arrange=_more_by_one,
        usual=False,
        epsilon=("norm_eps", "attention.layer_norm_epsilon"),
        partial=True,
    ),
    "nanochat": Family(
        "nanochat",
        False,
        "NanoChatForCausalLM",
        _nanochat,
        _nanochat_parts,
        usual=False,
        names="arcee",
        norms=False,
    ),
    "mixtral": Family("llama", True, "MixtralForCausalLM", _experts, usual=False),
    "phimoe": Family("phimoe", False, "PhimoeForCausalLM", _phimoe, usual=False),
    "qwen2_moe": Family(
        "qwen2moe",
        False,
        "Qwen2MoeForCausalLM",
        _qwen2_moe,
        _flat_gates,
        usual=False,
        known=_STEP,
    ),
    "qwen3_moe": Family(
        "qwen3moe",
        False,
        "Qwen3MoeForCausalLM",
        lambda config: _experts(config, normalised=True),
        usual=False,
        known=_STEP,
    ),
    "olmoe": Family("olmoe", False, "OlmoeForCausalLM", _olmoe, usual=False),
    "granitemoe": Family(
        "granitemoe", True, "GraniteMoeForCausalLM", _granite_moe, _granite_moe_parts, usual=False
    ),
    "gpt_oss": Family(
        "gpt-oss",
        False,
        "GptOssForCausalLM",
        _gpt_oss,
        _gpt_oss_parts,
        usual=False,
        own_windows=True,
    ),
    "nemotron_h": Family(
        sparse.nemotron_h,
        False,
        "NemotronHForCausalLM",
        sparse.nemotron_h_keys,
        sparse.nemotron_h_parts,
        usual=False,
        epsilon=("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
        known=("mlp_hidden_act", "mamba_hidden_act"),
        values=sparse.nemotron_h_values,
        omitted=("rope.",),
    ),
    "rwkv7": Family(
        "rwkv7",
        False,
        "RWKV7ForCausalLM",
        sparse.rwkv7_keys,
        sparse.rwkv7_parts,
        usual=False,
        epsilon=("norm_eps", "attention.layer_norm_epsilon"),
        values=sparse.rwkv7_values,
        omitted=("rope.", "attention.head_", "attention.key_", "attention.value_l"),
    ),
    "smallthinker": Family(
        "smallthinker",
        False,
        "SmallThinkerForCausalLM",
        sparse.smallthinker_keys,
        usual=False,
        own_windows=True,
        known=("profile_sparsity",),
        values=sparse.smallthinker_values,
    ),
    "bert": Family(
        "bert",
        False,
        "BertModel|BertForMaskedLM|BertForPreTraining|BertForSequenceClassification",
        encoders.bert_keys,
        encoders.bert_parts,
        epsilon=_LAYER_EPSILON,
        **_ENCODER,
        omitted=("rope.",),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(
        model="XLMRobertaModel|XLMRobertaForMaskedLM|XLMRobertaForSequenceClassification"
    ),
    "modernbert": Family(
        "modern-bert",
        False,
        "ModernBertModel|ModernBertForMaskedLM|ModernBertForSequenceClassification",
        encoders.modern_bert_keys,
        encoders.modern_bert_parts,
        epsilon=("norm_eps", "attention.layer_norm_epsilon"),
        values=encoders.modern_bert_values,
        own_windows=True,
        known=("classifier_activation", "sparse_pred_ignore_index"),
        **_ENCODER,
    ),
    "nomic_bert": Family(
        "nomic-bert",
        False,
        "NomicBertModel",
        encoders.nomic_bert_keys,
        encoders.nomic_bert_parts,
        epsilon=_LAYER_EPSILON,
        values=encoders.nomic_bert_values,
        known=("activation_function",),
        **_ENCODER,
    ),
    "glm4_moe": Family(
        "glm4moe",
        False,
        "Glm4MoeForCausalLM",
        _glm4_moe,
        _without_drafts,
        usual=False,
        partial=True,
    ),
    "deepseek_v2": Family(
        "deepseek2", False, "DeepseekV2ForCausalLM", _deepseek_v2, _deepseek_parts, usual=False
    ),
    "deepseek_v3": Family(
        "deepseek2", False, "DeepseekV3ForCausalLM", _deepseek_v3, _deepseek_parts, usual=False
    ),
}
