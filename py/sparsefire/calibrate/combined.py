"""Calibrating by every method that suits a model, together under one acceptable cost."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._files import check_output, scratch
from .._options import checked, flag, number, several
from .._progress import Progress
from ..arch import screen as stored
from ..errors import ArgumentError
from ..gguf.writer import gguf_package, write_gguf
from ..lm.model import Model
from ..text.pretokenizer import PRE_KEY
from .combination import (
    METHODS,
    Combination,
    MethodMeasure,
    Parts,
    Rung,
    Trial,
    cheaper,
    rescaled,
    shared_out,
)
from .companion import screen_tensors, write_companion
from .cutoffs import cutoff_keys, file_keys, file_tensors
from .inputs import limit_keys
from .parts import Fitting, Wanted
from .report import PerplexityReport
from .samples import CHECKS, check_wanted, divided

_HELD_TOKENS = 2_048
_LEAST_GAIN = 1.03  # over what costs nothing; less is noise
_LEAST_PART = 1.01  # of a method, over the others without it
_FITTED = 0.7  # share of the work
_SPENT = "the acceptable cost is spent better on other methods"


@dataclass(frozen=True, kw_only=True)
class CombinedCalibration(PerplexityReport[MethodMeasure]):
    """The result of `calibrate_all`. ``settings`` has each method alone, with the setting that is
    fastest at the acceptable cost, and ``unused`` why a method is not in ``chosen``. ``free`` is
    what costs nothing and needs no file: exact mode of a model with exact zeros, or sparse mode of
    one that is calibrated; None where that is dense mode. ``kl`` is the acceptable divergence, if
    that is what was asked for in place of ``perplexity_cost``; ``dense_bytes`` the weights that a
    token reads in dense mode."""

    kl: float | None
    dense_bytes: float
    free: MethodMeasure | None
    unused: dict[str, str]


@checked(
    **CHECKS,
    perplexity_cost=number,
    kl=number,
    agreement=number,
    recall=number,
    shares=several(number),
    even_if_slower=flag,
)
def calibrate_all(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    text: str,
    *,
    perplexity_cost: float = 0.01,
    kl: float | None = None,
    agreement: float = 0.999,
    shares: Sequence[float] | None = None,
    recall: float = 0.99,
    even_if_slower: bool = False,
    tokens: int | None = None,
    activation: str | None = None,
    pre: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> CombinedCalibration:
    """Calibrates a model by every method that suits it, and finds the combination that decodes
    fastest on this machine at one acceptable cost.

    Three of 20 parts of the text are held out. On the others each method is calibrated as by
    itself. The budget is then spent greedily on the settings that save most time for what they
    cost; the combination is measured on the tokens held out, a method that costs most for what it
    saves takes a cheaper setting, or is left out, until the cost is acceptable, and so is one
    without which the others are as fast. Nothing is written where nothing is faster.

    output: a new model file. Without one, what is found goes into the companion beside the model,
      NAME.sparsefire.gguf, which can hold a screen of the output matrix and limits of inputs;
      predictors and cutoffs are in new files alone.
    perplexity_cost: acceptable increase in perplexity (0.01: 1 %), of all methods together; a
      screen's part is its divergence, as its effect on the perplexity of so few tokens is chance.
    kl: acceptable divergence from the dense model in nats, in place of ``perplexity_cost``.
    shares: of neurons to skip, and of inputs to leave out, that are tried; by default each method's
      own.
    agreement, recall: as for `sparsefire.calibrate.head.calibrate_head` and `calibrate_model`.
    tokens: of the text, for each method; by default each method's own.
    even_if_slower: writes the combination of all methods that suit the model, at the acceptable
      cost, even if that is not faster.

    Other arguments and errors as `sparsefire.calibrate.cutoffs.calibrate_cutoffs`.
    """
    check_wanted(tokens, perplexity_cost)
    if kl is not None and not kl > 0:
        raise ArgumentError(f"kl must be above 0, got {kl}")
    target = stored.companion_path(source) if output is None else Path(output)
    check_output(target, [Path(source)], force=force)
    gguf_package()
    announce = progress or (lambda _stage, _share: None)
    wanted = Wanted(perplexity_cost, kl, agreement, recall)
    options: dict[str, Any] = {"activation": activation, "pre": pre, "seed": seed}
    if tokens is not None:
        options["tokens"] = tokens
    with scratch(target) as folder:
        with Model.load(
            source, activation=activation, pre=pre, head="dense", inputs="dense"
        ) as model:
            check_output(target, model.file.paths, force=force)
            announce("dividing the text", 0.0)
            fitted, held = divided(model, text, _HELD_TOKENS)
            given = model, source, fitted, folder, output is not None, wanted, options
            parts = Fitting(*given, shares).parts(
                lambda stage, done: announce(stage, _FITTED * done)
            )
        with closing(Trial(source, activation, pre, parts, held)) as trial:
            search = _Search(trial, parts, wanted, even_if_slower, announce)
            found = search.run()
            if found is not None:
                announce("writing", 0.99)
                _write(search, found, target, pre, beside=output is None)
    return CombinedCalibration(
        source=str(source),
        output=None if found is None else str(target),
        tokens=parts.tokens,
        held_out_tokens=held.size,
        perplexity_dense=search.perplexity_dense,
        perplexity_cost=perplexity_cost,
        settings=tuple(search.alone.values()),
        chosen=None if found is None else search.chosen,
        kl=kl,
        dense_bytes=search.dense_bytes,
        free=search.free if search.free.mode != "dense" else None,
        unused=parts.unused,
    )


# ---- The search ----------------------------------------------------------------------------------


class _Search:
    """Finds the fastest combination at the acceptable cost. ``alone`` has what each method does by
    itself, ``free`` what costs nothing, ``chosen`` what the combination does."""

    def __init__(
        self, trial: Trial, parts: Parts, wanted: Wanted, forced: bool, announce: Progress
    ) -> None:
        self.trial, self.wanted, self.forced, self.announce = trial, wanted, forced, announce
        self.unused, self.tokens = parts.unused, parts.tokens
        self.rungs = list(parts.rungs)
        self.alone: dict[str, MethodMeasure] = {}
        self._alone: dict[str, Combination] = {}
        self.perplexity_dense = 1.0
        self.free = self._measured(Combination())
        self.dense_bytes = trial.dense_bytes()
        self.chosen = self.free

    def run(self) -> Combination | None:
        """The combination, or None if nothing is worth writing."""
        for method in METHODS:
            if any(each.method == method for each in self.rungs):
                self._try_alone(method)
        self._drop_slow()
        found, measure = self._together()
        return self._judged(found, measure)

    def _measured(self, combination: Combination) -> MethodMeasure:
        self.announce("measuring together", _FITTED)
        measure, self.perplexity_dense = self.trial.measured(combination)
        return measure

    def _cost(self, combination: Combination) -> float:
        """In nats a token. A screen costs its divergence: what it does to unlikely tokens, of which
        a text has some, is chance, and even out of thousands of tokens does not cancel."""
        measure = self._measured(combination)
        if self.wanted.kl is not None:
            return measure.kl
        if combination.head is None:
            return math.log(measure.perplexity / self.perplexity_dense)
        screen = Combination(head=combination.head)
        return self._cost(combination.without("head")) + self._measured(screen).kl

    def _is_cheap(self, combination: Combination) -> bool:
        return self._cost(combination) <= self.wanted.budget

    def _try_alone(self, method: str) -> None:
        """Measures the setting of a method that saves most at the acceptable cost; those that cost
        more on the held-out tokens are not used further."""
        own = [each for each in self.rungs if each.method == method]
        for rung in sorted(own, key=lambda each: each.saved, reverse=True):
            if rung.cost <= self.wanted.budget:
                combination = Combination.of({method: rung})
                if self._is_cheap(combination):
                    self.alone[method] = self._measured(combination)
                    self._alone[method] = combination
                    return
            self.rungs.remove(rung)
        self.unused[method] = "no setting is within the acceptable cost"

    def _drop_slow(self) -> None:
        """Leaves out the methods that are not faster by themselves than what costs nothing; what
        the settings of others save is set right by what was measured of one of them here."""
        self._time(None)
        for method, measure in self.alone.items():
            gain = measure.tokens_per_s / self.free.tokens_per_s
            own = [each for each in self.rungs if each.method == method]
            self.rungs = [each for each in self.rungs if each.method != method]
            if gain < _LEAST_PART and not self.forced:
                self.unused[method] = f"not faster on this machine: {gain:.2f}× the speed without"
            else:
                self.rungs += rescaled(own, 1 - 1 / measure.speedup)

    def _time(self, together: Combination | None) -> MethodMeasure | None:
        """Measures the speeds of all in turns, and gives that of the combination."""
        named = [Combination(), *self._alone.values()]
        rows = [self.free, *self.alone.values()]
        if together is not None:
            named, rows = [*named, together], [*rows, self.chosen]
        speeds = self.trial.speeds(named)
        timed = [
            replace(row, tokens_per_s=speed, dense_tokens_per_s=dense)
            for row, (speed, dense) in zip(rows, speeds, strict=True)
        ]
        self.free = timed[0]
        self.alone = dict(zip(self.alone, timed[1:], strict=False))
        return None if together is None else timed[-1]

    def _together(self) -> tuple[Combination | None, MethodMeasure]:
        """The combination of which every method pays, and its effect."""
        methods = {each.method for each in self.rungs}
        while methods:
            rungs = [each for each in self.rungs if each.method in methods]
            picked = shared_out(rungs, self.wanted.budget)
            if self.forced:
                for method in methods - picked.keys():
                    own = (each for each in rungs if each.method == method)
                    picked[method] = min(own, key=lambda each: each.cost)
            before = picked.keys()
            picked, measure = self._within_cost(picked)
            for method in sorted(before - picked.keys()):
                self.unused.setdefault(method, _SPENT)
            if not picked:
                break
            idle = None if self.forced else self._idle(picked)
            if idle is None:
                for method in sorted(methods - picked.keys() - self.unused.keys()):
                    self.unused[method] = _SPENT
                return Combination.of(picked), measure
            self.unused[idle] = "the other methods are as fast without it"
            methods = picked.keys() - {idle}
        return None, self.free

    def _within_cost(self, picked: dict[str, Rung]) -> tuple[dict[str, Rung], MethodMeasure]:
        """The settings with cheaper ones where that loses least for what it saves, until what they
        cost together is acceptable."""
        while picked:
            combination = Combination.of(picked)
            if "inputs" in picked and not combination.limits(self.trial.model(combination)):
                self.unused["inputs"] = "its products have cutoffs or predictors"
                picked = {name: each for name, each in picked.items() if name != "inputs"}
                continue
            if self._is_cheap(combination):
                return picked, self._measured(combination)
            picked = cheaper(picked, self.rungs)
        return picked, self.free

    def _idle(self, picked: dict[str, Rung]) -> str | None:
        """A method without which the others are as fast."""
        if len(picked) < 2:
            return None
        together = Combination.of(picked)
        others = {method: together.without(method) for method in picked}
        speeds = self.trial.speeds([together, *others.values()])
        (fast, _), *rest = speeds
        gains = {method: fast / speed for method, (speed, _) in zip(others, rest, strict=True)}
        least = min(gains, key=lambda each: gains[each])
        return least if gains[least] < _LEAST_PART else None

    def _judged(self, found: Combination | None, measure: MethodMeasure) -> Combination | None:
        """Times everything once more in one run; the fastest of the combination and of each method
        alone, or None if that is not faster than what costs nothing."""
        if found is None:
            return None
        self.chosen = measure
        timed = self._time(found)
        assert timed is not None
        self.chosen = timed
        if self.forced:
            return found
        for name in self._alone:
            if self.unused.get(name, _SPENT) != _SPENT and name not in found.methods:
                continue
            if self.alone[name].tokens_per_s > _LEAST_PART * self.chosen.tokens_per_s:
                found, self.chosen = self._alone[name], self.alone[name]
        for name in found.methods:
            self.unused.pop(name, None)
        if self.chosen.tokens_per_s < _LEAST_GAIN * self.free.tokens_per_s:
            return None
        for name in self.alone.keys() - set(found.methods) - self.unused.keys():
            self.unused[name] = "the other methods are faster without it"
        return found


# ---- The new file --------------------------------------------------------------------------------


def _write(
    search: _Search, found: Combination, target: Path, pre: str | None, *, beside: bool
) -> None:
    """Writes the companion, or a new model with everything in it."""
    trial, tokens = search.trial, search.tokens
    model, cost = trial.apply(found), search.chosen.perplexity / search.perplexity_dense - 1
    metadata: dict[str, Any] = {}
    if found.inputs is not None:
        limits = replace(found.inputs, limits=found.limits(model))
        metadata |= limit_keys(limits, tokens, cost)
    if not beside:
        if found.cutoffs is not None:
            metadata |= cutoff_keys(found.cutoffs, tokens, cost)
        if pre is not None:
            metadata[PRE_KEY] = pre
        cutoffs = found.cutoffs.cutoffs if found.cutoffs else ()
        tensors = file_tensors(model, cutoffs)
        kept = file_keys(model)
        if trial.has_screen and found.head is None:
            kept = {key: value for key, value in kept.items() if not key.startswith(stored.KEYS)}
            tensors = {name: each for name, each in tensors.items() if name not in stored.TENSORS}
        write_gguf(target, kept | metadata, tensors, model.file.paths, force=True)
        return
    tensors = {}
    if found.head is not None:
        keys = model.file.typed_metadata().items()
        metadata |= {key: value for key, value in keys if key.startswith(stored.KEYS)}
        tensors = screen_tensors(model.file)
    name, of = str(model.file.metadata["general.architecture"]), stored.fingerprint(model.file)
    write_companion(target, name, of, metadata, tensors, force=True)
