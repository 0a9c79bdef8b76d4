"""Completions and chat completions as dictionaries, in the shapes of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from .._options import Check, checked, count, flag, instance, positive, text, whole
from ..errors import ArgumentError
from .chat import variables
from .completion_types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprob,
    ChatLogprobs,
    Completion,
    CompletionLogprobs,
    FinishReason,
    StreamOptions,
    TopLogprob,
    Usage,
)
from .embedding import Text, texts_of
from .generation import GenerateOptions, shows_options
from .run import Piece
from .sampling import TokenScore
from .stats import Stats

if TYPE_CHECKING:
    from .model import Model

Scores = Sequence[tuple[int, TokenScore]]  # where a token begins in the text, and its score
Event = tuple[int, Piece | Stats]  # of a choice: the next piece, or at its end the statistics

_LEAST = -9999.0  # replaces a log probability of -inf, which JSON lacks
_NEW_MESSAGE = {"role": "assistant", "content": ""}


@dataclass(frozen=True)
class Settings:
    """What a request asks for, apart from its prompts. Each prompt is completed `n` times."""

    name: str
    max_tokens: int | None
    n: int
    logprobs: int | None
    options: GenerateOptions
    echo: bool = False
    include_usage: bool = False


class Request:
    """One request. Choice i belongs to prompt i // n. The constructor checks all arguments."""

    def __init__(self, model: Model, prompts: Sequence[Text], wanted: Settings):
        if not prompts:
            raise ArgumentError("prompt: the list is empty")
        self._model = model
        self.lock = model.lock
        self.wanted = wanted
        self.created = int(time.time())
        self._ids = [model.prompt_ids(prompt) for prompt in prompts]
        self._echoes = [
            prompt if isinstance(prompt, str) else model.detokenize(ids, special=True)
            for prompt, ids in zip(prompts, self._ids, strict=True)
            if wanted.echo
        ]
        self._runs = [
            model.start(
                ids, wanted.max_tokens, logprobs=wanted.logprobs, **_with_seed(wanted.options, k)
            )
            for ids in self._ids
            for k in range(wanted.n)
        ]

    def events(self) -> Iterator[Event]:
        """The pieces of every choice and then its statistics, one choice after the other."""
        for index, run in enumerate(self._runs):
            self._model.stats = run.stats
            length = 0
            try:
                if self.wanted.echo:
                    echo = self._echo(index // self.wanted.n)
                    length = len(echo.text)
                    yield index, echo
                for piece in run:
                    scores = tuple((length + at, scored) for at, scored in piece.scores)
                    yield index, replace(piece, scores=scores)
            finally:
                run.close()
            yield index, run.stats

    def _echo(self, place: int) -> Piece:
        """The prompt, as the first piece of the answer."""
        text, ids, top = self._echoes[place], self._ids[place], self.wanted.logprobs
        if top is None:
            return Piece(text)
        cancel = self.wanted.options.get("cancel")
        decoder = self._model.tokenizer.streaming_decoder(special=True)
        # BOS may have been added to the ids without being in the text.
        is_bos = ids[0] == self._model.tokenizer.bos
        added = is_bos and self._model.detokenize(ids, special=True) != text
        first = TokenScore(ids[0], float("nan"))
        scores = [(0, first)]
        at = 0 if added else len(decoder.feed(ids[0]))
        for scored in self._model.token_scores(ids, top, mode=self.wanted.options.get("mode")):
            if cancel is not None and cancel.reason:
                break
            scores.append((min(at, len(text)), scored))
            at += len(decoder.feed(scored.token))
        return Piece(text, tuple(scores))

    def usage(self) -> Usage:
        """Tokens of the request so far."""
        prompt = sum(map(len, self._ids))
        completion = sum(run.stats.n_tokens for run in self._runs)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; of a control token, its name's."""
        return self._model.tokenizer.token_bytes(token, special=True)

    def text_of(self, token: int) -> str:
        """The same as text."""
        return self.bytes_of(token).decode("utf-8", "replace")


def _with_seed(options: GenerateOptions, k: int) -> GenerateOptions:
    """The options of the k-th choice of a prompt, which has its own seed."""
    seed = options.get("seed")
    if seed is None or whole(seed, "seed") < 0:
        return options
    return cast(GenerateOptions, {**options, "seed": seed + k})


def _includes_usage(options: StreamOptions | None) -> bool:
    """Whether `stream_options` asks for a last chunk with usage."""
    return bool(options and options.get("include_usage"))


def _reasons(event: Piece | Stats) -> tuple[FinishReason | None, str | None]:
    """`finish_reason` and `stop_reason` after this event."""
    if isinstance(event, Piece):
        return None, None
    return "stop" if event.finish_reason in ("end", "stop") else "length", event.finish_reason


# -- answers ---------------------------------------------------------------------------------------


class _Answer(ABC):
    """Answers a request, completely or as a stream of chunks."""

    prefix: str  # of the answer's id
    kind: str  # the answer's `object`
    chunk_kind: str  # the `object` of a chunk of a stream

    def __init__(self, request: Request) -> None:
        self._request = request

    @abstractmethod
    def _chunk_choice(self, index: int, event: Piece | Stats) -> dict[str, Any]:
        """The choice, in a chunk, for this event."""

    @abstractmethod
    def _empty_choice(self, index: int) -> dict[str, Any]:
        """A choice of the whole answer, before its first event."""

    @abstractmethod
    def _extend(self, choice: dict[str, Any], event: Piece | Stats) -> None:
        """Adds an event to a choice of the whole answer."""

    def _first_choices(self, index: int) -> list[dict[str, Any]]:
        """Choices that a stream sends before the first event of choice `index`."""
        return []

    def whole(self) -> dict[str, Any]:
        """The whole answer in one dictionary."""
        request, choices = self._request, list[dict[str, Any]]()
        frame = self._frame(self.kind)
        with request.lock:  # one run after the other is faster than taking turns
            for index, event in request.events():
                if index == len(choices):
                    choices.append(self._empty_choice(index))
                self._extend(choices[index], event)
        return {**frame, "choices": choices, "usage": request.usage()}

    def chunks(self) -> Generator[dict[str, Any], None, None]:
        """The answer chunk by chunk, as text is generated."""
        request, begun = self._request, -1
        frame = self._frame(self.chunk_kind)
        if request.wanted.include_usage:
            frame["usage"] = None
        for index, event in request.events():
            choices = [self._chunk_choice(index, event)]
            if index != begun:
                begun = index
                choices = [*self._first_choices(index), *choices]
            for choice in choices:
                yield {**frame, "choices": [choice]}
        if request.wanted.include_usage:
            yield {**frame, "usage": request.usage()}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": self._request.created,
            "model": self._request.wanted.name,
            "choices": [],
        }


class _TextAnswer(_Answer):
    """Completions of a text: `Completion`, streamed or whole."""

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def _chunk_choice(self, index: int, event: Piece | Stats) -> dict[str, Any]:
        piece = event if isinstance(event, Piece) else Piece("")
        finish, stop = _reasons(event)
        return {
            "text": piece.text,
            "index": index,
            "logprobs": self._logprobs(piece.scores),
            "finish_reason": finish,
            "stop_reason": stop,
        }

    def _empty_choice(self, index: int) -> dict[str, Any]:
        return self._chunk_choice(index, Piece(""))

    def _extend(self, choice: dict[str, Any], event: Piece | Stats) -> None:
        part = self._chunk_choice(choice["index"], event)
        choice["text"] += part["text"]
        choice["finish_reason"], choice["stop_reason"] = part["finish_reason"], part["stop_reason"]
        if part["logprobs"] is not None:
            for name, values in part["logprobs"].items():
                choice["logprobs"][name] += values

    def _logprobs(self, scores: Scores) -> CompletionLogprobs | None:
        request = self._request
        if request.wanted.logprobs is None:
            return None
        logprobs: CompletionLogprobs = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for at, scored in scores:
            known = not np.isnan(scored.logprob)
            # Of tokens with the same text the most likely one counts, so it is entered last.
            least_first = reversed(scored.top)
            top = {request.text_of(token): max(value, _LEAST) for token, value in least_first}
            logprobs["tokens"].append(request.text_of(scored.token))
            logprobs["token_logprobs"].append(max(scored.logprob, _LEAST) if known else None)
            logprobs["top_logprobs"].append(dict(reversed(top.items())) if known else None)
            logprobs["text_offset"].append(at)
        return logprobs


class _ChatAnswer(_Answer):
    """Answers to a conversation: `ChatCompletion`, or a stream of `ChatCompletionChunk`."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def _first_choices(self, index: int) -> list[dict[str, Any]]:
        return [{**self._chunk_choice(index, Piece("")), "delta": _NEW_MESSAGE.copy()}]

    def _chunk_choice(self, index: int, event: Piece | Stats) -> dict[str, Any]:
        finish, stop = _reasons(event)
        scores = event.scores if isinstance(event, Piece) else ()
        return {
            "index": index,
            "delta": {"content": event.text} if isinstance(event, Piece) else {},
            "logprobs": self._logprobs(scores) if scores else None,
            "finish_reason": finish,
            "stop_reason": stop,
        }

    def _empty_choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": _NEW_MESSAGE.copy(),
            "logprobs": self._logprobs(()),
            "finish_reason": None,
            "stop_reason": None,
        }

    def _extend(self, choice: dict[str, Any], event: Piece | Stats) -> None:
        if isinstance(event, Stats):
            choice["finish_reason"], choice["stop_reason"] = _reasons(event)
            return
        choice["message"]["content"] += event.text
        more = self._logprobs(event.scores)
        if more is not None:
            choice["logprobs"]["content"] += more["content"]

    def _logprobs(self, scores: Scores) -> ChatLogprobs | None:
        if self._request.wanted.logprobs is None:
            return None
        return {"content": [self._logprob(scored) for _, scored in scores]}

    def _logprob(self, scored: TokenScore) -> ChatLogprob:
        top = [self._top_logprob(token, logprob) for token, logprob in scored.top]
        return {**self._top_logprob(scored.token, scored.logprob), "top_logprobs": top}

    def _top_logprob(self, token: int, logprob: float) -> TopLogprob:
        return {
            "token": self._request.text_of(token),
            "logprob": max(logprob, _LEAST),
            "bytes": list(self._request.bytes_of(token)),
        }


# -- what `Model` calls ------------------------------------------------------------------------


class AnswerOptions(GenerateOptions, total=False):
    """Keyword arguments that `create_completion` and `create_chat_completion` share."""

    n: int
    stream_options: StreamOptions | None
    model: str | None


class CompletionOptions(AnswerOptions, total=False):
    """Keyword arguments of `Model.create_completion`, but `stream`."""

    echo: bool
    logprobs: int | None


class ChatOptions(AnswerOptions, total=False):
    """Keyword arguments of `Model.create_chat_completion`, but `stream`."""

    logprobs: bool
    top_logprobs: int
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any] | None


_CHECKS: dict[str, Check] = {  # of both kinds of completions
    "n": positive,
    "stream": flag,
    "stream_options": instance(Mapping),
    "model": text,
}


@shows_options
@checked(**_CHECKS, echo=flag, logprobs=count)
def complete(
    lm: Model,
    prompt: Text | Sequence[Text],
    max_tokens: int | None = 16,
    *,
    n: int = 1,
    echo: bool = False,
    logprobs: int | None = None,
    stream: bool = False,
    stream_options: StreamOptions | None = None,
    model: str | None = None,
    **options: Unpack[GenerateOptions],
) -> Completion | Generator[Completion, None, None]:
    """See `Model.create_completion`; `model` is the name of `lm` in the answer."""
    wanted = Settings(
        lm.config.name if model is None else model,
        max_tokens,
        n,
        logprobs,
        options,
        echo,
        stream and _includes_usage(stream_options),
    )
    answer = _TextAnswer(Request(lm, texts_of(prompt, "prompt")[0], wanted))
    if stream:
        return cast(Generator[Completion, None, None], answer.chunks())
    return cast(Completion, answer.whole())


@shows_options
@checked(
    **_CHECKS,
    logprobs=flag,
    top_logprobs=count,
    chat_template=text,
    chat_template_kwargs=variables,
)
def complete_chat(
    lm: Model,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int | None = None,
    *,
    n: int = 1,
    logprobs: bool = False,
    top_logprobs: int = 0,
    stream: bool = False,
    stream_options: StreamOptions | None = None,
    model: str | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[GenerateOptions],
) -> ChatCompletion | Generator[ChatCompletionChunk, None, None]:
    """See `Model.create_chat_completion`; `model` is the name of `lm` in the answer."""
    prompt = lm.apply_chat_template(
        messages, chat_template=chat_template, **(chat_template_kwargs or {})
    )
    wanted = Settings(
        lm.config.name if model is None else model,
        max_tokens,
        n,
        top_logprobs if logprobs else None,
        options,
        include_usage=stream and _includes_usage(stream_options),
    )
    answer = _ChatAnswer(Request(lm, [lm.tokenize(prompt)], wanted))
    if stream:
        return cast(Generator[ChatCompletionChunk, None, None], answer.chunks())
    return cast(ChatCompletion, answer.whole())
