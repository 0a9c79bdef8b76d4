"""An HTTP server with OpenAI's API for one model: an ASGI application.

The event loop only moves bytes. The model runs in its own thread (`queue`), and `requests` turns
request bodies into calls of it. Needs the extra "serve".
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import sparsefire

from .errors import ApiError
from .fields import Limits
from .metrics import Metrics
from .openapi import OPERATIONS, document
from .queue import Job, ModelQueue, TimeLimitError
from .requests import Call, Requests

_log = logging.getLogger("sparsefire.serve.app")


class Server:
    """The application's state. `app` is the ASGI application.

    api_key: the key that clients must send as `Authorization: Bearer …`; None for no key.
    origins: allowed CORS origins ("*": all); by default none.
    local_only: rejects requests whose Host is not this machine, as a protection against DNS
      rebinding by web pages.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        api_key: str | None = None,
        origins: Sequence[str] = (),
        local_only: bool = False,
    ) -> None:
        self.requests = requests
        self.limits: Limits = requests.limits
        self.queue = ModelQueue(self.limits.queue)
        self.metrics = Metrics()
        self.started = int(time.time())
        middleware = [Middleware(_Guard, api_key=api_key, local_only=local_only)]
        if origins:
            cors = Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                # Any header: clients send their own, such as X-Stainless-Lang, and a list of
                # origins is what protects the server.
                allow_headers=["*"],
                expose_headers=["Retry-After"],
            )
            middleware.insert(0, cors)
        self._document = document(
            sparsefire.__version__,
            vars(requests.bodies),
            has_key=api_key is not None,
            local_only=local_only,
        )
        calls = {
            "completion": requests.completion,
            "chat": requests.chat,
            "embeddings": requests.embeddings,
            "rerank": requests.rerank,
        }
        answers = {
            "models": self._models,
            "model": self._model,
            "health": self._health,
            "metrics": self._metrics,
            "document": self._openapi,
        }
        self.app = Starlette(
            routes=[
                Route(
                    each.path.replace("{name}", "{name:path}"),
                    _Endpoint(self, each.path, calls[each.name])
                    if each.method == "POST"
                    else answers[each.name],
                    methods=[each.method],
                )
                for each in OPERATIONS
            ],
            middleware=middleware,
            exception_handlers={HTTPException: _http_error, ApiError: _api_error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.queue.start()
        try:
            yield
        finally:
            self.queue.stop()
            await asyncio.to_thread(self.queue.join)

    def _about(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "sparsefire"}

    async def _models(self, request: Request) -> Response:
        data = [self._about(name) for name in self.requests.names]
        return _json({"object": "list", "data": data})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.requests.names:
            raise ApiError(404, f"the model {name!r} does not exist here", code="model_not_found")
        return _json(self._about(name))

    async def _health(self, request: Request) -> Response:
        queue = self.queue
        return _json({"status": "ok", "running": queue.running, "waiting": queue.waiting})

    async def _openapi(self, request: Request) -> Response:
        return _json(self._document)

    async def _metrics(self, request: Request) -> Response:
        text = self.metrics.text(
            busy_seconds_total=self.queue.busy_seconds,
            requests_running=self.queue.running,
            requests_waiting=self.queue.waiting,
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


class _Guard:
    """Middleware for authentication and the Host check."""

    def __init__(self, app: ASGIApp, api_key: str | None, local_only: bool) -> None:
        self._app, self._local_only = app, local_only
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = self._error(scope["path"], dict(scope["headers"]))
            if error is not None:
                await _error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _error(self, path: str, headers: Mapping[bytes, bytes]) -> ApiError | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._local_only and not is_local(_without_port(host)):
            return ApiError(
                403,
                f"requests for the host {host!r} are not answered; use 127.0.0.1 or localhost, or "
                "set an API key",
            )
        if self._key is None or path == "/health":
            return None
        if hmac.compare_digest(headers.get(b"authorization", b""), self._key):
            return None
        return ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def is_local(host: str) -> bool:
    """Whether a host name or address is local to this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return (
        host[: host.index("]") + 1]
        if host.startswith("[") and "]" in host
        else (host.partition(":")[0])
    )


class _Endpoint:
    """POST of one path: reads the body, queues the work, and answers completely or as a stream."""

    def __init__(self, server: Server, path: str, parse: Callable[[bytes], Call]) -> None:
        self._server, self._path, self._parse = server, path, parse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499  # the customary status of a request that its client closed
        job = watcher = None
        send = _timely(send, self._server.limits.write_seconds)
        try:
            call = self._parse(await self._body(scope, receive))
            job = self._server.queue.submit(call.run, self._server.limits.seconds)
            watcher = asyncio.create_task(_abandon_without_client(job, receive))
            first = await job.next()
            if watcher.done():
                raise _GoneError
            if first is None:
                raise TimeLimitError("the time limit was reached before there was an answer")
            status = 200
            await self._answer(call, job, first, watcher, scope, receive, send)
        except _GoneError:
            status = 499
            self._server.metrics.add("requests_cancelled_total")
        except Exception as error:
            answer = self._server.requests.answer_to(error)
            if answer.status == 500:
                _log.error("%s failed", self._path, exc_info=error)
            if status != 200:  # else the answer has begun
                status = answer.status
                await _error_response(answer)(scope, receive, send)
        finally:
            if watcher is not None:
                watcher.cancel()
            if job is not None:
                job.abandon()
            self._server.metrics.add("requests_total", path=self._path, status=status)

    async def _answer(
        self,
        call: Call,
        job: Job,
        first: dict[str, Any],
        watcher: asyncio.Task[None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if not call.stream:
            self._count(first)
            await _json(first)(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        chunk: dict[str, Any] | None = first
        try:
            while chunk is not None:
                if not chunk["choices"]:
                    self._count(chunk)
                # The client is gone; only its usage is still counted.
                if (chunk["choices"] or call.include_usage) and not watcher.done():
                    if not call.include_usage:
                        del chunk["usage"]
                    await _send_event(send, chunk)
                chunk = await job.next()
                await asyncio.sleep(0)  # others have their turn, though chunks may be waiting
        except _GoneError:
            raise
        except Exception as error:
            await _send_event(send, self._server.requests.answer_to(error).body)
            await send({"type": "http.response.body", "body": b""})
            raise
        if watcher.done():
            raise _GoneError
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _count(self, answer: Mapping[str, Any]) -> None:
        usage = answer["usage"]
        self._server.metrics.add("prompt_tokens_total", usage["prompt_tokens"])
        self._server.metrics.add("generated_tokens_total", usage.get("completion_tokens", 0))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The complete body; errors if it is too large, too slow or not declared as JSON."""
        headers, most = dict(scope["headers"]), self._server.limits.body_bytes
        kind = headers.get(b"content-type", b"").decode("latin-1")
        # A web page can send other types to any server without a CORS preflight.
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, f"Content-Type must be application/json, not {kind!r}")
        too_large = ApiError(413, f"the body is larger than {most} bytes", close=True)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._server.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", close=True) from None


class _GoneError(Exception):
    """The client disconnected, or does not read."""


def _timely(send: Send, seconds: float) -> Send:
    """A `send` that gives up a client that does not read for so long."""

    async def timely(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            raise _GoneError from None

    return timely


async def _abandon_without_client(job: Job, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.abandon()


async def _send_event(send: Send, event: Mapping[str, Any]) -> None:
    body = b"data: " + _dumps(event) + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _dumps(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _json(body: Mapping[str, Any], status: int = 200, headers: Any = None) -> Response:
    return Response(_dumps(body), status, headers, "application/json")


def _error_response(error: ApiError) -> Response:
    return _json(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "there is nothing at", 405: "this method is not allowed at"}
    message = f"{known.get(error.status_code, error.detail)} {request.url.path}"
    return _error_response(ApiError(error.status_code, message, headers=error.headers))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error)
