"""Decoders of Llama's kind (Touvron et al. 2023) and those that differ from it in numbers: norm,
attention with rotary positions, norm, feed-forward layer, each added to the residual stream."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..core.enums import Route
from .architecture import Architecture
from .keys import Keys
from .mixture import Mixture, has_experts, mixture
from .plan import Buffer
from .rope import Rope
from .writer import Writer


def write(w: Writer) -> None:
    """The plan of such a decoder."""
    w.embed()
    blocks(w, attention)
    w.head()


def blocks(w: Writer, mix: Callable[[Writer, int, Buffer, Buffer], object]) -> None:
    """The blocks of such a decoder, with ``mix`` in the place of attention: it gets the writer, the
    block, and the buffers that it reads and writes."""
    for block in range(w.config.layers):
        w.norm(w.x, f"blk.{block}.attn_norm", w.normed)
        mix(w, block, w.normed, w.added)
        w.residual(_own(w, block, "post_attention_norm"))
        w.norm(w.x, f"blk.{block}.{w.config.kind.ffn_norm}", w.normed)
        feed_forward(w, block, w.normed, w.added)
        w.residual(_own(w, block, "post_ffw_norm"))


def feed_forward(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The feed-forward layer of a block, or its experts."""
    if has_experts(w, block):
        mixture(w, block, x, out)
    else:
        w.ffn(block, x, out, hints=w.x if w.config.powerinfer else None)


def _own(w: Writer, block: int, name: str) -> str | None:
    """The name of a norm that only some architectures have."""
    return f"blk.{block}.{name}" if f"{name}.weight" in w.config.kind.vectors else None


def attention(
    w: Writer,
    block: int,
    x: Buffer,
    out: Buffer,
    *,
    kv_heads: int | None = None,
    rotary: bool = True,
    window: int | None = None,
) -> int:
    """Attention with rotary positions; the place of its step."""
    mixed, step = heads_of(w, block, x, kv_heads=kv_heads, rotary=rotary, window=window)
    if sub_norm := _own(w, block, "attn_sub_norm"):
        w.norm(mixed, sub_norm, mixed)
    w.product(mixed, f"blk.{block}.attn_output", out)
    return step


def heads_of(
    w: Writer,
    block: int,
    x: Buffer,
    *,
    kv_heads: int | None = None,
    rotary: bool = True,
    window: int | None = None,
) -> tuple[Buffer, int]:
    """What the heads of attention make of x, before the output matrix; the place of the step."""
    config, plan, prefix = w.config, w.plan, f"blk.{block}."
    kv_heads = config.kv_heads if kv_heads is None else kv_heads
    heads, dim = config.heads, config.head_dim
    q, k, v = (
        w.buffer("q", heads * dim),
        w.buffer("k", kv_heads * dim),
        w.buffer("v", kv_heads * dim),
    )
    if config.kind.fused_qkv:
        _fused_products(w, f"{prefix}attn_qkv", x, q, k, v)
    else:
        w.products(x, (f"{prefix}attn_q", q), (f"{prefix}attn_k", k), (f"{prefix}attn_v", v))
    rope = w.rope(rope_of(w, block)) if rotary and config.rope_dims else None
    for name, each, count in (("attn_q_norm", q, heads), ("attn_k_norm", k, kv_heads)):
        normed = _has_norm(w, f"{prefix}{name}", f"{name}.weight")
        late = config.kind.norms_after_rope
        groups = 1 if config.kind.whole_norms else count
        if normed and not late:
            w.norm(each, f"{prefix}{name}", each, groups=groups)
        if rope is not None:
            plan.rotate(each, rope, count, config.kind.rope_halves)
        if normed and late:
            w.norm(each, f"{prefix}{name}", each, groups=groups)
    plan.scale(q, config.attention_scale)
    mixed = w.buffer("heads", heads * dim)
    window = config.windows[block] if window is None else window
    sinks = None
    if _SINKS in config.kind.vectors:
        sinks = plan.vector(f"{prefix}{_SINKS}", heads)
    step = plan.attention(
        q,
        k,
        v,
        mixed,
        kv_heads=kv_heads,
        k_dim=dim,
        window=window,
        cap=config.attention_cap,
        sinks=sinks,
    )
    return mixed, step


def _fused_products(w: Writer, name: str, x: Buffer, *outs: Buffer) -> None:
    """Products with a matrix that is several, one below the other."""
    shape = sum(out.width for out in outs), x.width
    products, first = [], 0
    for out in outs:
        products.append((w.plan.matrix(f"{name}.weight", shape, (first, out.width)), None, out))
        first += out.width
    w.plan.products(x, *products)


def _has_norm(w: Writer, name: str, tensor: str) -> bool:
    """Whether a block has a norm that is the architecture's, or may be."""
    kind = w.config.kind
    return tensor in kind.vectors or (tensor in kind.optional and w.has(f"{name}.weight"))


def rope_of(w: Writer, block: int) -> Rope:
    """The rotary embedding of a block."""
    return w.config.window_rope if w.config.windows[block] else w.config.rope


_SINKS = "attn_sinks.weight"
HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
_NORM_BIASES = ("attn_norm.bias", "ffn_norm.bias")

_LLAMA = Architecture("silu", write, mixture=Mixture(own_width=False))
_GEMMA = Architecture(
    "gelu_tanh", write, rope_halves=True, embedding_scale=lambda sizes: sizes.d**0.5
)
_GEMMA2 = _GEMMA._replace(
    vectors=POST_NORMS,
    # The 27B models scale by the width of a head as it would be without a size of its own.
    attention_scale=lambda s: (s.d / s.heads if s.layers == 46 else s.head_dim) ** -0.5,
    attention_cap=50.0,
    logit_cap=30.0,
    window=4096,
    full_every=2,
)
_GEMMA3 = _GEMMA._replace(
    vectors=(*HEAD_NORMS, *POST_NORMS),
    attention_scale=lambda s: (s.d / s.heads if s.layers == 62 else s.head_dim) ** -0.5,
    full_every=6,
    window_rope_base=10000.0,
)
_MINICPM = _LLAMA._replace(
    embedding_scale=lambda _: 12.0,
    residual_scale=lambda sizes: 1.4 / math.sqrt(sizes.layers),
    logit_divisor=lambda sizes: sizes.d / 256,
)
_GRANITE = _LLAMA._replace(
    logit_divisor=lambda _: 1.0, mixture=Mixture(own_width=False, shared="key")
)
_NEMOTRON = Architecture(
    "relu2", write, gated=False, layer_norm=True, rope_halves=True, vectors=_NORM_BIASES
)


def _bitnet_activation(keys: Keys) -> str | None:
    """That of a BitNet by its sizes: files of both kinds have the same name and no key for it."""
    names = "block_count", "embedding_length", "feed_forward_length", "attention.head_count_kv"
    known = {
        "30 2560 6912 5": "relu2",  # BitNet b1.58 2B4T
        "26 3200 8640 32": "silu",  # 1bitLLM's model of 3 billion weights
    }
    return known.get(" ".join(str(keys.value(name)) for name in names))


_BITNET = Architecture(
    None,
    write,
    rope_halves=True,
    vectors=("attn_sub_norm.weight", "ffn_sub_norm.weight"),
    activation_by_keys=_bitnet_activation,
    ambiguous="Microsoft's BitNet b1.58 2B4T uses relu2, those of 1bitLLM silu",
)

_QWEN2_MOE = _LLAMA._replace(
    rope_halves=True, mixture=Mixture(normalised=False, shared="hidden", shared_gate=True)
)
_QWEN3_MOE = _LLAMA._replace(rope_halves=True, vectors=HEAD_NORMS, mixture=Mixture())
_DEEPSEEK = _LLAMA._replace(mixture=Mixture(normalised=False, scaled=True, shared="count"))
# Chosen and weighted as the file says, with a bias for the choice.
_BY_KEYS = Mixture(Route.ROUTE_SIGMOID, by_key=True, normalised=None, scaled=True, shared="count")
_GLM4_MOE = _LLAMA._replace(
    rope_halves=True, ffn_norm="post_attention_norm", optional=HEAD_NORMS, mixture=_BY_KEYS
)

ROWS = {
    "llama": _LLAMA,
    "mistral3": _LLAMA,
    "bamboo": Architecture("relu", write, both_active=True),
    "qwen2": _LLAMA._replace(rope_halves=True),
    "qwen3": _LLAMA._replace(rope_halves=True, vectors=HEAD_NORMS),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "minicpm": _MINICPM,
    "granite": _GRANITE,
    "arcee": Architecture("relu2", write, gated=False),
    "nemotron": _NEMOTRON,
    "bitnet": _BITNET,
    "bitnet-b1.58": _BITNET._replace(activation="relu2"),
    "bailingmoe": _LLAMA._replace(
        mixture=Mixture(normalised=None, scaled=True, shared="count"), leads=False
    ),
    "deepseek": _DEEPSEEK,
    "dots1": _LLAMA._replace(
        rope_halves=True, vectors=HEAD_NORMS, mixture=_BY_KEYS._replace(scoring=None)
    ),
    "ernie4_5-moe": _LLAMA._replace(mixture=Mixture(shared="key")),
    "glm4moe": _GLM4_MOE,
    "granitemoe": _GRANITE,
    "hunyuan-moe": _LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        norms_after_rope=True,
        mixture=Mixture(own_width=False, shared="hidden"),
    ),
    "minimax-m2": _LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        whole_norms=True,
        mixture=Mixture(Route.ROUTE_SIGMOID, by_key=True, own_width=False),
    ),
    "olmoe": _LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        whole_norms=True,
        mixture=Mixture(normalised=False, own_width=False),
    ),
    "gpt-oss": _LLAMA._replace(
        activation="silu_clamped",
        rope_halves=True,
        vectors=(_SINKS,),
        full_every=2,
        ffn_norm="post_attention_norm",
        mixture=Mixture(Route.ROUTE_SOFTMAX_CHOSEN, normalised=False),
        own_keys=("rope.freq_base_swa",),
    ),
    "mellum": _QWEN3_MOE._replace(full_every=4, window_rope_base=0.0),
    "qwen2moe": _QWEN2_MOE,
    "qwen3moe": _QWEN3_MOE,
    "bailingmoe2": _LLAMA._replace(
        rope_halves=True,
        fused_qkv=True,
        vectors=HEAD_NORMS,
        mixture=_BY_KEYS._replace(scoring=None),
    ),
}
