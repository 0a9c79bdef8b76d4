"""Small random mixtures of experts, one of each architecture, with all that makes it one: biases,
norms of heads, shared experts, windows, and layers that differ."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

D, VOCAB, LAYERS, HEADS, KV_HEADS, HEAD = 48, 40, 5, 4, 2, 12
HIDDEN, WIDTH, EXPERTS, USED = 40, 24, 8, 3
# Multi-head latent attention: ranks of queries and of keys and values, and parts of a head.
QUERY_RANK, RANK, PLAIN, TURNED, VALUE = 20, 16, 8, 4, 10

_WIDTH = {"expert_feed_forward_length": WIDTH}
_ROUTER: dict[str, Any] = {"expert_weights_norm": True, "expert_weights_scale": 2.5}
_SIGMOID = {"expert_gating_func": 2}
_LEAD = {"leading_dense_block_count": 1, "expert_shared_count": 1}
_WINDOW = {"attention.sliding_window": 5}
_LATENT = {
    "attention.head_count_kv": 1,
    "attention.key_length": RANK + TURNED,
    "attention.value_length": RANK,
    "attention.key_length_mla": PLAIN + TURNED,
    "attention.value_length_mla": VALUE,
    "attention.q_lora_rank": QUERY_RANK,
    "attention.kv_lora_rank": RANK,
    "rope.dimension_count": TURNED,
}


@dataclass(frozen=True)
class Mixture:
    """What an architecture's layers have. ``parts`` names tensors beside the usual ones; the width
    of experts is ``width``."""

    keys: dict[str, Any] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    width: int = WIDTH
    shared: int = 0
    step: int = 1  # of so many layers, the last one has experts
    ffn_norm: str = "ffn_norm"

    @property
    def lead(self) -> int:
        """How many layers at the start are dense."""
        return int(self.keys.get("leading_dense_block_count", 0))


def _mixture(parts: str = "", **options: Any) -> Mixture:
    return Mixture(parts=frozenset(parts.split()), **options)


MIXTURES = {
    "llama": _mixture(width=HIDDEN),
    "qwen2moe": _mixture("bias gated_shared", keys=_WIDTH, shared=HIDDEN),
    "qwen3moe": _mixture("head_norms", keys=_WIDTH),
    "olmoe": _mixture("whole_norms", keys={"attention.head_count_kv": HEADS}, width=HIDDEN),
    "gpt-oss": _mixture(
        "bias output_bias sinks expert_bias",
        keys={**_WIDTH, **_WINDOW},
        ffn_norm="post_attention_norm",
    ),
    "granitemoe": _mixture(
        keys={
            "attention.scale": 0.2,
            "embedding_scale": 3.0,
            "expert_shared_feed_forward_length": 32,
            "logit_scale": 2.0,
            "residual_scale": 0.5,
        },
        width=HIDDEN,
        shared=32,
    ),
    "deepseek": _mixture(keys={**_WIDTH, **_LEAD, "expert_weights_scale": 3.0}, shared=WIDTH),
    "deepseek2": _mixture(
        "latent selection_bias",
        keys={
            **_WIDTH,
            **_LEAD,
            **_ROUTER,
            **_SIGMOID,
            **_LATENT,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
        shared=WIDTH,
    ),
    "deepseek32": _mixture(
        "latent selection_bias indexer",
        keys={**_WIDTH, **_LEAD, **_ROUTER, **_SIGMOID, **_LATENT, "attention.indexer.top_k": 16},
        shared=WIDTH,
    ),
    "glm-dsa": _mixture(
        "latent selection_bias indexer",
        keys={**_WIDTH, **_LEAD, **_ROUTER, **_LATENT, "attention.indexer.top_k": 16},
        shared=WIDTH,
    ),
    "mistral4": _mixture(
        "latent",
        keys={
            **_WIDTH,
            **_LEAD,
            **_LATENT,
            "attention.temperature_scale": 0.1,
            "attention.temperature_length": 4,
            "expert_gating_func": 1,
            "expert_weights_norm": True,
        },
        shared=WIDTH,
    ),
    "glm4moe": _mixture(
        "bias head_norms selection_bias",
        keys={**_WIDTH, **_LEAD, **_ROUTER, "rope.dimension_count": 6},
        shared=WIDTH,
        ffn_norm="post_attention_norm",
    ),
    "dots1": _mixture(
        "head_norms selection_bias",
        keys={**_WIDTH, **_LEAD, **_ROUTER, **_SIGMOID, "attention.head_count_kv": HEADS},
        shared=WIDTH,
    ),
    "ernie4_5-moe": _mixture(
        "selection_bias",
        keys={
            **_WIDTH,
            "expert_shared_feed_forward_length": 32,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 1,
        },
        shared=32,
    ),
    "hunyuan-moe": _mixture(
        "head_norms",
        keys={"expert_feed_forward_length": HIDDEN, "expert_shared_feed_forward_length": 32},
        width=HIDDEN,
        shared=32,
    ),
    "bailingmoe": _mixture(keys={**_WIDTH, **_ROUTER, "expert_shared_count": 2}, shared=2 * WIDTH),
    "bailingmoe2": _mixture(
        "head_norms selection_bias fused",
        keys={
            **_WIDTH,
            **_LEAD,
            **_ROUTER,
            **_SIGMOID,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "rope.dimension_count": 6,
        },
        shared=WIDTH,
    ),
    "phimoe": _mixture("bias output_bias norm_bias head_bias", width=HIDDEN),
    "minimax-m2": _mixture(
        "whole_norms selection_bias",
        keys={**_SIGMOID, "expert_feed_forward_length": HIDDEN, "rope.dimension_count": 6},
        width=HIDDEN,
    ),
    "minimax-m3": _mixture(
        "head_norms selection_bias block_indexer",
        keys={
            **_WIDTH,
            **_LEAD,
            **_ROUTER,
            **_SIGMOID,
            "attention.indexer.block_size": 4,
            "attention.indexer.top_k": 4,
            "rope.dimension_count": 6,
        },
        shared=WIDTH,
    ),
    "grovemoe": _mixture(
        "head_norms chunks",
        keys={
            **_WIDTH,
            "expert_chunk_feed_forward_length": 10,
            "expert_group_scale": 0.3,
            "experts_per_group": 2,
        },
    ),
    "mellum": _mixture("head_norms", keys={**_WIDTH, **_WINDOW}),
    "afmoe": _mixture(
        "head_norms selection_bias attention_gate after_norms",
        keys={**_WIDTH, **_LEAD, **_ROUTER, **_WINDOW},
        shared=WIDTH,
    ),
    "llama4": _mixture(
        keys={**_WIDTH, "attention.sliding_window": 8192, "interleave_moe_layer_step": 2},
        shared=WIDTH,
        step=2,
    ),
    "smallthinker": _mixture(keys={**_WIDTH, **_SIGMOID, "attention.sliding_window": 4096}),
}


def has_experts(mixture: Mixture, layer: int) -> bool:
    """Whether a layer has experts."""
    return layer >= mixture.lead and (layer + 1) % mixture.step == 0


def write(path: Path, architecture: str) -> Path:
    """Writes the model of an architecture."""
    mixture = MIXTURES[architecture]
    keys = {**COMMON_KEYS, **mixture.keys}
    return save(path, architecture, keys, dict(_tensors(mixture, keys)))


COMMON_KEYS: dict[str, Any] = {
    "block_count": LAYERS,
    "context_length": 64,
    "embedding_length": D,
    "feed_forward_length": HIDDEN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": HEAD,
    "expert_count": EXPERTS,
    "expert_used_count": USED,
}


def save(
    path: Path, architecture: str, keys: dict[str, Any], tensors: dict[str, tuple[int, ...]]
) -> Path:
    """Writes a model with random tensors of these shapes."""
    writer = gguf.GGUFWriter(path, architecture)
    adders: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
        str: writer.add_string,
    }
    for name, value in keys.items():
        own = "" if name.startswith("xielu.") else f"{architecture}."
        adders[type(value)](f"{own}{name}", value)
    writer.add_tokenizer_model("test")  # so that llama.cpp can read the model too
    writer.add_token_list([f"t{token}" for token in range(VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    random = np.random.default_rng(zlib.crc32(architecture.encode()))
    for name, shape in tensors.items():
        if name.endswith("tid2eid.weight"):  # experts, different ones, of each token
            experts_of = np.argsort(random.standard_normal((shape[0], EXPERTS)))
            writer.add_tensor(name, experts_of[:, : shape[1]].astype(np.int32))
            continue
        values = random.standard_normal(shape)
        if "norm" in name and name.endswith("weight"):
            values = 1 + values / 10
        elif name.endswith("ssm_a"):  # rates of decay
            values = -0.1 - np.abs(values)
        elif name == "rope_freqs.weight":  # the second half of the pairs does not turn
            values = np.where(np.arange(values.size) < values.size / 2, 1 + np.abs(values), 1e30)
        elif name.endswith("bias"):
            values = values / 4
        elif name != "token_embd.weight":
            values = values / np.sqrt(shape[-1])
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(mixture: Mixture, keys: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (VOCAB, D)
    yield "output.weight", (VOCAB, D)
    norms = ["output_norm"]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norms += [f"{block}attn_norm", f"{block}{mixture.ffn_norm}"]
        if "after_norms" in mixture.parts:
            norms += [f"{block}post_attention_norm", f"{block}post_ffw_norm"]
        heads = _latent(block) if "latent" in mixture.parts else _attention(mixture, block, keys)
        yield from heads
        if "indexer" in mixture.parts:
            yield from _indexer(block)
        if "block_indexer" in mixture.parts and has_experts(mixture, layer):
            yield from _block_indexer(block)
        if has_experts(mixture, layer):
            yield from experts(mixture, block)
        else:
            yield from gated(f"{block}ffn_", "", HIDDEN)
    for norm in norms:
        yield f"{norm}.weight", (D,)
        if "norm_bias" in mixture.parts:
            yield f"{norm}.bias", (D,)
    if "head_bias" in mixture.parts:
        yield "output.bias", (VOCAB,)


def projections(
    parts: Container[str], block: str, heads: int, kv_heads: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The matrices of attention, in one if ``parts`` has "fused", with biases if it has those."""
    sizes = {"q": heads * HEAD, "k": kv_heads * HEAD, "v": kv_heads * HEAD}
    if "fused" in parts:
        sizes = {"qkv": sum(sizes.values())}
    for name, size in sizes.items():
        yield f"{block}attn_{name}.weight", (size, D)
        if "bias" in parts:
            yield f"{block}attn_{name}.bias", (size,)
    yield f"{block}attn_output.weight", (D, heads * HEAD)
    if "output_bias" in parts:
        yield f"{block}attn_output.bias", (D,)


def _attention(
    mixture: Mixture, block: str, keys: dict[str, Any]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    parts = mixture.parts
    kv_heads = keys["attention.head_count_kv"]
    yield from projections(parts, block, HEADS, kv_heads)
    if "head_norms" in parts:
        yield f"{block}attn_q_norm.weight", (HEAD,)
        yield f"{block}attn_k_norm.weight", (HEAD,)
    if "whole_norms" in parts:
        yield f"{block}attn_q_norm.weight", (HEADS * HEAD,)
        yield f"{block}attn_k_norm.weight", (kv_heads * HEAD,)
    if "sinks" in parts:
        yield f"{block}attn_sinks.weight", (HEADS,)
    if "attention_gate" in parts:
        yield f"{block}attn_gate.weight", (HEADS * HEAD, D)


def _indexer(block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What chooses tokens in texts that are longer than those of the tests."""
    yield f"{block}indexer.k_norm.weight", (HEAD,)
    yield f"{block}indexer.k_norm.bias", (HEAD,)
    yield f"{block}indexer.proj.weight", (2, D)
    yield f"{block}indexer.attn_k.weight", (HEAD, D)
    yield f"{block}indexer.attn_q_b.weight", (2 * HEAD, QUERY_RANK)


def _block_indexer(block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What chooses blocks of tokens."""
    yield f"{block}indexer.q_proj.weight", (2 * HEAD, D)
    yield f"{block}indexer.k_proj.weight", (HEAD, D)
    yield f"{block}indexer.q_norm.weight", (HEAD,)
    yield f"{block}indexer.k_norm.weight", (HEAD,)


def _latent(block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{block}attn_q_a.weight", (QUERY_RANK, D)
    yield f"{block}attn_q_a_norm.weight", (QUERY_RANK,)
    yield f"{block}attn_q_b.weight", (HEADS * (PLAIN + TURNED), QUERY_RANK)
    yield f"{block}attn_kv_a_mqa.weight", (RANK + TURNED, D)
    yield f"{block}attn_kv_a_norm.weight", (RANK,)
    yield f"{block}attn_k_b.weight", (HEADS, RANK, PLAIN)
    yield f"{block}attn_v_b.weight", (HEADS, VALUE, RANK)
    yield f"{block}attn_output.weight", (D, HEADS * VALUE)


def gated(prefix: str, suffix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a gated feed-forward layer."""
    yield f"{prefix}gate{suffix}.weight", (width, D)
    yield f"{prefix}up{suffix}.weight", (width, D)
    yield f"{prefix}down{suffix}.weight", (D, width)


def experts(mixture: Mixture, block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a layer of experts."""
    parts, width = mixture.parts, mixture.width
    yield f"{block}ffn_gate_inp.weight", (EXPERTS, D)
    if "selection_bias" in parts:
        yield f"{block}exp_probs_b.bias", (EXPERTS,)
    for name, *shape in (("gate", width, D), ("up", width, D), ("down", D, width)):
        yield f"{block}ffn_{name}_exps.weight", (EXPERTS, *shape)
        if "expert_bias" in parts:
            yield f"{block}ffn_{name}_exps.bias", (EXPERTS, shape[0])
    if "expert_bias" in parts:
        yield f"{block}ffn_gate_inp.bias", (EXPERTS,)
    if "chunks" in parts:
        for name, *shape in (("gate", 10, D), ("up", 10, D), ("down", D, 10)):
            yield f"{block}ffn_{name}_chexps.weight", (EXPERTS // 2, *shape)
    if mixture.shared:
        yield from gated(f"{block}ffn_", "_shexp", mixture.shared)
    if "gated_shared" in parts:
        yield f"{block}ffn_gate_inp_shexp.weight", (D,)
