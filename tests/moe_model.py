"""A small mixture of experts with random weights, of SmallThinker's architecture."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

import tiny_model

EXPERTS, USED, WIDTH, LAYERS, D, VOCAB = 6, 2, 32, 2, 64, 270


def write(
    path: Path, format: str = "F32", activation: str = "relu", seed: int = 0, gate_rank: int = 0
) -> Path:
    """Writes the model; its matrices of experts in ``format``, and gates of this rank, 0: any."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "smallthinker")
    sizes = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": D,
        "feed_forward_length": WIDTH,
        "expert_feed_forward_length": WIDTH,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "expert_count": EXPERTS,
        "expert_used_count": USED,
        "expert_gating_func": 2,
    }
    for name, value in sizes.items():
        writer.add_uint32(f"smallthinker.{name}", value)
    writer.add_float32("smallthinker.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("smallthinker.hidden_activation", activation)
    vocabulary = tiny_model.tokenizer_keys(tiny_model.Tiny(vocab=VOCAB))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary["tokenizer.ggml.tokens"])
    writer.add_token_types(vocabulary["tokenizer.ggml.token_type"])
    writer.add_token_merges(tiny_model.MERGES)

    def add(name: str, *shape: int, packed: bool = False) -> None:
        values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        if len(shape) == 1:
            values = (1 + 0.1 * random.standard_normal(shape)).astype(np.float32)
        kind = gguf.GGMLQuantizationType[format if packed else "F32"]
        if gate_rank and "gate_exps" in name:
            left, right = np.split(values, [gate_rank], -1)[0], values[:, :gate_rank]
            values = left @ right * np.float32(np.sqrt(shape[-1] / gate_rank))
        data = gguf.quants.quantize(values, kind) if packed and format != "F32" else values
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)

    add("token_embd", VOCAB, D)
    add("output_norm", D)
    for layer in range(LAYERS):
        part = f"blk.{layer}."
        for name, *shape in (
            ("attn_norm", D),
            ("ffn_norm", D),
            ("attn_q", D, D),
            ("attn_k", D // 2, D),
            ("attn_v", D // 2, D),
            ("attn_output", D, D),
            ("ffn_gate_inp", EXPERTS, D),
        ):
            add(part + name, *shape)
        add(f"{part}ffn_gate_exps", EXPERTS, WIDTH, D, packed=True)
        add(f"{part}ffn_up_exps", EXPERTS, WIDTH, D, packed=True)
        add(f"{part}ffn_down_exps", EXPERTS, D, WIDTH, packed=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
