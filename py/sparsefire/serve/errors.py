"""Error responses in the shape of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import ArgumentError, ContextFullError, UnsupportedError
from .queue import QueueFullError, ShuttingDownError, TimeLimitError

# What each status of an error response means.
STATUSES = {
    400: "The request is wrong; `error.param` names the field.",
    401: "The API key is missing or wrong.",
    403: "The request is for a host name that is not this machine's.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "The queue is full.",
    500: "The server failed.",
    503: "The time limit was reached, or the server is shutting down.",
}


class ApiError(Exception):
    """An error response. The connection ends with it when `close`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        if close:
            self.headers["Connection"] = "close"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: Exception, message: str) -> ApiError:
    """The response to an error of the model, with this message; other exceptions are internal
    errors."""
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
