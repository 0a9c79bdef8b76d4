"""Calibrating the head of a model: a screen of the output matrix, fitted on the hidden states of a
text, so that decoding multiplies only the rows of the most likely tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import FloatArray
from .._files import check_output, scratch
from .._options import checked, number, positive, share
from .._options import path as path_of
from .._options import text as text_of
from .._progress import Progress
from ..arch import screen as stored
from ..arch.config import SPARSEFIRE_VERSION
from ..errors import ArgumentError, UnsupportedError
from ..fit import products
from ..fit.head import (
    FittedScreens,
    OutputMatrix,
    ScreenQuality,
    StoredScreen,
    fit_screens,
    p_format,
    qualities,
)
from ..gguf.reader import GgufFile
from ..gguf.source import Source
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import TensorData, Writable, gguf_package, write_gguf
from ..lm.compare import compare_heads
from ..lm.model import Model
from ..text.pretokenizer import PRE_KEY
from ..weights.formats import format_name, weight_format
from .companion import can_add, write_companion
from .divergence import Divergence, divergence
from .samples import CHECKS, Windows, check_wanted, cut, generated

DEFAULT_TOKENS = 16_384
RANKS = (32, 64, 96, 128, 192, 256)
ROWS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
FORMATS = ("q8_0", "q4_0")  # the core multiplies screens in these fastest

_TUNED_TOKENS, _HELD_TOKENS = 1_024, 2_048
_SCATTERED = 1.5  # time of a row in a list over one of all rows
_NIBBLES = 1.25  # time of a byte of quants of 4 bits over one of 8
_MOST_SHARE = 0.8  # of the bytes of the output matrix; with more, a screen cannot pay
_LEAST_GAIN = 1.03  # less is noise
_CHANCE = 1.25  # times the accepted divergence that held-out tokens may have by chance
_SPEED_TOKENS, _SPEED_SECONDS = 192, 20.0
_WRITTEN, _RECORDED, _FITTED, _TRIED = 0.42, 0.69, 0.78, 0.87  # shares of the work
_WRITING = 0.99


@dataclass(frozen=True)
class HeadMeasure:
    """A screen on held-out tokens, through the core: divergence in nats, share of tokens with the
    same most likely one, perplexities, bytes of the output matrix and the screen that a token
    reads over those of the matrix, and the speeds of decoding, measured alternately."""

    kl: float
    agreement: float
    perplexity: float
    perplexity_dense: float
    read_share: float
    tokens_per_s: float
    dense_tokens_per_s: float

    @property
    def perplexity_cost(self) -> float:
        """The relative increase of perplexity over the dense one."""
        return self.perplexity / self.perplexity_dense - 1

    @property
    def speedup(self) -> float:
        """Speed over that of dense decoding."""
        return self.tokens_per_s / self.dense_tokens_per_s


@dataclass(frozen=True)
class HeadCalibration:
    """The result of `calibrate_head`. ``chosen`` is what was fitted, with its quality on the tokens
    that it was chosen by, and ``measured`` its quality on tokens held out; None if no screen was
    good enough. ``output`` is the file that was written, None if dense is best."""

    source: str
    output: str | None
    tokens: int
    held_out_tokens: int
    generated: bool
    tried: tuple[ScreenQuality, ...]
    chosen: ScreenQuality | None
    measured: HeadMeasure | None

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found = asdict(self)
        if self.measured is not None:
            names = "perplexity_cost", "speedup"
            found["measured"] |= {name: getattr(self.measured, name) for name in names}
        return found


@checked(
    **{**CHECKS, "text": text_of},
    kl=number,
    agreement=share,
    rank=positive,
    rows=positive,
    format=format_name,
    companion=path_of,
)
def calibrate_head(
    source: Source | Sequence[Source],
    output: str | os.PathLike[str] | None = None,
    text: str | None = None,
    *,
    companion: str | os.PathLike[str] | None = None,
    kl: float = 0.01,
    agreement: float = 0.999,
    rank: int | None = None,
    rows: int | None = None,
    format: str | None = None,
    tokens: int = DEFAULT_TOKENS,
    even_if_slower: bool = False,
    activation: str | None = None,
    pre: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> HeadCalibration:
    """Fits a screen of the output matrix: a low-rank approximation of the logits, of which the
    ``rows`` most likely are computed exactly, and the others keep their approximate value
    (SVD-softmax, Shim et al. 2017; fitted in closed form under the covariance of the model's hidden
    states, see `sparsefire.fit.head`).

    Chooses rank, rows and format, where they are not given, that read least, of those whose
    Kullback-Leibler divergence from the exact distribution is at most ``kl`` nats and whose most
    likely token is the same for a share of ``agreement`` of the tokens. About ``tokens`` tokens of
    the text are used, or, without a text, tokens that the model writes itself, sampled at
    temperature 1: 14 of 20 windows to fit on, 3 to choose by, and 3 held out for the report. Where
    the divergence of those held out is above ``kl`` by more than chance, a nearer screen is taken,
    if one was tried.

    source: the model, as for `Model.load`.
    format: that of the screen; by default Q8_0 and Q4_0 are tried.
    output: a new model file with the screen in it. By default the companion beside the model,
      NAME.sparsefire.gguf, which `Model.load` finds, and which is refused beside another model. One
      that has no screen yet gets it beside the limits of inputs that it has.
    companion: the companion, where it has another name or place; required if the model is not given
      as a path.
    even_if_slower: writes the screen even if decoding with it is not faster on this machine.

    Other arguments and errors as `sparsefire.calibrate.cutoffs.calibrate_cutoffs`.
    """
    check_wanted(tokens)
    if not kl > 0:
        raise ArgumentError(f"kl must be above 0, got {kl}")
    target, inputs = _target(source, output, companion)
    adds = output is None and can_add(target, stored.has_screen)
    check_output(target, inputs, force=force or adds)
    gguf_package()
    announce = progress or (lambda _stage, _share: None)
    with Model.load(source, activation=activation, pre=pre, head="dense", inputs="dense") as model:
        name = model.file.name
        adds = adds and can_add(target, stored.has_screen, stored.fingerprint(model.file))
        force = force or adds
        check_output(target, model.file.paths, force=force)
        if stored.has_screen(model.file):
            raise UnsupportedError(f"{model.file.name}: the model has a screen already")
        fitting = _Fitting(model, announce)
        windows = fitting.windows(text, tokens, seed)
        tried, screens = fitting.tried(windows, rank, rows, format)
        best = better = _best(model, tried, kl, agreement)
        measured, written = None, None
        while better is not None:
            best = better
            stored_as = screens.stored(best.rank, best.format, model.core)
            parts = _parts(model, best, stored_as, windows.size)
            announce("measuring", _TRIED)
            measured = _measured(source, activation, pre, parts, windows, announce)
            if measured.kl <= _CHANCE * kl:
                break
            # On other text it is farther by this factor; if nothing is nearer, it stays the best.
            better = _best(model, tried, best.kl * kl / measured.kl, agreement)
        if measured is not None and (measured.speedup >= _LEAST_GAIN or even_if_slower):
            announce("writing", _WRITING)
            _write(model, target, parts, pre, output is None, force)
            written = str(target)
    return HeadCalibration(
        source=name,
        output=written,
        tokens=windows.size,
        held_out_tokens=_held(windows).size,
        generated=text is None,
        tried=tuple(tried),
        chosen=best,
        measured=measured,
    )


def _target(
    source: Source | Sequence[Source],
    output: str | os.PathLike[str] | None,
    companion: str | os.PathLike[str] | None,
) -> tuple[Path, list[Path]]:
    """The file to write, and those of the model whose paths are known."""
    if output is not None and companion is not None:
        raise ArgumentError("give output or companion, not both")
    named = output if companion is None else companion
    if isinstance(source, (str, os.PathLike)):
        target = stored.companion_path(source) if named is None else Path(named)
        return target, [Path(source)]
    if named is None:
        raise ArgumentError("companion: a model that is no path needs the path of its companion")
    return Path(named), []


# ---- Fitting -------------------------------------------------------------------------------------


class _Fitting:
    """Fits screens to a model."""

    def __init__(self, model: Model, announce: Progress) -> None:
        self.model, self.announce = model, announce

    def windows(self, text: str | None, tokens: int, seed: int) -> Windows:
        """Windows of the text, or of what the model writes."""
        if text is not None:
            return cut(self.model, text, tokens)
        return generated(
            self.model, tokens, seed, lambda done: self.announce("writing a text", done * _WRITTEN)
        )

    def tried(
        self, windows: Windows, rank: int | None, rows: int | None, format: str | None
    ) -> tuple[list[ScreenQuality], FittedScreens]:
        """The qualities of screens, and what was fitted."""
        model, core = self.model, self.model.core
        vocab, d = model.config.vocab, model.config.d
        ranks = [rank] if rank else [each for each in RANKS if each <= d // 2] or [max(1, d // 2)]
        counts = [rows] if rows else [each for each in ROWS if each <= vocab // 4] or [1]
        if ranks[-1] > d or counts[-1] > vocab:
            raise ArgumentError(f"rank and rows must be at most {d} and {vocab}")
        kinds = (format,) if format else FORMATS
        fitted, tuned = (self._states(windows, use) for use in (0, 1))
        matrix = output_matrix(model)
        self.announce("fitting the screen", _RECORDED)
        screens = fit_screens(fitted, matrix, ranks)
        formats = {rank: [each for each in kinds if _divides(each, rank, d)] for rank in ranks}
        formats = {rank: fitting or ["f16"] for rank, fitting in formats.items()}
        self.announce("trying screens", _FITTED)

        def show(done: float) -> None:
            self.announce("trying screens", _FITTED + (_TRIED - _FITTED) * done)

        data = tuned[:_TUNED_TOKENS]
        return qualities(data, matrix, screens, formats, counts, core, show), screens

    def _states(self, windows: Windows, use: int) -> FloatArray:
        """The hidden states (n, d) of the tokens of one use."""
        chosen, states = windows.all[windows.kinds == use], []
        share = (_RECORDED - _WRITTEN) / (windows.kinds < 2).sum()
        begin = _WRITTEN if use == 0 else _RECORDED - share * len(chosen)
        for number_, each in enumerate(chosen):
            self.announce("recording hidden states", begin + share * number_)
            states.append(self.model.hidden_states(each))
        return np.concatenate(states)


def output_matrix(model: Model) -> OutputMatrix:
    """The output matrix of a model, as numbers."""
    output, config = model.session.model.output, model.config
    if output is None:
        raise UnsupportedError(f"{model.file.name}: the model has no output matrix")
    matrix, bias = output
    multiply = None if products.BLAS else matrix.multiply
    return OutputMatrix(matrix.dequantize(), bias, config.logit_scale, config.logit_cap, multiply)


def _divides(format: str, rank: int, d: int) -> bool:
    blocks = weight_format(format).block, weight_format(p_format(format)).block
    return rank % blocks[0] == 0 and d % blocks[1] == 0


def _read(model: Model, each: ScreenQuality) -> float:
    """What a token takes with a screen, as bytes of all rows of the output matrix that take as long
    to read."""
    q, vocab = weight_format(each.format), model.config.vocab
    p = weight_format(p_format(each.format))
    slower = _NIBBLES if q.bits_per_weight < p.bits_per_weight else 1
    screen = each.rank * p.row_bytes(model.config.d) + vocab * (slower * q.row_bytes(each.rank) + 4)
    return screen + _SCATTERED * each.rows * model.session.model.head_bytes[0]


def _best(
    model: Model, tried: Sequence[ScreenQuality], kl: float, agreement: float
) -> ScreenQuality | None:
    """The screen that takes least of those that are good enough, and less than all rows."""
    most = _MOST_SHARE * model.config.vocab * model.session.model.head_bytes[0]
    good = [each for each in tried if each.kl <= kl and each.agreement >= agreement]
    cheap = [each for each in good if _read(model, each) <= most]
    return min(cheap, key=lambda each: _read(model, each), default=None)


# ---- Measuring -----------------------------------------------------------------------------------


def _held(windows: Windows) -> Any:
    """The windows held out that are measured."""
    held = windows.held
    return held[: max(1, _HELD_TOKENS // held.shape[1])]


def _measured(
    source: Source | Sequence[Source],
    activation: str | None,
    pre: str | None,
    parts: dict[str, Any],
    windows: Windows,
    announce: Progress,
) -> HeadMeasure:
    """The screen in the core, on held-out tokens."""
    with scratch() as folder:
        path = folder / "screen.gguf"
        _write_companion(path, parts, force=True)
        with Model.load(source, activation=activation, pre=pre, companion=path) as model:
            held = _held(windows)
            tokens = [int(each) for each in held.ravel()[: _SPEED_TOKENS + 8]]
            tokens = tokens[: model.context]
            speeds = compare_heads(model, tokens[:8], tokens[8:], _SPEED_SECONDS)
            announce("measuring", (_TRIED + _WRITING) / 2)
            found = _compared(model, held)
            row, screen = model.session.model.head_bytes
    vocab_bytes = row * model.config.vocab
    rows = int(parts["metadata"][stored.ROWS_KEY].value)
    return HeadMeasure(
        kl=found.kl,
        agreement=found.agreement,
        perplexity=found.perplexity,
        perplexity_dense=found.perplexity_dense,
        read_share=(rows * row + screen) / vocab_bytes,
        tokens_per_s=speeds["screened"],
        dense_tokens_per_s=speeds["dense"],
    )


def _compared(model: Model, held: Any) -> Divergence:
    """The screened head beside the dense one."""
    sessions = [model.new_session(held.shape[1]) for _ in range(2)]
    try:
        sessions[1].set_head(False)
        mode = model.config.default_mode
        return divergence((sessions[0], mode), (sessions[1], mode), held)
    finally:
        for session in sessions:
            session.close()


# ---- The new file --------------------------------------------------------------------------------


def _parts(
    model: Model, chosen: ScreenQuality, screen: StoredScreen, tokens: int
) -> dict[str, Any]:
    """The keys and tensors of a screen."""
    metadata: dict[str, Any] = {
        stored.ROWS_KEY: TypedValue(chosen.rows, ValueType("u32")),
        f"{stored.KEYS}tokens": TypedValue(tokens, ValueType("u32")),
        f"{stored.KEYS}kl": chosen.kl,
        f"{stored.KEYS}agreement": chosen.agreement,
    }
    tensors: dict[str, Writable] = {
        stored.P: screen.p,
        stored.Q: screen.q,
        stored.BIAS: screen.bias,
    }
    name = model.file.metadata["general.architecture"]
    of = stored.fingerprint(model.file)
    return {"metadata": metadata, "tensors": tensors, "architecture": name, "of": of}


def _write_companion(target: Path, parts: dict[str, Any], *, keeps: str = "", force: bool) -> None:
    given = parts["architecture"], parts["of"], parts["metadata"], parts["tensors"]
    write_companion(target, *given, keeps=keeps, force=force)


def _write(
    model: Model,
    target: Path,
    parts: dict[str, Any],
    pre: str | None,
    beside: bool,
    force: bool,
) -> None:
    """Writes the companion, or the model with the screen."""
    if beside:
        _write_companion(target, parts, keeps=stored.INPUT_KEYS, force=force)
        return
    file: GgufFile = model.file
    metadata: dict[str, Any] = {
        key: value for key, value in file.typed_metadata().items() if not key.startswith("split.")
    }
    metadata["sparsefire.version"] = TypedValue(SPARSEFIRE_VERSION, ValueType("u32"))
    metadata |= parts["metadata"]
    if pre is not None:
        metadata[PRE_KEY] = pre
    tensors: dict[str, Writable] = {
        name: TensorData(info.format, info.shape, _bytes_of(file, name))
        for name, info in file.tensors.items()
    }
    write_gguf(target, metadata, {**tensors, **parts["tensors"]}, file.paths, force=force)


def _bytes_of(file: GgufFile, name: str) -> Callable[[], Any]:
    return lambda: file.tensor_data(name)
