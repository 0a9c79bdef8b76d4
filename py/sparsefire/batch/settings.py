"""Which model a job uses and where it runs. Each process loads it once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from .._options import (
    HEADS,
    INPUTS,
    KV_FORMATS,
    check_fields,
    flag,
    one_of,
    positive,
    text,
    whole,
)
from ..core.hosts import choose_core, threads_wanted
from ..lm.model import Model
from ..lm.packing import Packing
from .store import local_path


@dataclass(frozen=True)
class ModelSettings:
    """What `Model.load` is called with, and `sessions`, how many rows are decoded in one batch, by
    default as many as pay for the model.

    model: a path, or an fsspec URL, whose file is copied to this machine once; by default the
      model that comes with the package.
    threads: of each process; by default SPARSEFIRE_THREADS, or else all processors, in jobs of
      several processes 1.
    """

    model: str | None = None
    threads: int | None = None
    backend: str | None = None
    isa: str | None = None
    context: int | None = None
    mode: str | None = None
    activation: str | None = None
    pre: str | None = None
    neuron_budget: int | None = None
    mapped: bool = True
    head: str | None = None
    k_format: str | None = None
    v_format: str | None = None
    inputs: str | None = None
    sessions: int | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            object.__setattr__(self, "model", str(self.model))
        check_fields(
            self,
            threads=positive,
            backend=text,
            isa=text,
            context=whole,
            mode=text,
            activation=text,
            pre=text,
            neuron_budget=positive,
            mapped=flag,
            head=one_of(*HEADS),
            k_format=one_of(*KV_FORMATS),
            v_format=one_of(*KV_FORMATS),
            inputs=one_of(*INPUTS),
            sessions=positive,
        )

    def on(self, engine: str, workers: int | None) -> ModelSettings:
        """For processes of an engine: with one thread each, unless the settings or
        SPARSEFIRE_THREADS say otherwise, where several are to share a machine."""
        if self.threads is not None or (engine == "local" and workers in (None, 1)):
            return self
        return replace(self, threads=threads_wanted(None) or 1)


@dataclass
class OpenedModel:
    """A model in this process, with the sessions of each mode that was asked for. Whoever uses it
    holds the lock."""

    model: Model
    sessions: int | None
    lock: Any = field(default_factory=threading.RLock)
    _packings: dict[str, Packing[Any]] = field(default_factory=dict)

    def packing(self, mode: str) -> Packing[Any]:
        """The sessions for this mode."""
        if mode not in self._packings:
            self._packings[mode] = Packing(self.model, mode, self.sessions)
        return self._packings[mode]

    def close(self) -> None:
        """Frees the model."""
        for each in self._packings.values():
            each.close()
        self.model.close()


_OPENED: dict[ModelSettings, OpenedModel] = {}
_opening = threading.Lock()


@contextmanager
def opened(settings: ModelSettings) -> Iterator[OpenedModel]:
    """The model of these settings, which this process keeps. Errors as `Model.load`."""
    with _opening:
        found = _OPENED.get(settings)
        if found is None:
            found = _OPENED[settings] = OpenedModel(_load(settings), settings.sessions)
    with found.lock:
        yield found


def close_models() -> None:
    """Frees the models that this process keeps for batches."""
    with _opening:
        while _OPENED:
            _, found = _OPENED.popitem()
            with found.lock:
                found.close()


def _load(settings: ModelSettings) -> Model:
    host = settings.backend or "auto", settings.isa, settings.threads
    model = Model.load(
        None if settings.model is None else local_path(settings.model),
        context=settings.context,
        activation=settings.activation,
        pre=settings.pre,
        neuron_budget=settings.neuron_budget,
        mapped=settings.mapped,
        head=settings.head,
        k_format=settings.k_format,
        v_format=settings.v_format,
        inputs=settings.inputs,
        core=None if host == ("auto", None, None) else choose_core(*host),
    )
    model.checked_mode(settings.mode)
    return model
