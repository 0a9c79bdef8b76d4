"""`sparsefire convert` of the families that transformers computed for tests/golden: their logits,
and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
from safetensors.numpy import save_file

import hf_families
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.files.convert.config import Config
from sparsefire.files.convert.safetensors import Checkpoint
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model
from sparsefire.lm.ranking import Pair

pytestmark = pytest.mark.usefixtures("float_keys")

ENTRIES = hf_families.entries()
TEXTS = (
    "The people of 1776, über alles:\n\tthen there… 日本 🙂",
    " It's  e\u0301 and I'LL; 12345678 ﬁ İ\r\n\n  x ",
    "(x-1)2 a12 ½4 1234567, ---ü12ü$+`~ 12 ²³4",
    "<|user|>\n Hi there<|end|>\n\n<|assistant|> ",
    "",
)
INNER = ENTRIES["gemma3"]["config"]["text_config"]
LONG = ENTRIES["phi3-long"]["config"]["rope_parameters"]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}, "intermediate_size": 64}


def computed(model: Model, types: list[int] | None) -> npt.ArrayLike:
    """What the golden file has of a model."""
    if model.config.kind.output and model.config.pooling != "rank":
        return model.logits(hf_families.TOKENS)[-1]
    if model.config.pooling == "rank":
        return [model.judge.score(Pair(hf_families.TOKENS, types))]
    return model.hidden_states(hf_families.TOKENS)[-1]


@pytest.mark.parametrize("kind", ENTRIES)
def test_logits(kind: str, tmp_path: Path) -> None:
    entry = ENTRIES[kind]
    folder = hf_families.write(tmp_path / "checkpoint", entry)
    convert_checkpoint(folder, tmp_path / "out.gguf")
    with Model.load(tmp_path / "out.gguf") as model:
        found = computed(model, hf_families.TYPES if kind == "bert-judge" else None)
        theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for text in TEXTS:
            assert model.tokenize(text) == theirs.encode(text).ids
    logits = entry["logits"]
    if kind == "qwen3-judge":  # which says how likely yes is
        logits = 1 / (1 + np.exp(-logits))
    bound = 1e-4 if model.core.isa == "amx" else 1e-5  # whose prompts have numbers of 16 bits
    assert np.abs(found - logits).max() < bound * np.abs(logits).max()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "decoder_sparse_step"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("phimoe", {"router_jitter_noise": 0.1}, "router_jitter_noise"),
        ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok"),
        ("phimoe", {"rope_scaling": {"type": "longrope"}, "rope_parameters": None}, "longrope"),
        ("nanochat", {"head_dim": 7}, "head_dim"),
        ("nemotron_h", {"mlp_hidden_act": "silu_of_mine"}, "silu_of_mine"),
        ("nemotron_h", {"mlp_hidden_act": None}, "hidden_act"),
        ("nemotron_h", {"mamba_hidden_act": "gelu"}, "mamba_hidden_act"),
        ("nemotron_h", {"time_step_limit": [0.01, 1.0]}, "time_step_limit"),
        ("nemotron_h", {"num_hidden_layers": 4}, "num_hidden_layers"),
        ("nemotron_h", {"layers_block_type": ["mamba", "moe", "mlp"]}, "layers_block_type"),
        ("nemotron_h", {"n_groups": 5}, "n_groups"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
        ("gpt_oss", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, "topk_method"),
        ("deepseek_v3", {"kv_lora_rank": 15}, "kv_lora_rank"),
        ("mixtral", {"num_local_experts": 9}, "8 experts"),
        ("granitemoe", {"intermediate_size": 47}, "ffn_"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3_text", {"layer_types": ["chunked_attention"] * 6}, "layer_types"),
        ("gemma3", {"text_config": {**INNER, "my_act_fn": "relu"}}, "my_act_fn"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("phi3-long", {"rope_parameters": {**LONG, "long_factor": [1.0]}}, "long_factor"),
        ("phi3-long", {"rope_parameters": {**LONG, "long_factor": [1.0, 0.0]}}, "long_factor"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 0]}, "no_rope_layers"),
        ("olmo3", {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "rope_par"),
        ("olmo2", {"rope_parameters": {**YARN, "attention_factor": 1.5}}, "rope_scaling"),
        ("exaone4", {"sliding_window": 4}, "sliding_window"),
        ("seed_oss", {"attention_out_bias": True}, "attention_out_bias"),
        ("cohere", {"rope_parameters": YARN}, "rope_scaling"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt_neox", {"head_dim": 7}, "num_attention_heads"),
        ("falcon", {"alibi": True}, "alibi"),
        ("falcon", {"parallel_attn": False}, "parallel_attn"),
        ("stablelm-parallel", {"head_dim": 16}, "norms of"),
        ("glm4_moe", {"n_group": 2}, "n_group"),
        ("mistral3", {"text_config": {**INNER, "model_type": "mistral4"}}, "text_config"),
        ("ministral3", {"rope_parameters": {**YARN, "mscale": 2.0}}, "rope_parameters"),
        ("lfm2", {"layer_types": ["conv", "sliding_attention"]}, "layer_types"),
        ("lfm2", {"conv_bias": True}, "conv_bias"),
        ("cohere2", {"use_gated_activation": False}, "use_gated_activation"),
        ("qwen3-judge", {"id2label": {"0": "no", "1": "yes"}}, "id2label"),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = hf_families.write(tmp_path / "checkpoint", ENTRIES[kind], **changes)
    with pytest.raises((UnsupportedError, ModelFileError), match=message):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("pattern", [4, "LLLG", "LLG", "GLLL"])
def test_layers_with_windows_are_named_in_several_ways(pattern: object, tmp_path: Path) -> None:
    entry = ENTRIES["exaone4"]["config"]
    changes = {"num_hidden_layers": 64, "sliding_window": 4, "layer_types": None}
    values = {**entry, **changes, "sliding_window_pattern": pattern}
    if pattern == "GLLL":
        with pytest.raises(UnsupportedError, match="sliding_window_pattern"):
            Config(values, tmp_path / "config.json").metadata("m")
        return
    found = Config(values, tmp_path / "config.json").metadata("m")
    assert found["exaone4.attention.sliding_window"] == 4
    written = found.get("exaone4.attention.sliding_window_pattern")
    if pattern == "LLG":  # readers of GGUF know only every fourth layer without being told
        assert written.tolist() == [bool((layer + 1) % 3) for layer in range(64)]
    else:
        assert written is None


def test_digits_that_some_token_has_beside_letters(tmp_path: Path) -> None:
    """Falcon's rule cuts text around digits, which GGUF's does not say."""
    folder = hf_families.write(tmp_path / "checkpoint", ENTRIES["falcon"])
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    described["model"]["vocab"]["a1"] = 315
    (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(UnsupportedError, match=r"is not known: .*Digits"):
        convert_checkpoint(folder, tmp_path / "out.gguf")


def test_a_checkpoint_without_the_models_head(tmp_path: Path) -> None:
    """As embedding models are saved: names do not begin with "model."."""
    entry = ENTRIES["smollm3"]
    folder = hf_families.write(tmp_path / "checkpoint", entry)
    convert_checkpoint(folder, tmp_path / "whole.gguf", name="m")
    tensors = hf_families.weights(entry["shapes"])
    save_file(
        {name.removeprefix("model."): each for name, each in tensors.items()},
        folder / "model.safetensors",
    )
    convert_checkpoint(folder, tmp_path / "part.gguf", name="m")
    assert (tmp_path / "part.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_reranker_of_qwen_answers_yes_or_no(tmp_path: Path) -> None:
    """Its checkpoint is that of a chat model; the directory's name says that it is one."""
    entry = ENTRIES["qwen3-judge"]
    shapes = {**entry["shapes"], "lm_head.weight": [320, 32]}
    del shapes["score.weight"]
    changes = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 512}
    answers = {"yes": 318, "no": 317}
    for name in ("Qwen3-Reranker-tiny", "chat"):
        folder = hf_families.write(tmp_path / name, {**entry, "shapes": shapes}, **changes)
        described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        described["model"]["vocab"] |= answers
        (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")
        convert_checkpoint(folder, tmp_path / f"{name}.gguf")
    with Model.load(tmp_path / "chat.gguf") as chat:
        logits = chat.logits(hf_families.TOKENS)[-1].astype(np.float64)
        assert chat.config.pooling == ""
    with Model.load(tmp_path / "Qwen3-Reranker-tiny.gguf") as judge:
        found = judge.judge.score(Pair(hf_families.TOKENS, None))
        assert "<Query>: a?" in judge.tokenizer.decode(
            judge.judge.pair("a?", "b").ids, special=True
        )
    assert found == pytest.approx(1 / (1 + np.exp(logits[317] - logits[318])), rel=1e-3)


def test_routers_and_vectors_are_not_quantised(tmp_path: Path) -> None:
    folder = hf_families.write(tmp_path / "checkpoint", ENTRIES["gpt_oss"])
    convert_checkpoint(folder, tmp_path / "out.gguf", format="q8_0")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        formats = {name: each.format for name, each in file.tensors.items()}
    assert formats["blk.0.ffn_gate_inp.weight"] == formats["blk.0.ffn_gate_exps.bias"] == "f32"
    assert formats["blk.0.ffn_gate_exps.weight"] == formats["blk.0.attn_q.weight"] == "q8_0"


def in_mxfp4(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """gpt-oss's checkpoint with experts in MXFP4, as it is published, and these as floats."""
    entry = ENTRIES["gpt_oss"]
    random, values = np.random.default_rng(0), [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    table = np.array(values + [-each for each in values], np.float32)
    folder = hf_families.write(tmp_path / "checkpoint", entry, **MXFP4)
    tensors: dict[str, Any] = hf_families.weights(entry["shapes"])
    experts: dict[str, Any] = {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."
        del tensors[f"{prefix}gate_up_proj"], tensors[f"{prefix}down_proj"]
        shape = {"gate_up_proj": (8, 128, 1), "down_proj": (8, 32, 2)}
        tensors[f"{prefix}gate_up_proj_bias"] = random.uniform(-1, 1, (8, 128)).astype(np.float32)
        for name, groups in shape.items():
            blocks = random.integers(0, 256, (*groups, 16), np.uint8)
            scales = random.integers(119, 124, groups, np.uint8)
            tensors[f"{prefix}{name}_blocks"], tensors[f"{prefix}{name}_scales"] = blocks, scales
            pairs = np.stack([table[blocks & 15], table[blocks >> 4]], -1)  # neighbours
            floats = pairs.reshape(*groups, 32) * 2.0 ** (scales[..., None] - 127.0)
            experts[f"{layer} {name}"] = floats.reshape(*groups[:2], -1).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder, experts


def test_mxfp4_keeps_every_weight(tmp_path: Path) -> None:
    folder, experts = in_mxfp4(tmp_path)
    for format in ("keep", "f32"):
        convert_checkpoint(folder, tmp_path / f"{format}.gguf", format=format)
    reader = gguf.GGUFReader(tmp_path / "keep.gguf")
    found = {each.name: each for each in reader.tensors}
    for layer in range(2):
        gate_up = experts[f"{layer} gate_up_proj"]
        wanted = {"gate": gate_up[:, ::2], "up": gate_up[:, 1::2]}
        wanted["down"] = experts[f"{layer} down_proj"]
        for name, values in wanted.items():
            tensor = found[f"blk.{layer}.ffn_{name}_exps.weight"]
            assert tensor.tensor_type == gguf.GGMLQuantizationType.MXFP4
            read = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(read, values)
    with (
        Model.load(tmp_path / "keep.gguf") as packed,
        Model.load(tmp_path / "f32.gguf") as plain,
        Model.load(tmp_path / "keep.gguf", neuron_budget=20_000) as budget,
    ):
        logits = packed.logits(hf_families.TOKENS)
        wanted_logits = plain.logits(hf_families.TOKENS)
        assert np.abs(logits - wanted_logits).max() < 1e-3 * np.abs(wanted_logits).max()
        np.testing.assert_array_equal(budget.logits(hf_families.TOKENS), logits)


@pytest.mark.parametrize("damage", ["no scales", "shape", "large", "no config"])
def test_damaged_mxfp4(damage: str, tmp_path: Path) -> None:
    folder, _ = in_mxfp4(tmp_path)
    tensors: dict[str, Any] = {
        name: each.data.reshape(each.shape) if each.dtype == "U8" else each.floats()
        for name, each in Checkpoint(folder).tensors.items()
    }
    name = "model.layers.1.mlp.experts.down_proj_scales"
    scales = tensors.pop(name).copy()
    message = "down_proj_blocks' is not the blocks"
    if damage == "shape":
        tensors[name] = scales[:, :-1]
    elif damage == "large":
        scales[0, 0, 0] = 255
        tensors[name], message = scales, "down_proj_scales' holds NaN"
    elif damage == "no config":
        tensors[name], message = scales, "quantization_config"
        (folder / "config.json").write_text(json.dumps(ENTRIES["gpt_oss"]["config"]), "utf-8")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises((ModelFileError, UnsupportedError), match=message):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
