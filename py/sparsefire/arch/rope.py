"""Rotary position embedding (Su et al. 2021) and its scaling to longer contexts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..errors import UnsupportedError
from ..gguf.reader import GgufFile
from .keys import Keys

FACTORS_TENSOR = "rope_freqs.weight"
# Of models that turn otherwise in texts beyond their original context (Ding et al. 2024).
SHORT_FACTORS_TENSOR, LONG_FACTORS_TENSOR = "rope_factors_short.weight", "rope_factors_long.weight"


class Rope(NamedTuple):
    """Pair i of `dims` / 2 turns by base^(-2i / dims) / factors[i] a position; `factors` empty: 1.
    Cosines and sines are multiplied by `amplitude`."""

    dims: int
    base: float
    factors: tuple[float, ...] = ()
    amplitude: float = 1.0

    def with_base(self, base: float) -> Rope:
        """The same pairs at another base, without scaling."""
        return Rope(self.dims, base)


def read_rope(
    file: GgufFile, keys: Keys, dims: int, context_length: int, base: float | None = None
) -> Rope:
    """The rotation that a file asks for, but for the factors in the tensor `rope_freqs.weight`,
    which come on top. ``base``: in the place of the file's.

    Types of scaling: none, linear (Chen et al. 2023), llama3 (factors in the tensor) and yarn
    (Peng et al. 2023). Errors: `ModelFileError`, `UnsupportedError`.
    """
    base = base or keys.number("rope.freq_base", 1.0, 1e12, 10000.0)
    if alpha := keys.number("rope.scaling.alpha", 0.0, 1e6, 0.0):
        base *= alpha ** (dims / (dims - 2))
    plain = Rope(dims, base, (), keys.number("rope.scaling.attn_factor", 1e-3, 1e3, 1.0))
    kind = keys.text("rope.scaling.type")
    if kind == "none":
        return plain
    factor = _factor(keys)
    if kind in (None, "linear"):
        return plain if factor == 1 else plain._replace(factors=(factor,) * (dims // 2))
    if kind == "llama3" and FACTORS_TENSOR in file.tensors:
        return plain  # the tensor says it all
    if kind == "longrope" and SHORT_FACTORS_TENSOR in file.tensors:
        return plain
    if kind == "yarn":
        return _yarn(keys, plain, factor, context_length)
    raise UnsupportedError(
        f"{file.name}: rotary scaling of type {kind!r} is not supported; supported: none, linear, "
        f"yarn, and llama3 with its factors in the tensor '{FACTORS_TENSOR}'"
    )


def _factor(keys: Keys) -> float:
    """Context scaling factor; 0 means unscaled."""
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        if keys.value(name) not in (None, 0):
            return keys.number(name, 1e-3, 1e3)
    return 1.0


def _yarn(keys: Keys, plain: Rope, factor: float, context_length: int) -> Rope:
    """Fast pairs are unchanged, slow ones are interpolated, those between are blended."""
    if keys.number("rope.scaling.yarn_ext_factor", -1.0, 1.0, 1.0) not in (-1.0, 1.0):
        raise keys.unsupported("rope.scaling.yarn_ext_factor")
    trained = keys.integer("rope.scaling.original_context_length", 1 << 24, context_length)
    fast = keys.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0)
    slow = keys.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0)
    dims, base = plain.dims, plain.base
    if base == 1:
        raise keys.fail(
            "rope.freq_base", "is 1, where rotary scaling of type 'yarn' has no meaning"
        )

    def pair_that_turns(times: float) -> float:
        """The pair that makes so many turns over the trained length."""
        return dims * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_that_turns(fast), pair_that_turns(slow)
    if keys.value("rope.scaling.yarn_truncate", True):  # ours: false in gpt-oss's own configs
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(0.0, first), min(dims - 1.0, last)
    ramp = (np.arange(dims // 2) - first) / max(0.001, last - first)
    kept = 1 - np.clip(ramp, 0, 1)
    factors = 1 / ((1 - kept) / factor + kept)
    amplitude = plain.amplitude * _yarn_amplitude(factor, 1.0)
    multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0, 1e3, 0.0)
    if multiplier:
        amplitude /= _yarn_amplitude(factor, multiplier)
    return plain._replace(factors=tuple(factors.tolist()), amplitude=amplitude)


def _yarn_amplitude(factor: float, multiplier: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1
