"""The fields of request bodies: one table for each path, which checks requests and documents them.

A field that is not in its table is refused. One that is there is honoured, changes nothing about
an answer, or is an `Only`, which takes no value that would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..ffn.forward import MODES
from ..lm.chat import TAKEN_NAMES
from ..lm.embedding import POOLINGS
from ..lm.sampling import RANGES, Range
from .errors import ApiError
from .kinds import (
    Anything,
    Either,
    Flag,
    Items,
    Kind,
    Number,
    OneOf,
    Only,
    Record,
    Table,
    Text,
    Whole,
    wrong,
)

MOST_STOPS, MOST_LOGPROBS = 16, 20
WHOLE = Whole(0)


@dataclass(frozen=True)
class Limits:
    """Limits of a request. None for `max_tokens` or `prompt_tokens` means the context length. A
    request's head must arrive within `head_seconds`, its body within `body_seconds`, and each part
    of an answer be read within `write_seconds`."""

    body_bytes: int = 2 << 20
    head_seconds: float = 30.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    seconds: float = 600.0
    queue: int = 16
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    choices: int = 16
    inputs: int = 256


Fields = dict[str, tuple[Kind, str]]


@dataclass(frozen=True)
class ModelName(Kind):
    """One of the server's names of its model."""

    names: list[str]

    @property
    def wanted(self) -> str:
        return "a string"

    def takes(self, value: object) -> bool:
        return isinstance(value, str)

    def check(self, value: Any, name: str) -> str:
        super().check(value, name)
        if value not in self.names:
            raise ApiError(
                404,
                f"the model {value!r} does not exist here; this server has: "
                f"{', '.join(self.names)}",
                param=name,
                code="model_not_found",
            )
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": self.names}


@dataclass(frozen=True)
class Texts(Kind):
    """One or several texts, each a string or token ids. They become a list."""

    most: int
    vocab: int

    @property
    def wanted(self) -> str:
        return f"a string, token ids, or a list of up to {self.most} of either, and not empty"

    def takes(self, value: object) -> bool:
        return isinstance(value, (str, list))

    def check(self, value: Any, name: str) -> list[Any]:
        if (text := self._text(value)) is not None:
            return [text]
        if not isinstance(value, list) or not 0 < len(value) <= self.most:
            wrong(name, self.wanted)
        texts = [self._text(each) for each in value]
        if None in texts:
            wrong(name, f"{self.wanted}; token ids are from 0 to {self.vocab - 1}")
        return texts

    def _text(self, value: Any) -> str | list[int] | None:
        """A single text, None if it is none."""
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not value:
            return None
        ids = [int(each) for each in value if WHOLE.takes(each) and 0 <= each < self.vocab]
        return ids if len(ids) == len(value) else None

    def schema(self) -> dict[str, Any]:
        token = {"type": "integer", "minimum": 0, "maximum": self.vocab - 1}
        ids = {"type": "array", "minItems": 1, "items": token}
        several = {
            "type": "array",
            "minItems": 1,
            "maxItems": self.most,
            "items": {"anyOf": [{"type": "string"}, ids]},
        }
        return {"anyOf": [{"type": "string"}, ids, several]}


@dataclass(frozen=True)
class ModeName(Kind):
    """A mode of computing. The model itself explains why it lacks one."""

    modes: list[str]

    @property
    def wanted(self) -> str:
        return " or ".join(map(repr, self.modes))

    def takes(self, value: object) -> bool:
        return value in list(MODES)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": self.modes}


class Stops(Either):
    """One or several texts, which become a list."""

    def __init__(self) -> None:
        super().__init__([Text(1), Items(Text(1), most=MOST_STOPS)])

    def check(self, value: Any, name: str) -> list[str]:
        found = super().check(value, name)
        return [found] if isinstance(found, str) else found


class TopP(Number):
    """A share of probability. Clients write 0 for the most likely token alone."""

    def check(self, value: Any, name: str) -> float:
        return super().check(value, name) or math.ulp(0.0)


class TopK(Whole):
    """A number of tokens. Clients write -1 for all, as they do 0."""

    def check(self, value: Any, name: str) -> int:
        return max(super().check(value, name), 0)


@dataclass(frozen=True)
class LogitBias(Kind):
    """Numbers by token id. As in OpenAI's interface, -100 forbids a token."""

    vocab: int

    @property
    def wanted(self) -> str:
        return f"an object of numbers from -100 to 100 by token id, below {self.vocab}"

    @property
    def _table(self) -> Table:
        bias = Number(Range("from -100 to 100", least=-100, most=100))
        return Table("0|[1-9][0-9]{0,8}", bias, self.wanted)

    def takes(self, value: object) -> bool:
        return isinstance(value, dict)

    def check(self, value: Any, name: str) -> dict[int, float]:
        found = {int(token): each for token, each in self._table.check(value, name).items()}
        if any(token >= self.vocab for token in found):
            wrong(name, self.wanted)
        if list(found.values()).count(-100) == self.vocab:
            wrong(name, "an object that leaves a token to draw")
        return {token: -math.inf if each == -100 else each for token, each in found.items()}

    def schema(self) -> dict[str, Any]:
        return self._table.schema()


_NUMBERS: Fields = {
    name: (Number(RANGES[name]), "")
    for name in (
        "temperature",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
    )
}

_OPTIONS: Fields = {
    **_NUMBERS,
    "top_p": (TopP(replace(RANGES["top_p"], above=None, least=0, wanted="from 0 to 1")), ""),
    "top_k": (TopK(-1), "0 and -1 keep all tokens."),
    "seed": (Whole(-(1 << 63), (1 << 64) - 1), "Below 0: another one each time."),
    "stop": (Stops(), "Texts before which the answer ends."),
    "stream": (Flag(), "The answer comes as server-sent events."),
    "stream_options": (
        Record(
            {
                "include_usage": (Flag(), "The stream ends with a chunk that holds `usage`."),
                "include_obfuscation": (Only([False]), ""),
            }
        ),
        "",
    ),
}

# They are for a service's accounts and caches, and change no answer.
_METADATA: Fields = {
    "user": (Text(), "Ignored."),
    "safety_identifier": (Text(), "Ignored."),
    "metadata": (Table("[^\0]*", Anything(), "an object"), "Ignored."),
    "prompt_cache_key": (Text(), "Ignored: a prompt's known beginning is always used again."),
    "cache_prompt": (Flag(), "Ignored, as `prompt_cache_key`."),
    "store": (Only([False]), "Nothing is stored."),
    "service_tier": (Only(["auto", "default"]), ""),
}

# Fields of other servers, which clients send with the value that changes nothing.
_NEUTRAL: dict[str, list[Any]] = {
    "grammar": [""],
    "json_schema": [{}],
    "repetition_penalty": [1],
    "length_penalty": [1],
    "min_tokens": [0],
    "ignore_eos": [False],
    "stop_token_ids": [[]],
    "bad_words": [[]],
    "typical_p": [1],
    "mirostat": [0],
    "dry_multiplier": [0],
    "xtc_probability": [0],
    "use_beam_search": [False],
    "skip_special_tokens": [True],
    "include_stop_str_in_output": [False],
}

_NEUTRAL_IN_CHATS: dict[str, list[Any]] = {
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
    "response_format": [{"type": "text"}],
    "echo": [False],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
}


_VARIABLES = Table(
    rf"(?!(?:{'|'.join(TAKEN_NAMES)})$)[^\0]*",
    Anything(),
    f"an object, without the keys {', '.join(TAKEN_NAMES)}",
)


def _neutral(values: dict[str, list[Any]]) -> Fields:
    return {name: (Only(each), "") for name, each in values.items()}


_PART = Record({"type": (OneOf(["text"]), ""), "text": (Text(), "")}, required=("type", "text"))
_CALLS = Items(Table("[^\0]*", Anything(), "an object"), least=1)
_MESSAGE: Fields = {
    "role": (Text(), ""),
    "content": (Either([Text(), Items(_PART)]), "May be absent beside `tool_calls`."),
    "tool_calls": (_CALLS, ""),
}


class Message(Record):
    """A message of a conversation. The model's template sees all of it, other fields too."""

    def __init__(self) -> None:
        super().__init__(_MESSAGE, required=("role",), open=True)

    def check(self, value: Any, name: str) -> dict[str, Any]:
        found = super().check(value, name)
        if "content" not in found and "tool_calls" not in found:
            wrong(f"{name}.content", f"given: {_MESSAGE['content'][0].wanted}")
        return found

    def schema(self) -> dict[str, Any]:
        either = [
            {"required": [key], "properties": {key: _MESSAGE[key][0].schema()}}
            for key in ("content", "tool_calls")
        ]
        return {**super().schema(), "anyOf": either}


class Bodies:
    """What a server takes in the body of each of its POST requests, and `model` in a path, for its
    model's names, `vocab` tokens, `d` floats of an embedding, modes, and limits."""

    def __init__(
        self, names: list[str], vocab: int, d: int, modes: list[str], limits: Limits
    ) -> None:
        most = limits.max_tokens
        count = Whole(0, most)
        self.model = ModelName(names)
        model: Fields = {"model": (self.model, "")}
        mode: Fields = {"mode": (ModeName(modes), "How feed-forward layers are computed.")}
        speculation: Fields = {
            "speculation": (Flag(), "Whether repeated text is drafted where that is faster.")
        }
        choices: Fields = {"n": (Whole(1, limits.choices), "Choices of each prompt.")}
        bias: Fields = {
            "logit_bias": (LogitBias(vocab), "Added to logits by token id; -100 forbids one.")
        }
        shared: Fields = {
            **_OPTIONS,
            **bias,
            **mode,
            **speculation,
            **_METADATA,
            **_neutral(_NEUTRAL),
        }
        self.completion = Record(
            {
                **model,
                "prompt": (Texts(limits.choices, vocab), ""),
                "max_tokens": (count, ""),
                **choices,
                "best_of": (Whole(1, limits.choices), "As `n`, or absent."),
                "echo": (Flag(), "The answer begins with the prompt."),
                "logprobs": (
                    Either([Whole(0, MOST_LOGPROBS), Only([False])]),
                    "Of how many of the most likely tokens, beside each token's own.",
                ),
                "suffix": (Only([""]), ""),
                **shared,
            }
        )
        self.chat = Record(
            {
                **model,
                "max_completion_tokens": (count, ""),
                "max_tokens": (count, "The older name of `max_completion_tokens`."),
                **choices,
                "logprobs": (Flag(), ""),
                "top_logprobs": (Whole(0, MOST_LOGPROBS), "Needs `logprobs`."),
                **shared,
                **_neutral(_NEUTRAL_IN_CHATS),
                "chat_template_kwargs": (
                    _VARIABLES,
                    "Further variables of the chat template, such as `enable_thinking`.",
                ),
                "messages": (Items(Message(), least=1), "The conversation, the latest last."),
            },
            required=("messages",),
        )
        self.rerank = Record(
            {
                **model,
                "query": (Text(), "What the documents are to answer."),
                "documents": (Items(Text(), least=1, most=limits.inputs), ""),
                "top_n": (Whole(1), "Only the best so many."),
                "return_documents": (Flag(), "The answer has the documents' texts."),
                **mode,
                **_METADATA,
            },
            required=("query", "documents"),
        )
        self.embeddings = Record(
            {
                **model,
                "input": (Texts(limits.inputs, vocab), ""),
                "encoding_format": (
                    OneOf(["float", "base64"]),
                    "base64: of little-endian float32.",
                ),
                "dimensions": (Only([d]), ""),
                "pooling": (OneOf([*POOLINGS]), "Of the tokens' states."),
                **mode,
                **_METADATA,
            },
            required=("input",),
        )
