"""The data of calibration: windows of a text, and the inputs of each feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .._options import Check, count, flag, function, text
from ..arch.plan import FfnLayer
from ..errors import ArgumentError, CalibrationError, UnsupportedError
from ..fit.predictor_fit import Split
from ..lm.model import Model
from ..weights.activation import ActivationType

FEWEST_TOKENS = 1_000

CHECKS: dict[str, Check] = {  # of the options that every calibration has
    "text": text,
    "tokens": count,
    "activation": ActivationType.of,
    "pre": text,
    "seed": count,
    "force": flag,
    "progress": function,
}

_FEWEST_WINDOWS = 20
_SAMPLE_BYTES = 1 << 30  # of FFN inputs kept, all layers together
_SCORES = 200_000_000  # tokens × neurons that a layer's fit works on at once
# Of every 20 windows these are held out, and these are tuned on; the others are fitted on.
_HELD, _TUNE = (3, 10, 17), (6, 13, 19)
_WINDOW = 512  # tokens, at most
_START = 50_000  # characters that have tokens enough, in any usual text
_TOGETHER = 16  # windows that are written together


def check_wanted(tokens: int | None, perplexity_cost: float = 0.0) -> None:
    """`ArgumentError` for fewer tokens than a calibration needs, or a cost that is none. No tokens
    are those that a calibration takes by default."""
    if not 0 <= perplexity_cost <= 10:
        raise ArgumentError(f"perplexity_cost must be a share of 0 … 10, got {perplexity_cost}")
    if tokens is not None and tokens < FEWEST_TOKENS:
        raise ArgumentError(f"tokens must be {FEWEST_TOKENS} or more, got {tokens}")


@dataclass(frozen=True)
class Windows:
    """Token windows, int32 (windows, length), in the order of the text."""

    all: npt.NDArray[np.int32]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return int(self.all.size)

    @property
    def kinds(self) -> npt.NDArray[np.intp]:
        """0 for a window to fit on, 1 to tune on, 2 held out (windows)."""
        place = np.arange(len(self.all)) % 20
        return np.where(np.isin(place, _HELD), 2, np.where(np.isin(place, _TUNE), 1, 0))

    @property
    def held(self) -> npt.NDArray[np.int32]:
        """The windows held out."""
        windows: npt.NDArray[np.int32] = self.all[self.kinds == 2]
        return windows


def _check_layers(model: Model) -> None:
    """Each block has one feed-forward layer, of tensors with the usual names, whose neurons can be
    computed without the others."""
    layers = model.session.model.plan.layers
    usual = [
        isinstance(layer, FfnLayer)
        and layer.block == block
        and not layer.names
        and not layer.deviations
        for block, layer in enumerate(layers)
    ]
    if len(usual) != model.config.layers or not all(usual):
        raise UnsupportedError(
            f"{model.file.name}: models of the architecture {model.config.architecture!r} cannot "
            "be calibrated yet: not every block has one feed-forward layer, in tensors named "
            "ffn_…, whose gates are each for themselves"
        )


def text_windows(model: Model, text: str, tokens: int) -> Windows:
    """About ``tokens`` tokens in windows spread evenly over the text. `UnsupportedError` for a
    model that calibration cannot write."""
    _check_layers(model)
    return cut(model, text, tokens)


def cut(model: Model, text: str, tokens: int) -> Windows:
    """The same of any model."""
    ids = _tokens_of(model, text)
    _check_enough(ids)
    return _spread(
        ids, min(model.context, _WINDOW, min(tokens, len(ids)) // _FEWEST_WINDOWS), tokens
    )


def _tokens_of(model: Model, text: str) -> npt.NDArray[np.int32]:
    """The tokens of a text, in which names of control tokens are text."""
    return np.asarray(model.tokenize(text, special=False), np.int32)


def _check_enough(ids: npt.NDArray[np.int32]) -> None:
    if len(ids) < FEWEST_TOKENS:
        raise CalibrationError(
            f"the text has {len(ids)} tokens; calibration needs {FEWEST_TOKENS} or more, and "
            f"tens of thousands for good results"
        )


def _spread(ids: npt.NDArray[np.int32], length: int, tokens: int) -> Windows:
    """About so many tokens in windows of a length."""
    there = len(ids) // length
    chosen = np.linspace(0, there - 1, min(there, -(-tokens // length))).astype(np.intp)
    return Windows(ids[: there * length].reshape(there, length)[chosen])


def divided(model: Model, text: str, tokens: int) -> tuple[str, npt.NDArray[np.int32]]:
    """The text without parts that are held out, 3 of 20, and about so many tokens of these, in
    windows (n, length). `CalibrationError` if the text is too short."""
    if _tokens_of(model, text[:_START]).size < FEWEST_TOKENS:
        _check_enough(_tokens_of(model, text))
    bounds = np.linspace(0, len(text), 21).astype(int).tolist()
    parts = [text[begin:end] for begin, end in pairwise(bounds)]
    held = "".join(parts[place] for place in _HELD)
    ids = _tokens_of(model, held)
    windows = _spread(ids, min(model.context, _WINDOW, len(ids)), tokens)
    return "".join(part for place, part in enumerate(parts) if place not in _HELD), windows.all


@dataclass(frozen=True)
class Samples:
    """FFN inputs (tokens, layers, d) in random order, and the use of each (tokens)."""

    inputs: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.intp]

    def split(self, layer: int) -> Split:
        """The inputs of one layer."""
        inputs = self.inputs[:, layer]
        return Split(*(np.ascontiguousarray(inputs[self.kinds == kind]) for kind in range(3)))


Recorder = Callable[
    [npt.NDArray[np.int32], npt.NDArray[np.intp], Callable[[float], object]],
    npt.NDArray[np.float32],
]
"""Runs windows (windows, length) through a model in dense mode and returns the FFN inputs of the
tokens (windows, kept) of each: float32 (windows, kept, layers, d). Calls the function with the
share that is done. Windows do not depend on each other, so that each may be recorded elsewhere."""


def recorder_of(model: Model) -> Recorder:
    """Records one window after the other with this model."""

    def record(
        windows: npt.NDArray[np.int32],
        tokens: npt.NDArray[np.intp],
        announce: Callable[[float], object],
    ) -> npt.NDArray[np.float32]:
        config = model.config
        inputs = np.empty((*tokens.shape, config.layers, config.d), np.float32)
        for index, (window, kept) in enumerate(zip(windows, tokens, strict=True)):
            inputs[index] = model.ffn_inputs(window, mode="dense")[kept]
            announce((index + 1) / len(windows))
        return inputs

    return record


def record_inputs(
    model: Model,
    windows: Windows,
    seed: int,
    announce: Callable[[float], object],
    most: int | None = None,
    recorder: Recorder | None = None,
) -> Samples:
    """Runs the windows through the model and keeps the FFN inputs of as many random tokens of each
    as memory allows, about `most` in total. `announce` is called with the share that is done."""
    config, (count, length) = model.config, windows.all.shape
    bytes_per_token = 4 * config.layers * config.d
    room = min(_SAMPLE_BYTES // bytes_per_token, _SCORES // config.hidden)
    most = room if most is None else min(room, most)
    kept = min(length, max(1, most // count))
    random = np.random.default_rng(seed)
    tokens = np.sort([random.choice(length, kept, replace=False) for _ in range(count)])
    record = recorder or recorder_of(model)
    inputs = record(windows.all, tokens, announce)
    order = random.permutation(count * kept)
    flat = inputs.reshape(count * kept, config.layers, config.d)
    return Samples(flat[order], np.repeat(windows.kinds, kept)[order])


def generated(model: Model, tokens: int, seed: int, announce: Callable[[float], object]) -> Windows:
    """About ``tokens`` tokens that the model writes itself, sampled at temperature 1, in windows
    that each begin with the BOS token or, without one, a random token. An end of text does not end
    a window. `announce` is called with the share that is done."""
    length = min(model.context, _WINDOW, tokens // _FEWEST_WINDOWS)
    count = max(_FEWEST_WINDOWS, -(-tokens // length))
    random = np.random.default_rng(seed)
    bos, vocab = model.tokenizer.bos, model.config.vocab
    first = random.integers(vocab, size=count) if bos is None else np.full(count, bos)
    windows = np.empty((count, length), np.int32)
    windows[:, 0] = first
    for begin in range(0, count, _TOGETHER):
        part = windows[begin : begin + _TOGETHER]
        sessions = [model.new_session(length) for _ in part]
        try:
            for place in range(1, length):
                last = [
                    (each, row[place - 1 : place]) for each, row in zip(sessions, part, strict=True)
                ]
                logits = model.evaluate(last, phase="decode")
                part[:, place] = [_drawn(row, random) for row in logits]
                announce((begin + len(part) * place / length) / count)
        finally:
            for each in sessions:
                each.close()
    return Windows(windows)


def _drawn(logits: npt.NDArray[np.float32], random: np.random.Generator) -> int:
    """A token by its probability."""
    cumulative = np.exp(logits - logits.max()).cumsum(dtype=np.float64)
    return int(cumulative.searchsorted(random.random() * cumulative[-1], "right"))
