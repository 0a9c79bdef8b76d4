"""Gemma 4 (Google 2026), the text part: heads of one size in layers with a window and of another in
those without, which may have keys for values; inputs of each layer by token and last layers that
use the keys and values of earlier ones, as Gemma 3n has them; a mixture of experts beside the
feed-forward layer of each block in some."""

from __future__ import annotations

import numpy as np

from .architecture import Architecture
from .decoder import GEMMA3, one_block
from .gemma3n import attention, layer_inputs, of_input, own_layers
from .mixture import Mixture, expert_count, expert_width, has_experts, route
from .plan import Buffer
from .writer import Writer


def write(w: Writer) -> None:
    """The plan."""
    keys, plan = w.keys, w.plan
    pattern = "attention.sliding_window_pattern"
    if not isinstance(keys.value(pattern), np.ndarray):
        raise keys.fail(pattern, "does not say of each layer whether it has a window")
    w.embed()
    width = keys.integer("embedding_length_per_layer_input", 1 << 16, 0, least=0)
    inputs = layer_inputs(w, width) if width else None
    own = own_layers(w, 0)
    attentions: list[int] = []  # the places of their steps

    def attend(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
        attentions.append(_attention(w, block, attentions, own))

    for block in range(w.config.layers):
        one_block(w, block, attend, _feed_forward)
        if inputs is not None:
            of_input(w, block, w.x, inputs)
            plan.add(w.x, w.added, w.x)
        factor = f"blk.{block}.layer_output_scale.weight"
        if w.has(factor):
            plan.multiply(w.x, plan.vector(factor, 1), w.x)
    w.head()


def _attention(w: Writer, block: int, attentions: list[int], own: int) -> int:
    """Added = attention of normed; the place of its step."""
    config, keys = w.config, w.keys
    same = False  # keys are values
    if config.windows[block]:
        dim = keys.integer("attention.key_length_swa", 1 << 14, config.head_dim)
        if keys.integer("attention.value_length_swa", 1 << 14, dim) != dim:
            raise keys.fail("attention.value_length_swa", f"is not the key length, {dim}")
        turned = keys.integer("rope.dimension_count_swa", dim, min(config.rope_dims, dim))
        if turned % 2:
            raise keys.fail("rope.dimension_count_swa", f"is {turned}; expected an even number")
        rope = w.plan.rope(config.window_rope._replace(dims=turned))
    else:
        dim, rope = config.head_dim, w.rope(config.rope)
        same = not w.has(f"blk.{block}.attn_v.weight")
    return attention(w, block, attentions, own, dim, rope, keys_as_values=same)


def _feed_forward(w: Writer, block: int, x: Buffer, out: Buffer) -> None:
    """The feed-forward layer of a block and, where it has a router, its experts: each with norms of
    its own before and after."""
    plan, prefix = w.plan, f"blk.{block}."
    w.ffn(block, x, out, hidden=w.hidden(block))
    if not has_experts(w, block):
        return
    w.norm(out, f"{prefix}post_ffw_norm_1", out)
    # The router has a norm too, whose weight is divided by √d.
    routed, read, made = (w.buffer(name, x.width) for name in ("routed", "read", "made"))
    scale = plan.vector(f"{prefix}ffn_gate_inp.scale", x.width)
    plan.norm(w.x, routed, scale, w.config.norm_epsilon)
    plan.scale(routed, x.width**-0.5)
    w.norm(w.x, f"{prefix}pre_ffw_norm_2", read)
    routes = route(w, block, routed)
    w.experts(block, read, routes, made, count=expert_count(w), width=expert_width(w))
    w.norm(made, f"{prefix}post_ffw_norm_2", made)
    plan.add(out, made, out)


ROWS = {
    "gemma4": Architecture(
        "gelu_tanh",
        write,
        rope_halves=True,
        vectors=GEMMA3.vectors,
        embedding_scale=GEMMA3.embedding_scale,
        attention_scale=lambda _: 1.0,
        window_rope_base=GEMMA3.window_rope_base,
        mixture=Mixture(found=True),
        own_keys=(
            "attention.head_count_kv",
            "attention.key_length_swa",
            "attention.shared_kv_layers",
            "attention.value_length_swa",
            "feed_forward_length",
            "final_logit_softcapping",
            "rope.dimension_count_swa",
        ),
    )
}
