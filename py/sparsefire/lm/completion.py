"""Completions and chat completions as dictionaries, in the shapes of OpenAI's interface."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

import numpy as np

from ..errors import ArgumentError
from .completion_types import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    StreamOptions,
    TopLogprob,
    Usage,
)
from .embedding import Text, texts_of
from .generation import GenerateOptions, Piece, shows_options
from .sampling import TokenScore
from .stats import Stats

if TYPE_CHECKING:
    from .model import Model

Scores = Sequence[tuple[int, TokenScore]]  # where a token begins in the text, and its score
Event = tuple[int, Piece | Stats]  # of a choice: the next piece, or at its end the statistics

_LEAST = -9999.0  # stands for a log probability of -inf, which JSON does not have


@dataclass(frozen=True)
class Settings:
    """What a request wants beside its prompts: each is completed `n` times."""

    name: str
    max_tokens: int | None
    n: int
    logprobs: int | None
    options: GenerateOptions
    echo: bool = False
    include_usage: bool = False


class Request:
    """One request. Choice i belongs to prompt i // n. Everything is checked when it is made."""

    def __init__(self, model: Model, prompts: Sequence[Text], wanted: Settings):
        if wanted.n < 1:
            raise ArgumentError(f"n must be 1 or more, not {wanted.n}")
        if not prompts:
            raise ArgumentError("prompt: the list is empty")
        self._model = model
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
        # The token that begins texts may be there without being in the text.
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
        """What the request took so far."""
        prompt = sum(map(len, self._ids))
        completion = sum(run.stats.n_tokens for run in self._runs)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for, a control token for its name."""
        return self._model.tokenizer.token_bytes(token, special=True)

    def text_of(self, token: int) -> str:
        """The same as text."""
        return self.bytes_of(token).decode("utf-8", "replace")


def _with_seed(options: GenerateOptions, k: int) -> GenerateOptions:
    """Those of the k-th choice of a prompt: each has a seed of its own."""
    seed = options.get("seed")
    return options if seed is None else cast(GenerateOptions, {**options, "seed": seed + k})


def _includes_usage(options: StreamOptions | None) -> bool:
    """What `stream_options` says."""
    return bool(options and options.get("include_usage"))


def _reasons(stats: Stats | None) -> tuple[FinishReason | None, str | None]:
    """`finish_reason` and `stop_reason`."""
    if stats is None:
        return None, None
    return "stop" if stats.finish_reason in ("end", "stop") else "length", stats.finish_reason


# -- completions of a text ---------------------------------------------------------------------


def _completion_chunks(request: Request) -> Generator[Completion, None, None]:
    """The answer as it comes."""
    frame = _completion_frame(request)
    if request.wanted.include_usage:
        frame["usage"] = None
    for index, event in request.events():
        yield {**frame, "choices": [_completion_choice(request, index, event)]}
    if request.wanted.include_usage:
        yield {**frame, "choices": [], "usage": request.usage()}


def _completion(request: Request) -> Completion:
    """The answer at once."""
    choices: list[CompletionChoice] = []
    for index, event in request.events():
        if index == len(choices):
            choices.append(_completion_choice(request, index, Piece("")))
        choice, part = choices[index], _completion_choice(request, index, event)
        choice["text"] += part["text"]
        choice["finish_reason"], choice["stop_reason"] = part["finish_reason"], part["stop_reason"]
        if choice["logprobs"] is not None and part["logprobs"] is not None:
            for name in CompletionLogprobs.__annotations__:
                cast(Any, choice["logprobs"])[name] += cast(Any, part["logprobs"])[name]
    return {**_completion_frame(request), "choices": choices, "usage": request.usage()}


def _completion_frame(request: Request) -> Completion:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": request.created,
        "model": request.wanted.name,
        "choices": [],
    }


def _completion_choice(request: Request, index: int, event: Piece | Stats) -> CompletionChoice:
    piece = event if isinstance(event, Piece) else Piece("")
    finish, stop = _reasons(event if isinstance(event, Stats) else None)
    return {
        "text": piece.text,
        "index": index,
        "logprobs": _completion_logprobs(request, piece.scores),
        "finish_reason": finish,
        "stop_reason": stop,
    }


def _completion_logprobs(request: Request, scores: Scores) -> CompletionLogprobs | None:
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
        top = {request.text_of(token): max(value, _LEAST) for token, value in reversed(scored.top)}
        logprobs["tokens"].append(request.text_of(scored.token))
        logprobs["token_logprobs"].append(max(scored.logprob, _LEAST) if known else None)
        logprobs["top_logprobs"].append(dict(reversed(top.items())) if known else None)
        logprobs["text_offset"].append(at)
    return logprobs


# -- completions of a conversation -------------------------------------------------------------


def _chat_chunks(request: Request) -> Generator[ChatCompletionChunk, None, None]:
    """The answer as it comes."""
    frame: ChatCompletionChunk = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": request.created,
        "model": request.wanted.name,
        "choices": [],
    }
    if request.wanted.include_usage:
        frame["usage"] = None
    begun = -1
    for index, event in request.events():
        if index != begun:
            begun = index
            yield _chat_chunk(
                request, frame, index, Piece(""), {"role": "assistant", "content": ""}
            )
        delta: ChatDelta = {"content": event.text} if isinstance(event, Piece) else {}
        yield _chat_chunk(request, frame, index, event, delta)
    if request.wanted.include_usage:
        yield {**frame, "usage": request.usage()}


def _chat_chunk(
    request: Request,
    frame: ChatCompletionChunk,
    index: int,
    event: Piece | Stats,
    delta: ChatDelta,
) -> ChatCompletionChunk:
    finish, stop = _reasons(event if isinstance(event, Stats) else None)
    scores = event.scores if isinstance(event, Piece) else ()
    return {
        **frame,
        "choices": [
            {
                "index": index,
                "delta": delta,
                "logprobs": _chat_logprobs(request, scores) if scores else None,
                "finish_reason": finish,
                "stop_reason": stop,
            }
        ],
    }


def _chat_completion(request: Request) -> ChatCompletion:
    """The answer at once."""
    choices: list[ChatChoice] = []
    for index, event in request.events():
        if index == len(choices):
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": ""},
                    "logprobs": _chat_logprobs(request, ()),
                    "finish_reason": None,
                    "stop_reason": None,
                }
            )
        choice = choices[index]
        if isinstance(event, Stats):
            choice["finish_reason"], choice["stop_reason"] = _reasons(event)
            continue
        choice["message"]["content"] += event.text
        more = _chat_logprobs(request, event.scores)
        if choice["logprobs"] is not None and more is not None:
            choice["logprobs"]["content"] += more["content"]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": request.created,
        "model": request.wanted.name,
        "choices": choices,
        "usage": request.usage(),
    }


def _chat_logprobs(request: Request, scores: Scores) -> ChatLogprobs | None:
    if request.wanted.logprobs is None:
        return None
    return {"content": [_chat_logprob(request, scored) for _, scored in scores]}


def _chat_logprob(request: Request, scored: TokenScore) -> ChatLogprob:
    top = [_top_logprob(request, token, logprob) for token, logprob in scored.top]
    return {**_top_logprob(request, scored.token, scored.logprob), "top_logprobs": top}


def _top_logprob(request: Request, token: int, logprob: float) -> TopLogprob:
    return {
        "token": request.text_of(token),
        "logprob": max(logprob, _LEAST),
        "bytes": list(request.bytes_of(token)),
    }


# -- the methods of a model --------------------------------------------------------------------


class Completions:
    """Those methods of `Model` that answer with dictionaries."""

    @property
    def _model(self) -> Model:
        return cast("Model", self)

    @overload
    def create_completion(
        self,
        prompt: Text | Sequence[Text],
        max_tokens: int | None = 16,
        *,
        n: int = 1,
        echo: bool = False,
        logprobs: int | None = None,
        stream: Literal[False] = False,
        stream_options: StreamOptions | None = None,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...

    @overload
    def create_completion(
        self,
        prompt: Text | Sequence[Text],
        max_tokens: int | None = 16,
        *,
        n: int = 1,
        echo: bool = False,
        logprobs: int | None = None,
        stream: Literal[True],
        stream_options: StreamOptions | None = None,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Completion, None, None]: ...

    @shows_options
    def create_completion(
        self,
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
        """Continues a prompt, or several, and answers with a dictionary of the shape that OpenAI's
        and llama-cpp-python's clients know; with `stream`, with a generator of such dictionaries,
        whose `text` is what is new.

        n: choices for each prompt; with a `seed`, the k-th has seed + k.
        echo: the answer begins with the prompt.
        logprobs: tells the log probability of each token, with echo the prompt's too, and of so
          many of the likeliest tokens.
        stream_options: {"include_usage": True} ends a stream with a chunk that holds `usage`.
        model: what the answer calls the model.

        Other arguments and errors as `generate`; those of the arguments are raised at once.
        """
        wanted = Settings(
            self._model.config.name if model is None else model,
            max_tokens,
            n,
            logprobs,
            options,
            echo,
            stream and _includes_usage(stream_options),
        )
        request = Request(self._model, texts_of(prompt, "prompt")[0], wanted)
        return _completion_chunks(request) if stream else _completion(request)

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        n: int = 1,
        logprobs: bool = False,
        top_logprobs: int = 0,
        stream: Literal[False] = False,
        stream_options: StreamOptions | None = None,
        model: str | None = None,
        chat_template: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> ChatCompletion: ...

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        n: int = 1,
        logprobs: bool = False,
        top_logprobs: int = 0,
        stream: Literal[True],
        stream_options: StreamOptions | None = None,
        model: str | None = None,
        chat_template: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[ChatCompletionChunk, None, None]: ...

    @shows_options
    def create_chat_completion(
        self,
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
        **options: Unpack[GenerateOptions],
    ) -> ChatCompletion | Generator[ChatCompletionChunk, None, None]:
        """Answers a conversation, as `create_completion` continues a text.

        messages: each {"role": "system" | "user" | "assistant", "content": …}, the latest last.
        logprobs, top_logprobs: whether to tell the log probabilities of the answer's tokens, and
          of how many of the likeliest.
        chat_template: Jinja2 source to use instead of the file's, or "chatml".

        Other arguments and errors as `create_completion` and `apply_chat_template`.
        """
        text = self._model.apply_chat_template(messages, chat_template=chat_template)
        prompt = self._model.tokenize(text, add_bos=False)
        wanted = Settings(
            self._model.config.name if model is None else model,
            max_tokens,
            n,
            top_logprobs if logprobs else None,
            options,
            include_usage=stream and _includes_usage(stream_options),
        )
        request = Request(self._model, [prompt], wanted)
        return _chat_chunks(request) if stream else _chat_completion(request)
