"""OpenAI's batch files: each line is a request, as `sparsefire serve` answers it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import ArgumentError, SparsefireError
from ..lm.generation import Cancel
from ..lm.packing import OF_ALL
from ..serve.errors import ApiError
from ..serve.fields import Limits
from ..serve.requests import Requests
from .settings import OpenedModel
from .tables import Kind
from .workers import Answer, Row, Worker, parsed

_METHODS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embeddings",
}
# No request waits for another one here.
_LIMITS = Limits()


class OpenAILines(Worker):
    """Answers lines with "custom_id", "method", "url" and "body" (a dictionary, or its JSON), one
    after the other. Results: "id" and "response", JSON of {"status_code", "request_id", "body"}, in
    which the body is an answer or an error, as the server's. Any name of a model in a body is this
    model's; "stream" may not be true."""

    reads = ("custom_id", "url", "body")
    may_read = ("method",)
    results: ClassVar[dict[str, Kind]] = {"id": "text", "response": "json"}
    drops = ("method", "url", "body")

    def __init__(
        self,
        model: str | None = None,
        *,
        chat_template: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, columns=columns, **settings)
        self.chat_template = chat_template

    def _answers(self, found: OpenedModel, rows: Sequence[Row]) -> list[Answer]:
        requests = Requests(
            found.model,
            [found.model.config.name],
            _LIMITS,
            mode=self.settings.mode,
            chat_template=self.chat_template,
        )
        return [self._answer(requests, row) for row in rows]

    def _answer(self, requests: Requests, row: Row) -> Answer:
        identity = uuid.uuid4().hex
        tokens: dict[str, int] = {}
        body: dict[str, Any]
        try:
            body, status = _answered(requests, row), 200
            usage = body.get("usage", {})
            tokens = {k: usage[k] for k in ("prompt_tokens", "completion_tokens") if k in usage}
        except ApiError as error:
            body, status = error.body, error.status
        response = {"status_code": status, "request_id": f"req-{identity}", "body": body}
        failure = f"status {status}: {body['error']['message']}" if status != 200 else None
        return {"id": f"batch_req_{identity}", "response": response, "error": failure, **tokens}


def _answered(requests: Requests, row: Row) -> dict[str, Any]:
    for name in ("custom_id", "url", "body"):
        if isinstance(row[name], KeyError):
            raise ApiError(400, str(row[name].args[0]), param=name)
    method = _METHODS.get(row["url"]) if isinstance(row["url"], str) else None
    if method is None or row.get("method") not in (None, "POST"):
        raise ApiError(404, f"no such request; there are POST {', '.join(_METHODS)}", param="url")
    try:
        fields = parsed(row["body"], "body")
    except ArgumentError:
        fields = None
    if not isinstance(fields, Mapping):
        raise ApiError(400, "the body must be a JSON object", param="body")
    if fields.get("stream"):
        raise ApiError(400, "a batch has no streams", param="stream")
    given = {**fields, "model": requests.names[0]}
    try:
        call = getattr(requests, method)(json.dumps(given).encode())
        answer: dict[str, Any] = next(call.run(Cancel()))
    except (ApiError, *OF_ALL):
        raise
    except SparsefireError as error:
        raise requests.answer_to(error) from error
    return answer
