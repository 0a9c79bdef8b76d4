"""Small checkpoints in Hugging Face's layout, and a forward pass of them in numpy float64."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Floats = npt.NDArray[np.float64]

END = "<|endoftext|>"


@dataclass(frozen=True)
class Hf:
    """Sizes of a checkpoint, and what is odd about it."""

    model_type: str = "llama"
    layers: int = 2
    d: int = 64
    hidden: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 320
    activation: str = "silu"
    threshold: float | None = None
    tied: bool = False
    biases: bool = False
    head_norms: bool = False
    sub_norms: bool = False  # before the output matrix and down, as BitNet has them
    window: int | None = None  # tokens that attention sees
    dtype: str = "F32"
    shards: int = 1
    rope: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)  # overrides; None leaves a key out
    tensors: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def weights(hf: Hf) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(hf.seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def vector(size: int, mean: float) -> npt.NDArray[np.float32]:
        return (mean + 0.2 * random.standard_normal(size)).astype(np.float32)

    q, kv = hf.heads * hf.head_dim, hf.kv_heads * hf.head_dim
    found = {"model.embed_tokens.weight": matrix(hf.vocab, hf.d) * 4}
    for layer in range(hf.layers):
        part = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", q, hf.d),
            ("self_attn.k_proj", kv, hf.d),
            ("self_attn.v_proj", kv, hf.d),
            ("self_attn.o_proj", hf.d, q),
            ("mlp.gate_proj", hf.hidden, hf.d),
            ("mlp.up_proj", hf.hidden, hf.d),
            ("mlp.down_proj", hf.d, hf.hidden),
        ):
            found[f"{part}{name}.weight"] = matrix(rows, columns)
            if hf.biases and name.startswith("self_attn"):
                found[f"{part}{name}.bias"] = vector(rows, 0)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{part}{name}.weight"] = vector(hf.d, 1)
        if hf.head_norms:
            for name in ("q_norm", "k_norm"):
                found[f"{part}self_attn.{name}.weight"] = vector(hf.head_dim, 1)
        if hf.sub_norms:
            found[f"{part}self_attn.attn_sub_norm.weight"] = vector(q, 1)
            found[f"{part}mlp.ffn_sub_norm.weight"] = vector(hf.hidden, 1)
    found["model.norm.weight"] = vector(hf.d, 1)
    if not hf.tied:
        found["lm_head.weight"] = matrix(hf.vocab, hf.d)
    return {**found, **hf.tensors}


def config(hf: Hf) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model_type": hf.model_type,
        "num_hidden_layers": hf.layers,
        "hidden_size": hf.d,
        "intermediate_size": hf.hidden,
        "num_attention_heads": hf.heads,
        "num_key_value_heads": hf.kv_heads,
        "head_dim": hf.head_dim,
        "vocab_size": hf.vocab,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
        "hidden_act": hf.activation,
        "hidden_act_param": hf.threshold,
        "tie_word_embeddings": hf.tied,
        "rope_scaling": hf.rope or None,
        "sliding_window": hf.window,
        **hf.config,
    }
    return {key: value for key, value in values.items() if value is not None}


def _stored(values: npt.NDArray[np.float32], dtype: str) -> tuple[str, tuple[int, ...], bytes]:
    if dtype == "BF16":  # which numpy does not have
        packed = (values.view(np.uint32) >> 16).astype(np.uint16)
        return dtype, values.shape, packed.tobytes()
    kind = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]
    return dtype, values.shape, values.astype(kind).tobytes()


def write_safetensors(path: Path, tensors: dict[str, Any], dtype: str) -> None:
    if dtype == "BF16":
        header, body = {}, b""
        for name, values in tensors.items():
            kind, shape, raw = _stored(values, dtype)
            header[name] = {
                "dtype": kind,
                "shape": list(shape),
                "data_offsets": [len(body), len(body) + len(raw)],
            }
            body += raw
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        return
    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
    packed = {name: values.astype(kinds[dtype]) for name, values in tensors.items()}
    safetensors.numpy.save_file(packed, path, metadata={"format": "pt"})


def byte_level_tokenizer(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "The people of the United States and of this and that, then there. ab abab aab über"
    tokenizer.train_from_iterator([text] * 4, trainer)
    return tokenizer


def write(folder: Path, hf: Hf | None = None, **changes: Any) -> Path:
    """Writes a checkpoint with a byte-level tokeniser and returns its directory."""
    hf = replace(hf or Hf(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(hf)), "utf-8")
    tensors = {name: each for name, each in weights(hf).items() if each is not None}
    if hf.shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, hf.dtype)
    else:
        names = list(tensors)
        places = {}
        for shard in range(hf.shards):
            file = f"model-{shard + 1:05}-of-{hf.shards:05}.safetensors"
            part = names[shard :: hf.shards]
            write_safetensors(folder / file, {name: tensors[name] for name in part}, hf.dtype)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    byte_level_tokenizer(hf.vocab - 10).save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": END,
        "eos_token": {"content": END},
        "chat_template": "{{ messages[0].content }}",
        "add_bos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


# -- the forward pass --------------------------------------------------------------------------

ACTIVATIONS = {
    "silu": lambda x, _: x / (1 + np.exp(-x)),
    "relu": lambda x, _: np.maximum(x, 0),
    "relu2": lambda x, _: np.maximum(x, 0) ** 2,
    "fatrelu": lambda x, threshold: np.where(x > threshold, x, 0),
    "gelu_pytorch_tanh": lambda x, _: (
        0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    ),
}


def inverse_frequencies(hf: Hf) -> Floats:
    """As transformers computes them."""
    angles = 1.0 / 500.0 ** (np.arange(0, hf.head_dim, 2, dtype=np.float64) / hf.head_dim)
    kind = hf.rope.get("rope_type", "default")
    if kind == "linear":
        return angles / float(hf.rope["factor"])
    if kind != "llama3":
        return angles
    factor, old = hf.rope["factor"], hf.rope["original_max_position_embeddings"]
    low, high = hf.rope["low_freq_factor"], hf.rope["high_freq_factor"]
    scaled = []
    for angle in angles:
        length = 2 * np.pi / angle
        if length < old / high:
            scaled.append(angle)
        elif length > old / low:
            scaled.append(angle / factor)
        else:
            smooth = (old / length - low) / (high - low)
            scaled.append((1 - smooth) * angle / factor + smooth * angle)
    return np.array(scaled)


def logits(hf: Hf, tokens: list[int]) -> Floats:
    """Float64 (n, vocab), with rotary pairs half a head apart."""
    w = {name: values.astype(np.float64) for name, values in weights(hf).items()}
    n = len(tokens)
    turns = np.outer(np.arange(n), inverse_frequencies(hf))
    cos, sin = (np.concatenate([f(turns), f(turns)], axis=1) for f in (np.cos, np.sin))
    back = np.subtract.outer(np.arange(n), np.arange(n))
    seen = (back >= 0) & (back < (hf.window or n))
    causal = np.where(seen, 0.0, -np.inf)

    def norm(x: Floats, weight: Floats) -> Floats:
        result: Floats = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight
        return result

    def heads(x: Floats, part: str, name: str, count: int, rotated: bool = True) -> Floats:
        y = x @ w[f"{part}self_attn.{name}_proj.weight"].T
        y = y + w.get(f"{part}self_attn.{name}_proj.bias", 0.0)
        y = y.reshape(n, count, hf.head_dim)
        if hf.head_norms and rotated:
            y = norm(y, w[f"{part}self_attn.{name}_norm.weight"])
        y = y.transpose(1, 0, 2)
        if not rotated:
            return y
        half = hf.head_dim // 2
        turned = np.concatenate([-y[..., half:], y[..., :half]], axis=-1)
        return y * cos + turned * sin

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(hf.layers):
        part = f"model.layers.{layer}."
        normed = norm(x, w[part + "input_layernorm.weight"])
        q = heads(normed, part, "q", hf.heads)
        k = heads(normed, part, "k", hf.kv_heads).repeat(hf.heads // hf.kv_heads, axis=0)
        v = heads(normed, part, "v", hf.kv_heads, rotated=False)
        v = v.repeat(hf.heads // hf.kv_heads, axis=0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(hf.head_dim) + causal
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ v).transpose(1, 0, 2).reshape(n, -1)
        if hf.sub_norms:
            mixed = norm(mixed, w[part + "self_attn.attn_sub_norm.weight"])
        x = x + mixed @ w[part + "self_attn.o_proj.weight"].T
        x = x + w.get(part + "self_attn.o_proj.bias", 0.0)
        normed = norm(x, w[part + "post_attention_layernorm.weight"])
        gate = ACTIVATIONS[hf.activation](normed @ w[part + "mlp.gate_proj.weight"].T, hf.threshold)
        inner = gate * (normed @ w[part + "mlp.up_proj.weight"].T)
        if hf.sub_norms:
            inner = norm(inner, w[part + "mlp.ffn_sub_norm.weight"])
        x = x + inner @ w[part + "mlp.down_proj.weight"].T
    head = w["model.embed_tokens.weight" if hf.tied else "lm_head.weight"]
    result: Floats = norm(x, w["model.norm.weight"]) @ head.T
    return result
