"""The loop that makes text, one token at a time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from .sampling import Sampler, SamplerConfig
from .session import Session
from .stats import Share, Stats
from .tokenizer import Tokenizer


class StopFilter:
    """Holds text back while it may be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far may be shown. `stopped` tells that a stop text came; it and what
        follows are dropped."""
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
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Generation:
    """One run: fills `stats` as it goes."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        stats: Stats,
        sampler: SamplerConfig,
        stops: Sequence[str],
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._stats = stats
        self._sampler = Sampler(sampler)
        self._filter = StopFilter(stops)
        self._steps = 0  # evaluations of one token after the prompt, and their seconds
        self._step_seconds = 0.0

    def run(self, prompt: list[int], max_tokens: int) -> Generator[str, None, None]:
        """Yields the text that follows the prompt's token ids."""
        decoder = self._tokenizer.streaming_decoder()
        try:
            for token in self._tokens(prompt, max_tokens):
                piece = self._filter.feed(decoder.feed(token))
                if piece:
                    yield piece
                if self._filter.stopped:
                    self._stats.finish_reason = "stop"
                    return
            rest = self._filter.feed(decoder.finish()) + self._filter.finish()
            if rest:
                yield rest
        finally:
            self._update_stats()

    def _tokens(self, prompt: list[int], max_tokens: int) -> Iterator[int]:
        """Yields new tokens until there is a reason to end."""
        stats, session = self._stats, self._session
        tokens = list(prompt)
        if max_tokens == 0:
            stats.finish_reason = "length"
            return
        session.owner = self
        session.reset_counts()
        started = time.perf_counter()
        logits = session.feed(tokens, stats.mode)
        stats.prompt_tokens_per_s = session.evaluated / (time.perf_counter() - started)
        while True:
            started = time.perf_counter()
            token = self._sampler.sample(logits, tokens)
            self._step_seconds += time.perf_counter() - started
            if token in self._tokenizer.end_ids:
                stats.finish_reason = "end"
                return
            tokens.append(token)
            stats.token_ids.append(token)
            yield token
            if len(stats.token_ids) >= max_tokens:
                stats.finish_reason = "length"
                return
            if len(tokens) > session.context:
                stats.finish_reason = "context"
                return
            started = time.perf_counter()
            # Another run may have used the session between two pieces of this one.
            mine = session.owner is self
            session.owner = self
            logits = session.step(token) if mine else session.feed(tokens, stats.mode)
            self._step_seconds += time.perf_counter() - started
            self._steps += 1

    def _update_stats(self) -> None:
        stats, session = self._stats, self._session
        if self._step_seconds > 0:
            stats.tokens_per_s = self._steps / self._step_seconds
        if session.owner is self and session.evaluated:
            hidden = session.hidden
            stats.evaluated_tokens = session.evaluated
            stats.active_share = Share.of(session.active, session.evaluated, hidden)
            stats.selected_share = Share.of(session.selected, session.evaluated, hidden)
