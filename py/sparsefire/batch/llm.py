"""Offline inference in the shape that vLLM's users know: `LLM(model).generate(prompts, …)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any

from .._arrays import FloatArray
from .._options import Check, check_fields, count, instance, positive
from ..errors import ArgumentError, SparsefireError
from ..lm.packing import text_job
from ..lm.run import Run
from ..lm.sampling import TokenScore
from .settings import ModelSettings, opened
from .workers import checked_options

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SamplingParams:
    """How texts are drawn, with vLLM's names and defaults: see `SamplerConfig` and
    `Model.generate`. `n` texts of each prompt, of which with a `seed` the k-th has seed + k.
    `top_k` 0 or -1 keeps all tokens. `logprobs` as in `Model.start`.

    `repeat_penalty` looks at the last 64 tokens, and is not vLLM's `repetition_penalty`.
    """

    n: int = 1
    max_tokens: int | None = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        checks: dict[str, Check] = {"n": positive, "logprobs": count}
        check_fields(self, **checks)
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        checked_options({**self.options(0), "logprobs": None})

    def options(self, choice: int) -> dict[str, Any]:
        """Keyword arguments of `Model.start` for a text of a prompt."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "n"}
        if self.seed is not None and self.seed >= 0:
            found["seed"] = self.seed + choice
        return found


@dataclass(frozen=True)
class CompletionOutput:
    """A text: `finish_reason` is "stop" at an end-of-text token or a stop text, or else "length";
    `logprobs`, if they were asked for, has the scores of its tokens."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    cumulative_logprob: float | None = None
    logprobs: list[TokenScore] | None = None


@dataclass(frozen=True)
class RequestOutput:
    """The texts of a prompt. `error`: why there are none, or not all; otherwise None."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    error: str | None = None
    finished: bool = True


@dataclass(frozen=True)
class EmbeddingOutput:
    """A vector, float32 (d,)."""

    embedding: FloatArray


@dataclass(frozen=True)
class EmbeddingRequestOutput:
    """The vector of a prompt."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: EmbeddingOutput


class LLM:
    """A model for lists of prompts: each method returns a result for each, in their order, and each
    is what the prompt would give alone. `settings`: see `ModelSettings`."""

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        self.settings = ModelSettings(model, **settings)
        with opened(self.settings):  # so that a model that cannot be loaded is reported here
            pass

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Continues prompts, texts or token ids; `sampling_params` for all, or one for each.

        A prompt that fails has an `error` in place of texts. `ArgumentError`: numbers that do not
        match, no list of prompts.
        """
        return self._generate(_several(prompts), sampling_params)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers a conversation, or several, as `generate` does; see
        `Model.create_chat_completion` for the template."""
        conversations: Any = instance(Sequence)(messages, "messages")
        if conversations and isinstance(conversations[0], Mapping):
            conversations = [conversations]
        texts: list[Prompt | SparsefireError] = []
        with opened(self.settings) as found:
            for each in conversations:
                try:
                    texts.append(
                        found.model.apply_chat_template(
                            each, chat_template=chat_template, **(chat_template_kwargs or {})
                        )
                    )
                except SparsefireError as error:
                    texts.append(error)
        return self._generate(texts, sampling_params)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], **options: Any
    ) -> list[EmbeddingRequestOutput]:
        """The vectors of texts, with the options and errors of `Model.embed`."""
        outputs = []
        with opened(self.settings) as found:
            for place, prompt in enumerate(_several(prompts)):
                model = found.model
                ids = model.tokenize(prompt, special=False) if isinstance(prompt, str) else prompt
                ids = model.prompt_ids(ids)
                vector = model.embed(ids, mode=self.settings.mode, **options)
                outputs.append(EmbeddingRequestOutput(str(place), ids, EmbeddingOutput(vector)))
        return outputs

    def _generate(
        self, prompts: Sequence[Prompt | SparsefireError], wanted: Any
    ) -> list[RequestOutput]:
        params = _params(wanted, len(prompts))
        runs: list[tuple[int, int, Run, list[int]]] = []
        ids: list[list[int]] = [[] for _ in prompts]
        errors: list[str | None] = [None] * len(prompts)
        outputs: list[list[CompletionOutput]] = [[] for _ in prompts]
        with opened(self.settings) as found:
            mode = found.model.checked_mode(self.settings.mode)
            for place, (prompt, each) in enumerate(zip(prompts, params, strict=True)):
                try:
                    if isinstance(prompt, SparsefireError):
                        raise prompt
                    for choice in range(each.n):
                        options: Any = each.options(choice)
                        run, ids[place] = found.model.prepared(prompt, **options, mode=mode)
                        runs.append((place, choice, run, ids[place]))
                except SparsefireError as error:
                    errors[place] = f"{type(error).__name__}: {error}"
            runs.sort(key=lambda each: (-len(each[3]), each[3], each[0], each[1]))
            jobs = (text_job(run, prompt_ids) for _, _, run, prompt_ids in runs)
            for turn, result in found.packing(mode).run(jobs):
                place, choice, run, _ = runs[turn]
                if isinstance(result, SparsefireError):
                    errors[place] = f"{type(result).__name__}: {result}"
                else:
                    outputs[place].append(_output(choice, run, result, params[place].logprobs))
        return [
            RequestOutput(
                str(place),
                prompt if isinstance(prompt, str) else None,
                ids[place],
                sorted(outputs[place], key=lambda each: each.index),
                errors[place],
            )
            for place, prompt in enumerate(prompts)
        ]


def _output(index: int, run: Run, pieces: list[Any], logprobs: int | None) -> CompletionOutput:
    scores = [scored for piece in pieces for _, scored in piece.scores]
    reason = "stop" if run.stats.finish_reason in ("end", "stop") else "length"
    return CompletionOutput(
        index,
        "".join(piece.text for piece in pieces),
        list(run.stats.token_ids),
        reason,
        None if logprobs is None else sum(each.logprob for each in scores),
        None if logprobs is None else scores,
    )


def _several(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    found: Any = list(instance(Iterable)(prompts, "prompts"))
    return [found] if found and isinstance(found[0], Integral) else found


def _params(wanted: Any, count: int) -> list[SamplingParams]:
    if wanted is None:
        wanted = SamplingParams()
    if isinstance(wanted, SamplingParams):
        return [wanted] * count
    found = [instance(SamplingParams)(each, "sampling_params") for each in wanted]
    if len(found) != count:
        raise ArgumentError(f"sampling_params: {len(found)} for {count} prompts")
    return found
