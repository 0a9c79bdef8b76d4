"""Decoders of Llama's kind (Touvron et al. 2023) and those that differ from it in numbers: norm,
attention with rotary positions, norm, feed-forward layer, each added to the residual stream."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..core.enums import Repeat, Route
from .architecture import Architecture
from .keys import Keys
from .mixture import Mixture, has_experts, limited, mixture
from .plan import Buffer, Vector
from .rope import Rope
from .writer import Writer


def write(w: Writer) -> None:
    """The plan of such a decoder."""
    w.embed()
    blocks(w, attention)
    w.head()


Part = Callable[["Writer", int, Buffer, Buffer], object]  # of a block: what it reads and writes


def blocks(w: Writer, mix: Part) -> None:
    """The blocks of such a decoder, with ``mix`` in the place of attention: it gets the writer, the
    block, and the buffers that it reads and writes."""
    for block in range(w.config.layers):
        one_block(w, block, mix)


def one_block(w: Writer, block: int, mix: Part, feed: Part | None = None) -> None:
    """One of them. ``feed``: in the place of the feed-forward part."""
    feed = feed or feed_forward
    kind, prefix, beside = w.config.kind, f"blk.{block}.", _parallel(w, block)
    x = w.x
    bare = "attn_norm.weight" in kind.optional and not w.has(f"{prefix}attn_norm.weight")
    if kind.pre_norms and not bare:
        w.norm(w.x, f"{prefix}attn_norm", w.normed)
        x = w.normed
    if w.has(f"{prefix}attn_norm_2.weight"):
        x = w.buffer("normed twice", w.x.width)
        w.norm(w.x, f"{prefix}attn_norm_2", x)
    mix(w, block, x, w.added)
    if not beside:
        w.residual(_own(w, block, kind.post_norms[0]))
    x = w.normed if kind.pre_norms else w.x
    if kind.pre_norms and beside != "same":
        w.norm(w.x, f"{prefix}{kind.ffn_norm}", w.normed)
    if beside:
        also = w.buffer("added beside", w.x.width)
        feed(w, block, x, also)
        w.plan.add(w.added, also, w.added)
    else:
        feed(w, block, x, w.added)
    w.residual(_own(w, block, kind.post_norms[1]))


def _parallel(w: Writer, block: int) -> str:
    """Whether the feed-forward part of a block is "same" or "apart" beside attention, or after."""
    parallel = w.config.kind.parallel
    if parallel == "key":
        return "apart" if w.keys.value("use_parallel_residual", False) else ""
    if parallel == "bare":
        return "" if w.has(f"blk.{block}.{w.config.kind.ffn_norm}.weight") else "same"
    return parallel


def feed_forward(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The feed-forward layer of a block, or its experts."""
    if has_experts(w, block):
        mixture(w, block, x, out)
        if w.config.kind.mixture and w.config.kind.mixture.found:
            for part in ("gate", "up", "down"):
                w.unused(f"blk.{block}.ffn_{part}.weight")
    else:
        hints = w.x if w.config.powerinfer else None
        activation, limit = limited(w, block)
        hidden = w.hidden(block)
        w.ffn(block, x, out, hints=hints, hidden=hidden, activation=activation, limit=limit)


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
    kv_heads = w.kv_heads(block) if kv_heads is None else kv_heads
    heads, dim = w.heads(block), config.head_dim
    q, k, v = (
        w.buffer("q", heads * dim),
        w.buffer("k", kv_heads * dim),
        w.buffer("v", kv_heads * dim),
    )
    _project(w, prefix, x, q, k, v)
    rope = w.rope(rope_of(w, block)) if rotary and _rotates(w, block) else None
    for name, each, count in (("attn_q_norm", q, heads), ("attn_k_norm", k, kv_heads)):
        normed = _has_vector(w, f"{prefix}{name}", f"{name}.weight")
        late = config.kind.norms_after_rope
        if normed and not late:
            _norm_heads(w, f"{prefix}{name}", each, count)
        if rope is not None:
            plan.rotate(each, rope, count, config.rope_halves)
        if normed and late:
            _norm_heads(w, f"{prefix}{name}", each, count)
        if config.kind.bare_norms:
            plan.norm(each, each, None, config.norm_epsilon, groups=count)
            if w.has(f"{prefix}{name}.weight"):
                factors = plan.vector(f"{prefix}{name}.weight", (count, 1))
                plan.multiply(each, factors, each, Repeat.SPREAD)
    plan.scale(q, config.attention_scale)
    mixed = w.buffer("heads", heads * dim)
    window = config.windows[block] if window is None else window
    sinks = None
    if _has_vector(w, f"{prefix}attn_sinks", SINKS):
        sinks = plan.vector(f"{prefix}{SINKS}", heads)
    step = plan.attention(
        q,
        k,
        v,
        mixed,
        kv_heads=kv_heads,
        k_dim=dim,
        window=window,
        mask=w.mask,
        cap=config.attention_cap,
        sinks=sinks,
        slopes=_slopes(w, heads),
    )
    gate_heads(w, f"{prefix}attn_gate", x, mixed, heads)
    return mixed, step


def _project(w: Writer, prefix: str, x: Buffer, q: Buffer, k: Buffer, v: Buffer) -> None:
    """Queries, keys and values: of three matrices, or of one with the rows of all."""
    if not w.has(f"{prefix}attn_q.weight") and w.has(f"{prefix}attn_qkv.weight"):
        together = w.buffer("qkv", q.width + k.width + v.width)
        w.product(x, f"{prefix}attn_qkv", together)
        w.split(together, q, k, v)
    else:
        w.products(x, (f"{prefix}attn_q", q), (f"{prefix}attn_k", k), (f"{prefix}attn_v", v))
    if w.config.kind.clamped and (limit := w.keys.number("attention.clamp_kqv", 0.0, 1e6, 0.0)):
        for each in (q, k, v):
            w.plan.clamp(each, limit)


def _norm_heads(w: Writer, name: str, x: Buffer, heads: int) -> None:
    kind = w.config.kind
    w.norm(x, name, x, groups=1 if kind.whole_norms else heads, shared=not kind.own_norms)


def _has_vector(w: Writer, name: str, tensor: str) -> bool:
    """Whether a block has a vector that is the architecture's, or may be."""
    kind = w.config.kind
    return tensor in kind.vectors or (tensor in kind.optional and w.has(f"{name}.weight"))


def _rotates(w: Writer, block: int) -> bool:
    config, kind = w.config, w.config.kind
    if not config.rotates or not config.rope_dims:
        return False
    if kind.rotary_leads and not has_experts(w, block):
        return True
    if kind.rotary_skip and (block + 1) % kind.rotary_skip == 0:
        return False
    return not (kind.rotary_windows and any(config.windows)) or config.windows[block] > 0


def _slopes(w: Writer, heads: int) -> Vector | None:
    """What the products of each head lose for each position, a geometric series."""
    if not w.config.alibi:
        return None
    whole = 1 << (heads.bit_length() - 1)  # the largest power of two among the heads
    slopes = [2 ** (-w.config.alibi * (head + 1) / whole) for head in range(whole)]
    for head in range(heads - whole):
        slopes.append(2 ** (-w.config.alibi * (2 * head + 1) / (2 * whole)))
    return w.plan.repeated(tuple(slopes), 1)


def gate_heads(w: Writer, name: str, x: Buffer, mixed: Buffer, heads: int) -> None:
    """Multiplies what attention found by a function of x: of each head, or of each element."""
    function = w.config.kind.gated_heads
    if function is None:
        return
    shape = w.file.tensor(f"{name}.weight").shape
    each = shape[0] == heads or (heads == 1 and len(shape) == 1)
    gate = w.buffer("attention gate", heads if each else mixed.width)
    w.product(x, name, gate)
    w.plan.map(gate, gate, function)
    w.plan.multiply(mixed, gate, mixed, Repeat.SPREAD)


def rope_of(w: Writer, block: int) -> Rope:
    """The rotary embedding of a block."""
    return w.config.window_rope if w.config.windows[block] else w.config.rope


SINKS = "attn_sinks.weight"
HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
NORM_BIASES = ("attn_norm.bias", "ffn_norm.bias", "output_norm.bias")

LLAMA = Architecture("silu", write, mixture=Mixture(own_width=False))
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
GEMMA3 = _GEMMA._replace(
    vectors=(*HEAD_NORMS, *POST_NORMS),
    attention_scale=lambda s: (s.d / s.heads if s.layers == 62 else s.head_dim) ** -0.5,
    full_every=6,
    window_rope_base=10000.0,
)
MINICPM = LLAMA._replace(
    embedding_scale=lambda _: 12.0,
    residual_scale=lambda sizes: 1.4 / math.sqrt(sizes.layers),
    logit_divisor=lambda sizes: sizes.d / 256,
)
GRANITE = LLAMA._replace(
    logit_divisor=lambda _: 1.0, mixture=Mixture(own_width=False, shared="key")
)
_NEMOTRON = Architecture(
    "relu2", write, gated=False, layer_norm=True, rope_halves=True, vectors=NORM_BIASES
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

_QWEN2_MOE = LLAMA._replace(
    rope_halves=True, mixture=Mixture(normalised=False, shared="hidden", shared_gate=True)
)
QWEN3_MOE = LLAMA._replace(rope_halves=True, vectors=HEAD_NORMS, mixture=Mixture())
_DEEPSEEK = LLAMA._replace(mixture=Mixture(normalised=False, scaled=True, shared="count"))
# Chosen and weighted as the file says, with a bias for the choice.
BY_KEYS = Mixture(Route.ROUTE_SIGMOID, by_key=True, normalised=None, scaled=True, shared="count")
_GLM4_MOE = LLAMA._replace(
    rope_halves=True, ffn_norm="post_attention_norm", optional=HEAD_NORMS, mixture=BY_KEYS
)

ROWS = {
    "llama": LLAMA,
    "mistral3": LLAMA,
    "bamboo": Architecture("relu", write, both_active=True),
    "qwen2": LLAMA._replace(rope_halves=True),
    "qwen3": LLAMA._replace(rope_halves=True, vectors=HEAD_NORMS),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": GEMMA3,
    "minicpm": MINICPM,
    "granite": GRANITE,
    "arcee": Architecture("relu2", write, gated=False),
    "nemotron": _NEMOTRON,
    "bitnet": _BITNET,
    "bitnet-b1.58": _BITNET._replace(activation="relu2"),
    "bailingmoe": LLAMA._replace(
        mixture=Mixture(normalised=None, scaled=True, shared="count"), leads=False
    ),
    "deepseek": _DEEPSEEK,
    "dots1": LLAMA._replace(
        rope_halves=True, vectors=HEAD_NORMS, mixture=BY_KEYS._replace(scoring=None)
    ),
    "ernie4_5-moe": LLAMA._replace(mixture=Mixture(shared="key"), unused=("attn_output.bias",)),
    "glm4moe": _GLM4_MOE,
    "granitemoe": GRANITE,
    "hunyuan-moe": LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        norms_after_rope=True,
        mixture=Mixture(own_width=False, shared="hidden"),
    ),
    "minimax-m2": LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        whole_norms=True,
        mixture=Mixture(Route.ROUTE_SIGMOID, by_key=True, own_width=False),
    ),
    "olmoe": LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        whole_norms=True,
        mixture=Mixture(normalised=False, own_width=False),
    ),
    "gpt-oss": LLAMA._replace(
        activation="silu_clamped",
        rope_halves=True,
        vectors=(SINKS,),
        full_every=2,
        ffn_norm="post_attention_norm",
        mixture=Mixture(Route.ROUTE_SOFTMAX_CHOSEN, normalised=False),
        own_keys=("rope.freq_base_swa",),
    ),
    "mellum": QWEN3_MOE._replace(full_every=4, window_rope_base=0.0),
    "qwen2moe": _QWEN2_MOE,
    "qwen3moe": QWEN3_MOE,
    "bailingmoe2": LLAMA._replace(
        rope_halves=True,
        vectors=HEAD_NORMS,
        mixture=BY_KEYS._replace(scoring=None),
    ),
}
