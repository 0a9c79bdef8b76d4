"""Decoders without experts that differ from Llama's kind in what their rows say."""

from __future__ import annotations

from ..core.enums import Function
from .architecture import Architecture, Fact
from .decoder import GRANITE, HEAD_NORMS, LLAMA, NORM_BIASES, POST_NORMS, SINKS, write

_NEOX = LLAMA._replace(rope_halves=True, mixture=None)  # as GPT-NeoX rotates
_NORMAL = LLAMA._replace(mixture=None)
_NEVER: Fact = lambda _: False  # noqa: E731
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")

# With biases, mean and variance in the norms, and no gate (Radford et al. 2019).
_GPT = Architecture("gelu_tanh", write, gated=False, layer_norm=True, vectors=NORM_BIASES)
_GPT2 = _GPT._replace(positions=True, rotary=_NEVER)
_STARCODER2 = _GPT._replace(rope_halves=True)

_COHERE = _NORMAL._replace(
    layer_norm=True,
    parallel="same",
    logit_factor=True,
    own_norms=True,
    optional=HEAD_NORMS,
)
# Norms of what blocks add, and none of what they get.
_OLMO2 = _NEOX._replace(pre_norms=False, vectors=(*HEAD_NORMS, *POST_NORMS), full_every=4)
_OF_IMAGES = ("vis_attn_qkv", "vis_attn_output", "vis_gate", "vis_up", "vis_down")
_CHATGLM = _NORMAL._replace(gate_up=True)
_HUNYUAN = _NEOX._replace(vectors=HEAD_NORMS, norms_after_rope=True)

ROWS = {
    # The smaller of the two models rotates, the larger one does not.
    "baichuan": _NORMAL._replace(
        rotary=lambda sizes: sizes.layers == 32,
        alibi=lambda sizes: 8.0 if sizes.layers == 40 else 0.0,
    ),
    "bloom": _GPT._replace(
        rotary=_NEVER,
        alibi=lambda _: 8.0,
        embedding_norm="own",
        vectors=(*NORM_BIASES, "token_embd_norm.bias"),
    ),
    "chatglm": _CHATGLM,
    "codeshell": _STARCODER2,
    "cogvlm": _NEOX._replace(rotary_factors=False, unused_matrices=_OF_IMAGES),
    "cohere2": _COHERE._replace(full_every=4, rotary_windows=True),
    "command-r": _COHERE,
    "ernie4_5": _NORMAL._replace(unused=("attn_output.bias",), own_keys=("expert_count",)),
    "exaone": _NEOX,
    # Only the larger of the two models has windows.
    "exaone4": _OLMO2._replace(rotary_windows=True, windowed=lambda sizes: sizes.layers == 64),
    "falcon": _GPT._replace(
        rope_halves=True,
        parallel="same",
        vectors=("attn_norm.bias", "output_norm.bias"),
        optional=("attn_norm_2.bias",),
    ),
    "glm4": _CHATGLM._replace(rope_halves=None, vectors=POST_NORMS),
    "gpt2": _GPT2,
    "gptneox": _STARCODER2._replace(parallel="key"),
    "granite_swa": GRANITE._replace(vectors=(SINKS,), own_keys=("attention.rope_pattern",)),
    "hunyuan-dense": _HUNYUAN,
    "hunyuan_vl": _HUNYUAN,
    "internlm2": _NORMAL,
    "jais": _GPT._replace(
        activation="silu",
        gated=True,
        rotary=_NEVER,
        alibi=lambda _: 0.0,
        attention_scale=lambda sizes: 1 / sizes.head_dim,
    ),
    "jais2": _STARCODER2._replace(activation="relu2"),
    "maincoder": _NORMAL._replace(vectors=HEAD_NORMS, norms_after_rope=True),
    # Karpathy's nanochat, whose norms have no weights. The gguf package does not know it: the name
    # and the layout are those of `convert`.
    "nanochat": _NORMAL._replace(
        activation="relu2",
        gated=False,
        rope_halves=True,
        norm_weights=False,
        embedding_norm="bare",
        bare_norms=True,
        logit_cap=15.0,
    ),
    "mpt": _GPT._replace(
        rotary=_NEVER,
        alibi=lambda _: 0.0,
        clamped=True,
        vectors=(),
        optional=NORM_BIASES,
        positions=None,
    ),
    "olmo": _NORMAL._replace(layer_norm=True, norm_weights=False, clamped=True),
    "olmo2": _OLMO2._replace(whole_norms=True, window_rope_base=0.0),
    "openelm": _NEOX._replace(vectors=HEAD_NORMS, own_keys=_PER_LAYER),
    "orion": _NEOX._replace(layer_norm=True, vectors=NORM_BIASES),
    "paddleocr": _NEOX._replace(own_keys=("expert_count",)),
    "pangu-embedded": _NEOX._replace(rotary_factors=False),
    "muse-glimmer": _NORMAL._replace(
        vectors=(*HEAD_NORMS, *POST_NORMS),
        embedding_norm="bare",
        post_epsilon=1e-8,
        full_every=4,
        rotary_windows=True,
        gated_heads=Function.SIGMOID,
        logit_factor=True,
        own_keys=("final_logit_softcapping",),
    ),
    "phi2": _GPT._replace(
        rope_halves=True, parallel="same", vectors=("attn_norm.bias", "output_norm.bias")
    ),
    "phi3": _NEOX._replace(gate_up=True),
    "plamo": _NEOX._replace(parallel="same"),
    "plamo3": _NEOX._replace(
        gate_up=True, vectors=(*HEAD_NORMS, *POST_NORMS), full_every=8, window_rope_base=10000.0
    ),
    "qwen": _NEOX._replace(halved=True),
    "qwen2vl": _NEOX._replace(unused=("output.bias",)),
    "qwen3vl": _NEOX._replace(vectors=HEAD_NORMS),
    "refact": _NORMAL._replace(
        rotary=_NEVER,
        rotary_factors=False,
        alibi=lambda _: 8.0,
        unused=("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"),
    ),
    "seed_oss": _NEOX._replace(ffn_norm="post_attention_norm"),
    "smollm3": _NORMAL._replace(rotary_skip=4),
    "spark2_5": _NEOX._replace(activation="gelu_tanh", gated_heads=Function.SIGMOID),
    "stablelm": _NEOX._replace(
        layer_norm=True,
        parallel="bare",
        own_norms=True,
        vectors=("attn_norm.bias", "output_norm.bias"),
        optional=("ffn_norm.bias", *HEAD_NORMS),
    ),
    "starcoder": _GPT2,
    "starcoder2": _STARCODER2,
    "xverse": _NORMAL,
}
