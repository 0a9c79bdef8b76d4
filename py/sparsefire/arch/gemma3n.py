"""Gemma 3n (Google 2025): four residual streams, of which a layer computes one, and predicts and
corrects the others (AltUp; Baykal et al. 2023), learned low-rank residuals (LAuReL; Menghani et al.
2024), inputs of each layer by token, gates cut by their deviation in the first layers, and last
layers that use the keys and values of earlier ones."""

from __future__ import annotations

import numpy as np

from ..core.enums import Activation, Function, Norm, Repeat
from .architecture import Architecture
from .decoder import HEAD_NORMS, POST_NORMS, rope_of
from .plan import Buffer
from .writer import Writer

# Of files that do not say.
_STREAMS, _INPUT_WIDTH = 4, 256
_OWN_LAYERS = 20  # with keys and values
_CUT_LAYERS, _DEVIATIONS = 10, 1.6448533535003662  # 5 % of a normal distribution lie above

_TINY = 1e-12  # below every length that vectors are divided by


def write(w: Writer) -> None:
    """The plan. Buffer x holds the stream that layers compute."""
    count, d, plan = _streams(w), w.config.d, w.plan
    if w.keys.integer("altup.active_idx", count, 0, least=0):
        raise w.keys.unsupported("altup.active_idx")
    streams = w.buffer("streams", count * d)
    w.embed()
    width = w.keys.integer("embedding_length_per_layer_input", 1 << 16, _INPUT_WIDTH)
    inputs = layer_inputs(w, width)
    plan.copy(w.x, streams, width=d)
    for other in range(1, count):
        _project(w, w.x, "altup_proj", other)
        plan.copy(w.normed, streams, width=d, first=(0, other * d))
    own = own_layers(w, max(w.config.layers - _OWN_LAYERS, 0))
    attentions: list[int] = []  # the places of their steps
    for block in range(w.config.layers):
        _layer(w, block, streams, inputs, attentions, own)
    plan.copy(streams, w.x, width=d)
    total = w.buffer("total", d)
    plan.copy(w.x, total, width=d)
    for other in range(1, count):
        plan.copy(streams, w.added, width=d, first=(other * d, 0))
        _project(w, w.added, "altup_unembd_proj", other)
        plan.add(total, w.normed, total)
    plan.scale(total, 1 / count)
    plan.copy(total, w.x, width=d)
    w.head()


def _streams(w: Writer) -> int:
    return w.keys.integer("altup.num_inputs", 64, _STREAMS)


def _project(w: Writer, x: Buffer, name: str, stream: int) -> None:
    """Normed = x by the stream's part of a matrix, made as long as buffer x."""
    plan, d, length = w.plan, w.config.d, w.buffer("length", 1)
    shape = _streams(w) - 1, d, d
    matrix = plan.matrix(f"{name}.weight", shape, ((stream - 1) * d, d))
    plan.products(x, (matrix, None, w.normed))
    plan.norm(w.normed, w.normed, None, _TINY, kind=Norm.NORM_L2)
    plan.head_dots(w.x, w.x, length)
    plan.map(length, length, Function.SQRT)
    plan.multiply(w.normed, length, w.normed, Repeat.SPREAD)


def layer_inputs(w: Writer, width: int) -> Buffer:
    """What each layer gets by the token, `width` floats: of all layers, one after the other. Buffer
    x holds the embeddings."""
    config, plan = w.config, w.plan
    inputs = w.buffer("inputs", config.layers * width)
    projected = w.buffer("projected inputs", inputs.width)
    embedding = w.matrix("per_layer_token_embd", config.vocab, inputs.width)
    plan.embed(inputs, embedding, width**0.5)
    w.product(w.x, "per_layer_model_proj", projected)
    plan.scale(projected, config.d**-0.5)
    w.norm(projected, "per_layer_proj_norm", projected, groups=config.layers)
    plan.add(inputs, projected, inputs)
    plan.scale(inputs, 0.5**0.5)
    return inputs


def of_input(w: Writer, block: int, x: Buffer, inputs: Buffer) -> None:
    """Added = what the layer makes of its input, gated by x."""
    plan, prefix = w.plan, f"blk.{block}."
    width = inputs.width // w.config.layers
    gate, own = w.buffer("input gate", width), w.buffer("input", width)
    w.product(x, f"{prefix}inp_gate", gate)
    plan.map(gate, gate, Activation.GELU_TANH)
    plan.copy(inputs, own, width=width, first=(block * width, 0))
    plan.multiply(gate, own, gate)
    w.product(gate, f"{prefix}proj", w.added)
    w.norm(w.added, f"{prefix}post_norm", w.added)


def _layer(
    w: Writer, block: int, streams: Buffer, inputs: Buffer, attentions: list[int], own: int
) -> None:
    prefix, plan, x = f"blk.{block}.", w.plan, w.x
    laurel = w.buffer("laurel", w.config.d)
    predicted = _predict(w, block, streams)
    w.norm(x, f"{prefix}attn_norm", w.normed)
    low = w.buffer("laurel low", w.file.tensor(f"{prefix}laurel_l.weight").shape[0])
    w.product(w.normed, f"{prefix}laurel_l", low)
    w.product(low, f"{prefix}laurel_r", laurel)
    w.norm(laurel, f"{prefix}laurel_post_norm", laurel)
    plan.add(laurel, w.normed, laurel)
    rope = w.rope(rope_of(w, block))
    attentions.append(attention(w, block, attentions, own, w.config.head_dim, rope))
    w.residual(f"{prefix}post_attention_norm")
    plan.add(x, laurel, x)
    plan.scale(x, 0.5**0.5)
    w.norm(x, f"{prefix}ffn_norm", w.normed)
    w.ffn(block, w.normed, w.added, deviations=_deviations(w, block))
    w.residual(f"{prefix}post_ffw_norm")
    _correct(w, block, predicted, streams)
    _add_inputs(w, block, streams, inputs)


def _deviations(w: Writer, block: int) -> float:
    """How many standard deviations of a layer's gates the cut is above their mean; 0: none."""
    name = "activation_sparsity_scale"
    stored = w.keys.value(name)
    if not isinstance(stored, np.ndarray):
        return _DEVIATIONS if block < _CUT_LAYERS else 0.0
    if stored.dtype.kind != "f" or len(stored) < w.config.layers or not 0 <= stored[block] < 1e3:
        raise w.keys.fail(name, f"has no number from 0 on for layer {block}")
    return float(stored[block])


# -- AltUp: streams that one layer in turn computes ------------------------------------------------


def _modes(w: Writer, block: int, x: Buffer) -> Buffer:
    prefix, modes = f"blk.{block}.altup_", w.buffer("modes", _streams(w))
    w.norm(x, f"{prefix}router_norm", w.normed)
    w.plan.scale(w.normed, 1 / w.config.d)
    w.product(w.normed, f"{prefix}router", modes)
    w.plan.map(modes, modes, Function.TANH)
    return modes


def _predict(w: Writer, block: int, streams: Buffer) -> Buffer:
    """What the streams become if the layer does not change them; of the first, in buffer x too."""
    plan, count = w.plan, _streams(w)
    shares, predicted = w.buffer("shares", count * count), w.buffer("predicted", streams.width)
    plan.copy(streams, w.x, width=w.config.d)
    w.product(_modes(w, block, w.x), f"blk.{block}.altup_predict_coef", shares)
    one = tuple(np.eye(count, dtype=np.float32).ravel().tolist())
    plan.add(shares, plan.repeated(one, 1), shares)
    plan.mix(streams, shares, predicted, count)
    plan.copy(predicted, w.x, width=w.config.d)
    return predicted


def _correct(w: Writer, block: int, predicted: Buffer, streams: Buffer) -> None:
    """Adds to each predicted stream its share of how the layer changed the first, in buffer x."""
    plan, count, d = w.plan, _streams(w), w.config.d
    share, changes = w.buffer("share", count), w.buffer("changes", streams.width)
    w.product(_modes(w, block, w.x), f"blk.{block}.altup_correct_coef", share)
    plan.add(share, plan.repeated((1.0,), count), share)
    plan.copy(predicted, w.added, width=d)
    plan.scale(w.added, -1.0)
    plan.add(w.x, w.added, w.added)
    plan.copy(w.added, changes, count=count, width=d, stride=(0, d))
    plan.multiply(changes, share, changes, Repeat.SPREAD)
    plan.add(predicted, changes, streams)


def _add_inputs(w: Writer, block: int, streams: Buffer, inputs: Buffer) -> None:
    """Adds the layer's input to all streams but the first."""
    plan, d = w.plan, w.config.d
    others = w.buffer("others", streams.width - d)
    plan.copy(streams, w.normed, width=d)
    scale = plan.vector(f"blk.{block}.altup_correct_scale.weight", d)
    plan.multiply(w.normed, scale, w.normed)
    of_input(w, block, w.normed, inputs)
    plan.copy(streams, others, width=others.width, first=(d, 0))
    plan.add(others, w.added, others)
    plan.copy(others, streams, width=others.width, first=(0, d))


# -- Attention -------------------------------------------------------------------------------------


def attention(
    w: Writer,
    block: int,
    attentions: list[int],
    own: int,
    dim: int,
    rope: int,
    *,
    keys_as_values: bool = False,
) -> int:
    """Added = attention of normed by heads of `dim` elements, from layer `own` on to keys and
    values of the last layer before it with a window, or without, as the block; the place of its
    step. ``keys_as_values``: values are the products of the keys, normalised in their own way."""
    config, plan, prefix = w.config, w.plan, f"blk.{block}.attn_"
    heads, kv_heads = w.heads(block), w.kv_heads(block)
    q, mixed = (w.buffer(name, heads * dim) for name in ("q", "heads"))
    k = v = source = None
    if block < own:
        k, v = w.buffer("k", kv_heads * dim), w.buffer("v", kv_heads * dim)
        if keys_as_values:
            w.products(w.normed, (f"{prefix}q", q), (f"{prefix}k", k))
            plan.copy(k, v, width=v.width)
        else:
            w.products(w.normed, (f"{prefix}q", q), (f"{prefix}k", k), (f"{prefix}v", v))
        plan.norm(v, v, None, config.norm_epsilon, groups=kv_heads)
    else:
        w.product(w.normed, f"{prefix}q", q)
        alike = (each for each in range(own) if config.windows[each] == config.windows[block])
        source = attentions[max(alike)]
        for name in ("k", "v", "k_norm"):
            w.unused(f"{prefix}{name}.weight")
    for name, each, count in (("q_norm", q, heads), ("k_norm", k, kv_heads)):
        if each is not None:
            w.norm(each, f"{prefix}{name}", each, groups=count)
            plan.rotate(each, rope, count, config.rope_halves)
    plan.scale(q, config.attention_scale)
    window = config.windows[block]
    step = plan.attention(
        q, k, v, mixed, kv_heads=kv_heads, k_dim=dim, window=window, source=source
    )
    w.product(mixed, f"{prefix}output", w.added)
    return step


def own_layers(w: Writer, shared: int) -> int:
    """The layers with keys and values of their own: all but the last so many as the file says, or
    `shared`."""
    layers, name = w.config.layers, "attention.shared_kv_layers"
    own = layers - (w.keys.integer(name, layers, 0, least=0) or shared)
    if own < layers and not set(w.config.windows) <= set(w.config.windows[:own]):
        raise w.keys.fail(name, f"leaves {own} layers, of which none is like the others")
    return own


ROWS = {
    "gemma3n": Architecture(
        "gelu_tanh",
        write,
        rope_halves=True,
        vectors=(*HEAD_NORMS, *POST_NORMS),
        embedding_scale=lambda sizes: sizes.d**0.5,
        attention_scale=lambda _: 1.0,
        logit_cap=30.0,
        window=512,
        full_every=5,
        window_rope_base=10000.0,
        skips=True,
        own_keys=("attention.shared_kv_layers",),
    )
}
