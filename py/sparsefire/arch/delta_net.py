"""Qwen 3 Next and Qwen 3.5 (Qwen team 2025): gated delta nets (Yang et al. 2024) in most blocks,
attention with gates in the others."""

from __future__ import annotations

from ..core.enums import Activation, Function, Repeat, Route
from .architecture import Architecture
from .decoder import blocks, rope_of
from .mixture import Mixture
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan. The tensors of a block say which of the two it is."""
    w.embed()

    def mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        if w.has(f"blk.{block}.ssm_conv1d.weight"):
            _delta_net(w, f"blk.{block}.", x, out)
        else:
            _attention(w, block, x, out)

    blocks(w, mix)
    w.head()


def _attention(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """Each query comes with a gate for the result of its head."""
    config, plan, prefix = w.config, w.plan, f"blk.{block}.attn_"
    heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
    both = w.buffer("q and gate", 2 * heads * dim)
    q, gate, mixed = (w.buffer(name, heads * dim) for name in ("q", "gate", "heads"))
    k, v = w.buffer("k", kv_heads * dim), w.buffer("v", kv_heads * dim)
    w.products(x, (f"{prefix}q", both), (f"{prefix}k", k), (f"{prefix}v", v))
    for part, each in enumerate((q, gate)):
        first, stride = (part * dim, 0), (2 * dim, dim)
        plan.copy(both, each, count=heads, width=dim, first=first, stride=stride)
    rope = w.rope(rope_of(w, block))
    for name, each, count in (("q", q, heads), ("k", k, kv_heads)):
        w.norm(each, f"{prefix}{name}_norm", each, groups=count)
        plan.rotate(each, rope, count, config.rope_halves)
    plan.scale(q, config.attention_scale)
    plan.attention(q, k, v, mixed, kv_heads=kv_heads, k_dim=dim)
    plan.map(gate, gate, Function.SIGMOID)
    plan.multiply(mixed, gate, mixed)
    w.product(mixed, f"{prefix}output", out)


class _Sizes:
    """Of a delta net: `heads` share `key_heads` keys and queries of `size`."""

    def __init__(self, w: Writer) -> None:
        keys = w.keys
        self.inner = keys.integer("ssm.inner_size", 1 << 20)
        self.size = keys.integer("ssm.state_size", 1 << 16)
        self.heads = keys.integer("ssm.time_step_rank", self.inner)
        self.key_heads = keys.integer("ssm.group_count", self.heads)
        self.taps = keys.integer("ssm.conv_kernel", 1 << 10)
        if self.inner % self.heads or self.heads % self.key_heads:
            raise keys.fail(
                "ssm.inner_size",
                f"is {self.inner}, which {self.heads} heads (ssm.time_step_rank) of "
                f"{self.key_heads} keys (ssm.group_count) cannot share",
            )
        self.sharing = self.heads // self.key_heads
        self.key_width = self.key_heads * self.size


def _delta_net(w: Writer, prefix: str, x: Buffer, out: Buffer) -> None:
    """What the state has for a token's key moves towards the token's value, at the token's rate."""
    plan, s = w.plan, _Sizes(w)
    mixed = w.buffer("mixed", 2 * s.key_width + s.inner)
    gate, v, y = (w.buffer(name, s.inner) for name in ("gate", "values", "mixer"))
    q, k = w.buffer("state queries", s.key_width), w.buffer("state keys", s.key_width)
    _project(w, prefix, s, x, mixed, gate)
    weight = plan.vector(f"{prefix}ssm_conv1d.weight", (mixed.width, s.taps))
    plan.convolution(mixed, weight, mixed)
    plan.map(mixed, mixed, Activation.SILU)
    w.split(mixed, q, k, v)
    # x / √(Σ x² + ε), and queries are divided by √size beside.
    for each, factor in ((q, 1 / s.size), (k, s.size**-0.5)):
        epsilon = w.config.norm_epsilon / s.size
        plan.norm(each, each, plan.repeated((factor,), s.size), epsilon, groups=s.key_heads)
    rate, decay = _rates(w, prefix, s, x)
    q, k = (_for_heads(w, s, each, name) for each, name in ((q, "queries"), (k, "keys")))
    taken, known = w.buffer("taken", s.heads), w.buffer("taken keys", k.width)
    plan.multiply(rate, decay, taken)
    plan.scale(taken, -1.0)
    plan.multiply(k, taken, known, Repeat.SPREAD)
    plan.multiply(v, rate, v, Repeat.SPREAD)
    plan.recurrence(q, k, v, decay, y, heads=s.heads, keys=s.size, removed=(k, known))
    w.norm(y, f"{prefix}ssm_norm", y, groups=s.heads)
    plan.map(gate, gate, Activation.SILU)
    plan.multiply(y, gate, y)
    w.product(y, f"{prefix}ssm_out", out)


def _project(w: Writer, prefix: str, s: _Sizes, x: Buffer, mixed: Buffer, gate: Buffer) -> None:
    """Queries, keys and values together, and gates."""
    plan, values = w.plan, s.inner // s.key_heads
    if w.has(f"{prefix}attn_qkv.weight"):
        w.products(x, (f"{prefix}attn_qkv", mixed), (f"{prefix}attn_gate", gate))
        w.unused(f"{prefix}ssm_in.weight")
        return
    both = w.buffer("projected", mixed.width + gate.width)  # those of a key's heads side by side
    w.product(x, f"{prefix}ssm_in", both)
    first, start = 0, 0
    for out, width in ((mixed, s.size), (mixed, s.size), (mixed, values), (gate, values)):
        start = 0 if out is gate else start
        stride = both.width // s.key_heads, width
        plan.copy(both, out, count=s.key_heads, width=width, first=(first, start), stride=stride)
        first, start = first + width, start + s.key_heads * width


def _rates(w: Writer, prefix: str, s: _Sizes, x: Buffer) -> tuple[Buffer, Buffer]:
    """How far each head moves, and how much of its state stays."""
    plan, rate, decay = w.plan, w.buffer("rate", s.heads), w.buffer("decay", s.heads)
    if w.has(f"{prefix}ssm_ba.weight"):
        both = w.buffer("rates", 2 * s.heads)  # those of a key's heads side by side
        w.product(x, f"{prefix}ssm_ba", both)
        for part, out in enumerate((rate, decay)):
            first, stride = (part * s.sharing, 0), (2 * s.sharing, s.sharing)
            plan.copy(both, out, count=s.key_heads, width=s.sharing, first=first, stride=stride)
    else:
        w.products(x, (f"{prefix}ssm_beta", rate), (f"{prefix}ssm_alpha", decay))
    plan.map(rate, rate, Function.SIGMOID)
    plan.add(decay, plan.vector(f"{prefix}ssm_dt.bias", s.heads), decay)
    plan.map(decay, decay, Function.SOFTPLUS)
    plan.multiply(decay, plan.vector(f"{prefix}ssm_a", s.heads), decay)
    plan.map(decay, decay, Function.EXP)
    return rate, decay


def _for_heads(w: Writer, s: _Sizes, x: Buffer, name: str) -> Buffer:
    """The keys or queries of each head: neighbours share one in Qwen 3 Next, every so many in Qwen
    3.5."""
    out = w.buffer(name, s.heads * s.size)
    neighbours = w.config.architecture == "qwen3next"
    for i in range(s.sharing):
        if neighbours:
            first, stride = (0, i * s.size), (s.size, s.sharing * s.size)
            w.plan.copy(x, out, count=s.key_heads, width=s.size, first=first, stride=stride)
        else:
            w.plan.copy(x, out, width=x.width, first=(0, i * x.width))
    return out


_QWEN35 = Architecture(
    "silu",
    write,
    rope_halves=True,
    ffn_norm="post_attention_norm",
)
_QWEN35_MOE = _QWEN35._replace(
    mixture=Mixture(Route.ROUTE_SOFTMAX, shared="hidden", shared_gate=True)
)

ROWS = {"qwen35": _QWEN35, "qwen35moe": _QWEN35_MOE, "qwen3next": _QWEN35_MOE}
