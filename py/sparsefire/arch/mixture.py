"""Mixtures of experts (Shazeer et al. 2017): a router chooses a few feed-forward layers for each
token, beside which there may be one that every token passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..core.enums import Function, Repeat, Route
from .plan import Buffer, Vector

if TYPE_CHECKING:
    from .writer import Writer

_SCORING = {
    1: Route.ROUTE_SOFTMAX,
    2: Route.ROUTE_SIGMOID,
    3: Route.ROUTE_SOFTMAX_CHOSEN,
}
_ADJUGATE_SCALE = 0.05  # of files that do not say
_MOST_EXPERTS, _MOST_WIDTH = 1 << 16, 1 << 22


class Mixture(NamedTuple):
    """How the experts of an architecture are chosen, and what stands beside them."""

    scoring: Route | None = Route.ROUTE_SOFTMAX  # of files that do not say; None: they must
    by_key: bool = False  # files say how to score: expert_gating_func
    normalised: bool | None = True  # None: the file says, expert_weights_norm
    scaled: bool = False  # weights are multiplied by expert_weights_scale
    own_width: bool = True  # expert_feed_forward_length is the experts' width
    before: bool = False  # weights multiply what experts get, not what they make of it
    shared: str = ""  # width of a layer beside them: "key", "count" times theirs, "width": theirs,
    # "hidden": that of dense layers, "either": the key's, or theirs
    adjugates: bool = False  # groups of experts have a small one together
    shared_gate: bool = False  # which is multiplied by a sigmoid of its own
    shared_suffix: str = "_shexp"  # of the names of its tensors
    shared_factor: float = 1.0  # what the sum of both is multiplied by, where it is there
    found: bool = False  # a block is a mixture where it has a router, whatever the keys say


def has_experts(w: Writer, block: int) -> bool:
    """Whether the feed-forward part of a block is a mixture."""
    keys = w.keys
    if w.config.kind.mixture is None or not keys.integer("expert_count", _MOST_EXPERTS, 0, least=0):
        return False
    if w.config.kind.mixture.found:
        return w.has(f"blk.{block}.ffn_gate_inp.weight")
    lead = keys.integer("leading_dense_block_count", w.config.layers, 0, least=0)
    lead = lead if w.config.kind.leads else 0
    step = keys.integer("interleave_moe_layer_step", w.config.layers, 1, least=0) or 1
    return block >= lead and (block + 1) % step == 0


def expert_width(w: Writer) -> int:
    """Neurons of an expert."""
    mixture = w.config.kind.mixture
    assert mixture is not None
    width = 0
    if mixture.own_width:
        width = w.keys.integer("expert_feed_forward_length", _MOST_WIDTH, 0, least=0)
    return width or w.config.hidden


def experts_used(w: Writer, block: int) -> int:
    """Experts of a block that each token goes to."""
    name, count = "expert_used_count", w.keys.integer("expert_count", _MOST_EXPERTS)
    used = w.keys.per_layer(name, w.config.layers, count)[block]
    if used == 0:
        raise w.keys.fail(name, f"is 0 for layer {block}; expected a number from 1 on")
    return used


def route(w: Writer, block: int, x: Buffer) -> Buffer:
    """Chooses the experts of a block by x; their numbers and weights."""
    mixture, keys, prefix = w.config.kind.mixture, w.keys, f"blk.{block}."
    assert mixture is not None
    count = keys.integer("expert_count", _MOST_EXPERTS)
    used = experts_used(w, block)
    groups = keys.integer("expert_group_count", count, 1, least=0) or 1
    groups_used = keys.integer("expert_group_used_count", groups, groups, least=0) or groups
    if count % groups or used > count // groups * groups_used:
        raise keys.fail("expert_group_count", f"is {groups}, which does not suit {count} experts")
    scoring = mixture.scoring
    if mixture.by_key and (chosen := keys.value("expert_gating_func", 0)):
        scoring = _SCORING.get(chosen)
    if scoring is None:
        raise keys.unsupported("expert_gating_func")
    normalised = mixture.normalised
    if normalised is None:
        normalised = bool(keys.value("expert_weights_norm", False))
    scale = keys.number("expert_weights_scale", -1e6, 1e6, 0.0) if mixture.scaled else 0.0
    scores, routes = w.buffer("scores", count), w.buffer("routes", 2 * used)
    w.product(x, f"{prefix}ffn_gate_inp", scores)
    w.plan.route(
        scores,
        routes,
        scoring,
        bias=_choice_bias(w, f"{prefix}exp_probs_b", count),
        groups=groups,
        groups_used=groups_used,
        normalised=normalised,
        scale=scale or 1.0,
    )
    return routes


def _choice_bias(w: Writer, name: str, count: int) -> Vector | None:
    """A bias for the choice alone, which some files name as if it were no bias."""
    return w.plan.vector(name, count) if w.has(name) else w.bias(name, count)


def mixture(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The experts of a block, and the layer beside them."""
    routes = route(w, block, x)
    count = w.keys.integer("expert_count", _MOST_EXPERTS)
    kind = w.config.kind
    assert kind.mixture is not None
    w.experts(
        block,
        x,
        routes,
        out,
        count=count,
        width=expert_width(w),
        gated=bool(kind.gated),
        before=kind.mixture.before,
    )
    if kind.mixture.adjugates:
        _add_adjugates(w, block, x, routes, out)
    add_shared(w, block, x, out)


def _add_adjugates(w: Writer, block: int, x: Buffer, routes: Buffer, out: Buffer) -> None:
    """Adds what the small experts of the chosen experts' groups make of x, with their weights."""
    keys, name = w.keys, "experts_per_group"
    count = keys.integer("expert_count", _MOST_EXPERTS)
    share = keys.integer(name, count, 1)
    if count % share:
        raise keys.fail(name, f"is {share}, which does not divide the {count} experts")
    width = keys.integer("expert_chunk_feed_forward_length", _MOST_WIDTH, w.config.head_dim)
    scale = keys.number("expert_group_scale", -1e6, 1e6, 0.0) or _ADJUGATE_SCALE
    small = w.buffer("adjugates", out.width)
    count //= share
    w.experts(block, x, routes, small, count=count, width=width, suffix="_chexps", share=share)
    w.plan.scale(small, scale)
    w.plan.add(out, small, out)


def add_shared(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """Adds what the layer that every token passes makes of x, if there is one."""
    kind, plan = w.config.kind.mixture, w.plan
    assert kind is not None
    hidden, suffix = _shared_width(w, kind), kind.shared_suffix
    if not hidden or (not suffix and not w.has(f"blk.{block}.ffn_up.weight")):
        return
    shared = w.buffer("shared", out.width)
    w.ffn(block, x, shared, suffix=suffix, hidden=hidden)
    if kind.shared_gate:
        gate = w.buffer("shared gate", 1)
        name = f"blk.{block}.ffn_gate_inp_shexp.weight"
        plan.products(x, (plan.matrix(name, (x.width,)), None, gate))
        plan.map(gate, gate, Function.SIGMOID)
        plan.multiply(shared, gate, shared, Repeat.SPREAD)
    plan.add(out, shared, out)
    plan.scale(out, kind.shared_factor)


def _shared_width(w: Writer, kind: Mixture) -> int:
    if not kind.shared:
        return 0
    stated = w.keys.integer("expert_shared_feed_forward_length", _MOST_WIDTH, 0, least=0)
    if kind.shared == "count":
        times = w.keys.integer("expert_shared_count", 1 << 10, 0, least=0)
        return (stated or expert_width(w)) * times
    if kind.shared == "width":
        return expert_width(w)
    if kind.shared == "either":
        return stated or expert_width(w)
    return stated or (w.config.hidden if kind.shared == "hidden" else 0)
