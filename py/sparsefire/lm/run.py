"""What a run does with logits: it draws tokens, and makes text of them until the text ends. It
evaluates nothing itself, so that runs can be evaluated alone (`generation`) or many together
(`packing`)."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .._arrays import FloatArray
from ..text.tokenizer import StreamingDecoder, Tokenizer
from .sampling import Sampler, TokenScore, score
from .stats import Stats

if TYPE_CHECKING:
    from .generation import GenerationConfig


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


class Wanted(NamedTuple):
    """What a run waits for: logits after the last `rows` of these tokens. `step`: the run waited
    for those of all but the last one before, unless older ones were dropped meanwhile. `decoded`:
    how many of the last tokens the run has drawn since then; the others are a prompt, or, `scored`,
    a text that is evaluated as one however short it is, and whose logits are all exact. `exact`:
    tokens whose logits are exact. `largest`: nothing but the largest logit is of interest."""

    tokens: Sequence[int]
    rows: int = 1
    step: bool = False
    decoded: int = 0
    scored: bool = False
    exact: tuple[int, ...] = ()
    largest: bool = False


class CancelledError(Exception):
    """The run's `Cancel` has a reason."""


Events = Generator[Piece | Wanted, FloatArray | None, None]


class Run:
    """One run in a context of so many tokens. `stats` gets its tokens and why it ended; `seconds`
    counts the time that drawing tokens took."""

    def __init__(
        self, tokenizer: Tokenizer, stats: Stats, config: GenerationConfig, context: int
    ) -> None:
        self.stats = stats
        self.config = config
        self.seconds = 0.0
        self._context = context
        self._tokenizer = tokenizer
        self._sampler = Sampler(config.sampler)
        self._filter = StopFilter(config.stop)
        self._stop_ids = tokenizer.control_ids(config.stop)  # these leave no text to find
        self._exact = tuple(config.sampler.logit_bias)
        self._decoded = self._shown = 0  # characters of text
        self._scores: list[tuple[int, TokenScore]] = []  # of tokens not shown yet

    @property
    def takes_largest(self) -> bool:
        """Whether nothing but the largest logit is of interest."""
        return self.config.sampler.takes_largest and self.config.logprobs is None

    def events(self, prompt: Sequence[int]) -> Events:
        """Yields pieces, and what the run waits for: it is sent the logits (vocab,) for that, or a
        `CancelledError` is thrown in."""
        decoder = self._tokenizer.streaming_decoder()
        try:
            yield from self._tokens(list(prompt), decoder)
        except CancelledError as error:
            self.stats.finish_reason = str(error)
        if not self._filter.stopped:
            rest = self._filter.feed(decoder.finish()) + self._filter.finish()
            yield from self._piece(rest, last=True)

    def check(self) -> None:
        """Raises `CancelledError` if the run is to end."""
        cancel = self.config.cancel
        if cancel is not None and (reason := cancel.reason):
            raise CancelledError(reason)

    def _tokens(self, tokens: list[int], decoder: StreamingDecoder) -> Events:
        """Draws new tokens until the run ends. `tokens` are all of the text, `window` those in the
        context."""
        stats, config, window, step = self.stats, self.config, list(tokens), False
        prompted = len(window)  # tokens of the window that were not drawn since it was last cut
        if config.max_tokens == 0:
            stats.finish_reason = "length"
            return
        while True:
            decoded = len(window) - prompted
            logits = yield Wanted(
                window, step=step, decoded=decoded, exact=self._exact, largest=self.takes_largest
            )
            assert logits is not None
            started = time.perf_counter()
            token = self._sampler.sample(logits, tokens)
            self.seconds += time.perf_counter() - started
            if token in self._stop_ids or token in self._tokenizer.end_ids:
                stats.finish_reason = "stop" if token in self._stop_ids else "end"
                return
            for each in (tokens, window, stats.token_ids):
                each.append(token)
            if config.logprobs is not None:
                self._scores.append((self._decoded, score(logits, token, config.logprobs)))
            text = decoder.feed(token)
            self._decoded += len(text)
            yield from self._piece(self._filter.feed(text))
            if self._filter.stopped:
                stats.finish_reason = "stop"
                return
            if len(stats.token_ids) == config.max_tokens:
                stats.finish_reason = "length"
                return
            if len(window) > self._context:
                if not config.context_shift:
                    stats.finish_reason = "context"
                    return
                window = self._shifted(window)
                prompted = len(window)
            self.check()
            step = True

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

    def _shifted(self, window: list[int]) -> list[int]:
        """The window without the older half of what follows its kept prefix."""
        keep = self.config.keep
        if window[0] == self._tokenizer.bos:
            keep = max(keep, 1)
        dropped = (len(window) - keep) // 2
        self.stats.context_shifts += 1
        return window[:keep] + window[keep + dropped :]
