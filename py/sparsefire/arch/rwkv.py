"""RWKV 6 (Peng et al. 2024) and 7 (Peng et al. 2025), and their time mixes in decoders of Llama's
kind: QRWKV 6, as linear attention, and ARWKV 7 (Lin et al. 2025)."""

from __future__ import annotations

from ..core.enums import Activation, Function, Norm, Repeat
from .architecture import Architecture
from .decoder import blocks
from .plan import Buffer, Vector
from .writer import Writer

_HEAD_EPSILON = 64e-5  # of the norm of each head's result
_LEAST_LENGTH = 1e-12  # by which a vector is normalised
_MOST_DECAY = 0.606531  # exponent of RWKV 7's decay: e^(-1/2)


# -- what a token takes of the one before ----------------------------------------------------------


def _change(w: Writer, x: Buffer) -> Buffer:
    """The x of the token before - x."""
    change = w.buffer("change", x.width)
    w.plan.convolution(x, w.plan.repeated((1.0, -1.0), x.width), change)
    return change


def _shift(w: Writer, x: Buffer, change: Buffer, share: str, out: Buffer) -> None:
    """Out = x + change · the vector `share`."""
    w.plan.multiply(change, w.plan.vector(share, (1, 1, x.width)), out)
    w.plan.add(out, x, out)


def _take(w: Writer, of: Buffer, index: int, name: str) -> Buffer:
    """Part `index` of a buffer of several vectors."""
    part = w.buffer(name, w.config.d)
    w.plan.copy(of, part, width=part.width, first=(index * part.width, 0))
    return part


def _shifts_7(w: Writer, prefix: str, x: Buffer, names: str) -> dict[str, Buffer]:
    """An x for each of the names, with its own share of the token before."""
    plan, d, count = w.plan, x.width, len(names)
    change, shifted = _change(w, x), w.buffer("shifted", count * d)
    plan.copy(change, shifted, count=count, width=d, stride=(0, d))
    shares = plan.vector(f"{prefix}lerp_fused.weight", (count, 1, 1, d))
    plan.multiply(shifted, shares, shifted)
    plan.add(shifted, x, shifted)
    return {name: _take(w, shifted, i, f"shifted {name}") for i, name in enumerate(names)}


def _shifts_6(w: Writer, prefix: str, x: Buffer) -> dict[str, Buffer]:
    """The same where the shares depend on the token."""
    plan, d, names = w.plan, x.width, "wkvrg"
    rank = w.keys.integer("time_mix_extra_dim", d)
    change, mixed, low = _change(w, x), w.buffer("mixed", d), w.buffer("low rank", 5 * rank)
    _shift(w, x, change, f"{prefix}lerp_x.weight", mixed)
    w.product(mixed, f"{prefix}w1", low)
    plan.map(low, low, Function.TANH)
    shares = w.buffer("shifted", 5 * d)
    plan.head_products(low, plan.matrix(f"{prefix}w2.weight", (5, d, rank)), shares, 5)
    fused = f"{prefix}lerp_fused.weight"
    if w.has(fused):
        plan.add(shares, plan.vector(fused, (5, 1, 1, d)), shares)
    found = {}
    for i, name in enumerate(names):
        found[name] = out = _take(w, shares, i, f"shifted {name}")
        if not w.has(fused):
            plan.add(out, plan.vector(f"{prefix}lerp_{name}.weight", (1, 1, d)), out)
        plan.multiply(out, change, out)
        plan.add(out, x, out)
    return found


# -- time mix --------------------------------------------------------------------------------------


def _heads(w: Writer) -> tuple[int, int]:
    """The number of heads, and their size."""
    size = w.keys.integer("wkv.head_size", w.config.d)
    if w.config.d % size:
        raise w.keys.fail("wkv.head_size", f"is {size}, which does not divide {w.config.d}")
    return w.config.d // size, size


def _low_rank(
    w: Writer,
    x: Buffer,
    name: str,
    rank: int,
    inner: Function | None = None,
    outer: Function | None = None,
    *,
    matrices: tuple[str, str] = ("1", "2"),
    bias: str | None = "0",
) -> Buffer:
    """Outer(W₂ · inner(W₁ · x) + bias)."""
    plan, d = w.plan, w.config.d
    low, out = w.buffer("low rank", rank), w.buffer(name, d)
    first, second = (f"{name}{which}" for which in matrices)
    plan.products(x, (w.matrix(first, rank, x.width), None, low))
    if inner is not None:
        plan.map(low, low, inner)
    added = None if bias is None else plan.vector(f"{name}{bias}.weight", d)
    plan.products(low, (w.matrix(second, d, rank), added, out))
    if outer is not None:
        plan.map(out, out, outer)
    return out


def _projections(
    w: Writer, prefix: str, shifted: dict[str, Buffer]
) -> tuple[Buffer, Buffer, Buffer]:
    """Receptance, key and value; each key and value may be of several heads."""
    (heads, size), d = _heads(w), w.config.d
    few = w.config.kv_heads or heads
    if heads % few:
        raise w.keys.fail("attention.head_count_kv", f"is {few}, which does not divide {heads}")
    outs = []
    for name in ("receptance", "key", "value"):
        count = heads if name == "receptance" else few
        out = own = w.buffer(name, count * size)
        w.product(shifted[name[0]], f"{prefix}{name}", own)
        if count < heads:
            out = w.buffer(f"{name} of all heads", d)
            _repeat(w, own, out, count, size)
        outs.append(out)
    return outs[0], outs[1], outs[2]


def _repeat(w: Writer, few: Buffer, out: Buffer, count: int, size: int) -> None:
    """Out = each of `count` heads as often as it fits."""
    times = out.width // few.width
    for head in range(count):
        first = head * size, head * times * size
        w.plan.copy(few, out, count=times, width=size, first=first, stride=(0, size))


def _bonus(w: Writer, r: Buffer, k: Buffer, v: Buffer, weights: Vector, heads: int) -> Buffer:
    """What a token sees of itself: v · (r · (k · weights)), by head."""
    plan = w.plan
    weighted, dots, out = (
        w.buffer("weighted", k.width),
        w.buffer("dots", heads),
        w.buffer("own", v.width),
    )
    plan.multiply(k, weights, weighted)
    plan.head_dots(weighted, r, dots)
    plan.multiply(v, dots, out, Repeat.SPREAD)
    return out


def _head_norm(w: Writer, prefix: str, x: Buffer, heads: int) -> None:
    plan = w.plan
    weight, bias = (plan.vector(f"{prefix}ln.{part}", x.width) for part in ("weight", "bias"))
    plan.norm(x, x, weight, _HEAD_EPSILON, bias=bias, kind=Norm.NORM_LAYER, groups=heads)


def _time_mix_6(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """Each key of a head has a decay, which depends on the token. Without weights for what a token
    sees of itself, it is attention that is linear and forgets (Yang et al. 2024)."""
    plan, prefix, d = w.plan, f"blk.{block}.time_mix_", x.width
    linear = not w.has(f"{prefix}first.weight")
    heads, size = _heads(w)
    shifted = _shifts_6(w, prefix, x)
    r, k, v = _projections(w, prefix, shifted)
    gate, mixed = w.buffer("gate", d), w.buffer("mixed", d)
    w.product(shifted["g"], f"{prefix}gate", gate)
    plan.map(gate, gate, Function.SIGMOID if linear else Activation.SILU)
    rank = w.keys.integer("time_decay_extra_dim", d)
    decay = _low_rank(
        w,
        shifted["w"],
        f"{prefix}decay",
        rank,
        Function.TANH,
        Function.EXP,
        matrices=("_w1", "_w2"),
        bias="",
    )
    plan.scale(decay, -1.0)
    plan.map(decay, decay, Function.EXP)
    if linear:
        lost = w.buffer("lost", d)
        plan.multiply(k, decay, lost)
        plan.scale(lost, -1.0)
        plan.add(k, lost, k)
        plan.scale(r, size**-0.5)
    plan.recurrence(r, k, v, decay, mixed, heads=heads, keys=size, before=not linear)
    if not linear:
        first = plan.vector(f"{prefix}first.weight", (heads, size))
        plan.add(mixed, _bonus(w, r, k, v, first, heads), mixed)
        _head_norm(w, prefix, mixed, heads)
    plan.multiply(mixed, gate, mixed)
    w.product(mixed, f"{prefix}output", out)


def _values_7(w: Writer, block: int, x: Buffer, v: Buffer) -> None:
    """Moves the values towards those of the first block."""
    plan, prefix = w.plan, f"blk.{block}.time_mix_"
    first, d = w.buffer("first values", v.width), v.width
    if block == 0:
        plan.copy(v, first, width=d)
        for name in ("v0", "v1", "v2"):
            w.unused(f"{prefix}{name}.weight")
        return
    rank = w.keys.integer("attention.value_residual_mix_lora_rank", d)
    share = _low_rank(w, x, f"{prefix}v", rank, outer=Function.SIGMOID)
    towards = w.buffer("towards", d)
    plan.copy(v, towards, width=d)
    plan.scale(towards, -1.0)
    plan.add(towards, first, towards)
    plan.multiply(towards, share, towards)
    plan.add(v, towards, v)


def _replaced(w: Writer, prefix: str, x: Buffer, k: Buffer) -> tuple[Buffer, Buffer]:
    """What a token takes out of the state: along which keys, and how much of it is taken out.
    Changes k by as much."""
    plan, d, heads = w.plan, k.width, _heads(w)[0]
    rank = w.keys.integer("attention.iclr_lora_rank", d)
    rate = _low_rank(w, x, f"{prefix}a", rank, outer=Function.SIGMOID)
    along, taken, less = w.buffer("along", d), w.buffer("taken", d), w.buffer("less", d)
    plan.multiply(k, plan.vector(f"{prefix}k_k.weight", d), along)
    plan.norm(along, along, None, _LEAST_LENGTH, kind=Norm.NORM_L2, groups=heads)
    plan.multiply(along, rate, taken)
    plan.scale(taken, -1.0)
    plan.add(rate, plan.repeated((-1.0,), d), less)
    plan.multiply(less, plan.vector(f"{prefix}k_a.weight", d), less)
    plan.multiply(less, k, less)
    plan.add(k, less, k)
    return along, taken


def _time_mix_7(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The state's rows decay, and what a token's key finds in them is replaced."""
    plan, keys, prefix, d = w.plan, w.keys, f"blk.{block}.time_mix_", x.width
    heads, size = _heads(w)
    gated = w.has(f"{prefix}g1.weight")
    shifted = _shifts_7(w, prefix, x, "rwkvag" if gated else "rwkva")
    r, k, v = _projections(w, prefix, shifted)
    rank = keys.integer("attention.decay_lora_rank", d)
    decay = _low_rank(w, shifted["w"], f"{prefix}w", rank, Function.TANH, Function.SIGMOID)
    plan.scale(decay, -_MOST_DECAY)
    plan.map(decay, decay, Function.EXP)
    _values_7(w, block, shifted["v"], v)
    removed = _replaced(w, prefix, shifted["a"], k)
    mixed = w.buffer("mixed", d)
    plan.recurrence(r, k, v, decay, mixed, heads=heads, keys=size, removed=removed)
    if w.has(f"{prefix}ln.weight"):
        _head_norm(w, prefix, mixed, heads)
    own = plan.vector(f"{prefix}r_k.weight", d)
    plan.add(mixed, _bonus(w, r, k, v, own, heads), mixed)
    if gated:
        rank = keys.integer("attention.gate_lora_rank", d)
        gate = _low_rank(w, shifted["g"], f"{prefix}g", rank, Function.SIGMOID, bias=None)
        plan.multiply(mixed, gate, mixed)
    w.product(mixed, f"{prefix}output", out)


# -- plans -----------------------------------------------------------------------------------------


def _channel_mix(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """A feed-forward layer, gated in RWKV 6."""
    plan, prefix = w.plan, "channel_mix_"
    full, mixed = f"blk.{block}.{prefix}", w.buffer("mixed", x.width)
    change = _change(w, x)
    _shift(w, x, change, f"{full}lerp_k.weight", mixed)
    w.ffn(block, mixed, out, names=(("ffn_up", f"{prefix}key"), ("ffn_down", f"{prefix}value")))
    if w.has(f"{full}receptance.weight"):
        gate = w.buffer("gate", x.width)
        _shift(w, x, change, f"{full}lerp_r.weight", mixed)
        w.product(mixed, f"{full}receptance", gate)
        plan.map(gate, gate, Function.SIGMOID)
        plan.multiply(out, gate, out)


def write(w: Writer) -> None:
    """The plan of RWKV 6 or 7."""
    time_mix = _time_mix_6 if w.config.architecture == "rwkv6" else _time_mix_7
    halved_every = w.keys.integer("rescale_every_n_layers", 4096, 0, least=0)
    w.embed()
    w.norm(w.x, "token_embd_norm", w.x)
    for block in range(w.config.layers):
        w.norm(w.x, f"blk.{block}.attn_norm", w.normed)
        time_mix(w, block, w.normed, w.added)
        w.residual()
        w.norm(w.x, f"blk.{block}.attn_norm_2", w.normed)
        _channel_mix(w, block, w.normed, w.added)
        w.residual()
        if halved_every and (block + 1) % halved_every == 0:
            w.plan.scale(w.x, 0.5)
    w.head()


def write_decoder(w: Writer) -> None:
    """The plan of a decoder with such a time mix."""
    w.embed()
    blocks(w, _time_mix_7 if w.config.architecture == "arwkv7" else _time_mix_6)
    w.head()


_RWKV = Architecture(
    "relu2",
    write,
    gated=False,
    layer_norm=True,
    vectors=("token_embd_norm.bias", "attn_norm.bias", "attn_norm_2.bias", "output_norm.bias"),
    own_keys=("attention.head_count", "attention.head_count_kv"),
)

ROWS = {
    "rwkv6": _RWKV,
    "rwkv7": _RWKV,
    **dict.fromkeys(
        ("rwkv6qwen2", "arwkv7"), Architecture("silu", write_decoder, own_keys=_RWKV.own_keys)
    ),
}
