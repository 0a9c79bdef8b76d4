"""Small random models of architectures that llama.cpp's test of architectures does not save: RWKV,
BitNet, Gemma 3n, and Nemotron-H with experts. Shapes are numpy's: (outputs, inputs)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

_VOCABULARY, _WIDTH, _LAYERS = 128, 128, 3

# How a tensor's values are drawn, from standard normal ones.
_MATRIX, _NORM, _BIAS, _WIDE, _SHARE, _DECAY, _SCALE = range(7)


@dataclass
class _Model:
    """Keys without the architecture's name before them, and shapes and kinds of tensors."""

    architecture: str
    keys: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)

    def add(self, prefix: str, kind: int, **shapes: tuple[int, ...]) -> None:
        """Adds tensors: `attn_q=(8, 4)` is `<prefix>attn_q.weight`."""
        for name, shape in shapes.items():
            self.tensors[f"{prefix}{name}.weight"] = shape, kind

    def add_norm(self, prefix: str, *names: str, size: int = _WIDTH, bias: bool = False) -> None:
        """Adds the weights of norms, and their biases."""
        for name in names:
            self.tensors[f"{prefix}{name}.weight"] = (size,), _NORM
            if bias:
                self.tensors[f"{prefix}{name}.bias"] = (size,), _BIAS

    def add_ends(self, *, output: bool = True, bias: bool = False) -> None:
        """Adds the embedding, the last norm and the output matrix."""
        self.add("", _WIDE, token_embd=(_VOCABULARY, _WIDTH))
        self.add_norm("", "output_norm", bias=bias)
        if output:
            self.add("", _MATRIX, output=(_VOCABULARY, _WIDTH))


def write_further(folder: Path) -> list[Path]:
    """Writes the models that the peer's test lacks; their paths."""
    return [_write(folder / f"{name}.gguf", model) for name, model in _models()]


def _models() -> Iterator[tuple[str, _Model]]:
    yield "rwkv6", _rwkv6()
    yield "rwkv6-halving", _rwkv6(halving=2)
    yield "rwkv6qwen2", _rwkv6qwen2()
    yield "rwkv7", _rwkv7("rwkv7")
    yield "arwkv7", _rwkv7("arwkv7")
    yield "arwkv7-plain", _rwkv7("arwkv7", plain=True)
    yield "bitnet", _bitnet(scales=False)
    yield "bitnet-scales", _bitnet(scales=True)
    yield "gemma3n", _gemma3n()
    yield "nemotron_h_moe-experts", _nemotron_h_moe()
    yield "nemotron_h_moe-latent", _nemotron_h_moe(latent=64)
    yield "nemotron_h_moe-layers", _nemotron_h_moe(differ=True)


# -- Recurrent ---------------------------------------------------------------------------------


def _rwkv6(halving: int = 0) -> _Model:
    ranks, decay_rank, head, hidden = 16, 24, 32, 256
    keys = {
        "feed_forward_length": hidden,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": head,
        "time_mix_extra_dim": ranks,
        "time_decay_extra_dim": decay_rank,
        "rescale_every_n_layers": halving,
    }
    model = _Model("rwkv6", keys)
    model.add_ends(bias=True)
    model.add_norm("", "token_embd_norm", bias=True)
    square = (_WIDTH, _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "attn_norm_2", "time_mix_ln", bias=True)
        mix = f"{block}time_mix_"
        model.add(mix, _MATRIX, key=square, value=square, receptance=square, gate=square)
        model.add(mix, _MATRIX, output=square, w1=(5 * ranks, _WIDTH), w2=(5, _WIDTH, ranks))
        model.add(mix, _MATRIX, decay_w1=(decay_rank, _WIDTH), decay_w2=(_WIDTH, decay_rank))
        model.add(mix, _WIDE, decay=(_WIDTH,), first=(_WIDTH // head, head))
        model.add(mix, _SHARE, lerp_x=(1, 1, _WIDTH))
        if halving:  # the older of two ways to store these
            model.add(mix, _SHARE, **{f"lerp_{each}": (1, 1, _WIDTH) for each in "wkvrg"})
        else:
            model.add(mix, _SHARE, lerp_fused=(5, 1, 1, _WIDTH))
        channel = f"{block}channel_mix_"
        model.add(channel, _SHARE, lerp_k=(1, 1, _WIDTH), lerp_r=(1, 1, _WIDTH))
        model.add(channel, _MATRIX, key=(hidden, _WIDTH), value=(_WIDTH, hidden), receptance=square)
    return model


def _rwkv6qwen2() -> _Model:
    ranks, decay_rank, head, heads_kv, hidden = 16, 24, 32, 2, 256
    keys = {
        "feed_forward_length": hidden,
        "attention.head_count": 0,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "token_shift_count": 1,
        "wkv.head_size": head,
        "time_mix_extra_dim": ranks,
        "time_decay_extra_dim": decay_rank,
    }
    model = _Model("rwkv6qwen2", keys)
    model.add_ends()
    square, narrow = (_WIDTH, _WIDTH), (heads_kv * head, _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "ffn_norm")
        mix = f"{block}time_mix_"
        model.add(mix, _MATRIX, key=narrow, value=narrow, receptance=square, gate=square)
        model.add(mix, _MATRIX, output=square, w1=(5 * ranks, _WIDTH), w2=(5, _WIDTH, ranks))
        model.add(mix, _MATRIX, decay_w1=(decay_rank, _WIDTH), decay_w2=(_WIDTH, decay_rank))
        model.add(mix, _WIDE, decay=(_WIDTH,))
        model.add(mix, _SHARE, lerp_x=(1, 1, _WIDTH), lerp_fused=(5, 1, 1, _WIDTH))
        for name, size in (("key", narrow[0]), ("value", narrow[0]), ("receptance", _WIDTH)):
            model.tensors[f"{mix}{name}.bias"] = (size,), _BIAS
        _add_ffn(model, block, hidden)
    return model


def _rwkv7(architecture: str, plain: bool = False) -> _Model:
    """``plain``: without a gate, and without the norm of each head."""
    original = architecture == "rwkv7"
    # With AVX-512 llama.cpp reads past the end of smaller heads.
    head, hidden = 64, 256
    ranks = {"w": 16, "a": 16, "v": 8, "g": 0 if plain else 24}
    keys: dict[str, Any] = {
        "feed_forward_length": hidden,
        "attention.head_count": 0,
        "wkv.head_size": head,
        "attention.decay_lora_rank": ranks["w"],
        "attention.iclr_lora_rank": ranks["a"],
        "attention.value_residual_mix_lora_rank": ranks["v"],
        "attention.gate_lora_rank": ranks["g"],
    }
    if original:
        keys["attention.layer_norm_epsilon"] = 1e-5
    else:
        keys |= {"attention.layer_norm_rms_epsilon": 1e-5, "token_shift_count": 1}
    model = _Model(architecture, keys)
    model.add_ends(bias=original)
    if original:
        model.add_norm("", "token_embd_norm", bias=True)
    square = (_WIDTH, _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", bias=original)
        mix = f"{block}time_mix_"
        model.add(mix, _MATRIX, key=square, value=square, receptance=square, output=square)
        for name, rank in ranks.items():
            size = ranks["a"] if (name, layer) == ("v", 0) else rank
            if size:
                pair = {f"{name}1": (size, _WIDTH), f"{name}2": (_WIDTH, size)}
                model.add(mix, _MATRIX, **pair)
            if name != "g":
                model.add(mix, _WIDE, **{f"{name}0": (_WIDTH,)})
        model.add(mix, _SHARE, lerp_fused=(5 if plain else 6, 1, 1, _WIDTH))
        model.add(mix, _WIDE, k_k=(_WIDTH,), k_a=(_WIDTH,), r_k=(_WIDTH,))
        if not plain:
            model.add_norm(mix, "ln", bias=True)
        if original:
            model.add_norm(block, "attn_norm_2", bias=True)
            channel = f"{block}channel_mix_"
            model.add(channel, _SHARE, lerp_k=(1, 1, _WIDTH))
            model.add(channel, _MATRIX, key=(hidden, _WIDTH), value=(_WIDTH, hidden))
        else:
            model.add_norm(block, "ffn_norm")
            _add_ffn(model, block, hidden)
    return model


def _nemotron_h_moe(latent: int = 0, differ: bool = False) -> _Model:
    """Mamba-2, attention and experts in turn. ``latent``: the width that experts work in;
    ``differ``: widths and numbers of experts differ from layer to layer."""
    kinds = "MEAEME"
    heads, heads_kv, head = 4, 2, 32
    experts, hidden, shared = 8, 64, 96
    groups, state, inner, ssm_heads = 2, 16, 256, 8
    widths = [hidden + 16 * layer * differ for layer in range(len(kinds))]
    keys = {
        "block_count": len(kinds),
        "feed_forward_length": [hidden if kind == "E" else 0 for kind in kinds],
        "attention.head_count": heads,
        "attention.head_count_kv": [heads_kv if kind == "A" else 0 for kind in kinds],
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": ssm_heads,
        "ssm.group_count": groups,
        "expert_count": experts,
        "expert_used_count": [3, 2, 3, 4, 3, 1] if differ else 3,
        "expert_shared_count": 1,
        "expert_feed_forward_length": widths if differ else hidden,
        "expert_shared_feed_forward_length": shared,
        "expert_weights_norm": True,
        "expert_weights_scale": 2.5,
    }
    if latent:
        keys["moe_latent_size"] = latent
    model = _Model("nemotron_h_moe", keys)
    model.add_ends()
    wide = inner + 2 * groups * state
    for layer, (kind, width) in enumerate(zip(kinds, widths, strict=True)):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm")
        if kind == "M":
            model.add(block, _MATRIX, ssm_in=(inner + wide + ssm_heads, _WIDTH))
            model.add(block, _MATRIX, ssm_conv1d=(wide, 4), ssm_out=(_WIDTH, inner))
            model.add(block, _NORM, ssm_norm=(groups, inner // groups))
            model.tensors[f"{block}ssm_conv1d.bias"] = (wide,), _BIAS
            model.tensors[f"{block}ssm_dt.bias"] = (ssm_heads,), _WIDE
            model.tensors[f"{block}ssm_a"] = (ssm_heads, 1), _DECAY
            model.tensors[f"{block}ssm_d"] = (ssm_heads, 1), _WIDE
        elif kind == "A":
            _add_attention(model, block, heads, heads_kv, head)
        else:
            inputs = latent or _WIDTH
            model.add(block, _MATRIX, ffn_gate_inp=(experts, _WIDTH))
            model.tensors[f"{block}exp_probs_b.bias"] = (experts,), _BIAS
            model.add(block, _MATRIX, ffn_up_exps=(experts, width, inputs))
            model.add(block, _MATRIX, ffn_down_exps=(experts, inputs, width))
            model.add(
                block, _MATRIX, ffn_up_shexp=(shared, _WIDTH), ffn_down_shexp=(_WIDTH, shared)
            )
            if latent:
                model.add(block, _MATRIX, ffn_latent_down=(latent, _WIDTH))
                model.add(block, _MATRIX, ffn_latent_up=(_WIDTH, latent))
    return model


# -- Transformers ------------------------------------------------------------------------------


def _add_attention(model: _Model, block: str, heads: int, heads_kv: int, head: int) -> None:
    shape = (heads_kv * head, _WIDTH)
    model.add(block, _MATRIX, attn_q=(heads * head, _WIDTH), attn_k=shape, attn_v=shape)
    model.add(block, _MATRIX, attn_output=(_WIDTH, heads * head))


def _add_ffn(model: _Model, block: str, hidden: int) -> None:
    shape = (hidden, _WIDTH)
    model.add(block, _MATRIX, ffn_gate=shape, ffn_up=shape, ffn_down=(_WIDTH, hidden))


def _bitnet(scales: bool) -> _Model:
    """``scales``: with a factor for each matrix."""
    heads, heads_kv, head, hidden = 4, 2, 32, 256
    keys = {
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head,
        "hidden_activation": "silu",  # what llama.cpp computes, whatever the model was trained with
    }
    model = _Model("bitnet", keys)
    model.add_ends(output=False)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "attn_sub_norm", "ffn_norm")
        model.add_norm(block, "ffn_sub_norm", size=hidden)
        _add_attention(model, block, heads, heads_kv, head)
        _add_ffn(model, block, hidden)
        if scales:
            matrices = (
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            )
            for name in matrices:
                model.tensors[f"{block}{name}.scale"] = (1,), _SCALE
    return model


def _gemma3n() -> _Model:
    # llama.cpp has the widths of the real models and their number of layers with keys built in.
    layers, inputs, rank, streams = 22, 256, 64, 4
    heads, heads_kv, head, hidden = 4, 2, 32, 192
    keys = {
        "block_count": layers,
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": heads_kv,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 16,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
    }
    model = _Model("gemma3n", keys)
    model.add_ends(output=False)
    stream = (streams - 1, _WIDTH, _WIDTH)
    model.add("", _MATRIX, altup_proj=stream, altup_unembd_proj=stream)
    model.add("", _MATRIX, per_layer_token_embd=(_VOCABULARY, inputs * layers))
    model.add("", _MATRIX, per_layer_model_proj=(inputs * layers, _WIDTH))
    model.add_norm("", "per_layer_proj_norm", size=inputs)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        model.add_norm(block, "post_norm", "laurel_post_norm")
        model.add_norm(block, "altup_router_norm", "altup_correct_scale")
        model.add_norm(block, "attn_q_norm", "attn_k_norm", size=head)
        _add_attention(model, block, heads, heads_kv, head)
        _add_ffn(model, block, hidden)
        model.add(block, _MATRIX, inp_gate=(inputs, _WIDTH), proj=(_WIDTH, inputs))
        model.add(block, _MATRIX, altup_correct_coef=(streams, streams))
        model.add(block, _MATRIX, altup_predict_coef=(streams * streams, streams))
        model.add(block, _MATRIX, altup_router=(streams, _WIDTH))
        model.add(block, _MATRIX, laurel_l=(rank, _WIDTH), laurel_r=(_WIDTH, rank))
    return model


# -- Writing -----------------------------------------------------------------------------------


def _write(path: Path, model: _Model) -> Path:
    writer = gguf.GGUFWriter(path, model.architecture)
    first = {
        "block_count": _LAYERS,
        "vocab_size": _VOCABULARY,
        "context_length": 256,
        "embedding_length": _WIDTH,
    }
    for key, value in {**first, **model.keys}.items():
        _add_key(writer, f"{model.architecture}.{key}", value)
    _add_key(writer, "tokenizer.ggml.model", "test")  # a vocabulary of llama.cpp's tests
    writer.add_array("tokenizer.ggml.tokens", [f"tok_{token}" for token in range(_VOCABULARY)])
    writer.add_array("tokenizer.ggml.scores", [0.0] * _VOCABULARY)
    random = np.random.default_rng(zlib.crc32(path.stem.encode()))
    for name, (shape, kind) in model.tensors.items():
        writer.add_tensor(name, _values(random, shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: Mapping[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _values(
    random: np.random.Generator, shape: tuple[int, ...], kind: int
) -> npt.NDArray[np.float32]:
    normal = random.standard_normal(shape)
    drawn: dict[int, npt.NDArray[np.float64]] = {
        _MATRIX: normal / np.sqrt(shape[-1]),
        _NORM: 1 + normal / 10,
        _BIAS: normal / 10,
        _WIDE: normal,
        _SHARE: random.random(shape),
        _DECAY: -0.1 - random.random(shape),
        _SCALE: 0.5 + np.abs(normal),
    }
    return drawn[kind].astype(np.float32)
