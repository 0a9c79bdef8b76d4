"""What an architecture says of itself: a row of `arch.table.ARCHITECTURES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..core.enums import Function
from .mixture import Mixture

if TYPE_CHECKING:
    from .keys import Keys
    from .writer import Writer


class Sizes(NamedTuple):
    """What default numbers of an architecture are made of."""

    layers: int
    d: int
    heads: int
    head_dim: int


Number: TypeAlias = Callable[[Sizes], float]
Fact: TypeAlias = Callable[[Sizes], bool]


class Architecture(NamedTuple):
    """What differs between architectures. The numbers are those of files that do not name them."""

    activation: str | None  # when neither user nor file names one; None: `ambiguous` says why not
    write: Callable[[Writer], None]  # writes the plan
    # Feed-forward layers have a gate. None: those whose tensors are there.
    gated: bool | None = True
    # Mean and variance; else RMS. None: in files without an epsilon of the other.
    layer_norm: bool | None = False
    # Pairs are (i, i + dims/2) of a head; else (2i, 2i+1). None: in files with rotary sections.
    rope_halves: bool | None = False
    vectors: tuple[str, ...] = ()  # that it has beside the plain norms
    optional: tuple[str, ...] = ()  # and those that only some of its models have
    embedding_scale: Number = lambda _: 1.0
    residual_scale: Number = lambda _: 1.0
    logit_divisor: Number | None = None  # None: a file must not name one
    logit_factor: bool = False  # logit_scale multiplies instead
    attention_scale: Number = lambda sizes: sizes.head_dim**-0.5 if sizes.heads else 1.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    windowed: Fact = lambda _: True  # the file's window is used
    window: int = 0  # tokens that layers with a window see
    full_every: int = 0  # every so many layers one has no window; 0: all have it
    full_first: bool = False  # the first of them; else the last
    both_active: bool = False  # up goes through the activation as the gate does
    # Rotary base of layers with a window, which then have no scaling; 0: that of the others. None:
    # they turn as the others do.
    window_rope_base: float | None = None
    # Which one it is by what else the file says, before it counts as ambiguous.
    activation_by_keys: Callable[[Keys], str | None] = lambda _: None
    ambiguous: str = ""
    skips: bool = False  # layers have exact zeros whatever the activation
    # Where the feed-forward part of a block reads. "": what attention has been added to; "same":
    # what attention reads; "apart": a norm of its own of what the block gets; "key": that if the
    # file's use_parallel_residual says so; "bare": "same" where a block has no ffn_norm.
    parallel: str = ""
    pre_norms: bool = True  # before attention and the feed-forward part
    norm_weights: bool = True
    embedding_norm: str = ""  # "own" or, without a weight, "bare"
    # A learned vector is added to the embedding of each position. None: in files that have them.
    positions: bool | None = False
    # Products lose a slope of each head for each position (Press et al. 2022): the largest
    # exponent of two, for files that do not name one. None: they do not.
    alibi: Number | None = None
    rotary: Fact = lambda _: True
    rotary_factors: bool = True  # the tensor rope_freqs is used
    rotary_leads: bool = False  # leading dense blocks rotate in any case
    rotary_skip: int = 0  # every so many layers one does not rotate
    rotary_windows: bool = False  # where some layers have a window, only those rotate
    clamped: bool = False  # queries, keys and values are clamped if the file's clamp_kqv says so
    gate_up: bool = False  # ffn_up holds the rows of the gate, and below them those of up
    halved: bool = False  # feed_forward_length counts gate and up together
    gated_heads: Function | None = None  # of attn_gate · x, multiplies what attention finds
    ffn_norm: str = "ffn_norm"  # name of the norm before the feed-forward part
    post_norms: tuple[str, str] = ("post_attention_norm", "post_ffw_norm")  # names of those after
    whole_norms: bool = False  # queries' and keys' norms are of all heads together
    own_norms: bool = False  # or each head has a weight of its own
    bare_norms: bool = False  # or none, but may have a factor: after the rotation
    post_epsilon: float | None = None  # of the norms after; None: that of the others
    scale_key: str = "attention.scale"  # what queries are multiplied by
    unused: tuple[str, ...] = ()  # biases that files may have and it does not use
    unused_matrices: tuple[str, ...] = ()  # and other tensors of a block, without ".weight"
    norms_after_rope: bool = False  # and come after the rotation
    leads: bool = True  # leading_dense_block_count is heeded
    chosen_blocks: bool = False  # attention.indexer.top_k counts blocks of tokens
    chosen_tokens: int = 1  # each of attention.indexer.top_k stands for so many
    mixture: Mixture | None = None  # how experts are chosen, where a file has some
    both_sides: bool = False  # tokens attend to those after them too
    output: bool = True  # it predicts tokens; else it gives only vectors
    output_norm: str = "output_norm"  # name of the norm at the end
    own_activation: str = ""  # one that its plan computes itself, whatever `activation` says
    own_keys: tuple[str, ...] = ()  # keys that it reads itself, of those that others may not have
