"""Turns request bodies into calls of the model."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..errors import ContextFullError
from ..lm.embedding import embeddings_of, ids_of, vector_width
from ..lm.generation import Cancel, GenerateOptions
from ..lm.ranking import ranking_of
from ..lm.sampling import RANGES
from .errors import ApiError, error_of
from .fields import Bodies, Limits
from .kinds import Record

if TYPE_CHECKING:
    from ..lm.model import Model

_DEEPEST = 32  # levels of lists and objects in a body
_OPTIONS = (*RANGES, "seed", "stop", "logit_bias")


@dataclass(frozen=True)
class Call:
    """A checked request: `run` executes it and yields the answer, in chunks if `stream`."""

    run: Callable[[Cancel], Iterator[dict[str, Any]]]
    stream: bool = False
    include_usage: bool = False


def fields_of(body: bytes, table: Record) -> dict[str, Any]:
    """The fields of a body, as its table says. Raises `ApiError`."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 at byte {error.start}") from None
    try:
        found = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object")
    _check_depth(found)
    return table.check(found, "")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {double[:64]!r} occurs twice")
    return found


def _check_depth(value: object) -> None:
    """Refuses a value that is nested too deeply for the recursions of what it is for."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [
            each
            for holder in level
            for each in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(each, (dict, list))
        ]
        if not level:
            return
    raise ApiError(400, f"the body has more than {_DEEPEST} levels of lists and objects")


class Requests:
    """Turns request bodies into calls of a model.

    name: the model's name in answers. names: all names that requests may use. mode, speculation:
      what requests get that do not say. chat_template, chat_template_kwargs: see
      `Model.create_chat_completion`; a request's own variables replace those of the same names.
    """

    def __init__(
        self,
        model: Model,
        names: list[str],
        limits: Limits,
        *,
        mode: str | None = None,
        speculation: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.names, self.limits = model, names, limits
        sizes = model.config.vocab, vector_width(model)
        self.bodies = Bodies(names, *sizes, model.modes, limits)
        self._own: dict[str, Any] = {"mode": mode, "speculation": speculation}
        self._chat_template = chat_template
        self._variables = dict(chat_template_kwargs or {})

    def answer_to(self, error: Exception) -> ApiError:
        """The response to an error of the model. It names the model as requests do, and not its
        file, whose path is nobody's business."""
        return error_of(error, str(error).replace(self.model.file.name, self.names[0]))

    def _options(self, fields: dict[str, Any]) -> GenerateOptions:
        options = {name: fields[name] for name in _OPTIONS if name in fields}
        own = {name: fields.get(name, value) for name, value in self._own.items()}
        return cast(GenerateOptions, {**options, **own})

    def _n(self, fields: dict[str, Any], prompts: int) -> int:
        n: int = fields.get("n", 1)
        if n * prompts > self.limits.choices:
            raise ApiError(
                400,
                f"n: {n} × {prompts} choices; this server makes at most {self.limits.choices}",
                param="n",
            )
        return n

    def _check_prompt(self, ids: list[int]) -> None:
        most = self.limits.prompt_tokens
        if most is not None and len(ids) > most:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens; this server takes at most {most}"
            )

    def _call(
        self,
        fields: dict[str, Any],
        check: Callable[[], object],
        method: str,
        *arguments: Any,
        **more: Any,
    ) -> Call:
        """The call of a method of the model, after a check in the model's thread."""
        stream: bool = fields.get("stream", False)
        options = self._options(fields)

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            check()
            answer = getattr(self.model, method)(
                *arguments,
                stream=stream,
                stream_options={"include_usage": True},
                model=self.names[0],
                **more,
                **{**options, "cancel": cancel},
            )
            return iter(answer) if stream else iter([answer])

        return Call(run, stream, fields.get("stream_options", {}).get("include_usage", False))

    def completion(self, body: bytes) -> Call:
        """POST /v1/completions."""
        fields = fields_of(body, self.bodies.completion)
        prompts = fields.get("prompt", [""])
        n = self._n(fields, len(prompts))
        if fields.get("best_of", n) != n:
            raise ApiError(
                400,
                "best_of is not supported; it may be n",
                param="best_of",
                code="unsupported_value",
            )
        most = self.limits.max_tokens
        max_tokens = fields.get("max_tokens", 16 if most is None else min(16, most))
        logprobs = fields.get("logprobs")

        def check() -> None:
            for prompt in prompts:
                self._check_prompt(self.model.prompt_ids(prompt))

        return self._call(
            fields,
            check,
            "create_completion",
            prompts,
            max_tokens,
            n=n,
            echo=fields.get("echo", False),
            logprobs=None if logprobs is False else logprobs,
        )

    def chat(self, body: bytes) -> Call:
        """POST /v1/chat/completions."""
        fields = fields_of(body, self.bodies.chat)
        messages = fields["messages"]
        most = [fields[name] for name in ("max_completion_tokens", "max_tokens") if name in fields]
        if len(set(most)) > 1:
            raise ApiError(400, "max_tokens differs from max_completion_tokens", param="max_tokens")
        logprobs, top = fields.get("logprobs", False), fields.get("top_logprobs", 0)
        if top and not logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")

        variables = {**self._variables, **fields.get("chat_template_kwargs", {})}

        def check() -> None:
            if self.limits.prompt_tokens is not None:
                text = self.model.apply_chat_template(
                    messages, chat_template=self._chat_template, **variables
                )
                self._check_prompt(self.model.tokenize(text))

        return self._call(
            fields,
            check,
            "create_chat_completion",
            messages,
            most[0] if most else self.limits.max_tokens,
            n=self._n(fields, 1),
            logprobs=logprobs,
            top_logprobs=top,
            chat_template=self._chat_template,
            chat_template_kwargs=variables,
        )

    def embeddings(self, body: bytes) -> Call:
        """POST /v1/embeddings."""
        fields = fields_of(body, self.bodies.embeddings)
        texts, pooling = fields["input"], fields.get("pooling")
        mode = fields.get("mode", self._own["mode"])

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            ids = [ids_of(self.model, text) for text in texts]
            for each in ids:
                self._check_prompt(each)
            vectors = []
            for each in ids:
                if cancel.reason:
                    return
                vectors.append(self.model.embed(each, pooling=pooling, mode=mode))
            answer: dict[str, Any] = {**embeddings_of(vectors, sum(map(len, ids)), self.names[0])}
            if fields.get("encoding_format") == "base64":
                for item, vector in zip(answer["data"], vectors, strict=True):
                    item["embedding"] = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            yield answer

        return Call(run)

    def rerank(self, body: bytes) -> Call:
        """POST /v1/rerank."""
        fields = fields_of(body, self.bodies.rerank)
        mode, documents = fields.get("mode", self._own["mode"]), fields["documents"]

        def run(cancel: Cancel) -> Iterator[dict[str, Any]]:
            judge = self.model.judge
            pairs = [judge.pair(fields["query"], each) for each in documents]
            for pair in pairs:
                self._check_prompt(pair.ids)
            scores = []
            for pair in pairs:
                if cancel.reason:
                    return
                scores.append(judge.score(pair, mode))
            tokens = sum(len(pair.ids) for pair in pairs)
            shown = documents if fields.get("return_documents") else None
            top = fields.get("top_n")
            yield {**ranking_of(scores, tokens, self.names[0], top_n=top, documents=shown)}

        return Call(run)
