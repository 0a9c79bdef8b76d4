"""What calibrations found, used together: which settings, and their effect on held-out text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._arrays import IntArray
from ..arch.inputs import input_sites
from ..fit.head import ScreenQuality
from ..lm.compare import PROMPT_TOKENS, SPEED_TOKENS, compare_sessions
from ..lm.layer_bytes import LayerBytes
from ..lm.model import Model
from ..lm.session import DECODED, PROMPTED, Session
from .cutoffs import CutoffSetting, add_second_downs, set_cutoffs
from .divergence import divergence
from .inputs import InputSetting

METHODS = ("predictors", "cutoffs", "inputs", "head")

_SPEED_SECONDS = 3.0  # for each of what is timed in turns


@dataclass(frozen=True)
class Rung:
    """A setting of a method: what it costs, as the logarithm of the perplexity over the dense one,
    and the share of a token's time that it saves, both as measured alone."""

    method: str
    cost: float
    saved: float
    setting: Any  # as in `Combination`


@dataclass
class Parts:
    """The settings that were found, why a method has none, and the files that hold a screen, the
    model with predictors, and the screen for that one, where there are some. ``tokens`` is how many
    of the text were used at most."""

    rungs: list[Rung] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    screen: Path | None = None
    predicted: Path | None = None
    predicted_screen: Path | None = None
    tokens: int = 0


def shared_out(rungs: Sequence[Rung], budget: float) -> dict[str, Rung]:
    """The settings, one a method at most, that a budget of cost is spent on: again and again the
    step, from a method's setting to one that saves more, which saves most for what it costs more,
    of those that the rest of the budget allows."""
    chosen: dict[str, Rung] = {}
    while True:
        left = budget - sum(max(each.cost, 0.0) for each in chosen.values())
        best, best_rate = None, 0.0
        for each in rungs:
            before = chosen.get(each.method)
            cost = max(each.cost, 0.0) - (max(before.cost, 0.0) if before else 0.0)
            saved = each.saved - (before.saved if before else 0.0)
            rate = saved / max(cost, 1e-6)
            if saved > 0 and cost <= left and rate > best_rate:
                best, best_rate = each, rate
        if best is None:
            return chosen
        chosen[best.method] = best


def rescaled(rungs: Sequence[Rung], saved: float) -> list[Rung]:
    """The settings of a method when the one that saves most saves this, the others in proportion;
    without those that then save nothing, but for that one."""
    most = max(rungs, key=lambda each: each.saved)
    if most.saved <= 0:
        return [replace(most, saved=saved)]
    return [replace(each, saved=each.saved * saved / most.saved) for each in rungs]


def cheaper(picked: Mapping[str, Rung], rungs: Sequence[Rung]) -> dict[str, Rung]:
    """The settings with one of them cheaper, or its method left out: the one that loses least time
    for what it saves of the cost."""
    best, best_rate = dict(picked), math.inf
    for method, rung in picked.items():
        own = (each for each in rungs if each.method == method and each.cost < rung.cost)
        lower = max(own, key=lambda each: each.saved, default=None)
        rest = {name: each for name, each in picked.items() if name != method}
        lost = rung.saved - (lower.saved if lower else 0.0)
        less = rung.cost - (lower.cost if lower else 0.0)
        if lost / max(less, 1e-6) < best_rate:
            best_rate = lost / max(less, 1e-6)
            best = rest | {method: lower} if lower else rest
    return best


@dataclass(frozen=True)
class Combination:
    """What is used of a model, of `METHODS`; None is not."""

    predictors: float | None = None  # their recall
    cutoffs: CutoffSetting | None = None
    inputs: InputSetting | None = None
    head: ScreenQuality | None = None

    @classmethod
    def of(cls, rungs: Mapping[str, Rung]) -> Combination:
        """The settings of these."""
        return cls(**{name: each.setting for name, each in rungs.items()})

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that are used."""
        return tuple(name for name in METHODS if getattr(self, name) is not None)

    @property
    def details(self) -> tuple[str, ...]:
        """Their settings, in words."""
        found = []
        if self.predictors is not None:
            found.append(f"recall {self.predictors:g}")
        if self.cutoffs is not None:
            found.append(f"{100 * self.cutoffs.left_out:.0f} % by {self.cutoffs.on}")
        if self.inputs is not None:
            found.append(f"{100 * self.inputs.left_out:.0f} % left out")
        if self.head is not None:
            found.append(f"rank {self.head.rank}, {self.head.rows:,} rows")
        return tuple(found)

    def without(self, method: str) -> Combination:
        """The same without one of them."""
        return replace(self, **{method: None})

    def limits(self, model: Model) -> dict[str, float]:
        """The limits of inputs by site: of layers with a cutoff, attention's alone, and none of
        layers with predictors, which do not leave out inputs."""
        if self.inputs is None:
            return {}
        core_model, found = model.session.model, {}
        for site in input_sites(core_model.plan):
            limit, layer = self.inputs.limits.get(site.name), site.layer
            cut = layer is not None and self.cutoffs is not None and self.cutoffs.cutoffs[layer] > 0
            if limit is not None and not cut and core_model.site_matrices(site):
                found[site.name] = limit
        return found


@dataclass(frozen=True)
class MethodMeasure:
    """Methods, one or several, on held-out tokens.

    ``details`` are their settings in words, ``mode`` is the one that they run in, ``kl``, nats, the
    mean divergence from the dense model, ``agreement`` the share of tokens whose most likely one is
    the same, ``read_bytes`` the weights that a token reads when it is decoded, and
    ``dense_tokens_per_s`` the speed of dense decoding, measured alternately with ``tokens_per_s``.
    """

    methods: tuple[str, ...]
    details: tuple[str, ...]
    mode: str
    perplexity: float
    kl: float
    agreement: float
    read_bytes: float
    tokens_per_s: float
    dense_tokens_per_s: float

    @property
    def speedup(self) -> float:
        """Speed over that of dense decoding."""
        return self.tokens_per_s / self.dense_tokens_per_s


class Trial:
    """A model that combinations are tried on, and the file of it with predictors, if there is one,
    with held-out tokens (windows, length)."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        activation: str | None,
        pre: str | None,
        parts: Parts,
        held: IntArray,
    ) -> None:
        self.held, methods = held, {each.method for each in parts.rungs}
        self.cutoffs = "cutoffs" in methods
        # Inputs are left out in decoding alone; whatever is compared is evaluated alike.
        self.mark = DECODED if "inputs" in methods else PROMPTED
        self.models: list[Model] = []
        screens = parts.screen, parts.predicted_screen
        try:
            for path, screen in zip((source, parts.predicted), screens, strict=True):
                if path is not None:
                    head = "dense" if screen is None else "screened"
                    options: dict[str, Any] = {"head": head, "companion": screen, "pre": pre}
                    options |= {"activation": activation, "inputs": "dense"}
                    self.models.append(Model.load(path, **options))
            self.none = (0.0,) * len(self.models[0].layers)
            if self.cutoffs:
                add_second_downs(self.models[0])
        except BaseException:
            self.close()
            raise
        self.has_screen = parts.screen is not None
        self._effects: list[tuple[Combination, tuple[MethodMeasure, float]]] = []

    def close(self) -> None:
        """Closes the models."""
        for each in self.models:
            each.close()

    def model(self, combination: Combination) -> Model:
        """The model with these predictors or without."""
        return self.models[0 if combination.predictors is None else 1]

    def mode(self, combination: Combination) -> str:
        """The mode in which a file with this runs."""
        head_alone = set(combination.methods) <= {"head"}
        return self.models[0].config.default_mode if head_alone else "sparse"

    def apply(self, combination: Combination) -> Model:
        """The model, with these cutoffs and limits set."""
        model, chosen = self.model(combination), combination.cutoffs
        model.session.model.set_input_limits(combination.limits(model))
        if self.cutoffs and combination.predictors is None:
            on, values = (chosen.on, chosen.cutoffs) if chosen else ("product", self.none)
            set_cutoffs(model, on, values)
        return model

    def measured(self, combination: Combination) -> tuple[MethodMeasure, float]:
        """The effect on the held-out tokens, whose speeds are not measured yet, and the dense
        perplexity; a combination is evaluated once."""
        for known, effect in self._effects:
            if known == combination:
                return effect
        effect = self._evaluated(combination)
        self._effects.append((combination, effect))
        return effect

    def _evaluated(self, combination: Combination) -> tuple[MethodMeasure, float]:
        model, mode = self.apply(combination), self.mode(combination)
        named = {"": Combination(), "it": combination}
        if self._is_dense(combination):
            del named["it"]
        with self._sessions(named, self.held.shape[1]) as sessions:
            exact, it = sessions[""], sessions.get("it", sessions[""])
            found = divergence((it, mode), (exact, "dense"), self.held, self.mark)
            read = read_bytes(model, combination, it, mode)
        quality = found.perplexity, found.kl, found.agreement
        measure = MethodMeasure(
            combination.methods, combination.details, mode, *quality, read, 0.0, 0.0
        )
        return measure, found.perplexity_dense

    def _is_dense(self, combination: Combination) -> bool:
        return not combination.methods and self.mode(combination) == "dense"

    def dense_bytes(self) -> float:
        """Bytes of weights that a token reads in dense mode."""
        model = self.models[0]
        of, rest = _outside(model)
        return rest + of.dense + model.config.vocab * model.session.model.head_bytes[0]

    def speeds(self, combinations: Sequence[Combination]) -> list[tuple[float, float]]:
        """Tokens a second of each, and of dense decoding, all that differ in turns."""
        different: dict[str, Combination] = {}
        names = []
        for each in combinations:
            same = (name for name, other in different.items() if other == each)
            name = "" if self._is_dense(each) else next(same, str(len(different)))
            names.append(name)
            if name:
                different[name] = each
        model = self.models[0]
        length = min(PROMPT_TOKENS + SPEED_TOKENS, model.context, self.held.size)
        ids = self.held.reshape(-1)[:length].tolist()
        prompt = ids[: min(PROMPT_TOKENS, length // 2)]
        everything = {"": Combination()} | different
        with self._sessions(everything, length) as sessions:
            for name, session in sessions.items():
                self.apply(everything[name])
                session.feed(prompt, self.mode(everything[name]) if name else "dense")
            seconds = _SPEED_SECONDS * len(sessions)

            def before(name: str) -> None:
                self.apply(everything[name])

            found = compare_sessions(sessions, ids[len(prompt) :], seconds, before)
        return [(found[name], found[""]) for name in names]

    @contextmanager
    def _sessions(
        self, combinations: Mapping[str, Combination], length: int
    ) -> Iterator[dict[str, Session]]:
        """A session for each, by name."""
        found = {}
        try:
            for name, each in combinations.items():
                found[name] = self.model(each).new_session(length)
                found[name].set_head(each.head is not None)
            yield found
        finally:
            for session in found.values():
                session.close()


def _outside(model: Model) -> tuple[LayerBytes, float]:
    """The bytes of a model's layers, and those that every token reads outside them, but for the
    output matrix and its screen."""
    core_model = model.session.model
    of, (row, screen), shown = (
        LayerBytes(model.file, core_model.plan),
        core_model.head_bytes,
        core_model.plan.screen,
    )
    return of, of.other - (shown.rows * row + screen if shown else model.config.vocab * row)


def read_bytes(model: Model, combination: Combination, session: Session, mode: str) -> float:
    """Bytes of weights that a token of the session read, from the counts of neurons, of rows of the
    output matrix, and of inputs."""
    core_model, tokens = model.session.model, max(session.evaluated, 1)
    (of, total), (row, screen) = _outside(model), core_model.head_bytes
    logits, rows = session.head_rows.tolist()
    total += rows / max(logits, 1) * row + (screen if combination.head is not None else 0)
    selected, active = session.selected / tokens, session.active / tokens
    cutoffs, limits = combination.cutoffs, combination.limits(model)
    if mode == "dense":
        total += of.dense
    elif cutoffs is not None and cutoffs.on == "product":
        # Gate and up of every neuron, and down where the product is large.
        total += float((session.hidden * (of.first + of.rest / 2) + active * of.rest / 2).sum())
    else:
        total += of.read(mode, selected, active)
    inputs, multiplied = session.inputs.tolist()
    left_out = 1 - multiplied / inputs if inputs else 0.0
    sites = [each for each in input_sites(core_model.plan) if each.name in limits]
    matrices = [matrix for site in sites for matrix in core_model.site_matrices(site)]
    return float(total - left_out * sum(matrix.nbytes for matrix in matrices))
