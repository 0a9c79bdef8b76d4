"""What a machine can do at most, and what share of that layers and models reach."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .._arrays import FloatArray
from .._progress import Progress
from ..core import hosts
from ..core.core import Core
from ..core.enums import Peak
from ..errors import ArgumentError, UnsupportedError
from ..lm.model import Model
from ..lm.session import Session
from . import ROOFLINE_READ, ROOFLINE_REPEATS
from .ffn import LayerRuns
from .report import Report

_PEAK_SECONDS = 0.005  # of a run of operations, so that a clock measures it
_KINDS = {"floats": Peak.PEAK_FLOATS, "integers": Peak.PEAK_INTEGERS, "tiles": Peak.PEAK_TILES}
_SHORT = 8  # tokens before those that are decoded without much to attend to


@dataclass(frozen=True)
class Limit:
    """What ``threads`` threads do at most: ``what`` is "floats", "integers" or "tiles",
    multiplications and additions a second in registers, or "memory", bytes read a second."""

    what: str
    threads: int
    rate: float


@dataclass(frozen=True)
class Reached:
    """What a layer or a model does, and its ``share`` of ``limit``, with all threads of the
    core."""

    what: str
    rate: float
    limit: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Roofline(Report):
    """Limits of the machine and what products reach, medians over ``repeats``, all in turns.

    ``reached``: bytes of weights that a dense and a sparse layer read, that decoding with all
    neurons reads, and bytes of keys and values that attention reads, all a second; operations of
    the matrices in a prompt a second. What lies in a cache can be read faster than memory.
    """

    limits: tuple[Limit, ...]
    reached: tuple[Reached, ...]
    layer: str
    format: str
    model: str


def bench_roofline(
    d: int,
    hidden: int,
    *,
    format: str = "q8_0",
    active: float = 0.1,
    rank: int = 128,
    model: Model | None = None,
    prompt: int = 256,
    positions: int = 1024,
    read_bytes: int = ROOFLINE_READ,
    repeats: int = ROOFLINE_REPEATS,
    seed: int = 0,
    core: Core | None = None,
    progress: Progress | None = None,
) -> Roofline:
    """Measures the limits of the machine with the instruction set of ``core`` (default: the current
    one), then a gated layer of ``d`` inputs and ``hidden`` neurons with random weights in
    ``format``, dense and with a predictor of ``rank`` that selects the share ``active``.

    With a ``model``, which must be on that core, also a prompt of ``prompt`` random tokens,
    decoding, and what attention to ``positions`` tokens takes beside that to few. Both are cut to
    the model's context. ``read_bytes``: floats to read, more than caches hold.

    Errors: `ArgumentError`, `FormatError` (sizes not a multiple of the format's block),
    `UnsupportedError` (a model with experts, of which a token does not read all).
    """
    for name, value, least in (
        ("repeats", repeats, 1),
        ("read_bytes", read_bytes, 4),
        ("prompt", prompt, 1),
        ("positions", positions, 2 * _SHORT),
    ):
        if value < least:
            raise ArgumentError(f"{name} must be {least} or more, got {value}")
    if not 0 < active <= 1 or round(active * hidden) < 1:
        raise ArgumentError(f"active: {active} of {hidden} neurons is none, or more than all")
    core = core or (hosts.get_core() if model is None else model.core)
    if model is not None and model.core is not core:
        raise ArgumentError("the model is on another core than the one that is measured")
    random = np.random.default_rng(seed)
    found = _Found(list(_limits(core, read_bytes)))
    layer = LayerRuns(core, random, d, hidden, True, format, rank, round(active * hidden))
    found.uses += _of_layer(layer, random, active)
    if model is not None:
        found.uses += _of_model(model, random, prompt, positions)
    found.measure(repeats, progress)
    return Roofline(
        limits=tuple(found.limit(each) for each in found.limits),
        reached=tuple(found.reached(each, core.threads) for each in found.uses),
        layer=f"{d}x{hidden}",
        format=layer.ffn.format,
        model="" if model is None else model.config.name,
        backend=core.host,
        isa=core.isa,
        threads=core.threads,
        repeats=repeats,
    )


@dataclass
class _Run:
    """Something that is timed: ``amount`` operations or bytes. `prepare` runs untimed before it;
    seconds of ``less`` are taken off."""

    what: str
    amount: float
    run: Callable[[], object]
    threads: int = 0  # of limits
    limit: str = "memory"
    prepare: Callable[[], object] = lambda: None
    less: _Run | None = None
    times: list[float] = field(default_factory=list)

    def once(self) -> None:
        self.prepare()
        began = time.perf_counter()
        self.run()
        self.times.append(time.perf_counter() - began)

    @property
    def rate(self) -> float:
        """A second; 0 where less than nothing is left of the time."""
        seconds = statistics.median(self.times)
        if self.less is not None:
            seconds -= statistics.median(self.less.times)
        return self.amount / seconds if seconds > 0 else 0.0


class _Found:
    """Limits, and what is compared with them."""

    def __init__(self, limits: list[_Run]) -> None:
        self.limits = limits
        self.uses: list[_Run] = []

    def measure(self, repeats: int, progress: Progress | None) -> None:
        """Everything in turns, once to warm up."""
        every = [*self.limits, *self.uses]
        for index in range(repeats + 1):
            for run in every:
                run.once()
            every = every[1:] + every[:1]
            if progress is not None:
                progress(f"{index} of {repeats} repetitions", index / repeats)
        for run in every:
            del run.times[0]

    def limit(self, run: _Run) -> Limit:
        return Limit(run.what, run.threads, run.rate)

    def reached(self, run: _Run, threads: int) -> Reached:
        most = max(
            each.rate for each in self.limits if (each.what, each.threads) == (run.limit, threads)
        )
        return Reached(run.what, run.rate, run.limit, run.rate / most)


def _with_threads(core: Core, threads: int, isa: str) -> Core:
    same = threads == core.threads and isa == core.isa
    return core if same else hosts.open_core(core.host, isa, threads)


def _limits(core: Core, read_bytes: int) -> Iterator[_Run]:
    """What one thread and all of them compute, and what each number of threads reads."""
    few_and_all = sorted({1, core.threads})
    for what, kind in _KINDS.items():
        isa = "amx" if what == "tiles" else core.isa
        if isa not in core.supported_isas():
            continue
        for threads in few_and_all:
            yield _operations(_with_threads(core, threads, isa), what, kind)
    floats = np.ones(read_bytes // 4, np.float32)
    for threads in range(1, core.threads + 1):
        yield _reading(_with_threads(core, threads, core.isa), floats)


def _operations(core: Core, what: str, kind: Peak) -> _Run:
    out = np.zeros(1, np.float32)

    def run(repeats: int) -> float:
        began = time.perf_counter()
        core.check("sf_peak_run", core.context, kind, repeats, core.out(out), what=what)
        return time.perf_counter() - began

    repeats = 1000
    while run(repeats) < _PEAK_SECONDS and repeats < 1 << 29:
        repeats *= 2
    each = core.check("sf_peak_operations", core.context, kind)
    return _Run(what, float(each) * repeats * core.threads, lambda: run(repeats), core.threads)


def _reading(core: Core, floats: FloatArray) -> _Run:
    memory, out = core.upload(floats), np.zeros(1, np.float32)

    def run() -> None:
        core.check("sf_peak_read", core.context, memory, floats.size, core.out(out), what="reading")

    return _Run("memory", float(floats.nbytes), run, core.threads)


def _of_layer(layer: LayerRuns, random: np.random.Generator, active: float) -> Iterator[_Run]:
    """A dense and a sparse pass, each time with another input and so with other neurons."""
    x = np.zeros(layer.d, np.float32)

    def another() -> None:
        x[:] = random.standard_normal(layer.d, np.float32)

    another()
    dense = layer.ffn.nbytes
    sparse = layer.predictor.nbytes + round(active * layer.hidden) * dense // layer.hidden
    for mode, nbytes in (("dense", dense), ("sparse", sparse)):
        run = partial(layer.ffn.forward, x, mode=mode)
        yield _Run(f"{mode} layer", float(nbytes), run, prepare=another)


def _of_model(
    model: Model, random: np.random.Generator, prompt: int, positions: int
) -> Iterator[_Run]:
    """A prompt, decoding after a few tokens, and what decoding takes longer after many."""
    tensors = list(model.file.tensors.values())
    if any(len(each.shape) > 2 for each in tensors if each.name.endswith(".weight")):
        raise UnsupportedError(
            f"{model.config.name}: a roofline of a model with experts, of which a token does not "
            "read all"
        )
    blocks = [
        each
        for each in tensors
        if len(each.shape) == 2
        and each.name.startswith("blk.")
        and "predictor" not in each.name  # which dense mode does not read
    ]
    heads = [each for each in tensors if each.name == "output.weight"] or [
        each for each in tensors if each.name == "token_embd.weight"
    ]
    context = model.context
    ids = random.integers(0, model.config.vocab, context).tolist()
    prompt, positions = min(prompt, context), min(positions, context - 1)
    session, few, many = (model.new_session(context) for _ in range(3))
    for each in (session, few, many):
        each.set_head(False)  # all rows, whose bytes are counted
    few.feed(ids[:_SHORT], "dense")
    many.feed(ids[:positions], "dense")

    def restart() -> None:
        session.rewind(0, "dense")

    def before(another: Session, length: int) -> None:
        """Both kinds of decoding find in the caches what another token has left there."""
        few.rewind(_SHORT, "dense")
        few.step(ids[_SHORT])
        another.rewind(length, "dense")

    operations = 2.0 * prompt * sum(each.shape[0] * each.shape[1] for each in blocks)
    yield _Run(
        "prompt",
        operations,
        lambda: session.feed(ids[:prompt], "dense"),
        limit="tiles" if model.core.isa == "amx" else "floats",
        prepare=restart,
    )
    decode = _Run(
        "decode",
        float(sum(each.nbytes for each in [*blocks, *heads])),
        lambda: few.step(ids[_SHORT]),
        prepare=partial(before, few, _SHORT),
    )
    yield decode
    yield _Run(
        "attention",
        float(_saved(many) - _saved(few)),
        lambda: many.step(ids[positions]),
        prepare=partial(before, many, positions),
        less=decode,
    )


def _saved(session: Session) -> int:
    """Bytes of keys and values."""
    return session.core.call("sf_session_saved_bytes", session.handle)
