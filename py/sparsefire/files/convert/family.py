"""What a family of models says of itself: a row of the tables of families."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .parts import Parts

if TYPE_CHECKING:
    from .config import Config

Keys = dict[str, Any]


class Family(NamedTuple):
    """What a `model_type` becomes."""

    architecture: str | Callable[[Config], str]  # GGUF's name
    pairs: bool  # rotary pairs are neighbours there, halves in the checkpoint: rows of q and k move
    model: str  # the class of transformers that computes it; or those, with | between them
    keys: Callable[[Config], Keys] = lambda _: {}  # beside those that all have
    arrange: Callable[[Config, Parts], Parts] = lambda _, parts: parts
    usual: bool = True  # it has the tensors of Llama's layers
    epsilon: tuple[str, str] = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")
    partial: bool = False  # a part of each head is rotated
    own_windows: bool = False  # `keys` says which layers have a window
    known: tuple[str, ...] = ()  # values that only look as if they changed the activation
    names: str = ""  # whose tensors it has, where the gguf package does not know it
    norms: bool = True  # norms have weights
    values: Callable[[Config], Keys] = lambda _: {}  # that the config has under other names
    encoder: bool = False  # it has no output matrix, and its tokens see both sides
    omitted: tuple[str, ...] = ()  # beginnings of keys that mean nothing to the architecture
    tied: bool = False  # the output matrix is the embedding, where the config does not say
    inner: str = ""  # the part of the config that has the values of the text's model
    long: bool = False  # it may turn by other factors in longer texts (longrope)
    templates: Callable[[Config], Keys] = lambda _: {}  # of chats, that its class implies
