"""Validates request bodies and turns them into calls of the model."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..errors import ArgumentError, ContextFullError, UnsupportedError
from ..ffn.forward import MODES
from ..lm.embedding import embeddings_of, ids_of
from ..lm.generation import Cancel, GenerateOptions
from .queue import QueueFullError, ShuttingDownError, TimeLimitError

if TYPE_CHECKING:
    from ..lm.model import Model

_MOST_STOPS, _MOST_LOGPROBS = 16, 20

# Fields of other servers that would change the answer, with the values that change nothing.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "grammar": ("",),
    "json_schema": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "typical_p": (1,),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "reasoning_effort": (),
    "prediction": (),
    "web_search_options": (),
    "verbosity": (),
}


class ApiError(Exception):
    """An error response in the shape of OpenAI's API."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Limits:
    """Limits of a request. None for `max_tokens` or `prompt_tokens` means the context length."""

    body_bytes: int = 2 << 20
    body_seconds: float = 30.0
    seconds: float = 600.0
    queue: int = 16
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    choices: int = 16
    inputs: int = 256


@dataclass(frozen=True)
class Call:
    """A checked request: `run` executes it and yields the answer, in chunks if `stream`."""

    run: Callable[[Cancel], Iterator[dict[str, Any]]]
    stream: bool = False
    include_usage: bool = False


class Fields:
    """The fields of a JSON object. A missing field or null means the default; a wrong type is an
    error that names the field."""

    def __init__(self, body: bytes) -> None:
        try:
            found = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body is not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise ApiError(400, "the body must be a JSON object")
        self._found: dict[str, Any] = found

    def any(self, name: str) -> Any:
        """The raw value of a field, None if it is missing."""
        return self._found.get(name)

    def wrong(self, name: str, wanted: str) -> NoReturn:
        """Raises the error for a field that is not `wanted`."""
        raise ApiError(400, f"{name} must be {wanted}", param=name)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.any(name)
        if value is not None and not isinstance(value, str):
            self.wrong(name, "a string")
        return value

    def flag(self, name: str) -> bool:
        """true or false, by default false."""
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, "true or false")
        return bool(value)

    def integer(self, name: str, least: int, most: int | None = None) -> int | None:
        """A whole number."""
        value = self.any(name)
        if value is None:
            return None
        reach = f"of {least} or more" if most is None else f"from {least} to {most}"
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, f"a whole number {reach}")
        if value < least or (most is not None and value > most):
            self.wrong(name, f"a whole number {reach}, not {value}")
        return int(value)

    def number(self, name: str) -> float | None:
        """A number."""
        value = self.any(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.wrong(name, "a number")
        try:
            return float(value)
        except OverflowError:
            self.wrong(name, "a number of a sensible size")

    def refuse(self, name: str, *harmless: object) -> None:
        """Rejects a field that would change the answer but is not supported."""
        value = self.any(name)
        if value is not None and value not in harmless:
            raise ApiError(400, f"{name} is not supported", param=name, code="unsupported_value")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def options_of(fields: Fields, mode: str | None) -> GenerateOptions:
    """The generation options of a request, with `mode` as the default mode."""
    for name, harmless in _UNSUPPORTED.items():
        fields.refuse(name, *harmless)
    options: dict[str, Any] = {"mode": fields.text("mode") or mode}
    if options["mode"] is not None and options["mode"] not in MODES:
        fields.wrong("mode", f"one of {', '.join(MODES)}")
    for name in (
        "temperature",
        "top_p",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
    ):
        value = fields.number(name)
        if value is not None:
            options[name] = value
    if options.get("top_p") == 0:  # clients mean the most likely token alone
        options["top_p"] = math.ulp(0.0)
    top_k = fields.integer("top_k", -1)
    if top_k is not None:
        options["top_k"] = max(top_k, 0)
    seed = fields.integer("seed", -(1 << 63), (1 << 64) - 1)
    if seed is not None:
        options["seed"] = seed
    options["stop"] = _stops(fields)
    options["logit_bias"] = _logit_bias(fields)
    return cast(GenerateOptions, options)


def _stops(fields: Fields) -> list[str]:
    value = fields.any("stop")
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if (
        not isinstance(stops, list)
        or len(stops) > _MOST_STOPS
        or not all(isinstance(each, str) and each for each in stops)
    ):
        fields.wrong("stop", f"a text that is not empty, or a list of up to {_MOST_STOPS}")
    return stops


def _logit_bias(fields: Fields) -> dict[int, float]:
    value = fields.any("logit_bias")
    if value is None:
        return {}
    wanted = "an object of numbers from -100 to 100 by token id"
    if not isinstance(value, dict):
        fields.wrong("logit_bias", wanted)
    bias: dict[int, float] = {}
    for token, each in value.items():
        number = isinstance(each, (int, float)) and not isinstance(each, bool)
        if not re.fullmatch(r"[0-9]{1,9}", token) or not number or not -100 <= each <= 100:
            fields.wrong("logit_bias", wanted)
        # As in OpenAI's interface, -100 forbids a token.
        bias[int(token)] = -float("inf") if each == -100 else float(each)
    return bias


class Requests:
    """Turns request bodies into calls of a model.

    name: the model's name in answers. names: all names that requests may use. mode: the default
      mode. chat_template: see `Model.create_chat_completion`.
    """

    def __init__(
        self,
        model: Model,
        names: list[str],
        limits: Limits,
        *,
        mode: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.model, self.names, self.limits = model, names, limits
        self._mode, self._chat_template = mode, chat_template

    def answer_to(self, error: Exception) -> ApiError:
        """The response to an error of the model; other exceptions are internal errors. It names
        the model as requests do, and not its file, whose path is nobody's business."""
        return _error_of(error, str(error).replace(self.model.file.name, self.names[0]))

    def _check_model(self, fields: Fields) -> None:
        name = fields.text("model")
        if name is not None and name not in self.names:
            raise ApiError(
                404,
                f"the model {name!r} does not exist here; this server has: {', '.join(self.names)}",
                param="model",
                code="model_not_found",
            )

    def _max_tokens(self, fields: Fields, *names: str) -> int | None:
        most = self.limits.max_tokens
        for name in names:
            value = fields.integer(name, 0, most)
            if value is not None:
                return value
        return most

    def _n(self, fields: Fields, prompts: int) -> int:
        n = fields.integer("n", 1) or 1
        if n * prompts > self.limits.choices:
            raise ApiError(
                400,
                f"n: {n} × {prompts} choices; this server makes at most {self.limits.choices}",
                param="n",
            )
        return n

    def _stream(self, fields: Fields) -> tuple[bool, bool]:
        """Whether to stream, and whether to include usage."""
        options = fields.any("stream_options")
        if options is not None and not isinstance(options, dict):
            fields.wrong("stream_options", "an object")
        usage = (options or {}).get("include_usage")
        if usage is not None and not isinstance(usage, bool):
            fields.wrong("stream_options.include_usage", "true or false")
        return fields.flag("stream"), bool(usage)

    def _check_prompt(self, ids: list[int]) -> None:
        most = self.limits.prompt_tokens
        if most is not None and len(ids) > most:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens; this server takes at most {most}"
            )

    def completion(self, body: bytes) -> Call:
        """POST /v1/completions."""
        fields = Fields(body)
        self._check_model(fields)
        fields.refuse("suffix", "")
        prompts = _texts(fields, "prompt", "")
        n = self._n(fields, len(prompts))
        fields.refuse("best_of", n)
        max_tokens = self._max_tokens(fields, "max_tokens")
        if fields.any("max_tokens") is None:
            max_tokens = 16 if max_tokens is None else min(16, max_tokens)
        logprobs = None
        if fields.any("logprobs") is not False:  # as in the interface for chats
            logprobs = fields.integer("logprobs", 0, _MOST_LOGPROBS)
        echo, options = fields.flag("echo"), options_of(fields, self._mode)
        stream, usage = self._stream(fields)

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            ids = [self.model.prompt_ids(prompt) for prompt in prompts]
            for each in ids:
                self._check_prompt(each)
            create: Any = self.model.create_completion
            answer = create(
                prompts,
                max_tokens,
                n=n,
                echo=echo,
                logprobs=logprobs,
                stream=stream,
                stream_options={"include_usage": True},
                model=self.names[0],
                **{**options, "cancel": cancel},
            )
            return iter(answer) if stream else iter([answer])

        return Call(run, stream, usage)

    def chat(self, body: bytes) -> Call:
        """POST /v1/chat/completions."""
        fields = Fields(body)
        self._check_model(fields)
        for name in ("tools", "functions", "modalities", "audio"):
            fields.refuse(name, [], ["text"])
        fields.refuse("tool_choice", "none", "auto")
        fields.refuse("response_format", {"type": "text"})
        messages = fields.any("messages")
        if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
            fields.wrong("messages", "a list of objects with a role and a content")
        n = self._n(fields, 1)
        max_tokens = self._max_tokens(fields, "max_completion_tokens", "max_tokens")
        logprobs = fields.flag("logprobs")
        top = fields.integer("top_logprobs", 0, _MOST_LOGPROBS) or 0
        options = options_of(fields, self._mode)
        stream, usage = self._stream(fields)

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            if self.limits.prompt_tokens is not None:
                text = self.model.apply_chat_template(messages, chat_template=self._chat_template)
                self._check_prompt(self.model.tokenize(text))
            create: Any = self.model.create_chat_completion
            answer = create(
                messages,
                max_tokens,
                n=n,
                logprobs=logprobs,
                top_logprobs=top,
                stream=stream,
                stream_options={"include_usage": True},
                model=self.names[0],
                chat_template=self._chat_template,
                **{**options, "cancel": cancel},
            )
            return iter(answer) if stream else iter([answer])

        return Call(run, stream, usage)

    def embeddings(self, body: bytes) -> Call:
        """POST /v1/embeddings."""
        fields = Fields(body)
        self._check_model(fields)
        if fields.any("input") is None:
            fields.wrong("input", "a string, token ids, or a list of either")
        texts = _texts(fields, "input", "")
        if len(texts) > self.limits.inputs:
            fields.wrong("input", f"at most {self.limits.inputs} texts, not {len(texts)}")
        packing = fields.text("encoding_format") or "float"
        if packing not in ("float", "base64"):
            fields.wrong("encoding_format", "'float' or 'base64'")
        fields.refuse("dimensions", self.model.config.d)
        pooling: Any = fields.text("pooling") or "mean"
        if pooling not in ("mean", "last"):
            fields.wrong("pooling", "'mean' or 'last'")

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            ids = [ids_of(self.model, text) for text in texts]
            for each in ids:
                self._check_prompt(each)
            vectors = []
            for each in ids:
                if cancel.reason:
                    return
                vectors.append(self.model.embed(each, pooling=pooling, mode=self._mode))
            answer: dict[str, Any] = {**embeddings_of(vectors, sum(map(len, ids)), self.names[0])}
            if packing == "base64":
                for item, vector in zip(answer["data"], vectors, strict=True):
                    item["embedding"] = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            yield answer

        return Call(run)


def _texts(fields: Fields, name: str, default: str) -> list[Any]:
    """One or several texts or lists of token ids, as a list."""
    value = fields.any(name)
    if value is None:
        return [default]
    if isinstance(value, str):
        return [value]
    wanted = "a string, token ids, or a list of either, and not empty"
    if not isinstance(value, list) or not value:
        fields.wrong(name, wanted)
    if all(_is_id(each) for each in value):
        return [value]
    for each in value:
        if not isinstance(each, str) and not (
            isinstance(each, list) and each and all(map(_is_id, each))
        ):
            fields.wrong(name, wanted)
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _error_of(error: Exception, message: str) -> ApiError:
    """The response to an error of the model; other exceptions are internal errors."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFullError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(error, ArgumentError):
        name = re.match(r"[a-z_]+", message)
        return ApiError(400, message, param=name[0] if name else None)
    if isinstance(error, UnsupportedError):
        return ApiError(400, message, code="unsupported_value")
    if isinstance(error, QueueFullError):
        return ApiError(
            429, message, kind="rate_limit_error", code="queue_full", headers={"Retry-After": "2"}
        )
    if isinstance(error, TimeLimitError):
        return ApiError(503, message, kind="server_error", code="time_limit")
    if isinstance(error, ShuttingDownError):
        return ApiError(503, message, kind="server_error", code="shutdown")
    return ApiError(500, "the server failed; its log says more", kind="server_error")
