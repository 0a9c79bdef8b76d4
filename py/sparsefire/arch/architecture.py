"""What an architecture says of itself: a row of `arch.table.ARCHITECTURES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

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


class Architecture(NamedTuple):
    """What differs between architectures. The numbers are those of files that do not name them."""

    activation: str | None  # when neither user nor file names one; None: `ambiguous` says why not
    write: Callable[[Writer], None]  # writes the plan
    gated: bool = True
    layer_norm: bool = False  # mean and variance, with a bias; else RMS
    rope_halves: bool = False  # pairs are (i, i + dims/2) of a head; else (2i, 2i+1)
    vectors: tuple[str, ...] = ()  # that it has beside the plain norms
    optional: tuple[str, ...] = ()  # and those that only some of its models have
    embedding_scale: Number = lambda _: 1.0
    residual_scale: Number = lambda _: 1.0
    logit_divisor: Number | None = None  # None: a file must not name one
    attention_scale: Number = lambda sizes: sizes.head_dim**-0.5 if sizes.heads else 1.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    window: int = 0  # tokens that layers with a window see
    full_every: int = 0  # every so many layers one has no window; 0: all have it
    both_active: bool = False  # up goes through the activation as the gate does
    # Rotary base of layers with a window, which then have no scaling; 0: that of the others. None:
    # they turn as the others do.
    window_rope_base: float | None = None
    # Which one it is by what else the file says, before it counts as ambiguous.
    activation_by_keys: Callable[[Keys], str | None] = lambda _: None
    ambiguous: str = ""
    skips: bool = False  # layers have exact zeros whatever the activation
    fused_qkv: bool = False  # attn_qkv holds the rows of queries, keys and values
    ffn_norm: str = "ffn_norm"  # name of the norm before the feed-forward part
    whole_norms: bool = False  # queries' and keys' norms are of all heads together
    norms_after_rope: bool = False  # and come after the rotation
    leads: bool = True  # leading_dense_block_count is heeded
    mixture: Mixture | None = None  # how experts are chosen, where a file has some
    own_keys: tuple[str, ...] = ()  # keys that it reads itself, of those that others may not have
