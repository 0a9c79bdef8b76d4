"""Encoders, of which every token sees those before and after it: they give no logits, but a vector
for each token of a text. Devlin et al. 2019 and those who followed; T5's encoder (Raffel et al.
2020) is in `t5`."""

from __future__ import annotations

from .architecture import Architecture, Fact
from .decoder import GEMMA3, HEAD_NORMS, LLAMA, attention, blocks, feed_forward
from .mixture import Mixture
from .writer import Writer

_NEVER: Fact = lambda _: False  # noqa: E731
_NORMS = ("attn_output_norm.bias", "layer_output_norm.bias", "token_embd_norm.bias")


def write(w: Writer) -> None:
    """The plan of BERT and its kin: norms stand after what a block adds, and none at the end."""
    _embed(w)
    for block in range(w.config.layers):
        _block(w, block)
    w.finish(norm=None)


def _embed(w: Writer) -> None:
    """x = the norm of the embeddings of the token, of its type, and of its position."""
    config, plan = w.config, w.plan
    plan.embed(w.x, w.matrix("token_embd", config.vocab, config.d))
    types = "token_types.weight"
    if w.has(types):
        shape = w.file.tensor(types).shape
        rows = shape[0] if len(shape) == 2 else 1
        plan.type(w.added, w.matrix("token_types", rows, config.d))
        plan.add(w.x, w.added, w.x)
    if config.kind.positions:
        positions = w.matrix("position_embd", config.context_length, config.d)
        plan.position(w.added, positions)
        plan.add(w.x, w.added, w.x)
    w.norm(w.x, "token_embd_norm", w.x)


def _block(w: Writer, block: int) -> None:
    prefix, plan = f"blk.{block}.", w.plan
    attention(w, block, w.x, w.added)
    if w.has(f"{prefix}attn_norm_2.weight"):  # Jina's models of code add x once more
        plan.add(w.added, w.x, w.added)
        w.norm(w.added, f"{prefix}attn_output_norm", w.added)
        plan.add(w.x, w.added, w.x)
        w.norm(w.x, f"{prefix}attn_norm_2", w.x)
    else:
        _added(w, f"{prefix}attn_output_norm")
    feed_forward(w, block, w.x, w.added)
    _added(w, f"{prefix}layer_output_norm")


def _added(w: Writer, norm: str) -> None:
    """x = the norm of x + added."""
    w.plan.add(w.x, w.added, w.x)
    w.norm(w.x, norm, w.x)


def write_with_norms_before(w: Writer) -> None:
    """The plan of those that are built as decoders are."""
    w.embed()
    blocks(w, attention)
    w.finish(norm=w.config.kind.output_norm)


_BERT = Architecture(
    "gelu_erf",
    write,
    gated=False,
    layer_norm=True,
    both_sides=True,
    output=False,
    rotary=_NEVER,
    vectors=_NORMS,
)
_NOMIC = _BERT._replace(rotary=lambda _: True, rope_halves=True)
_BEFORE = LLAMA._replace(write=write_with_norms_before, mixture=None, both_sides=True, output=False)

ROWS = {
    "bert": _BERT._replace(positions=True),
    "eurobert": _BEFORE._replace(rope_halves=True),
    "gemma-embedding": GEMMA3._replace(
        write=write_with_norms_before, both_sides=True, output=False, window_rope_base=0.0
    ),
    "jina-bert-v2": _BERT._replace(
        alibi=lambda _: 8.0,
        gate_up=True,
        gated=None,
        whole_norms=True,
        vectors=(*_NORMS, "attn_norm_2.bias"),
        optional=(*HEAD_NORMS, "attn_q_norm.bias", "attn_k_norm.bias"),
    ),
    "jina-bert-v3": _NOMIC,
    "llama-embed": _BEFORE,
    "modern-bert": _BEFORE._replace(
        activation="gelu_erf",
        layer_norm=True,
        rope_halves=True,
        embedding_norm="own",
        gate_up=True,
        full_every=3,
        full_first=True,
        window_rope_base=0.0,
        optional=("attn_norm.weight",),
    ),
    "neo-bert": _BEFORE._replace(gate_up=True, output_norm="enc.output_norm"),
    "nomic-bert": _NOMIC._replace(activation="silu", gated=True),
    "nomic-bert-moe": _NOMIC._replace(
        mixture=Mixture(normalised=False, own_width=False, scaled=True, found=True),
    ),
}
