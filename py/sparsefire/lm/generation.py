"""Generating text: options, and runs that are evaluated one token at a time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, cast, get_type_hints

from .._arrays import FloatArray
from .._options import check_fields, checked, count, flag, instance, number, refuse, text
from ..errors import ArgumentError
from .run import CancelledError, Events, Piece, Run, Wanted
from .sampling import SamplerConfig, SamplerOptions
from .sessions import Lease, Sessions
from .stats import rate

_OWN = ("stop", "cancel", "context_shift", "keep", "speculation")  # options of the config itself

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Cancel:
    """Stops runs early: pass it to a run as `cancel`, and call `cancel()` from any thread or signal
    handler. The run stops before its next token, or within a prompt after at most 64 of its tokens,
    and its `finish_reason` is the `reason`. With `seconds`, runs that have it stop once that time
    has passed since its creation, with the reason "time"."""

    @checked(seconds=number)
    def __init__(self, seconds: float | None = None) -> None:
        self._reason = ""
        self._end = None if seconds is None else time.monotonic() + seconds

    @checked(reason=text)
    def cancel(self, reason: str = "cancelled") -> None:
        """Stops the runs. The first reason is kept."""
        self._reason = self._reason or reason

    @property
    def reason(self) -> str:
        """Why runs stop; empty while they may continue."""
        if not self._reason and self._end is not None and time.monotonic() >= self._end:
            self._reason = "time"
        return self._reason


class GenerateOptions(SamplerOptions, total=False):
    """Keyword arguments of all methods that generate text; see `Model.generate`."""

    mode: str | None
    stop: str | Sequence[str]
    cancel: Cancel | None
    context_shift: bool
    keep: int
    speculation: bool


def _stops(value: object, name: str) -> tuple[str, ...]:
    """One or several stop texts."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence):
        refuse(value, name, "a text, or a list of texts")
    return tuple(text(each, name) for each in value)


@dataclass(frozen=True)
class GenerationConfig:
    """When a run ends, how it samples, and what it reports of its tokens. `max_tokens` None means
    as many as the context holds; `logprobs`, when given, is the number of most likely tokens that
    each token's score lists."""

    sampler: SamplerConfig
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    cancel: Cancel | None = None
    context_shift: bool = False
    keep: int = 0
    speculation: bool = False

    @classmethod
    def of(
        cls, max_tokens: int | None, logprobs: int | None, options: GenerateOptions
    ) -> GenerationConfig:
        """From keyword arguments, of which `mode` is left out."""
        rest: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        rest.pop("mode", None)
        own = {name: rest.pop(name) for name in _OWN if name in rest}
        sampler = {name: rest.pop(name) for name in SamplerOptions.__annotations__ if name in rest}
        if rest:
            raise TypeError(f"unexpected keyword argument {next(iter(rest))!r}")
        return cls(SamplerConfig(**sampler), max_tokens, logprobs=logprobs, **own)

    def __post_init__(self) -> None:
        check_fields(
            self,
            max_tokens=count,
            stop=_stops,
            logprobs=count,
            cancel=instance(Cancel),
            context_shift=flag,
            keep=count,
            speculation=flag,
        )
        if "" in self.stop:
            raise ArgumentError("stop: an empty text would stop immediately")
        if self.context_shift and self.max_tokens is None:
            raise ArgumentError("max_tokens: required with context_shift, since a text has no end")


def shows_options(function: _Function) -> _Function:
    """Lists the fields of `GenerateOptions` in the signature that help() shows, instead of
    `**options`."""
    defaults: dict[str, Any] = {"mode": None, "stop": ()}
    for field in (*fields(SamplerConfig), *fields(GenerationConfig)):
        defaults.setdefault(field.name, {} if field.default is MISSING else field.default)
    signature = inspect.signature(function)
    parameters = [
        each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name])
        for name in GenerateOptions.__annotations__
    ]
    cast(Any, function).__signature__ = signature.replace(parameters=parameters)
    return function


def takes_arguments_of(function: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Makes help() show, for a method that calls `function(self, …)`, the parameters of that
    function in place of `**options`."""
    first, *rest = inspect.signature(function).parameters.values()
    # Annotations become types, because their names are those of the function's module.
    hints = get_type_hints(function, localns={first.annotation: Any})
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [each.replace(annotation=hints.get(each.name, each.empty)) for each in rest]

    def decorate(method: _Function) -> _Function:
        signature = inspect.signature(method)
        cast(Any, method).__signature__ = signature.replace(parameters=[own, *parameters])
        return method

    return decorate


class Generation:
    """One run: an iterator of pieces that updates `stats`. `close` ends it early.

    Each piece is computed under the model's lock. Between two pieces other runs may go on, from
    this thread or another, each in a session of its own as far as those go (see `Sessions`)."""

    def __init__(self, sessions: Sessions, run: Run, prompt: Sequence[int]) -> None:
        self.stats = run.stats
        self._run = run
        drafts = (
            sessions.speculation(run.stats.mode, self._left) if run.config.speculation else None
        )
        exact = tuple(run.config.sampler.logit_bias)
        self._lease = Lease(sessions, exact=exact, largest=run.takes_largest, speculation=drafts)
        self._steps = 0  # evaluations of single tokens after the prompt, and their seconds
        self._step_seconds = 0.0
        self._pieces = self._evaluated(list(prompt))

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        with self._lease.lock:
            return next(self._pieces)

    def close(self) -> None:
        """Interrupts the run. Must be called by the iterating thread; others use a `Cancel`."""
        with self._lease.lock:
            self._pieces.close()

    def texts(self) -> Generator[str, None, None]:
        """Only the text, piece by piece."""
        try:
            for piece in self:
                if piece.text:
                    yield piece.text
        finally:
            self.close()

    def _evaluated(self, prompt: Sequence[int]) -> Generator[Piece, None, None]:
        """The run's pieces, with what it waits for evaluated."""
        events = self._run.events(prompt)
        try:
            event = next(events, None)
            while event is not None:
                if isinstance(event, Piece):
                    yield event
                    event = next(events, None)
                else:
                    event = self._answered(events, event)
        finally:
            events.close()
            self._update_stats()

    def _answered(self, events: Events, wanted: Wanted) -> Piece | Wanted | None:
        """Evaluates what the run waits for; what it yields next."""
        try:
            try:
                logits = self._logits(wanted)
            except CancelledError as error:
                return events.throw(error)
            return events.send(logits)
        except StopIteration:
            return None

    def _left(self) -> int:
        """How many tokens the run may draw yet."""
        most = self._run.config.max_tokens
        return self._lease.context if most is None else most - self.stats.n_tokens

    def _logits(self, wanted: Wanted) -> FloatArray:
        lease, mode, check = self._lease, self.stats.mode, self._run.check
        started = time.perf_counter()
        if not wanted.step:
            logits = lease.feed(wanted.tokens, mode, check)
            seconds = time.perf_counter() - started
            self.stats.prompt_tokens_per_s = rate(lease.evaluated, seconds)
        else:
            logits = lease.next(wanted.tokens, mode, check, wanted.decoded)
            self._step_seconds += time.perf_counter() - started
            self._steps += 1
        return logits

    def _update_stats(self) -> None:
        self._lease.lose()
        seconds = self._step_seconds + self._run.seconds
        self.stats.tokens_per_s = rate(self._steps, seconds)
        if self._lease.evaluated:
            self._lease.count_in(self.stats)
