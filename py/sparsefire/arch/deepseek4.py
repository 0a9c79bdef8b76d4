"""DeepSeek-V4 (DeepSeek-AI 2026): heads that share one vector a token as key and value, attention
to a window of tokens and, in most blocks, to runs of earlier ones that are pooled into one vector
each, a mixture of experts with limits, of which some blocks choose by the token alone, and residual
streams that are mixed. Of the pooled runs it attends to a choice in texts of more than
4 · `attention.indexer.top_k` tokens, and runs up to that."""

from __future__ import annotations

import numpy as np

from ..core.enums import Function, Mask, Repeat
from ..weights.activation import ActivationType
from .architecture import Architecture
from .decoder import BY_KEYS, SINKS, feed_forward
from .deepseek2 import queries
from .plan import Buffer
from .rope import Rope, read_rope
from .streams import Streams
from .writer import Writer

_MOST = 1 << 16
_OVERLAPPING = 4  # runs of so many tokens also pool the run before, and are chosen from
# Of what chooses the pooled runs that are attended to, in longer texts than the context is limited
# to: within it all of them are.
_INDEXER = (
    *("indexer.proj.weight", "indexer.attn_q_b.weight"),
    *(f"indexer_compressor_{name}.weight" for name in ("kv", "gate", "ape", "norm")),
)


def write(w: Writer) -> None:
    """The plan."""
    w.embed()
    streams = Streams(w, mixed=True)
    streams.blocks(_attention, feed_forward)
    streams.sum_by_shares("output_hc")
    w.head()


def _attention(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """Attention, whose values are rotated as the keys are, so that what is read is turned back."""
    plan, keys, prefix = w.plan, w.keys, f"blk.{block}."
    heads, dim, turned = w.heads(block), w.config.head_dim, w.config.rope_dims
    run = keys.per_layer("attention.compress_ratios", w.config.layers, _MOST)[block]
    rope = _rope(w, run)
    q, k = queries(w, prefix, x, heads * dim), w.buffer("k", dim)
    plan.norm(q, q, None, w.config.norm_epsilon, groups=heads)
    w.product(x, f"{prefix}attn_kv", k)
    w.norm(k, f"{prefix}attn_kv_a_norm", k)
    for each, count in ((q, heads), (k, 1)):
        plan.rotate(each, w.rope(rope), count, w.config.rope_halves, first=dim - turned)
    plan.scale(q, w.config.attention_scale)
    pooled = _pooled(w, prefix, x, run, rope) if run else None
    read = _attend(w, block, q, k, pooled, run)
    back = rope._replace(factors=tuple(-each for each in rope.factors or (1.0,) * (turned // 2)))
    plan.rotate(read, w.rope(back), heads, w.config.rope_halves, first=dim - turned)
    groups = keys.integer("attention.output_group_count", heads)
    if heads % groups:
        raise keys.fail("attention.output_group_count", f"is {groups} for {heads} heads")
    low = w.buffer("groups", groups * keys.integer("attention.output_lora_rank", _MOST))
    name = f"{prefix}attn_output_a.weight"
    shape: tuple[int, ...] = low.width, read.width // groups
    if w.has(name) and len(w.file.tensors[name].shape) == 3:
        shape = groups, low.width // groups, read.width // groups
    plan.head_products(read, plan.matrix(name, shape), low, groups)
    w.product(low, f"{prefix}attn_output_b", out)
    for name in (*(f"{prefix}{each}" for each in _INDEXER), f"{prefix}exp_probs_b_vl.bias"):
        w.unused(name)


def _rope(w: Writer, run: int) -> Rope:
    """Blocks with pooled runs have their own base, and they alone the scaling."""
    if not run:
        return Rope(w.config.rope_dims, w.config.rope.base)
    base = w.keys.number("attention.compress_rope_freq_base", 1.0, 1e12)
    length = w.keys.integer("context_length", 1 << 24)
    scaled = read_rope(w.file, w.keys, w.config.rope_dims, length, base)
    return scaled._replace(amplitude=1.0)


def _pooled(w: Writer, prefix: str, x: Buffer, run: int, rope: Rope) -> Buffer:
    """The vector of the run that a token is the last of, at the position of the run's first."""
    plan, dim, turned = w.plan, w.config.head_dim, rope.dims
    halves = 2 if run == _OVERLAPPING else 1
    values, scores = (w.buffer(name, halves * dim) for name in ("pool", "pool scores"))
    name, pooled = f"{prefix}attn_compressor_", w.buffer("pooled", dim)
    w.products(x, (f"{name}kv", values), (f"{name}gate", scores))
    plan.pool(values, scores, w.vector(f"{name}ape", (run, halves * dim)), pooled, run)
    w.norm(pooled, f"{name}norm", pooled)
    plan.rotate(pooled, w.rope(rope), 1, w.config.rope_halves, first=dim - turned)
    # From the position of the last token back to that of the first.
    pairs = np.arange(turned // 2)
    angles = (run - 1) * rope.base ** (-2.0 * pairs / turned) / np.array(rope.factors or 1.0)
    part, other = w.buffer("turned", turned), w.buffer("turned other", turned)
    plan.copy(pooled, part, width=turned, first=(dim - turned, 0))
    for odd in (0, 1):
        first, stride = (1 - odd, odd), (2, 2)
        plan.copy(part, other, count=turned // 2, width=1, first=first, stride=stride)
    cosines, sines = np.repeat(np.cos(angles), 2), np.repeat(np.sin(angles), 2)
    plan.multiply(part, plan.constant(cosines), part)
    plan.multiply(other, plan.constant(sines * np.tile((1, -1), turned // 2)), other)
    plan.add(part, other, part)
    plan.copy(part, pooled, width=turned, first=(0, dim - turned))
    return pooled


def _attend(w: Writer, block: int, q: Buffer, k: Buffer, pooled: Buffer | None, run: int) -> Buffer:
    """What the heads read of the window, and of the pooled runs. Each of both is a mean, and the
    sum of them is weighted by the sums that they are of."""
    plan, heads, dim = w.plan, w.heads(block), w.config.head_dim
    window = w.keys.integer("attention.sliding_window", 1 << 24)
    sinks = plan.vector(f"blk.{block}.{SINKS}", heads)
    read = w.buffer("read", heads * dim)
    if pooled is None:
        plan.attention(q, k, k, read, kv_heads=1, k_dim=dim, window=window, sinks=sinks)
        return read
    both, far = w.buffer("read and sums", heads * (dim + 1)), w.buffer("read far", heads * dim)
    near_sum, far_sum = w.buffer("near sums", heads), w.buffer("far sums", heads)
    plan.attention(q, k, k, both, kv_heads=1, k_dim=dim, window=window, sinks=sinks)
    w.split(both, read, near_sum)
    plan.attention(
        q, pooled, pooled, both, kv_heads=1, k_dim=dim, window=run, mask=Mask.MASK_POOLED
    )
    w.split(both, far, far_sum)
    plan.scale(near_sum, -1)
    plan.add(far_sum, near_sum, far_sum)
    plan.copy(far_sum, near_sum, width=heads)
    plan.scale(near_sum, -1)
    for each, share in ((read, near_sum), (far, far_sum)):
        plan.map(share, share, Function.SIGMOID)
        plan.multiply(each, share, each, Repeat.SPREAD)
    plan.add(read, far, read)
    return read


ROWS = {
    "deepseek4": Architecture(
        "silu",
        write,
        windowed=lambda _: False,  # the plan reads the key: every block has the window
        rotary_factors=False,
        chosen_tokens=_OVERLAPPING,
        mixture=BY_KEYS._replace(
            limits=ActivationType.SILU_LIMITED, same_limits=True, shared="count of theirs"
        ),
    )
}
