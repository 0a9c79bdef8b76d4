"""`sparsefire convert` of the families that transformers computed for tests/golden: their logits,
and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_families
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model

ENTRIES = hf_families.entries()


@pytest.mark.parametrize("kind", ENTRIES)
def test_logits(kind: str, tmp_path: Path) -> None:
    entry = ENTRIES[kind]
    folder = hf_families.write(tmp_path / "checkpoint", entry)
    convert_checkpoint(folder, tmp_path / "out.gguf")
    with Model.load(tmp_path / "out.gguf") as model:
        found = model.logits(hf_families.TOKENS)[-1]
    assert np.abs(found - entry["logits"]).max() < 1e-5 * np.abs(entry["logits"]).max()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "decoder_sparse_step"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit"),
        ("gpt_oss", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, "topk_method"),
        ("deepseek_v3", {"kv_lora_rank": 15}, "kv_lora_rank"),
        ("mixtral", {"num_local_experts": 9}, "8 experts"),
        ("granitemoe", {"intermediate_size": 47}, "ffn_"),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = hf_families.write(tmp_path / "checkpoint", ENTRIES[kind], **changes)
    with pytest.raises((UnsupportedError, ModelFileError), match=message):
        convert_checkpoint(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_routers_and_vectors_are_not_quantised(tmp_path: Path) -> None:
    folder = hf_families.write(tmp_path / "checkpoint", ENTRIES["gpt_oss"])
    convert_checkpoint(folder, tmp_path / "out.gguf", format="q8_0")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        formats = {name: each.format for name, each in file.tensors.items()}
    assert formats["blk.0.ffn_gate_inp.weight"] == formats["blk.0.ffn_gate_exps.bias"] == "f32"
    assert formats["blk.0.ffn_gate_exps.weight"] == formats["blk.0.attn_q.weight"] == "q8_0"
