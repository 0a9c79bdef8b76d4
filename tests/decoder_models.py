"""Small random decoders, one of each architecture that differs from Llama's in numbers and options:
what each computes, for the model files and for the forward pass in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mixture_models
from mixture_models import HEAD, HEADS, HIDDEN, LAYERS, VOCAB, WIDTH, D, projections, save

POSITIONS = 20
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Decoder:
    """An architecture. ``parts`` are what its blocks have and do:

    halves, plain: rotary pairs of halves of a head, or of neighbours; positions: learned ones;
    alibi: slopes; layer: norms with means; norm_bias; bare: norms without weights; embedding_norm,
    bare_embedding_norm; fused, bias, output_bias, ffn_bias: projections, and which have biases;
    ungated, gate_up: feed-forward matrices; beside, apart: the feed-forward part reads what
    attention reads, or a norm of its own of the same; no_before, after: norms before and after;
    head_norms, own_norms, whole_norms, late: of queries and keys; clamp; gate, gate_each: of what
    attention finds, one a head or one an element; windowed_turn: only layers with a window turn;
    lead_turn: and those without experts; both: tokens see those after them; experts, shared,
    selection_bias, unnormalised: their weights; sinks; images: matrices for those."""

    parts: frozenset[str]
    activation: str = "silu"
    keys: dict[str, Any] = field(default_factory=dict)
    hidden: int = HIDDEN
    ffn_norm: str = "ffn_norm"
    after: tuple[str, str] = ("post_attention_norm", "post_ffw_norm")
    after_eps: float | None = None
    every: int = 0  # every so many layers, one sees everything (full) or is not turned (unturned)
    full_at: int = -1
    unturned: int = 0
    embedding_scale: float = 1.0
    attention_scale: float = HEAD**-0.5
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    logit_scale: float = 1.0
    shared_scale: float = 1.0
    window_base: float = 0.0
    gate: str = "sigmoid"
    scoring: str = "softmax"
    limits: str = ""  # of SiLU, see `mixture_reference.Family`


def decoder_of(parts: str, activation: str = "silu", **options: Any) -> Decoder:
    return Decoder(frozenset(parts.split()), activation, **options)


_WINDOW: dict[str, Any] = {"attention.sliding_window": 5}
_WINDOW_BASE: dict[str, Any] = {**_WINDOW, "rope.freq_base_swa": 500.0}
_GPT = "layer norm_bias ungated fused bias output_bias ffn_bias"
_LAYER: dict[str, Any] = {"attention.layer_norm_epsilon": 1e-5}
_SCALE: dict[str, Any] = {"logit_scale": 0.25}
_EXPERTS: dict[str, Any] = {
    "expert_count": mixture_models.EXPERTS,
    "expert_used_count": mixture_models.USED,
    "expert_feed_forward_length": WIDTH,
}
_ROUTED: dict[str, Any] = {
    **_EXPERTS,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "expert_shared_count": 1,
    "leading_dense_block_count": 1,
}


def _gpt(parts: str = "", **options: Any) -> Decoder:
    options = {"activation": "gelu", **options}
    options["keys"] = {**_LAYER, **options.get("keys", {})}
    return decoder_of(f"{_GPT} {parts}", **options)


DECODERS = {
    "baichuan": decoder_of("", keys={"attention.head_count_kv": HEADS}),
    "bloom": _gpt("alibi embedding_norm"),
    "chatglm": decoder_of("plain fused bias gate_up", keys={"rope.dimension_count": 6}),
    "codeshell": _gpt("halves"),
    "cogvlm": decoder_of("halves fused images"),
    "cohere2": decoder_of(
        "plain layer beside windowed_turn",
        keys={**_LAYER, **_WINDOW, **_SCALE},
        every=4,
        logit_scale=0.25,
    ),
    "command-r": decoder_of(
        "plain layer beside own_norms", keys={**_LAYER, **_SCALE}, logit_scale=0.25
    ),
    "ernie4_5": decoder_of("plain"),
    "exaone": decoder_of("halves"),
    "exaone4": decoder_of("halves no_before after head_norms", keys=_WINDOW),
    "falcon": decoder_of("layer norm_bias ungated fused beside second halves", "gelu", keys=_LAYER),
    "glm4": decoder_of("plain gate_up after bias"),
    "gpt2": _gpt("positions"),
    "gptneox": _gpt("halves apart", keys={"use_parallel_residual": True}),
    "granite_swa": decoder_of(
        "plain sinks",
        keys={**_WINDOW, "attention.sliding_window_pattern": [True, True, False, True, True]},
        every=5,
        full_at=2,
    ),
    "hunyuan-dense": decoder_of("halves head_norms late"),
    "hunyuan_vl": decoder_of("halves head_norms late"),
    "internlm2": decoder_of("plain"),
    "jais": _gpt(
        "alibi gated",
        activation="silu",
        attention_scale=1 / HEAD,
        keys={"attention.max_alibi_bias": 8.0},
    ),
    "jais2": _gpt("halves", activation="relu2"),
    "maincoder": decoder_of("plain head_norms late"),
    "mpt": _gpt(
        "alibi clamp positions", keys={"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 0.8}
    ),
    "muse-glimmer": decoder_of(
        "plain bare_embedding_norm head_norms after gate_each windowed_turn",
        keys={**_WINDOW, **_SCALE, "final_logit_softcapping": 3.0},
        every=4,
        after_eps=1e-8,
        logit_scale=0.25,
        logit_cap=3.0,
    ),
    "olmo": decoder_of("plain layer bare clamp", keys={**_LAYER, "attention.clamp_kqv": 0.8}),
    "olmo2": decoder_of(
        "halves no_before after whole_norms", keys=_WINDOW_BASE, every=4, window_base=500.0
    ),
    "openelm": decoder_of(
        "halves fused head_norms",
        keys={
            "attention.head_count": [2, 4, 4, 2, 4],
            "attention.head_count_kv": [1, 1, 2, 2, 4],
            "feed_forward_length": [16, 40, 24, 40, 32],
        },
    ),
    "orion": decoder_of("halves layer norm_bias", keys=_LAYER),
    "paddleocr": decoder_of("halves", keys={"rope.dimension_sections": [2, 2, 2, 0]}),
    "pangu-embedded": decoder_of("halves bias output_bias"),
    "phi2": _gpt("halves beside", keys={"rope.dimension_count": 6}),
    "phi3": decoder_of("halves fused gate_up"),
    "plamo": decoder_of("halves beside"),
    "plamo3": decoder_of(
        "halves fused gate_up head_norms after bare_names",
        keys={**_WINDOW, "rope.freq_base": 500.0},
        every=8,
        window_base=10000.0,
    ),
    "qwen": decoder_of(
        "halves fused bias",
        keys={"feed_forward_length": 2 * HIDDEN, "attention.head_count_kv": HEADS},
    ),
    "qwen2vl": decoder_of("halves bias", keys={"rope.dimension_sections": [2, 2, 2, 0]}),
    "qwen3vl": decoder_of("halves head_norms", keys={"rope.dimension_sections": [2, 2, 2, 0]}),
    "refact": decoder_of("alibi"),
    "seed_oss": decoder_of("halves bias", ffn_norm="post_attention_norm"),
    "smollm3": decoder_of("plain", unturned=4),
    "spark2_5": decoder_of(
        "halves gate",
        "gelu",
        keys={**_WINDOW, "attention.sliding_window_pattern": [True, False, True, True, False]},
        every=3,
        full_at=1,
    ),
    "stablelm": decoder_of(
        "halves layer norm_bias own_norms bias",
        keys={**_LAYER, "rope.dimension_count": 6, "use_parallel_residual": True},
    ),
    "starcoder": _gpt("positions", keys={"attention.head_count_kv": 1}),
    "starcoder2": _gpt("halves"),
    "xverse": decoder_of("plain"),
    # Their tokens see both sides.
    "dream": decoder_of("halves bias both"),
    "llada": decoder_of("plain both"),
    "llada-moe": decoder_of("halves head_norms experts both unnormalised", keys=_EXPERTS),
    "rnd1": decoder_of("halves head_norms experts both", keys=_EXPERTS),
    # Mixtures of experts.
    "cohere2moe": decoder_of(
        "plain layer beside windowed_turn lead_turn experts shared",
        keys={**_LAYER, **_WINDOW, **_SCALE, **_ROUTED, "attention.layer_norm_rms_epsilon": 0.0},
        every=4,
        full_at=0,
        logit_scale=0.25,
        scoring="sigmoid",
        shared_scale=0.5,
    ),
    "dbrx": decoder_of(
        "halves layer fused clamp experts",
        keys={**_LAYER, **_EXPERTS, "attention.clamp_kqv": 0.8, "feed_forward_length": WIDTH},
        ffn_norm="attn_output_norm",
    ),
    "exaone-moe": decoder_of(
        "halves head_norms windowed_turn experts shared selection_bias",
        keys={**_WINDOW, **_ROUTED},
        every=4,
        scoring="sigmoid",
    ),
    "grok": decoder_of(
        "halves after experts dense_beside",
        "gelu",
        keys={**_EXPERTS, "logit_scale": 0.5, "attention.output_scale": 0.1},
        after=("attn_output_norm", "layer_output_norm"),
        embedding_scale=78.38367176906169,
        attention_scale=0.1,
        attention_cap=30.0,
        logit_scale=0.5,
        shared_scale=0.5**0.5,
    ),
    "hy_v3": decoder_of(
        "halves head_norms experts shared selection_bias",
        keys=_ROUTED,
        scoring="sigmoid",
    ),
    "laguna": decoder_of(
        "halves head_norms gate experts shared selection_bias",
        keys={
            **_WINDOW_BASE,
            **_ROUTED,
            "attention.head_count": [4, 2, 2, 4, 2],
        },
        every=4,
        full_at=0,
        window_base=500.0,
        gate="softplus",
        scoring="sigmoid",
    ),
    "maple": decoder_of(
        "halves head_norms windowed_turn experts",
        keys={
            **_WINDOW,
            **_EXPERTS,
            "attention.sliding_window_pattern": [True, True, False, True, True],
            "swiglu_clamp_exp": [0.0, 0.2, 0.4, 0.3, 7.0],
        },
        every=5,
        full_at=2,
        limits="inside",
    ),
    "mimo2": decoder_of(
        "halves sinks experts selection_bias",
        keys={
            **_WINDOW_BASE,
            **_EXPERTS,
            "attention.sliding_window_pattern": [True, True, False, True, True],
        },
        every=5,
        full_at=2,
        window_base=500.0,
        scoring="sigmoid",
    ),
    "apertus": decoder_of(
        "halves head_norms ungated",
        "xielu",
        keys={
            "xielu.alpha_n": [0.3 * layer - 0.5 for layer in range(LAYERS)],
            "xielu.alpha_p": [0.7 - 0.2 * layer for layer in range(LAYERS)],
            "xielu.beta": [0.5] * LAYERS,
            "xielu.eps": [-1e-6] * LAYERS,
        },
    ),
    "qwen3vlmoe": decoder_of("halves head_norms experts", keys=_EXPERTS),
}


def of_layer(keys: dict[str, Any], name: str, layer: int) -> int:
    """A number that may be given for each layer."""
    value = keys[name]
    return int(value[layer] if isinstance(value, list) else value)


def keys_of(decoder: Decoder) -> dict[str, Any]:
    """The keys of the file."""
    keys = {**mixture_models.COMMON_KEYS, "context_length": POSITIONS}
    keys = {name: value for name, value in keys.items() if not name.startswith("expert")}
    return {**keys, **decoder.keys}


def write(path: Path, architecture: str) -> Path:
    """Writes the model of an architecture."""
    decoder = DECODERS[architecture]
    keys = keys_of(decoder)
    return save(path, architecture, keys, dict(tensors_of(decoder, keys)))


def has_experts(decoder: Decoder, layer: int) -> bool:
    """Whether a layer has experts."""
    return "experts" in decoder.parts and layer >= decoder.keys.get("leading_dense_block_count", 0)


def tensors_of(decoder: Decoder, keys: dict[str, Any]) -> Shapes:
    """The tensors of the file and their shapes."""
    parts = decoder.parts
    yield "token_embd.weight", (VOCAB, D)
    yield "output.weight", (VOCAB, D)
    if "positions" in parts:
        yield "position_embd.weight", (POSITIONS, D)
    norms = ["token_embd_norm"] if "embedding_norm" in parts else []
    norms += [] if "bare" in parts else ["output_norm"]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        if not parts & {"bare", "no_before"}:
            norms.append(f"{block}attn_norm")
            norms += [] if "beside" in parts else [block + decoder.ffn_norm]
        if "images" in parts:
            yield f"{block}vis_attn_output.weight", (D, D)
        norms += [f"{block}attn_norm_2"] if "second" in parts else []
        yield from _attention(decoder, block, keys, layer)
        yield from _feed_forward(decoder, block, keys, layer)
        if "after" in parts:
            for name in decoder.after:
                suffix = "" if "bare_names" in parts else ".weight"
                yield f"{block}{name}{suffix}", (D,)
    for norm in norms:
        yield f"{norm}.weight", (D,)
        if "norm_bias" in parts:
            yield f"{norm}.bias", (D,)


def _attention(decoder: Decoder, block: str, keys: dict[str, Any], layer: int) -> Shapes:
    parts = decoder.parts
    heads, kv_heads = (of_layer(keys, f"attention.head_count{kv}", layer) for kv in ("", "_kv"))
    yield from projections(parts, block, heads, kv_heads)
    for name, count in (("q", heads), ("k", kv_heads)):
        if "head_norms" in parts:
            yield f"{block}attn_{name}_norm.weight", (HEAD,)
        if "own_norms" in parts:
            yield f"{block}attn_{name}_norm.weight", (count, HEAD)
        if "whole_norms" in parts:
            yield f"{block}attn_{name}_norm.weight", (count * HEAD,)
    if "sinks" in parts:
        yield f"{block}attn_sinks.weight", (heads,)
    if parts & {"gate", "gate_each"}:
        yield f"{block}attn_gate.weight", (heads if "gate" in parts else heads * HEAD, D)


def _feed_forward(decoder: Decoder, block: str, keys: dict[str, Any], layer: int) -> Shapes:
    parts, hidden = decoder.parts, of_layer(keys, "feed_forward_length", layer)
    if "feed_forward_length" in decoder.keys and hidden == 2 * HIDDEN:
        hidden = HIDDEN  # Qwen counts gate and up together
    if has_experts(decoder, layer):
        own = "selection_bias" if "selection_bias" in parts else ""
        shared = WIDTH if "shared" in parts else 0
        mixture = mixture_models.Mixture(parts=frozenset({own}), shared=shared)
        yield from mixture_models.experts(mixture, block)
        if "dense_beside" not in parts:
            return
    rows = {"gate": hidden, "up": hidden}
    if "gate_up" in parts:
        rows = {"up": 2 * hidden}
    elif "ungated" in parts and "gated" not in parts:
        rows = {"up": hidden}
    for name, count in rows.items():
        yield f"{block}ffn_{name}.weight", (count, D)
        if "ffn_bias" in parts:
            yield f"{block}ffn_{name}.bias", (count,)
    yield f"{block}ffn_down.weight", (D, hidden)
    if "ffn_bias" in parts:
        yield f"{block}ffn_down.bias", (D,)
