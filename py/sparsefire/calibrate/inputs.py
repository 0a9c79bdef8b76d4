"""Calibrating input sparsity: limits below which the inputs of products are left out when tokens
are decoded, their cost in perplexity, and whether they pay."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import FloatArray, IntArray
from .._files import check_output
from .._options import checked, flag, number, several
from .._progress import Progress
from ..arch import screen as stored
from ..arch.inputs import FORMAT, Site, input_sites
from ..errors import ArgumentError, UnsupportedError
from ..gguf.types import TypedValue, ValueType
from ..gguf.writer import gguf_package
from ..lm.compare import PROMPT_TOKENS, SPEED_TOKENS, compare_sessions, compare_with_dense
from ..lm.model import Model
from .companion import can_add, write_companion
from .report import PerplexityReport, is_hopeless
from .samples import CHECKS, Windows, check_wanted, cut

DEFAULT_TOKENS = 8_192
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

_RECORDED_BYTES = 256 << 20  # of inputs, all sites together
_RECORDED_TOKENS = 512
_HELD_TOKENS = 2_048  # on which perplexities are measured
_TIMED = 5  # products of a site
_LEAST_GAIN = 1.03  # less is noise
_RECORDED = 0.1  # share of the work


@dataclass(frozen=True)
class InputSetting:
    """Limits by site, and their effect on held-out text. ``share`` is the share of inputs that each
    site was to leave out, and ``left_out`` that of the inputs of the sites with a limit that were
    left out. The two speeds are of token-by-token decoding, with the limits and, ``plain``, of the
    model as it is, measured alternately."""

    share: float
    left_out: float
    perplexity: float
    tokens_per_s: float
    plain_tokens_per_s: float
    limits: dict[str, float]

    @property
    def speedup(self) -> float:
        """Speed over that of the model as it is."""
        return self.tokens_per_s / self.plain_tokens_per_s


@dataclass(frozen=True, kw_only=True)
class InputCalibration(PerplexityReport[InputSetting]):
    """The result of `calibrate_inputs`. ``sites`` is how many the model has whose matrices are in
    q4_0, and ``column_bytes`` what their copies in column order take in memory. Tokens are
    evaluated as in decoding. Settings are compared with the model as it is, in its ``mode``: dense,
    unless its neurons are sparse already; ``perplexity_dense`` is that of this mode."""

    sites: int
    column_bytes: int
    mode: str

    @property
    def idle(self) -> bool:
        """Whether no setting left out an input: products by rows are faster on this machine."""
        return all(each.left_out == 0 for each in self.settings)


@checked(**CHECKS, shares=several(number), perplexity_cost=number, even_if_slower=flag)
def calibrate_inputs(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    text: str,
    *,
    shares: Sequence[float] = SHARES,
    perplexity_cost: float = 0.01,
    even_if_slower: bool = False,
    tokens: int = DEFAULT_TOKENS,
    activation: str | None = None,
    pre: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> InputCalibration:
    """Finds limits below which inputs are left out (TEAL; Liu et al. 2024): for each of ``shares``
    the quantiles of the magnitudes of each site's inputs over a text, so that every site leaves out
    the same share. Measures what that costs in perplexity and gains in speed on this machine, and
    writes the fastest setting that costs at most ``perplexity_cost`` (0.01: 1 %), if it is faster
    than the model as it is, and leaves out inputs at all: where products by rows are faster, none
    are. Shares are tried in rising order, up to one that costs more than twice ``perplexity_cost``.
    Sites that do not get faster on this machine get no limit.

    A site is the input of matrices that share one: of queries, keys and values, of attention's
    output, of gate and up, and of down, in every layer, if all of them are in q4_0. They are then
    in memory twice.

    output: a companion file. By default that beside the model, NAME.sparsefire.gguf, which
      `Model.load` finds; the screen that one has stays in it.
    tokens: of the text, half for fitting and half held out.
    even_if_slower: writes the best setting even if dense is better, or nothing is left out here.

    Other arguments and errors as `sparsefire.calibrate.cutoffs.calibrate_cutoffs`, and
    `UnsupportedError` for a model without a site in q4_0. ``seed`` is not used.
    """
    if not shares or not all(0 < each <= 0.95 for each in shares):
        raise ArgumentError(f"shares must be above 0 and at most 0.95, got {list(shares)}")
    check_wanted(tokens, perplexity_cost)
    target = stored.companion_path(source) if output is None else Path(output)
    adds = output is None and can_add(target, stored.has_limits)
    check_output(target, [Path(source)], force=force or adds)
    gguf_package()
    announce = progress or (lambda _stage, _share: None)
    with Model.load(source, activation=activation, pre=pre, head="dense", inputs="dense") as model:
        adds = adds and can_add(target, stored.has_limits, stored.fingerprint(model.file))
        check_output(target, model.file.paths, force=force or adds)
        trial = _Trial(model, cut(model, text, tokens), announce)
        settings = trial.settings(sorted(shares), perplexity_cost)
        most = trial.perplexity_dense * (1 + perplexity_cost)
        cheap = [each for each in settings if each.perplexity <= most and each.left_out > 0]
        chosen = max(cheap, key=lambda each: each.speedup, default=None)
        if even_if_slower:
            chosen = chosen or min(settings, key=lambda each: each.perplexity)
        elif chosen is not None:
            # Measured again: the best of many may have been lucky.
            chosen = trial.measured(chosen.share, chosen.limits)
            chosen = chosen if chosen.speedup >= _LEAST_GAIN else None
        if chosen is not None:
            announce("writing", 0.99)
            _write(model, target, chosen, trial, beside=output is None)
    return InputCalibration(
        source=str(source),
        output=None if chosen is None else str(target),
        tokens=trial.windows.size,
        held_out_tokens=trial.held.size,
        sites=len(trial.sites),
        column_bytes=trial.column_bytes,
        mode=trial.mode,
        perplexity_dense=trial.perplexity_dense,
        perplexity_cost=perplexity_cost,
        settings=tuple(settings),
        chosen=chosen,
    )


class _Trial:
    """Tries limits on a model."""

    def __init__(self, model: Model, windows: Windows, announce: Progress) -> None:
        self.model, self.windows, self.announce = model, windows, announce
        self.mode = model.config.default_mode
        self._core_model = model.session.model
        self.sites = usable_sites(model)
        self.fit, held = windows.all[::2], windows.all[1::2]
        self.held = held[: max(1, _HELD_TOKENS // held.shape[1])]
        announce("reading the text", 0.0)
        room = _RECORDED_BYTES // (4 * sum(site.width for site in self.sites))
        ids = self.fit.reshape(-1)
        ids = ids[: min(len(ids), model.context, max(32, min(room, _RECORDED_TOKENS)))]
        self.inputs = recorded_inputs(model, self.sites, ids)
        for site in self.sites:
            for matrix in self._core_model.site_matrices(site):
                matrix.add_columns()
        self.column_bytes = sum(
            matrix.column_bytes
            for site in self.sites
            for matrix in self._core_model.site_matrices(site)
        )
        # The least limits let tokens be evaluated as in decoding; dense mode does not use them.
        self._core_model.set_input_limits({self.sites[0].name: 1e-30})
        self.perplexity_dense = self._perplexity(self.mode)

    def settings(self, shares: Sequence[float], most_cost: float) -> list[InputSetting]:
        """The settings of these shares, measured, in rising order, up to one that costs far more
        than is accepted."""
        found = []
        for place, share in enumerate(shares):
            done = _RECORDED + (0.98 - _RECORDED) * place / len(shares)
            self.announce("measuring perplexity and speed", done)
            limits = self._faster(limits_for(self.inputs, share))
            found.append(self.measured(share, limits))
            if is_hopeless(found[-1].perplexity, self.perplexity_dense, most_cost):
                break
        return found

    def measured(self, share: float, limits: dict[str, float]) -> InputSetting:
        """A setting with its perplexity and speed."""
        model = self.model
        self._core_model.set_input_limits(limits)
        perplexity = self._perplexity("sparse")
        left_out = model.stats.inputs_left_out
        ids = self.held.reshape(-1).tolist()
        speeds = self._compared(ids, limits)
        return InputSetting(share, left_out, perplexity, *speeds, limits)

    def _compared(self, ids: list[int], limits: dict[str, float]) -> tuple[float, float]:
        """Tokens a second with limits, and of the model as it is, which may leave out neurons: then
        both do, and limits, which are all sessions', are set for each turn."""
        if self.mode == "dense":
            return compare_with_dense(self.model, ids, "sparse")
        ways = {"limits": ("sparse", limits), "plain": (self.mode, {})}
        ids = ids[: min(PROMPT_TOKENS + SPEED_TOKENS, self.model.context)]
        prompt, rest = ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]
        sessions = {name: self.model.new_session(len(ids)) for name in ways}

        def before(name: str) -> None:
            self._core_model.set_input_limits(ways[name][1])

        try:
            for name, session in sessions.items():
                before(name)
                session.feed(prompt, ways[name][0])
            speeds = compare_sessions(sessions, rest, before=before)
        finally:
            for session in sessions.values():
                session.close()
            self._core_model.set_input_limits(limits)
        return speeds["limits"], speeds["plain"]

    def _perplexity(self, mode: str) -> float:
        return self.model.perplexity(
            self.held.reshape(-1), self.held.shape[1], mode=mode
        ).perplexity

    def _faster(self, limits: dict[str, float]) -> dict[str, float]:
        """The limits of the sites that are faster with them; all of them if none is. Sites whose
        matrices have the same shapes are timed together, one after another, so that their weights
        are in the same level of cache as in decoding."""
        kinds: dict[tuple[tuple[int, int], ...], list[Site]] = {}
        for site in self.sites:
            shapes = tuple(each.shape for each in self._core_model.site_matrices(site))
            kinds.setdefault(shapes, []).append(site)
        kept: dict[str, float] = {}
        for sites in kinds.values():
            times = np.array([self._seconds(site, limits[site.name]) for site in sites])
            dense, sparse = np.median(times, axis=0)
            if sparse < dense:
                kept |= {site.name: limits[site.name] for site in sites}
        return kept or limits

    def _seconds(self, site: Site, limit: float) -> tuple[float, float]:
        """The time of a site's products with all inputs, and with some."""
        matrices, spent = self._core_model.site_matrices(site), np.zeros((2, _TIMED))
        for turn in range(_TIMED):
            x = self.inputs[site.name][turn % len(self.inputs[site.name])]
            for way in (0, 1) if turn % 2 else (1, 0):
                began = time.perf_counter()
                for matrix in matrices:
                    if way:
                        matrix.multiply_above(x, limit)
                    else:
                        matrix.multiply(x)
                spent[way, turn] = time.perf_counter() - began
        dense, sparse = np.median(spent, axis=1)
        return float(dense), float(sparse)


def recorded_inputs(model: Model, sites: Sequence[Site], ids: IntArray) -> dict[str, FloatArray]:
    """The inputs (tokens, width) of sites by their names, for token ids in dense mode."""
    core, handle = model.core, model.session.model.handle
    name, memories = "sf_model_record_inputs", {}
    try:
        for site in sites:
            memory = memories[site.name] = core.memory(4 * len(ids) * site.width)
            given = site.step, site.part, memory, len(ids) * site.width
            core.check(name, handle, *given, what=site.name)
        model.logits(ids, mode="dense")
        found = {}
        for site in sites:
            inputs = np.empty((len(ids), site.width), np.float32)
            memories[site.name].read(inputs)
            found[site.name] = inputs
    finally:
        for site in sites:
            core.check(name, handle, site.step, site.part, None, 0, what=site.name)
        for memory in memories.values():
            memory.close()
    return found


def limits_for(inputs: Mapping[str, FloatArray], share: float) -> dict[str, float]:
    """The limits by site below which this share of its inputs is."""
    return {name: float(np.quantile(np.abs(each), share)) for name, each in inputs.items()}


def usable_sites(model: Model) -> list[Site]:
    """The sites whose matrices are in q4_0, each name once; `UnsupportedError` if there is none."""
    found: dict[str, Site] = {}
    formats: set[str] = set()
    for site in input_sites(model.session.model.plan):
        matrices = model.session.model.site_matrices(site)
        formats |= {matrix.format for matrix in matrices}
        if matrices and all(matrix.format == FORMAT for matrix in matrices):
            found.setdefault(site.name, site)
    if not found:
        raise UnsupportedError(
            f"{model.file.name}: no product can leave out inputs: that needs weights in q4_0, and "
            f"these are in {', '.join(sorted(formats)) or 'layers of experts or of neurons'}; "
            "`sparsefire quantize IN.gguf OUT.gguf q4_0` writes a model in q4_0"
        )
    return list(found.values())


def limit_keys(setting: InputSetting, tokens: int, cost: float) -> dict[str, Any]:
    """The keys of a file with these limits, found on so many tokens, at this cost in perplexity."""
    return {
        stored.NAMES_KEY: list(setting.limits),
        stored.LIMITS_KEY: np.array(list(setting.limits.values()), np.float32),
        f"{stored.INPUT_KEYS}tokens": TypedValue(tokens, ValueType("u32")),
        f"{stored.INPUT_KEYS}left_out": setting.left_out,
        f"{stored.INPUT_KEYS}perplexity_cost": cost,
    }


def _write(
    model: Model, target: Path, setting: InputSetting, trial: _Trial, *, beside: bool
) -> None:
    """Writes the companion. One that stands beside the model keeps its screen."""
    cost = setting.perplexity / trial.perplexity_dense - 1
    metadata = limit_keys(setting, trial.windows.size, cost)
    name, of = str(model.file.metadata["general.architecture"]), stored.fingerprint(model.file)
    keeps = stored.KEYS if beside else ""
    write_companion(target, name, of, metadata, {}, keeps=keeps, force=True)
