"""Small models with random weights, written by the `gguf` package."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from reference import pack

Q = gguf.GGMLQuantizationType
BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
LETTERS = [chr(code) for code in BYTES] + [chr(0x100 + i) for i in range(256 - len(BYTES))]
END = 256  # id of <|end|>
MERGES = ["a b", "c d", "ab cd", "Ġ a"]


@dataclass(frozen=True)
class Tiny:
    """Sizes of a model, and what is odd about it."""

    arch: str = "llama"
    layers: int = 2
    d: int = 64
    hidden: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    rope_dims: int | None = None
    vocab: int = 270
    context: int = 48
    format: str = "F32"
    down_format: str | None = None
    tied: bool = True
    activation: str | None = "relu"
    biases: bool = False
    bundled: bool = False
    rank: int = 0  # of predictors, in a bundled model
    gated: bool = True
    both_downs: bool = False  # down by neuron beside down by output
    cutoffs: dict[str, list[float]] = field(default_factory=dict)  # by what they are on
    powerinfer: bool = False  # in PowerInfer's layout, with a predictor of `rank`
    rope_factors: bool = False
    attention_biases: bool = False
    vectors: tuple[str, ...] = ()  # names in a layer, beside the plain norms; "output_norm.bias"
    add_bos: bool = False
    seed: int = 0
    keys: dict[str, Any] = field(default_factory=dict)  # overrides; None leaves a key out
    tensors: dict[str, Any] = field(default_factory=dict)  # overrides; None leaves a tensor out


def weights(tiny: Tiny) -> dict[str, npt.NDArray[np.float32]]:
    """All tensors, as floats."""
    random = np.random.default_rng(tiny.seed)
    head_dim = tiny.head_dim or tiny.d // tiny.heads
    rope_dims = tiny.rope_dims or head_dim

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def vector(size: int, mean: float) -> npt.NDArray[np.float32]:
        return (mean + 0.2 * random.standard_normal(size)).astype(np.float32)

    tensors = {"token_embd.weight": matrix(tiny.vocab, tiny.d) * 4}
    if not tiny.tied:
        tensors["output.weight"] = matrix(tiny.vocab, tiny.d)
    tensors["output_norm.weight"] = vector(tiny.d, 1)
    if tiny.rope_factors:
        tensors["rope_freqs.weight"] = np.linspace(1, 8, rope_dims // 2, dtype=np.float32)
    if "output_norm.bias" in tiny.vectors:
        tensors["output_norm.bias"] = vector(tiny.d, 0)
    for layer in range(tiny.layers):
        part = f"blk.{layer}."
        tensors[part + "attn_norm.weight"] = vector(tiny.d, 1)
        tensors[part + "ffn_norm.weight"] = vector(tiny.d, 1)
        tensors[part + "attn_q.weight"] = matrix(tiny.heads * head_dim, tiny.d)
        tensors[part + "attn_k.weight"] = matrix(tiny.kv_heads * head_dim, tiny.d)
        tensors[part + "attn_v.weight"] = matrix(tiny.kv_heads * head_dim, tiny.d)
        tensors[part + "attn_output.weight"] = matrix(tiny.d, tiny.heads * head_dim)
        for name in tiny.vectors:
            if not name.startswith("output"):
                size = {"attn_q_norm": head_dim, "attn_k_norm": head_dim}.get(name[:11], tiny.d)
                size = {"attn_sub_norm.weight": tiny.heads * head_dim}.get(name, size)
                size = {"ffn_sub_norm.weight": tiny.hidden}.get(name, size)
                tensors[part + name] = vector(size, 1.0 if name.endswith("weight") else 0.0)
        if tiny.attention_biases:
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                size = len(tensors[f"{part}{name}.weight"])
                tensors[f"{part}{name}.bias"] = vector(size, 0)
        gate, up = matrix(tiny.hidden, tiny.d), matrix(tiny.hidden, tiny.d)
        down = matrix(tiny.d, tiny.hidden)
        if tiny.bundled:
            parts = [gate, up, down.T] if tiny.gated else [up, down.T]
            tensors[part + "ffn_bundle.weight"] = np.concatenate(parts, axis=1)
        else:
            if tiny.gated:
                tensors[part + "ffn_gate.weight"] = gate
            tensors[part + "ffn_up.weight"] = up
            if tiny.powerinfer or tiny.both_downs:
                tensors[part + "ffn_down_t.weight"] = np.ascontiguousarray(down.T)
            if not tiny.powerinfer:
                tensors[part + "ffn_down.weight"] = down
        if tiny.biases:
            if tiny.gated:
                tensors[part + "ffn_gate.bias"] = vector(tiny.hidden, 0)
            tensors[part + "ffn_up.bias"] = vector(tiny.hidden, 0)
            tensors[part + "ffn_down.bias"] = vector(tiny.d, 0)
        if tiny.powerinfer:
            tensors[part + "fc1.weight"] = matrix(tiny.rank, tiny.d)
            tensors[part + "fc2.weight"] = matrix(tiny.hidden, tiny.rank)
        elif tiny.rank:
            u, s, vt = np.linalg.svd(gate if tiny.gated else up)
            tensors[part + "ffn_predictor_p.weight"] = vt[: tiny.rank]
            tensors[part + "ffn_predictor_q.weight"] = u[:, : tiny.rank] * s[: tiny.rank]
            tensors[part + "ffn_predictor.bias"] = vector(tiny.hidden, 0.1)
    return tensors


def metadata(tiny: Tiny) -> dict[str, Any]:
    """All keys but the tokeniser's."""
    keys: dict[str, Any] = {
        "llama.block_count": tiny.layers,
        "llama.context_length": tiny.context,
        "llama.embedding_length": tiny.d,
        "llama.feed_forward_length": tiny.hidden,
        "llama.attention.head_count": tiny.heads,
        "llama.attention.head_count_kv": tiny.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.attention.layer_norm_epsilon": 1e-5,
        "llama.rope.freq_base": 500.0,
        "llama.hidden_activation": tiny.activation,
        "llama.attention.key_length": tiny.head_dim,
        "llama.rope.dimension_count": tiny.rope_dims,
    }
    if tiny.powerinfer:
        keys["powerinfer.sparse_threshold"] = 0.05
    elif tiny.rank:
        keys["sparsefire.version"] = 1
        keys["sparsefire.hot_counts"] = [3] * tiny.layers
    for on, values in tiny.cutoffs.items():
        keys["sparsefire.version"] = 1
        keys[f"sparsefire.cutoff.{on}"] = values
    renamed = {key.replace("llama.", f"{tiny.arch}.", 1): value for key, value in keys.items()}
    return {**renamed, **tiny.keys}


def tokenizer_keys(tiny: Tiny) -> dict[str, Any]:
    tokens = [*LETTERS, "<|end|>", *(merge.replace(" ", "") for merge in MERGES)]
    tokens += [f"[unused{i}]" for i in range(tiny.vocab - len(tokens))]
    types = [1] * len(tokens)
    types[END] = 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": END,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": tiny.add_bos,
    }


def _add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write(path: Path, tiny: Tiny | None = None, **changes: Any) -> Path:
    """Writes a model and returns the path. Matrices are packed in `format`, the rest is F32."""
    tiny = replace(tiny or Tiny(), **changes)
    keys = {**metadata(tiny), **tokenizer_keys(tiny), **tiny.keys}
    _write(path, tiny, keys, {**weights(tiny), **tiny.tensors})
    return path


def write_parts(directory: Path, count: int, tiny: Tiny | None = None) -> list[Path]:
    """Writes a model that is split over `count` files, as llama.cpp names and describes them."""
    tiny = tiny or Tiny()
    tensors = weights(tiny)
    paths = []
    for part in range(count):
        path = directory / f"tiny-{part + 1:05}-of-{count:05}.gguf"
        split = {"split.no": part, "split.count": count, "split.tensors.count": len(tensors)}
        keys = {**metadata(tiny), **tokenizer_keys(tiny)} if part == 0 else {}
        _write(path, tiny, {**keys, **split}, dict(list(tensors.items())[part::count]))
        paths.append(path)
    return paths


def split(path: Path, directory: Path, count: int) -> list[Path]:
    """Divides a model's file into `count` files, its tensors in turn."""
    whole = gguf.GGUFReader(path)
    paths = [directory / f"{path.stem}-{part + 1:05}-of-{count:05}.gguf" for part in range(count)]
    for part, each in enumerate(paths):
        writer = gguf.GGUFWriter(each, whole.fields["general.architecture"].contents())
        for key in whole.fields.values():
            if part == 0 and not key.name.startswith(("GGUF.", "general.architecture")):
                writer.add_key_value(key.name, key.contents(), *key.types[:2])
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[part::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def _write(path: Path, tiny: Tiny, keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", tiny.arch))
    for key, value in keys.items():
        if value is not None:
            _add_key(writer, key, value)
    for name, values in tensors.items():
        if values is None:
            continue
        kind = Q[tiny.format] if values.ndim == 2 else Q.F32
        if name.endswith("ffn_down.weight") and tiny.down_format:
            kind = Q[tiny.down_format]
        packed = pack(values, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if tiny.powerinfer:
        with path.open("r+b") as file:
            file.write(b"PWRI")


def write_hollow(path: Path, hidden: int) -> Path:
    """A model of two layers with so many neurons whose weights are zeros: a hole in the file."""
    tiny = Tiny(hidden=hidden, activation="silu")
    shapes = {name: values.shape for name, values in weights(replace(tiny, hidden=1)).items()}
    for layer in range(tiny.layers):
        shapes |= {f"blk.{layer}.ffn_{name}.weight": (hidden, tiny.d) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down.weight"] = (tiny.d, hidden)
    writer = gguf.GGUFWriter(path, tiny.arch)
    for key, value in {**metadata(tiny), **tokenizer_keys(tiny)}.items():
        if value is not None:
            _add_key(writer, key, value)
    nbytes = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size)
        nbytes += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 32 + nbytes)
    return path
