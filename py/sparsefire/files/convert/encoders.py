"""Checkpoints of encoders: embedding models and rerankers of BERT's kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .family import Keys
from .parts import Parts
from .safetensors import read_json_object

if TYPE_CHECKING:
    from .config import Config

# Numbers of `pooling_type`, and the keys of sentence-transformers' 1_Pooling/config.json.
_POOLINGS = {"mean": 1, "cls": 2, "last": 3}
RANK = 4  # of rerankers
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_JUDGES = "ForSequenceClassification"
# What stands before the names of an encoder that is a part of a larger model.
_PREFIX = re.compile(
    r"^(bert|roberta|model|encoder_model|nomic_bert)\.(?=embeddings|encoder|emb_|"
    r"layers|final_norm|pooler)"
)
# Parts that guess hidden words, which vectors of texts do not need.
_MASKED = re.compile(r"(cls\.|lm_head\.|decoder\.).+|embeddings\.position_ids")


def pooling_keys(config: Config) -> Keys:
    """How the vectors of a text's tokens become that of the text, where a checkpoint of
    sentence-transformers says so."""
    said = read_json_object(config.folder / "1_Pooling" / "config.json")
    modes = [name for flag, name in _POOLING_FLAGS.items() if said.get(flag)]
    others = [name for name, value in said.items() if value is True and name not in _POOLING_FLAGS]
    others = [name for name in others if name.startswith("pooling_mode_")]
    if len(modes) + len(others) > 1 or others:
        raise config.fail("1_Pooling/config.json", f"asks for {', '.join([*modes, *others])}")
    return {"pooling_type": _POOLINGS[modes[0]]} if modes else {}


def classifies(config: Config) -> bool:
    """Whether it scores pairs of texts."""
    return any(str(each).endswith(_JUDGES) for each in config.get("architectures", []))


def _encoder(config: Config) -> Keys:
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise config.unsupported("is_decoder")
    keys: Keys = {"attention.causal": False}
    if not classifies(config):
        return keys
    check_labels(config)
    return {**keys, "pooling_type": RANK}


def check_labels(config: Config) -> None:
    """Raises for a classifier with more than one output."""
    labels = config.get("id2label", {"0": "LABEL_0"})
    if len(labels) != 1:
        raise config.fail("id2label", f"has {len(labels)} labels; a reranker has one")


def _shortened(config: Config, parts: Parts) -> Parts:
    """Under the names that the gguf package knows, without the parts that guess words."""
    found: Parts = {}
    for name, part in parts.items():
        short = _PREFIX.sub("", name)
        short = short.replace(".gamma", ".weight").replace(".beta", ".bias")
        of_classifier = short.startswith(("classifier.", "head.", "pooler."))
        if classifies(config) if of_classifier else not _MASKED.fullmatch(short):
            found[short] = part
    return found


# -- BERT and RoBERTa ------------------------------------------------------------------------------


def bert_keys(config: Config) -> Keys:
    """Keys of BERT's kind."""
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise config.unsupported("position_embedding_type")
    return _encoder(config)


def bert_parts(config: Config, parts: Parts) -> Parts:
    """BERT's classifier reads what its pooler, a layer with tanh, makes of the first token."""
    found: Parts = {}
    for name, part in _shortened(config, parts).items():
        name = re.sub(r"^classifier\.(?=weight|bias)", "classifier.out_proj.", name)
        found[re.sub(r"^pooler\.dense\.", "classifier.dense.", name)] = part
    return found


def _first_position(config: Config) -> int:
    """The row of the first token's position: those before it are of padding."""
    return 1 + int(config.number("pad_token_id", 1))


def roberta_values(config: Config) -> Keys:
    """The context, for which the position's table has some rows too many."""
    rows = config.integer("max_position_embeddings")
    return {"max_position_embeddings": rows - _first_position(config)}


def roberta_parts(config: Config, parts: Parts) -> Parts:
    """As BERT's, without the rows of positions that no token has."""
    first, found = _first_position(config), {}
    for name, part in _shortened(config, parts).items():
        if name == "embeddings.position_embeddings.weight":
            shape = part.shape[0] - first, part.shape[1]
            part = part.made(lambda x: x[first:], shape)
        found[name] = part
    return found


# -- ModernBERT ------------------------------------------------------------------------------------


def modern_bert_values(config: Config) -> Keys:
    """Rotations, which newer configs give for each kind of layer."""
    full, _ = _modern_rotations(config)
    return {"rope_parameters": {"rope_type": "default", "rope_theta": full}, "rope_theta": full}


def _modern_rotations(config: Config) -> tuple[float, float]:
    """Bases of layers without a window, and with one."""
    values: list[float] = []
    stored = config.values.get("rope_parameters")
    for kind, key, base in (
        ("full_attention", "global_rope_theta", 160000.0),
        ("sliding_attention", "local_rope_theta", 10000.0),
    ):
        of_kind = stored.get(kind) if isinstance(stored, dict) else None
        of_kind = of_kind if isinstance(of_kind, dict) else {}
        if of_kind.get("rope_type", "default") != "default":
            raise config.unsupported("rope_parameters")
        found = of_kind.get("rope_theta", config.values.get(key, base))
        if not isinstance(found, (int, float)):
            raise config.fail("rope_parameters", f"has the base {found!r}")
        values.append(float(found))
    return values[0], values[1]


def modern_bert_keys(config: Config) -> Keys:
    """Keys of ModernBERT."""
    every = config.integer("global_attn_every_n_layers", 3)
    kinds = [
        "full_attention" if n % every == 0 else "sliding_attention" for n in range(config.layers)
    ]
    if every != 3 or config.get("layer_types", kinds) != kinds:
        raise config.unsupported("layer_types")
    for name in ("norm_bias", "attention_bias", "mlp_bias"):
        if config.get(name):
            raise config.unsupported(name)
    keys = {
        "attention.sliding_window": config.integer("local_attention", 128),
        "rope.freq_base_swa": _modern_rotations(config)[1],
    }
    if classifies(config):
        if config.get("classifier_activation", "gelu") != "gelu":
            raise config.unsupported("classifier_activation")
        pooling = config.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise config.unsupported("classifier_pooling")
        keys["classifier.pooling_type"] = _POOLINGS[pooling]
    return {**keys, **_encoder(config)}


def modern_bert_parts(config: Config, parts: Parts) -> Parts:
    """The matrix after the head is another one than RoBERTa's of the same name."""
    return {
        re.sub(r"^classifier\.", "classifier.out_proj.", name): part
        for name, part in _shortened(config, parts).items()
    }


# -- Nomic BERT ------------------------------------------------------------------------------------

_NOMIC_NAMES = {  # of the sizes in Nomic's own configs
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rotary_emb_base",
}
_NOMIC_FIXED = {
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "prenorm": False,
    "parallel_block": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}
# As transformers names the tensors, and as Nomic does.
_NOMIC_TENSORS = {
    r"^embeddings\.LayerNorm": "emb_ln",
    r"^layers\.": "encoder.layers.",
    r"\.self_attn\.(q|k|v)_proj": r".attention.self.\1",
    r"\.self_attn\.o_proj": ".attn.out_proj",
    r"\.post_attention_layernorm": ".norm1",
    r"\.post_mlp_layernorm": ".norm2",
    r"\.mlp\.up_proj": ".mlp.fc11",
    r"\.mlp\.gate_proj": ".mlp.fc12",
    r"\.mlp\.down_proj": ".mlp.fc2",
}


def nomic_bert_values(config: Config) -> Keys:
    """Sizes under their usual names."""
    found = {name: config.get(own) for name, own in _NOMIC_NAMES.items() if own in config}
    if config.get("activation_function", "swiglu") != "swiglu":
        raise config.unsupported("activation_function")
    if "n_embd" in config:
        found["hidden_act"] = "silu"
    return found


def nomic_bert_keys(config: Config) -> Keys:
    """Keys of Nomic BERT."""
    for name, value in _NOMIC_FIXED.items():
        if config.get(name, value) != value:
            raise config.unsupported(name)
    if config.get("num_experts"):
        raise config.unsupported("num_experts")
    return _encoder(config)


def nomic_bert_parts(config: Config, parts: Parts) -> Parts:
    """Under Nomic's own names; queries, keys and values may be three matrices."""
    found: Parts = {}
    for name, part in _shortened(config, parts).items():
        for pattern, own in _NOMIC_TENSORS.items():
            name = re.sub(pattern, own, name)
        apart = re.fullmatch(r"encoder\.layers\.(\d+)\.attention\.self\.([qkv])\.weight", name)
        found[f"blk.{apart[1]}.attn_{apart[2]}.weight" if apart else name] = part
    return found
