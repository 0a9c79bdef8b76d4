"""Makes checkpoints.json: what transformers computes of small checkpoints of each family.

    python tests/golden/make_checkpoints.py [NAME …]   # needs torch and transformers

With names, only these entries are made anew. What follows a hyphen tells entries of a family apart.

For each family: its config.json, the names and shapes of its tensors as transformers writes them,
and the logits after the last of `TOKENS`, F32 in base64. Of encoders there are the vector of the
last token, or the score of a pair, of which the tokens of `TYPES` 1 are the second text. The
weights are those of `hf_families.weights`, from names and shapes alone, so that tests need neither
torch nor files.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))
from hf_families import GOLDEN, TOKENS, TYPES, VOCAB, weights

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 24}
_DEEPSEEK = {
    **_EXPERTS,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "routed_scaling_factor": 2.5,
}
_MAMBA = {
    "num_hidden_layers": 5,
    "hidden_size": 32,
    "head_dim": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 12,
    "n_groups": 2,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "chunk_size": 8,
    "num_nextn_predict_layers": 0,
    "moe_latent_size": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {
        **_EXPERTS,
        "num_experts": 8,
        "shared_expert_intermediate_size": 40,
        "norm_topk_prob": False,
    },
    "qwen3_moe": {**_EXPERTS, "num_experts": 8, "norm_topk_prob": True, "head_dim": 16},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False},
    "gpt_oss": {
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "head_dim": 16,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 5000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 16,
            "truncate": False,
        },
    },
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "greedy", "norm_topk_prob": False},
    "deepseek_v3": {**_DEEPSEEK, "n_group": 4, "topk_group": 2, "norm_topk_prob": True},
    "granite": {
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
        "logits_scaling": 4.0,
    },
    "granitemoe": {
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
        "logits_scaling": 4.0,
    },
    "nemotron": {"partial_rotary_factor": 0.5, "head_dim": 8},
    "arcee": {},
    "phimoe": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
    "nemotron_h": {**_MAMBA, "hybrid_override_pattern": "M-*-M"},
    "nemotron_h-experts": {
        **_MAMBA,
        **_EXPERTS,
        "hybrid_override_pattern": "ME*EM",
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 40,
        "moe_latent_size": 16,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
    },
    "bitnet": {"hidden_act": "relu2", "tie_word_embeddings": True},
    "nanochat": {"final_logit_softcapping": 6.0, "rope_parameters": {"rope_theta": 5000.0}},
}
_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_TIED, "head_dim": 12}
_GEMMA3 = {
    **_GEMMA,
    "query_pre_attn_scalar": 12,
    "sliding_window": 4,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
}
_MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_MINISTRAL = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 5000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
# Decoders without experts that differ from Llama's kind.
DENSE: dict[str, dict[str, Any]] = {
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "query_pre_attn_scalar": 12, "sliding_window": 4},
    "gemma3_text": {**_GEMMA3, "num_hidden_layers": 6},
    "gemma3": {
        "text_config": {**_COMMON, **_GEMMA3, "layer_types": _MIXED["layer_types"][::-1]},
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
        "image_token_id": 310,
        "boi_token_id": 311,
        "eoi_token_id": 312,
    },
    "phi3": {"sliding_window": 4, "rope_parameters": {"rope_theta": 5000.0}},
    "phi3-long": {
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 5000.0,
            "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.25],
            "long_factor": [1.5, 3.0],
            "original_max_position_embeddings": 64,
        },
    },
    "smollm3": {"num_hidden_layers": 4, **_TIED},
    "olmo": {"clip_qkv": 0.7},
    "olmo2": {},
    "olmo3": {
        **_MIXED,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 5000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
    },
    "cohere": {**_TIED, "logit_scale": 0.25, "use_qk_norm": True},
    "cohere2": {
        **_TIED,
        "logit_scale": 0.25,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "sliding_window": 4,
    },
    "gpt2": {**_TIED, "n_inner": 80},
    "starcoder2": {**_TIED, "sliding_window": 4},
    "falcon": {**_TIED, "ffn_hidden_size": 80, "new_decoder_architecture": False},
    "falcon-large": {
        **_TIED,
        "ffn_hidden_size": 80,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
    },
    "stablelm": {"rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
    "stablelm-parallel": {
        "use_parallel_residual": True,
        "qk_layernorm": True,
        "use_qkv_bias": True,
        "rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    },
    "phi": {"rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "glm4": {
        "head_dim": 8,
        "rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    },
    "gpt_neox": {"rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
    "seed_oss": {"head_dim": 12, "attention_bias": True},
    "ministral3": _MINISTRAL,
    "mistral3": {
        "text_config": {**_COMMON, "model_type": "mistral", "head_dim": 12},
        "vision_config": _VISION,
        "image_token_index": 310,
        "tie_word_embeddings": False,
    },
    "ernie4_5": {"head_dim": 12, **_TIED},
    "hunyuan_v1_dense": {
        "head_dim": 12,
        "rope_parameters": {
            "rope_type": "dynamic",
            "rope_theta": 500.0,
            "alpha": 50.0,
            "factor": 1.0,
        },
    },
    "lfm2": {**_TIED, "block_multiple_of": 8, "layer_types": ["conv", "full_attention"]},
    "glm4_moe": {
        **_EXPERTS,
        "head_dim": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "use_qk_norm": True,
        "attention_bias": True,
        "routed_scaling_factor": 2.5,
        "rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    },
}
FAMILIES |= DENSE
_ROBERTA = {"type_vocab_size": 1, "pad_token_id": 3}
# The class, and what differs.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("AutoModel", {}),
    "bert-judge": ("AutoModelForSequenceClassification", {"num_labels": 1}),
    "roberta": ("AutoModel", _ROBERTA),
    "xlm_roberta-judge": ("AutoModelForSequenceClassification", {**_ROBERTA, "num_labels": 1}),
    "modernbert": ("AutoModel", {"local_attention": 4}),
    "modernbert-judge": (
        "AutoModelForSequenceClassification",
        {"local_attention": 4, "num_labels": 1, "classifier_pooling": "mean"},
    ),
    "nomic_bert": ("AutoModel", {"pad_token_id": 3}),
}
_CLASSIFIER = "AutoModelForSequenceClassification"
# Causal models that judge pairs.
JUDGES = {"qwen3-judge": (_CLASSIFIER, {"num_labels": 1, "pad_token_id": 319, "head_dim": 16})}


def golden(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The entry of a family."""
    model_type = {"xlm_roberta": "xlm-roberta"}.get(*[kind.partition("-")[0]] * 2)
    of_heads = {**ENCODERS, **JUDGES}
    name, changes = of_heads.get(kind, ("AutoModelForCausalLM", changes))
    if "text_config" in changes:
        name = "AutoModelForImageTextToText"
    else:
        changes = {**_COMMON, **changes}
    of = getattr(transformers, name)
    config = transformers.AutoConfig.for_model(model_type, **changes)
    torch.manual_seed(0)
    model = of.from_config(config, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        shapes = {name: list(x.shape) for name, x in safetensors.numpy.load_file(file).items()}
        safetensors.numpy.save_file(weights(shapes), file, metadata={"format": "pt"})
        again = of.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        stored = json.loads((Path(folder) / "config.json").read_text())
    types = {"token_type_ids": torch.tensor([TYPES])} if kind == "bert-judge" else {}
    with torch.no_grad():
        answer = again.eval()(torch.tensor([TOKENS]), **types)
    values = answer.last_hidden_state if name == "AutoModel" else answer.logits
    logits = values[0].numpy() if kind.endswith("judge") else values[0, -1].numpy()
    return {
        "config": stored,
        "shapes": shapes,
        "logits": base64.b64encode(logits.astype("<f4").tobytes()).decode(),
    }


def main() -> None:
    """Writes the file."""
    names = sys.argv[1:] or [*FAMILIES, *ENCODERS, *JUDGES]
    stored = json.loads(GOLDEN.read_text("utf-8")) if sys.argv[1:] else {}
    found = {**stored, **{kind: golden(kind, FAMILIES.get(kind, {})) for kind in names}}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
