"""The methods of calibration, each by itself, as parts of a combination."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._progress import Progress
from ..arch import screen as stored
from ..errors import CalibrationError, UnsupportedError
from ..gguf.reader import GgufFile
from ..lm.compare import compare_with_dense
from ..lm.model import Model
from .combination import Parts, Rung
from .companion import screen_tensors, write_companion
from .cutoffs import SPARSITIES, calibrate_cutoffs
from .head import calibrate_head
from .inputs import SHARES, calibrate_inputs
from .predictors import calibrate_model

SCREEN_PART = 0.5  # of the budget: the screen is one, chosen before what else is spent is known
_NEW_FILE = "is stored in a new model file alone: give the name of one (-o OUT.gguf)"


@dataclass(frozen=True)
class Wanted:
    """What is acceptable: an increase in perplexity, or, if it is given, a divergence in nats."""

    perplexity_cost: float
    kl: float | None
    agreement: float
    recall: float

    @property
    def budget(self) -> float:
        """In nats a token: of the loss, as a divergence is on text that the dense model writes."""
        return math.log1p(self.perplexity_cost) if self.kl is None else self.kl


@dataclass(frozen=True)
class Fitting:
    """What all methods are calibrated with. ``folder`` takes their files; ``new_file``: the result
    may be a new model file; ``options`` are the arguments that all of them have."""

    model: Model
    source: str | os.PathLike[str]
    text: str
    folder: Path
    new_file: bool
    wanted: Wanted
    options: dict[str, Any]
    shares: Sequence[float] | None  # to leave out; None: those of each method

    def parts(self, announce: Progress) -> Parts:
        """Calibrates by each method."""
        found = Parts()
        methods = {
            "predictors": self._predictors,
            "cutoffs": self._cutoffs,
            "inputs": self._inputs,
            "head": self._head,
        }
        for place, (name, fit) in enumerate(methods.items()):

            def show(stage: str, share: float, name: str = name, place: int = place) -> None:
                announce(f"{name}: {stage}", (place + share) / len(methods))

            try:
                found.rungs += fit(found, show)
            except (UnsupportedError, CalibrationError) as error:
                reason = str(error).removeprefix(f"{self.model.file.name}: ")
                found.unused[name] = " ".join(reason.split())
        if found.screen is not None and found.predicted is not None:
            found.predicted_screen = self._screen_of(found.predicted, found.screen)
        return found

    def _predictors(self, found: Parts, announce: Progress) -> list[Rung]:
        config = self.model.config
        if config.calibrated:
            raise UnsupportedError("the model is calibrated already")
        if not config.activation.is_relu_family:
            raise UnsupportedError(f"{config.activation} has hardly any exact zeros")
        if not self.new_file:
            raise UnsupportedError(_NEW_FILE)
        path, options = self.folder / "predicted.gguf", self.options
        report = calibrate_model(
            self.source, path, self.text, recall=self.wanted.recall, progress=announce, **options
        )
        found.predicted, found.tokens = path, max(found.tokens, report.tokens)
        with Model.load(path, activation=options["activation"], inputs="dense") as model:
            ids = model.tokenize(self.text, special=False)
            speed, dense = compare_with_dense(model, ids, "sparse")
        cost = math.log(report.perplexity_sparse / report.perplexity_dense)
        saved = 1 - dense / speed
        return [Rung("predictors", cost, saved, self.wanted.recall)]

    def _cutoffs(self, found: Parts, announce: Progress) -> list[Rung]:
        config = self.model.config
        if config.calibrated:
            raise UnsupportedError("the model is calibrated already")
        if config.activation.is_relu_family:
            raise UnsupportedError(f"{config.activation} has exact zeros, which predictors find")
        if not self.new_file:
            raise UnsupportedError(_NEW_FILE)
        report = calibrate_cutoffs(
            self.source,
            None,
            self.text,
            sparsities=self.shares or SPARSITIES,
            perplexity_cost=self._most,
            progress=announce,
            **self.options,
        )
        found.tokens = max(found.tokens, report.tokens)
        return _rungs("cutoffs", report)

    def _inputs(self, found: Parts, announce: Progress) -> list[Rung]:
        if self.model.core.host != "native":
            raise UnsupportedError("only the native core leaves out inputs")
        if stored.has_limits(self.model.file):
            raise UnsupportedError("the model has limits already")
        path = self.folder / "inputs.gguf"
        report = calibrate_inputs(
            self.source,
            path,
            self.text,
            shares=self.shares or SHARES,
            perplexity_cost=self._most,
            progress=announce,
            **self.options,
        )
        found.tokens = max(found.tokens, report.tokens)
        rungs = [each for each in _rungs("inputs", report) if each.setting.left_out > 0]
        if not rungs:
            raise CalibrationError("no product is faster with fewer inputs on this machine")
        return rungs

    def _head(self, found: Parts, announce: Progress) -> list[Rung]:
        path, wanted = self.folder / "screen.gguf", self.wanted
        report = calibrate_head(
            self.source,
            text=self.text,
            companion=path,
            kl=SCREEN_PART * wanted.budget,
            agreement=wanted.agreement,
            even_if_slower=True,
            progress=announce,
            **self.options,
        )
        found.tokens = max(found.tokens, report.tokens)
        measured = report.measured
        if report.chosen is None or measured is None:
            raise CalibrationError("no screen that was tried is near enough and reads less")
        found.screen = path
        return [Rung("head", measured.kl, 1 - 1 / measured.speedup, report.chosen)]

    @property
    def _most(self) -> float:
        """The acceptable increase of perplexity of a method by itself."""
        return math.expm1(self.wanted.budget)

    def _screen_of(self, model: Path, screen: Path) -> Path:
        """The companion of another file of the model, with the same screen."""
        path = self.folder / "predicted-screen.gguf"
        with GgufFile.open(screen, mapped=False) as file:
            keys = {k: v for k, v in file.typed_metadata().items() if k.startswith(stored.KEYS)}
            name, tensors = str(file.metadata["general.architecture"]), screen_tensors(file)
        with GgufFile.open(model) as other:
            of = stored.fingerprint(other)
        write_companion(path, name, of, keys, tensors, force=True)
        return path


def _rungs(method: str, report: Any) -> list[Rung]:
    """Those of a report on perplexity and speed."""
    chosen = [] if report.chosen is None else [report.chosen]
    return [
        Rung(method, math.log1p(report.cost(each)), 1 - 1 / each.speedup, each)
        for each in (*report.settings, *chosen)
    ]
