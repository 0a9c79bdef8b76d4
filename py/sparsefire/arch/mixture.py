"""Mixtures of experts (Shazeer et al. 2017): a router chooses a few feed-forward layers for each
token, beside which there may be one that every token passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..core.enums import Function, Repeat, Route
from ..weights.activation import ActivationType
from .plan import Buffer, Vector

if TYPE_CHECKING:
    from .writer import Writer

_SCORING = {
    1: Route.ROUTE_SOFTMAX,
    2: Route.ROUTE_SIGMOID,
    3: Route.ROUTE_SOFTMAX_CHOSEN,
    4: Route.ROUTE_PLAIN,  # of what these functions make of the products:
}
_BY_ROOTS, _ROOTS = 4, (Function.SOFTPLUS, Function.SQRT)
_ADJUGATE_SCALE = 0.05  # of files that do not say
# Keys of limits of the activation: of experts, and of other layers.
LIMITS = "swiglu_clamp_exp", "swiglu_clamp_shexp"
_LEAST_LIMIT = 1e-6  # below it is none
_MOST_EXPERTS, _MOST_WIDTH = 1 << 16, 1 << 22


class Mixture(NamedTuple):
    """How the experts of an architecture are chosen, and what stands beside them."""

    scoring: Route | None = Route.ROUTE_SOFTMAX  # of files that do not say; None: they must
    by_key: bool = False  # files say how to score: expert_gating_func
    normalised: bool | None = True  # None: the file says, expert_weights_norm
    scaled: bool = False  # weights are multiplied by expert_weights_scale
    own_width: bool = True  # expert_feed_forward_length is the experts' width
    before: bool = False  # weights multiply what experts get, not what they make of it
    shared: str = ""  # width of a layer beside them: "key", "count" times it or theirs, "count of
    # theirs" times theirs in any case, "width": theirs,
    # "hidden": that of dense layers, "either": the key's, or theirs, "total": or "count" times that
    adjugates: bool = False  # groups of experts have a small one together
    shared_gate: bool = False  # which is multiplied by a sigmoid of its own
    shared_suffix: str = "_shexp"  # of the names of its tensors
    shared_factor: float = 1.0  # what the sum of both is multiplied by, where it is there
    limits: ActivationType | None = None  # the activation where the file has limits for it
    limit: float = 0.0  # of files that do not say; 0: none
    shared_limited: bool = True  # that of the layer beside them, and of dense ones, is heeded
    same_limits: bool = False  # and is theirs in files that do not say
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


def limited(
    w: Writer, block: int, experts: bool = False
) -> tuple[ActivationType | None, float | None]:
    """The activation of a block's experts, or of another feed-forward layer of it, and its limit,
    where the file has one."""
    kind = w.config.kind.mixture
    if kind is None or kind.limits is None or not (experts or kind.shared_limited):
        return None, None
    own, theirs = LIMITS
    limit = w.keys.number_of(own, block, 0.0, 1e6, kind.limit)
    if not experts and not (kind.same_limits and w.keys.value(theirs) is None):
        limit = w.keys.number_of(theirs, block, 0.0, 1e6, 0.0)
    return (kind.limits, limit) if limit > _LEAST_LIMIT else (None, None)


def expert_count(w: Writer) -> int:
    """Experts of a block."""
    return w.keys.integer("expert_count", _MOST_EXPERTS)


def experts_used(w: Writer, block: int) -> int:
    """Experts of a block that each token goes to."""
    name, count = "expert_used_count", expert_count(w)
    used = w.keys.per_layer(name, w.config.layers, count)[block]
    if used == 0:
        raise w.keys.fail(name, f"is 0 for layer {block}; expected a number from 1 on")
    return used


def route(w: Writer, block: int, x: Buffer) -> Buffer:
    """Chooses the experts of a block by x; their numbers and weights."""
    mixture, keys, prefix = w.config.kind.mixture, w.keys, f"blk.{block}."
    assert mixture is not None
    count = expert_count(w)
    used = experts_used(w, block)
    groups = keys.integer("expert_group_count", count, 1, least=0) or 1
    groups_used = keys.integer("expert_group_used_count", groups, groups, least=0) or groups
    if count % groups or used > count // groups * groups_used:
        raise keys.fail("expert_group_count", f"is {groups}, which does not suit {count} experts")
    scoring, chosen = mixture.scoring, keys.value("expert_gating_func", 0) if mixture.by_key else 0
    if chosen:
        scoring = _SCORING.get(chosen)
    if scoring is None:
        raise keys.unsupported("expert_gating_func")
    normalised = mixture.normalised
    if normalised is None:
        normalised = bool(keys.value("expert_weights_norm", False))
    scale = keys.number("expert_weights_scale", -1e6, 1e6, 0.0) if mixture.scaled else 0.0
    scores, routes = w.buffer("scores", count), w.buffer("routes", 2 * used)
    w.product(x, f"{prefix}ffn_gate_inp", scores)
    for function in _ROOTS if chosen == _BY_ROOTS else ():
        w.plan.map(scores, scores, function)
    if by_token := block < keys.integer("hash_layer_count", w.config.layers, 0, least=0):
        _choose_by_token(w, block, scores, used)
    w.plan.route(
        scores,
        routes,
        scoring,
        bias=None if by_token else _choice_bias(w, f"{prefix}exp_probs_b", count),
        groups=groups,
        groups_used=groups_used,
        normalised=normalised,
        scale=scale or 1.0,
    )
    return routes


def _choose_by_token(w: Writer, block: int, scores: Buffer, used: int) -> None:
    """Leaves only the scores, above 0, of the experts that the file names for the token."""
    name, plan = f"blk.{block}.ffn_gate_tid2eid.weight", w.plan
    chosen, marks = w.buffer("chosen", used), w.buffer("marks", scores.width)
    plan.embed(chosen, plan.matrix(name, (w.config.vocab, used), integers=True))
    plan.mark(chosen, marks)
    plan.multiply(scores, marks, scores)


def _choice_bias(w: Writer, name: str, count: int) -> Vector | None:
    """A bias for the choice alone, which some files name as if it were no bias."""
    return w.plan.vector(name, count) if w.has(name) else w.bias(name, count)


def mixture(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The experts of a block, and the layer beside them."""
    routes = route(w, block, x)
    count = expert_count(w)
    kind = w.config.kind
    assert kind.mixture is not None
    activation, limit = limited(w, block, experts=True)
    w.experts(
        block,
        x,
        routes,
        out,
        count=count,
        width=expert_width(w),
        gated=bool(kind.gated),
        activation=activation,
        limit=limit,
        before=kind.mixture.before,
    )
    if kind.mixture.adjugates:
        _add_adjugates(w, block, x, routes, out)
    add_shared(w, block, x, out)


def _add_adjugates(w: Writer, block: int, x: Buffer, routes: Buffer, out: Buffer) -> None:
    """Adds what the small experts of the chosen experts' groups make of x, with their weights."""
    keys, name = w.keys, "experts_per_group"
    count = expert_count(w)
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
    activation, limit = limited(w, block)
    w.ffn(block, x, shared, suffix=suffix, hidden=hidden, activation=activation, limit=limit)
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
    if kind.shared == "count of theirs":
        return expert_width(w) * w.keys.integer("expert_shared_count", 1 << 10, 0, least=0)
    if kind.shared == "count":
        times = w.keys.integer("expert_shared_count", 1 << 10, 0, least=0)
        return (stated or expert_width(w)) * times
    if kind.shared == "total":
        times = w.keys.integer("expert_shared_count", 1 << 10, 1)
        return stated or expert_width(w) * times
    if kind.shared == "width":
        return expert_width(w)
    if kind.shared == "either":
        return stated or expert_width(w)
    return stated or (w.config.hidden if kind.shared == "hidden" else 0)
