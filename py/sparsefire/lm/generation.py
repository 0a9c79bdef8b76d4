"""The generation loop, one token at a time."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, cast, get_type_hints

from .._arrays import FloatArray
from .._options import check_fields, checked, count, flag, instance, number, refuse, text
from ..errors import ArgumentError
from ..text.tokenizer import Tokenizer
from .sampling import Sampler, SamplerConfig, SamplerOptions, TokenScore, score
from .sessions import Lease, Sessions
from .stats import Stats, rate

_OWN = ("stop", "cancel", "context_shift", "keep")  # options of the config itself

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


class StopFilter:
    """Holds text back while it may be the prefix of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The part of the text so far that may be shown. `stopped` becomes true at a stop text,
        which is dropped with what follows."""
        if not self._stops:
            return text
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return shown

    def finish(self) -> str:
        """The withheld text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


@dataclass(frozen=True)
class Piece:
    """New text, whole characters only, and with `logprobs` the scores of the tokens that begin in
    it, each with its offset in the run's text, in characters."""

    text: str
    scores: tuple[tuple[int, TokenScore], ...] = ()


class _CancelledError(Exception):
    """The run's `Cancel` has a reason."""


class Generation:
    """One run: an iterator of pieces that updates `stats`. `close` ends it early.

    Each piece is computed under the model's lock. Between two pieces other runs may go on, from
    this thread or another, each in a session of its own as far as those go (see `Sessions`)."""

    def __init__(
        self,
        sessions: Sessions,
        tokenizer: Tokenizer,
        stats: Stats,
        config: GenerationConfig,
        prompt: Sequence[int],
    ) -> None:
        self.stats = stats
        self._lease = Lease(sessions)
        self._tokenizer = tokenizer
        self._config = config
        self._sampler = Sampler(config.sampler)
        self._filter = StopFilter(config.stop)
        self._stop_ids = tokenizer.control_ids(config.stop)  # these leave no text to find
        self._steps = 0  # evaluations of single tokens after the prompt, and their seconds
        self._step_seconds = 0.0
        self._decoded = self._shown = 0  # characters of text
        self._scores: list[tuple[int, TokenScore]] = []  # of tokens not shown yet
        self._pieces = self._run(list(prompt))

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

    def _run(self, prompt: list[int]) -> Generator[Piece, None, None]:
        decoder = self._tokenizer.streaming_decoder()
        try:
            try:
                for token, logits in self._tokens(prompt):
                    if self._config.logprobs is not None:
                        scored = score(logits, token, self._config.logprobs)
                        self._scores.append((self._decoded, scored))
                    text = decoder.feed(token)
                    self._decoded += len(text)
                    yield from self._piece(self._filter.feed(text))
                    if self._filter.stopped:
                        self.stats.finish_reason = "stop"
                        return
            except _CancelledError as error:
                self.stats.finish_reason = str(error)
            rest = self._filter.feed(decoder.finish()) + self._filter.finish()
            yield from self._piece(rest, last=True)
        finally:
            self._update_stats()

    def _piece(self, text: str, last: bool = False) -> Iterator[Piece]:
        """The piece with this text, if there is anything to show."""
        self._shown += len(text)
        count = 0
        while count < len(self._scores) and (last or self._scores[count][0] < self._shown):
            count += 1
        scores = tuple(self._scores[:count])
        del self._scores[:count]
        if text or scores:
            yield Piece(text, scores)

    def _tokens(self, prompt: list[int]) -> Iterator[tuple[int, FloatArray]]:
        """Yields new tokens, each with the logits that it was sampled from, until the run ends."""
        stats, lease, config = self.stats, self._lease, self._config
        tokens, window = list(prompt), list(prompt)  # all of the text, and what is in the context
        if config.max_tokens == 0:
            stats.finish_reason = "length"
            return
        started = time.perf_counter()
        logits = lease.feed(window, stats.mode, self._check)
        stats.prompt_tokens_per_s = rate(lease.evaluated, time.perf_counter() - started)
        while True:
            started = time.perf_counter()
            token = self._sampler.sample(logits, tokens)
            self._step_seconds += time.perf_counter() - started
            if token in self._stop_ids:
                stats.finish_reason = "stop"
                return
            if token in self._tokenizer.end_ids:
                stats.finish_reason = "end"
                return
            for each in (tokens, window, stats.token_ids):
                each.append(token)
            yield token, logits
            if len(stats.token_ids) == config.max_tokens:
                stats.finish_reason = "length"
                return
            if len(window) > lease.context:
                if not config.context_shift:
                    stats.finish_reason = "context"
                    return
                window = self._shifted(window)
            self._check()
            started = time.perf_counter()
            logits = lease.next(window, stats.mode, self._check)
            self._step_seconds += time.perf_counter() - started
            self._steps += 1

    def _shifted(self, window: list[int]) -> list[int]:
        """The window without the older half of what follows its kept prefix."""
        keep = self._config.keep
        if window[0] == self._tokenizer.bos:
            keep = max(keep, 1)
        dropped = (len(window) - keep) // 2
        self.stats.context_shifts += 1
        return window[:keep] + window[keep + dropped :]

    def _check(self) -> None:
        cancel = self._config.cancel
        if cancel is not None and (reason := cancel.reason):
            raise _CancelledError(reason)

    def _update_stats(self) -> None:
        self._lease.lose()
        self.stats.tokens_per_s = rate(self._steps, self._step_seconds)
        if self._lease.evaluated:
            self._lease.count_in(self.stats)
