"""SmallThinker (Song et al. 2025): a mixture of ReLU experts, whose router looks at the input of a
layer, before attention."""

from __future__ import annotations

from ..core.enums import Route
from .architecture import Architecture
from .decoder import attention
from .writer import Writer

_SCORING = {1: Route.ROUTE_SOFTMAX, 2: Route.ROUTE_SIGMOID}
_WINDOW = 4096  # of every model with a window, whatever its file says
_PERIOD = 4  # of so many layers, the first one sees everything, and has no positions


def write(w: Writer) -> None:
    """The plan. Each token's experts are known before its attention is computed."""
    config, plan, keys = w.config, w.plan, w.keys
    count = keys.integer("expert_count", 1 << 16)
    used = keys.integer("expert_used_count", count)
    width = keys.integer("expert_feed_forward_length", 1 << 22, config.hidden)
    scoring = _SCORING.get(keys.value("expert_gating_func"))
    if scoring is None:
        raise keys.unsupported("expert_gating_func")
    windowed = keys.integer("attention.sliding_window", 1 << 24, 0, least=0) > 0
    scores, routes = w.buffer("scores", count), w.buffer("routes", 2 * used)
    w.embed()
    for block in range(config.layers):
        prefix, local = f"blk.{block}.", block % _PERIOD != 0
        w.product(w.x, f"{prefix}ffn_gate_inp", scores)
        plan.route(scores, routes, scoring, normalised=True)
        w.norm(w.x, f"{prefix}attn_norm", w.normed)
        window = _WINDOW if windowed and local else 0
        attention(w, block, w.normed, w.added, window=window, rotary=local or not windowed)
        w.residual()
        w.norm(w.x, f"{prefix}ffn_norm", w.normed)
        w.experts(block, w.normed, routes, w.added, count=count, width=width)
        w.residual()
    w.head()


ROWS = {
    "smallthinker": Architecture(
        "relu", write, rope_halves=True, own_keys=("expert_count", "attention.sliding_window")
    )
}
