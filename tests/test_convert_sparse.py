"""`sparsefire convert` of the families that transformers does not have: their logits against
float64 numpy, RWKV's vocabulary, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_families
import hf_sparse
from hf_checkpoint import write_safetensors
from hf_families import TOKENS
from hf_tokenizers import MAKERS
from sparsefire.errors import ModelFileError, UnsupportedError
from sparsefire.files.convert.checkpoint import convert_checkpoint
from sparsefire.gguf.reader import GgufFile
from sparsefire.lm.model import Model

pytestmark = pytest.mark.usefixtures("float_keys")

# Tokens of RWKV's kind: all bytes, and some of several, also half of a letter and a quote.
LONGER = ("\n\n", "the", "the ", "ü", b"\xe2\x82", "'\"", "\\n", "a" * 9)


def vocabulary() -> str:
    tokens = [bytes([byte]) for byte in range(256)]
    literals = [repr(each) if each[0] > 127 else repr(each.decode()) for each in tokens]
    for each in LONGER:
        tokens.append(each if isinstance(each, bytes) else each.encode())
        literals.append(repr(each))
    lines = zip(range(1, 999), literals, map(len, tokens), strict=False)
    return "".join(f"{number} {literal} {size}\n" for number, literal, size in lines)


def write(folder: Path, values: dict[str, Any], shapes: hf_sparse.Shapes) -> dict[str, Any]:
    """Writes a checkpoint; its weights."""
    tensors = hf_families.weights(shapes)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    write_safetensors(folder / "model.safetensors", tensors, "F32")
    if values["model_type"] == "rwkv7":
        (folder / "rwkv_vocab_v20230424.txt").write_text(vocabulary(), "utf-8")
    else:
        tokenizer = MAKERS[values["model_type"]](hf_sparse.VOCAB - 10)
        tokenizer.save(str(folder / "tokenizer.json"))
    return {name: each.astype(np.float64) for name, each in tensors.items()}


def same_logits(path: Path, expected: hf_sparse.Array) -> None:
    with Model.load(path) as model:
        found = model.logits(TOKENS)
    bound = 1e-4 if model.core.isa == "amx" else 1e-5  # whose prompts have numbers of 16 bits
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


@pytest.mark.parametrize("older", [False, True])
def test_rwkv7(older: bool, tmp_path: Path) -> None:
    """Older checkpoints have the shares of all shifts in one tensor."""
    shapes = hf_sparse.rwkv7_shapes()
    weights = write(tmp_path / "checkpoint", hf_sparse.RWKV7, shapes)
    if older:
        tensors: dict[str, Any] = hf_families.weights(shapes)
        for layer in range(hf_sparse.LAYERS):
            names = [f"model.layers.{layer}.attn.x_{name}" for name in "rwkvag"]
            rows = [tensors.pop(name).reshape(-1) for name in names]
            tensors[f"model.layers.{layer}.attn.x_x"] = np.stack(rows)
        write_safetensors(tmp_path / "checkpoint/model.safetensors", tensors, "F32")
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out.gguf")
    same_logits(tmp_path / "out.gguf", hf_sparse.rwkv7_logits(weights, TOKENS))


def test_rwkv7_quantised(tmp_path: Path) -> None:
    """Vectors, and matrices of low rank, stay numbers."""
    write(tmp_path / "checkpoint", hf_sparse.RWKV7, hf_sparse.rwkv7_shapes())
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out.gguf", format="q8_0")
    with GgufFile.open(tmp_path / "out.gguf") as file:
        formats = {name: each.format for name, each in file.tensors.items()}
        vocabulary_keys = {
            name: file.metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot")
        }
    assert formats["blk.1.time_mix_lerp_fused.weight"] == formats["blk.1.time_mix_w1.weight"]
    assert formats["blk.1.time_mix_w1.weight"] == "f32"
    assert formats["blk.1.channel_mix_key.weight"] == "q8_0"
    assert vocabulary_keys == {"bos": 0, "eos": 0, "eot": 257}
    with Model.load(tmp_path / "out.gguf") as model:
        tokenizer = model.tokenizer
        for text in ("", "the theü€\n\n'\"\\n", "a" * 20, "\x00 \n\t語"):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode("the the\n\n€ü") == [259, 258, 257, 261, 0xAC + 1, 260]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "moe_primary_router_apply_softmax": True,
            "rope_layout": [1, 1],
            "sliding_window_layout": None,
        },
    ],
)
def test_smallthinker(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**hf_sparse.SMALLTHINKER, **changes}
    weights = write(tmp_path / "checkpoint", config, hf_sparse.smallthinker_shapes())
    report = convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out.gguf")
    assert report.activation == "relu"
    same_logits(tmp_path / "out.gguf", hf_sparse.smallthinker_logits(weights, TOKENS, config))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("rwkv7", {"attn": {"layers": [0]}}, "'attn'"),
        ("rwkv7", {"norm_eps": 1e-5}, "norm_eps"),
        ("rwkv7", {"head_dim": 7}, "head_dim"),
        ("rwkv7", {"hidden_act": None}, "hidden_act"),
        ("rwkv7", {"architectures": ["Rwkv7ForCausalLM"]}, "architectures"),
        ("rwkv7", {"decay_low_rank_dim": 5}, "time_mix_w1"),
        ("rwkv7", {"hidden_size": 64}, "does not suit"),
        ("smallthinker", {"moe_enable_early_router": False}, "moe_enable_early_router"),
        ("smallthinker", {"moe_enable_secondary_experts": True}, "secondary"),
        ("smallthinker", {"moe_num_primary_experts": None}, "moe_num_primary_experts"),
        ("smallthinker", {"rope_layout": [1, 1]}, "rope_layout"),
        ("smallthinker", {"sliding_window_layout": [1, 0]}, "sliding_window_layout"),
        ("smallthinker", {"sliding_window_size": 512}, "sliding_window_size"),
        ("smallthinker", {"mlp_activation": "silu"}, "mlp_activation"),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, shapes = {
        "rwkv7": (hf_sparse.RWKV7, hf_sparse.rwkv7_shapes),
        "smallthinker": (hf_sparse.SMALLTHINKER, hf_sparse.smallthinker_shapes),
    }[kind]
    write(tmp_path / "checkpoint", {**config, **changes}, shapes())
    with pytest.raises((UnsupportedError, ModelFileError), match=message):
        convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "line", ["1 'a'", "2 'a' 1", "1 'a' 2", "1 __import__('os') 1", "1 1 1", "x 'a' 1"]
)
def test_damaged_vocabulary(line: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", hf_sparse.RWKV7, hf_sparse.rwkv7_shapes())
    (tmp_path / "checkpoint/rwkv_vocab_v20230424.txt").write_text(line + "\n", "utf-8")
    with pytest.raises(ModelFileError, match="line 1 is not a token"):
        convert_checkpoint(tmp_path / "checkpoint", tmp_path / "out.gguf")
