"""The dictionaries of completions, chat completions and embeddings: those of OpenAI's API, as in
llama-cpp-python."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

FinishReason = Literal["stop", "length"]


class Usage(TypedDict):
    """Number of tokens of a request. The tokens of a prompt count once, however many completions
    it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(TypedDict):
    """For each token: its text, its natural log probability, the most likely tokens in its place
    with theirs, and its offset in the choice's text. The first token of an echoed prompt has no
    probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """`finish_reason` is None until the last chunk of a stream, then "stop" for an end-of-text
    token or a stop text, else "length". `stop_reason`, an extension, is the more precise
    `finish_reason` of `Stats`."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None


class Completion(TypedDict):
    """An answer, or a chunk of a stream of them; a chunk has no `usage`, or None."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class TopLogprob(TypedDict):
    """A token, as text and as bytes, and its natural log probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of an answer, with the most likely tokens in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """The tokens of an answer's content."""

    content: list[ChatLogprob]


class ChatMessage(TypedDict):
    """The model's message."""

    role: Literal["assistant"]
    content: str


class ChatChoice(TypedDict):
    """Like `CompletionChoice`."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None


class ChatCompletion(TypedDict):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(TypedDict, total=False):
    """The change that a chunk brings: the role first, then content."""

    role: Literal["assistant"]
    content: str


class ChatChunkChoice(TypedDict):
    """Like `ChatChoice`, in a stream."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None


class ChatCompletionChunk(TypedDict):
    """A chunk of a stream; the last may have `usage` and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class EmbeddingItem(TypedDict):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float]


class EmbeddingUsage(TypedDict):
    """Number of tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """The vectors of texts."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class DocumentText(TypedDict):
    """A document."""

    text: str


class RankedDocument(TypedDict):
    """The score of one document; `index` is its place in the request. The larger, the better it
    answers the query."""

    index: int
    relevance_score: float
    document: NotRequired[DocumentText]


class Ranking(TypedDict):
    """Documents by how well they answer a query, the best first. As Jina's and llama.cpp's
    /v1/rerank."""

    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class StreamOptions(TypedDict, total=False):
    """`include_usage`: the stream ends with a chunk that contains `usage` and no choices."""

    include_usage: bool
