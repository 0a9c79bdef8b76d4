"""Checks of what calls ask of a model: the mode, and token ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._arrays import IntArray
from .._options import refuse
from ..errors import ArgumentError, UnsupportedError
from ..ffn.forward import MODES
from .loader import CoreModel


def checked_mode(mode: str | None, model: CoreModel) -> str:
    """The mode, by default the model's; `ArgumentError` if there is none of this name,
    `UnsupportedError` if the model cannot compute in it."""
    config, name = model.config, model.file.name
    mode = config.default_mode if mode is None else mode
    if not isinstance(mode, str) or mode not in MODES:
        raise ArgumentError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "sparse" and not config.calibrated and not model.input_limits:
        raise UnsupportedError(
            f"{name}: sparse mode needs a calibrated model; run `sparsefire calibrate` on it "
            "first, or use the exact or dense mode"
        )
    if mode == "exact" and not _leaves_out(model):
        raise UnsupportedError(
            f"{name}: {mode} mode skips neurons whose activation is zero, and {config.activation} "
            "has hardly any; use dense mode, unless layers have cutoffs (see "
            "SparseFfn.set_cutoff, and `sparsefire calibrate`)"
        )
    return mode


def _leaves_out(model: CoreModel) -> bool:
    """Whether exact mode can skip neurons."""
    if model.config.activation.is_relu_family or model.neurons is not None:
        return True
    return any(
        ffn.cutoff or ffn.product_cutoff or ffn.down_layout == "neuron" for ffn in model.layers
    )


def checked_ids(ids: npt.ArrayLike, vocab: int, name: str) -> IntArray:
    """Token ids as int32 (n,); `ArgumentError` for anything else, or an id that is not below
    ``vocab``."""
    try:
        array = np.asarray(ids)
    except ValueError:
        refuse(ids, name, "token ids, a list of integers")
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ArgumentError(
            f"{name}: expected token ids as a list of integers, got {array.dtype} {array.shape}"
        )
    wrong = array[(array < 0) | (array >= vocab)]
    if wrong.size:
        raise ArgumentError(
            f"{name}: token id {wrong[0]} is outside the vocabulary, 0 … {vocab - 1}"
        )
    return np.ascontiguousarray(array, np.int32)
