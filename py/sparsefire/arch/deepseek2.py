"""DeepSeek-V2 and -V3 (DeepSeek-AI 2024), Kimi K2 and Mistral 4: latent attention, which keeps one
compressed vector a token for all heads, and a mixture of experts. DeepSeek-V3.2 and GLM-5 attend to
a choice of tokens in texts of more than `attention.indexer.top_k` tokens, and run up to that."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..core.enums import Route
from .architecture import Architecture
from .decoder import BY_KEYS, MINICPM, SINKS, blocks, gate_heads, rope_of
from .mixture import Mixture
from .plan import Buffer
from .rope import Rope
from .writer import Writer

_MOST = 1 << 16
# Of what chooses the tokens that are attended to, in longer texts than the context is limited to:
# within it all of them are.
_INDEXER = (
    *("indexer.k_norm.weight", "indexer.k_norm.bias", "indexer.proj.weight"),
    *("indexer.attn_k.weight", "indexer.attn_q_b.weight"),
    *("indexer_compressor_gate.weight", "indexer_compressor_ape.weight"),
)
# Files hold a tenth of the factor by which YaRN's logarithm is multiplied.
_MULTIPLIER_UNIT = 0.1


def write(w: Writer) -> None:
    """The plan."""
    w.embed()
    blocks(w, attention)
    w.head()


class Latent(NamedTuple):
    """Sizes of latent attention: the rank of the latent vectors, and those of a key and a value of
    a head."""

    rank: int
    key_dim: int
    value_dim: int


def _sizes(w: Writer) -> Latent:
    keys = w.keys
    rank = keys.integer("attention.kv_lora_rank", _MOST)
    key_dim = keys.integer("attention.key_length_mla", _MOST, w.config.head_dim)
    value_dim = keys.integer("attention.value_length", _MOST, key_dim)
    return Latent(rank, key_dim, keys.integer("attention.value_length_mla", _MOST, value_dim))


def attention(
    w: Writer,
    block: int,
    x: Buffer,
    out: Buffer,
    *,
    rotary: bool = True,
    sizes: Latent | None = None,
) -> None:
    """Keys and values are products of one latent vector of `rank`, beside which a part of the keys
    is rotated, and is of all heads."""
    plan, keys, prefix = w.plan, w.keys, f"blk.{block}."
    heads, turned = w.heads(block), w.config.rope_dims if w.config.rotates else 0
    rank, key_dim, value_dim = sizes or _sizes(w)
    if key_dim < turned:
        raise keys.fail("attention.key_length_mla", f"is {key_dim}; {turned} of it are rotated")
    q = queries(w, prefix, x, heads * key_dim)
    both, latent = w.buffer("both", rank + turned), w.buffer("latent", rank)
    same = w.buffer("k rotated", turned) if turned else None
    w.product(x, f"{prefix}attn_kv_a_mqa", both)
    w.split(both, latent, *(() if same is None else (same,)))
    if same is not None and "attn_k_norm.weight" in w.config.kind.vectors:
        w.norm(same, f"{prefix}attn_k_norm", same)
    if rotary and same is not None:
        rope, halves = w.rope(_rope(w, block)), w.config.rope_halves
        plan.rotate(q, rope, heads, halves, first=key_dim - turned)
        plan.rotate(same, rope, 1, halves)
    w.norm(latent, f"{prefix}attn_kv_a_norm", latent)
    expanded = w.has(f"{prefix}attn_kv_b.weight")
    attend = _attend_expanded if expanded else _attend_latent
    read = attend(w, block, q, latent, same, (key_dim - turned, value_dim))
    gate_heads(w, f"{prefix}attn_gate", x, read, heads)
    w.product(read, f"{prefix}attn_output", out)
    for name in _INDEXER:
        w.unused(f"{prefix}{name}")


def _attend_latent(
    w: Writer, block: int, q: Buffer, latent: Buffer, same: Buffer | None, dims: tuple[int, int]
) -> Buffer:
    """What the heads read. The products with the latent vectors go to the queries and to what the
    heads read, so that the latent vectors are all that a session keeps."""
    plan, heads, (plain, value_dim) = w.plan, w.heads(block), dims
    prefix, window = f"blk.{block}.", w.config.windows[block]
    rank, turned = latent.width, same.width if same is not None else 0
    key_dim, width = plain + turned, rank + turned
    k = w.buffer("k", width)
    plan.copy(latent, k, width=rank)
    if same is not None:
        plan.copy(same, k, width=turned, first=(0, rank))
    # Queries for latent vectors, beside the part that is rotated.
    part, inner = w.buffer("q plain", heads * plain), w.buffer("q latent", heads * rank)
    plan.copy(q, part, count=heads, width=plain, stride=(key_dim, plain))
    matrix = plan.matrix(f"{prefix}attn_k_b.weight", (heads, rank, plain))
    plan.head_products(part, matrix, inner, heads)
    whole = w.buffer("q", heads * width)
    plan.copy(inner, whole, count=heads, width=rank, stride=(rank, width))
    if same is not None:
        first, stride = (plain, rank), (key_dim, width)
        plan.copy(q, whole, count=heads, width=turned, first=first, stride=stride)
    _sharpen(w, block, whole, key_dim)
    mixed, read = w.buffer("heads latent", heads * rank), w.buffer("heads", heads * value_dim)
    sinks = plan.vector(f"{prefix}{SINKS}", heads) if SINKS in w.config.kind.vectors else None
    plan.attention(
        *(whole, k, latent, mixed), kv_heads=1, k_dim=width, v_dim=rank, window=window, sinks=sinks
    )
    values = plan.matrix(f"{prefix}attn_v_b.weight", (heads, value_dim, rank))
    plan.head_products(mixed, values, read, heads)
    return read


def _attend_expanded(
    w: Writer, block: int, q: Buffer, latent: Buffer, same: Buffer | None, dims: tuple[int, int]
) -> Buffer:
    """What the heads read in older files, whose one matrix makes keys and values of the latent
    vectors: it cannot go to the queries as it is stored, so each head has keys and values."""
    plan, heads, (plain, value_dim) = w.plan, w.heads(block), dims
    turned, each = same.width if same is not None else 0, plain + value_dim
    key_dim = plain + turned
    together = w.buffer("keys and values", heads * each)
    k, v = w.buffer("k", heads * key_dim), w.buffer("v", heads * value_dim)
    w.product(latent, f"blk.{block}.attn_kv_b", together)
    if plain:
        plan.copy(together, k, count=heads, width=plain, stride=(each, key_dim))
    if same is not None:
        plan.copy(same, k, count=heads, width=turned, first=(0, plain), stride=(0, key_dim))
    plan.copy(together, v, count=heads, width=value_dim, first=(plain, 0), stride=(each, value_dim))
    _sharpen(w, block, q, key_dim)
    read = w.buffer("heads", heads * value_dim)
    window = w.config.windows[block]
    plan.attention(q, k, v, read, kv_heads=heads, k_dim=key_dim, v_dim=value_dim, window=window)
    return read


def _sharpen(w: Writer, block: int, q: Buffer, key_dim: int) -> None:
    w.plan.scale(q, _scale(w, block, key_dim))
    if growth := w.keys.number("attention.temperature_scale", 0.0, 1e3, 0.0):
        w.plan.temperature(q, growth, w.keys.integer("attention.temperature_length", 1 << 30))


def queries(w: Writer, prefix: str, x: Buffer, width: int) -> Buffer:
    """The queries, through a latent vector of their own where the model has one."""
    q = w.buffer("q heads", width)
    if w.has(f"{prefix}attn_q.weight"):
        w.product(x, f"{prefix}attn_q", q)
        return q
    inner = w.buffer("q inner", w.keys.integer("attention.q_lora_rank", _MOST))
    w.product(x, f"{prefix}attn_q_a", inner)
    w.norm(inner, f"{prefix}attn_q_a_norm", inner)
    w.product(inner, f"{prefix}attn_q_b", q)
    return q


def _correction(w: Writer, multiplier: float) -> float:
    """By how much YaRN (Peng et al. 2023) sharpens attention; 1 without it."""
    factor = w.keys.number("rope.scaling.factor", 0.0, 1e3, 1.0)
    if w.keys.text("rope.scaling.type") != "yarn" or factor <= 1:
        return 1.0
    return 1 + 0.1 * multiplier * math.log(factor)


def _multiplier(w: Writer) -> float:
    """That of YaRN's logarithm."""
    return w.keys.number("rope.scaling.yarn_log_multiplier", 0.0, 1e3, 0.0) / _MULTIPLIER_UNIT


def _rope(w: Writer, block: int) -> Rope:
    """The rotation, whose amplitude is the ratio of two corrections, which the files do not hold:
    DeepSeek's have the same multiplier, Mistral's has 1 in the first."""
    rope, multiplier = rope_of(w, block), _multiplier(w)
    if not multiplier:
        return rope
    first = 1.0 if w.config.architecture == "mistral4" else multiplier
    amplitude = w.keys.number("rope.scaling.attn_factor", 1e-3, 1e3, 1.0)
    ratio = _correction(w, first) / _correction(w, multiplier)
    return rope._replace(amplitude=amplitude * ratio)


def _scale(w: Writer, block: int, key_dim: int) -> float:
    """The factor of query · key: what is not rotated gets the amplitude too."""
    sharper = _rope(w, block).amplitude * _correction(w, _multiplier(w))
    return float(sharper**2 / math.sqrt(key_dim))


_DEEPSEEK2 = Architecture(
    "silu",
    write,
    mixture=Mixture(Route.ROUTE_SOFTMAX, by_key=True, normalised=None, scaled=True, shared="count"),
    own_keys=(
        "attention.value_length",
        "attention.value_length_swa",
        "attention.temperature_scale",
    ),
)

ROWS = {
    # PLM (Deng et al. 2025), whose ReLU² leaves most neurons 0.
    "plm": Architecture("relu2", write, gated=False, own_keys=("attention.value_length",)),
    "minicpm3": MINICPM._replace(
        write=write, rope_halves=True, mixture=None, own_keys=("attention.value_length",)
    ),
    "deepseek2": _DEEPSEEK2,
    "deepseek32": _DEEPSEEK2,
    "glm-dsa": _DEEPSEEK2._replace(mixture=BY_KEYS),
    "mistral4": _DEEPSEEK2,
}
