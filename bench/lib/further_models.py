"""Small random models of architectures that llama.cpp's test of architectures does not save: RWKV,
BitNet, Gemma 3n and 4, PLM, Nemotron-H with experts, and encoders. Shapes are numpy's: (outputs,
inputs)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from .encoder_models import encoder_models
from .tensor_lists import (
    BIAS,
    DECAY,
    LAYERS,
    MATRIX,
    NORM,
    SCALE,
    SHARE,
    VOCABULARY,
    WIDE,
    WIDTH,
    RandomModel,
    add_attention,
    add_ffn,
    write_model,
)


def write_further(folder: Path, names: Container[str] | None = None) -> list[Path]:
    """Writes the models that the peer's test lacks, or those of these names; their paths."""
    return [
        write_model(folder / f"{name}.gguf", model)
        for name, model in _models()
        if names is None or name in names
    ]


def _models() -> Iterator[tuple[str, RandomModel]]:
    yield "rwkv6", _rwkv6()
    yield "rwkv6-halving", _rwkv6(halving=2)
    yield "rwkv6qwen2", _rwkv6qwen2()
    yield "rwkv7", _rwkv7("rwkv7")
    yield "arwkv7", _rwkv7("arwkv7")
    yield "arwkv7-plain", _rwkv7("arwkv7", plain=True)
    yield "bitnet", _bitnet(scales=False)
    yield "bitnet-scales", _bitnet(scales=True)
    yield "gemma3n", _gemma3n()
    yield "gemma4-inputs", _gemma4(inputs=32, shared=3)
    yield "gemma4-dense", _gemma4(keys_as_values=True)
    yield "gemma4-experts", _gemma4(keys_as_values=True, experts=8)
    yield "plm", _plm()
    yield "nemotron_h_moe-experts", _nemotron_h_moe()
    yield "nemotron_h_moe-latent", _nemotron_h_moe(latent=64)
    yield "nemotron_h_moe-layers", _nemotron_h_moe(differ=True)
    yield from encoder_models()


# -- Recurrent ---------------------------------------------------------------------------------


def _rwkv6(halving: int = 0) -> RandomModel:
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
    model = RandomModel("rwkv6", keys)
    model.add_ends(bias=True)
    model.add_norm("", "token_embd_norm", bias=True)
    square = (WIDTH, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "attn_norm_2", "time_mix_ln", bias=True)
        mix = f"{block}time_mix_"
        model.add(mix, MATRIX, key=square, value=square, receptance=square, gate=square)
        model.add(mix, MATRIX, output=square, w1=(5 * ranks, WIDTH), w2=(5, WIDTH, ranks))
        model.add(mix, MATRIX, decay_w1=(decay_rank, WIDTH), decay_w2=(WIDTH, decay_rank))
        model.add(mix, WIDE, decay=(WIDTH,), first=(WIDTH // head, head))
        model.add(mix, SHARE, lerp_x=(1, 1, WIDTH))
        if halving:  # the older of two ways to store these
            model.add(mix, SHARE, **{f"lerp_{each}": (1, 1, WIDTH) for each in "wkvrg"})
        else:
            model.add(mix, SHARE, lerp_fused=(5, 1, 1, WIDTH))
        channel = f"{block}channel_mix_"
        model.add(channel, SHARE, lerp_k=(1, 1, WIDTH), lerp_r=(1, 1, WIDTH))
        model.add(channel, MATRIX, key=(hidden, WIDTH), value=(WIDTH, hidden), receptance=square)
    return model


def _rwkv6qwen2() -> RandomModel:
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
    model = RandomModel("rwkv6qwen2", keys)
    model.add_ends()
    square, narrow = (WIDTH, WIDTH), (heads_kv * head, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "ffn_norm")
        mix = f"{block}time_mix_"
        model.add(mix, MATRIX, key=narrow, value=narrow, receptance=square, gate=square)
        model.add(mix, MATRIX, output=square, w1=(5 * ranks, WIDTH), w2=(5, WIDTH, ranks))
        model.add(mix, MATRIX, decay_w1=(decay_rank, WIDTH), decay_w2=(WIDTH, decay_rank))
        model.add(mix, WIDE, decay=(WIDTH,))
        model.add(mix, SHARE, lerp_x=(1, 1, WIDTH), lerp_fused=(5, 1, 1, WIDTH))
        for name, size in (("key", narrow[0]), ("value", narrow[0]), ("receptance", WIDTH)):
            model.tensors[f"{mix}{name}.bias"] = (size,), BIAS
        add_ffn(model, block, hidden)
    return model


def _rwkv7(architecture: str, plain: bool = False) -> RandomModel:
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
    model = RandomModel(architecture, keys)
    model.add_ends(bias=original)
    if original:
        model.add_norm("", "token_embd_norm", bias=True)
    square = (WIDTH, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", bias=original)
        mix = f"{block}time_mix_"
        model.add(mix, MATRIX, key=square, value=square, receptance=square, output=square)
        for name, rank in ranks.items():
            size = ranks["a"] if (name, layer) == ("v", 0) else rank
            if size:
                pair = {f"{name}1": (size, WIDTH), f"{name}2": (WIDTH, size)}
                model.add(mix, MATRIX, **pair)
            if name != "g":
                model.add(mix, WIDE, **{f"{name}0": (WIDTH,)})
        model.add(mix, SHARE, lerp_fused=(5 if plain else 6, 1, 1, WIDTH))
        model.add(mix, WIDE, k_k=(WIDTH,), k_a=(WIDTH,), r_k=(WIDTH,))
        if not plain:
            model.add_norm(mix, "ln", bias=True)
        if original:
            model.add_norm(block, "attn_norm_2", bias=True)
            channel = f"{block}channel_mix_"
            model.add(channel, SHARE, lerp_k=(1, 1, WIDTH))
            model.add(channel, MATRIX, key=(hidden, WIDTH), value=(WIDTH, hidden))
        else:
            model.add_norm(block, "ffn_norm")
            add_ffn(model, block, hidden)
    return model


def _nemotron_h_moe(latent: int = 0, differ: bool = False) -> RandomModel:
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
    model = RandomModel("nemotron_h_moe", keys)
    model.add_ends()
    wide = inner + 2 * groups * state
    for layer, (kind, width) in enumerate(zip(kinds, widths, strict=True)):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm")
        if kind == "M":
            model.add(block, MATRIX, ssm_in=(inner + wide + ssm_heads, WIDTH))
            model.add(block, MATRIX, ssm_conv1d=(wide, 4), ssm_out=(WIDTH, inner))
            model.add(block, NORM, ssm_norm=(groups, inner // groups))
            model.tensors[f"{block}ssm_conv1d.bias"] = (wide,), BIAS
            model.tensors[f"{block}ssm_dt.bias"] = (ssm_heads,), WIDE
            model.tensors[f"{block}ssm_a"] = (ssm_heads, 1), DECAY
            model.tensors[f"{block}ssm_d"] = (ssm_heads, 1), WIDE
        elif kind == "A":
            add_attention(model, block, heads, heads_kv, head)
        else:
            inputs = latent or WIDTH
            model.add(block, MATRIX, ffn_gate_inp=(experts, WIDTH))
            model.tensors[f"{block}exp_probs_b.bias"] = (experts,), BIAS
            model.add(block, MATRIX, ffn_up_exps=(experts, width, inputs))
            model.add(block, MATRIX, ffn_down_exps=(experts, inputs, width))
            model.add(block, MATRIX, ffn_up_shexp=(shared, WIDTH), ffn_down_shexp=(WIDTH, shared))
            if latent:
                model.add(block, MATRIX, ffn_latent_down=(latent, WIDTH))
                model.add(block, MATRIX, ffn_latent_up=(WIDTH, latent))
    return model


# -- Transformers ------------------------------------------------------------------------------


def _plm() -> RandomModel:
    heads, rank, plain, turned, value, hidden = 4, 48, 24, 16, 24, 256
    keys = {
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.key_length": plain + turned,
        "attention.value_length": value,
        "attention.kv_lora_rank": rank,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": turned,
    }
    model = RandomModel("plm", keys)
    model.add_ends(output=False)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "ffn_norm")
        model.add_norm(block, "attn_kv_a_norm", size=rank)
        model.add(block, MATRIX, attn_q=(heads * (plain + turned), WIDTH))
        model.add(block, MATRIX, attn_kv_a_mqa=(rank + turned, WIDTH))
        model.add(block, MATRIX, attn_kv_b=(heads * (plain + value), rank))
        model.add(block, MATRIX, attn_output=(WIDTH, heads * value))
        model.add(block, MATRIX, ffn_up=(hidden, WIDTH), ffn_down=(WIDTH, hidden))
    return model


def _bitnet(scales: bool) -> RandomModel:
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
    model = RandomModel("bitnet", keys)
    model.add_ends(output=False)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "attn_sub_norm", "ffn_norm")
        model.add_norm(block, "ffn_sub_norm", size=hidden)
        add_attention(model, block, heads, heads_kv, head)
        add_ffn(model, block, hidden)
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
                model.tensors[f"{block}{name}.scale"] = (1,), SCALE
    return model


def _gemma3n() -> RandomModel:
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
    model = RandomModel("gemma3n", keys)
    model.add_ends(output=False)
    stream = (streams - 1, WIDTH, WIDTH)
    model.add("", MATRIX, altup_proj=stream, altup_unembd_proj=stream)
    model.add("", MATRIX, per_layer_token_embd=(VOCABULARY, inputs * layers))
    model.add("", MATRIX, per_layer_model_proj=(inputs * layers, WIDTH))
    model.add_norm("", "per_layer_proj_norm", size=inputs)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.add_norm(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        model.add_norm(block, "post_norm", "laurel_post_norm")
        model.add_norm(block, "altup_router_norm", "altup_correct_scale")
        model.add_norm(block, "attn_q_norm", "attn_k_norm", size=head)
        add_attention(model, block, heads, heads_kv, head)
        add_ffn(model, block, hidden)
        model.add(block, MATRIX, inp_gate=(inputs, WIDTH), proj=(WIDTH, inputs))
        model.add(block, MATRIX, altup_correct_coef=(streams, streams))
        model.add(block, MATRIX, altup_predict_coef=(streams * streams, streams))
        model.add(block, MATRIX, altup_router=(streams, WIDTH))
        model.add(block, MATRIX, laurel_l=(rank, WIDTH), laurel_r=(WIDTH, rank))
    return model


def _gemma4(
    inputs: int = 0, shared: int = 0, keys_as_values: bool = False, experts: int = 0
) -> RandomModel:
    """``inputs``: width of those of a layer; ``shared``: last layers without keys and values;
    ``keys_as_values``: in layers without a window; ``experts``: beside each feed-forward layer."""
    windowed = [True] * 4 + [False] + [True] * 2 + [False]
    layers, heads, head, hidden = len(windowed), 4, 32, 192
    wide = [hidden * 2 if layer >= layers - shared else hidden for layer in range(layers)]
    keys = {
        "block_count": layers,
        "feed_forward_length": wide,
        "attention.head_count": heads,
        "attention.head_count_kv": [2 if each else 1 for each in windowed],
        "attention.key_length": 2 * head,
        "attention.value_length": 2 * head,
        "attention.key_length_swa": head,
        "attention.value_length_swa": head,
        "attention.shared_kv_layers": shared,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": windowed,
        "embedding_length_per_layer_input": inputs,
        "final_logit_softcapping": 30.0,
        "rope.dimension_count": 2 * head,
        "rope.dimension_count_swa": head,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
    }
    width = 64
    if experts:
        keys |= {
            "expert_count": experts,
            "expert_used_count": 3,
            "expert_feed_forward_length": width,
        }
    model = RandomModel("gemma4", keys)
    model.add_ends(output=False)
    model.add("", SCALE, rope_freqs=(head,))
    if inputs:
        model.add("", MATRIX, per_layer_token_embd=(VOCABULARY, inputs * layers))
        model.add("", MATRIX, per_layer_model_proj=(inputs * layers, WIDTH))
        model.add_norm("", "per_layer_proj_norm", size=inputs)
    for layer in range(layers):
        block, size = f"blk.{layer}.", head if windowed[layer] else 2 * head
        model.add_norm(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        model.add_norm(block, "attn_q_norm", "attn_k_norm", size=size)
        model.add(block, SCALE, layer_output_scale=(1,))
        add_attention(model, block, heads, 2 if windowed[layer] else 1, size)
        if keys_as_values and not windowed[layer]:
            del model.tensors[f"{block}attn_v.weight"]
        add_ffn(model, block, wide[layer])
        if experts:
            model.add_norm(block, "post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2")
            model.add(block, MATRIX, ffn_gate_inp=(experts, WIDTH))
            model.add(block, MATRIX, ffn_gate_up_exps=(experts, 2 * width, WIDTH))
            model.add(block, MATRIX, ffn_down_exps=(experts, WIDTH, width))
            model.tensors[f"{block}ffn_gate_inp.scale"] = (WIDTH,), WIDE
            model.tensors[f"{block}ffn_down_exps.scale"] = (experts,), SCALE
        if inputs:
            model.add_norm(block, "post_norm")
            model.add(block, MATRIX, inp_gate=(inputs, WIDTH), proj=(WIDTH, inputs))
    return model
