"""`sparsefire serve`: an HTTP server with OpenAI's API."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from types import FrameType
from typing import Any

from .._shown import shown
from ..errors import ArgumentError, BackendError
from .common import (
    add_mode_options,
    add_model_options,
    add_speculation_option,
    add_template_variables,
    load_model,
    read_text,
    template_variables,
)


def add_serve_parser(commands: Any) -> None:
    """Adds `serve` to the subcommands."""
    parser = commands.add_parser(
        "serve",
        help="serve a model with OpenAI's HTTP API",
        description="Serves a model with OpenAI's HTTP API: completions, chat, embeddings. One "
        "request runs at a time. Stop it with Ctrl-C. Needs the extra 'serve'.",
    )
    parser.set_defaults(run=_serve)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; default %(default)s, this machine only",
    )
    add(
        "--port",
        type=int,
        default=8080,
        metavar="N",
        help="port, 0 for a free one; default %(default)s",
    )
    add(
        "--api-key",
        metavar="KEY",
        help="API key that clients must send; preferably set SPARSEFIRE_API_KEY instead, which "
        "other users of the machine cannot see",
    )
    add("--cors", action="append", default=[], metavar="ORIGIN", help="allowed CORS origin")
    add("--alias", action="append", default=[], metavar="NAME", help="model name for requests")
    add("--context", type=int, metavar="N", help="maximum number of tokens, prompt included")
    add("--chat-template", metavar="NAME", help="'chatml' or a file, instead of the model's own")
    add_template_variables(add)
    add("--log-requests", action="store_true", help="print a line for each request")
    add_model_options(parser)
    add_mode_options(parser)
    add_speculation_option(parser)
    add = parser.add_argument_group("limits").add_argument
    add(
        "--max-body",
        type=int,
        default=2 << 20,
        metavar="BYTES",
        help="size of a request; default %(default)s",
    )
    add(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="tokens of a prompt; default: the context length",
    )
    add("--max-tokens", type=int, metavar="N", help="new tokens; default: the context length")
    add(
        "--max-queue",
        type=int,
        default=16,
        metavar="N",
        help="waiting requests; default %(default)s",
    )
    add(
        "--max-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds per request, queueing included; default %(default)g",
    )
    add(
        "--grace",
        type=int,
        default=10,
        metavar="S",
        help="seconds for running answers to finish at shutdown; default %(default)s",
    )


def read_template(name: str | None) -> str | None:
    """The chat template that an option names: a name, or the text of a file."""
    return name if name is None or name == "chatml" else read_text(name)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        from ..serve import app, connections  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"sparsefire serve needs the package {error.name}: pip install 'sparsefire[serve]'"
        ) from None
    api_key = arguments.api_key or os.environ.get("SPARSEFIRE_API_KEY") or None
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ArgumentError("the API key must be printable ASCII, without line breaks")
    limits = _limits(arguments)
    template = read_template(arguments.chat_template)
    # Before loading the model, so that a port in use is reported immediately.
    listening = _listen(arguments.host, arguments.port)
    with listening, load_model(arguments, arguments.context) as model:
        _run(arguments, model, listening, limits, template, api_key)
    return 0


def _run(
    arguments: argparse.Namespace,
    model: Any,
    listening: socket.socket,
    limits: Any,
    template: str | None,
    api_key: str | None,
) -> None:
    """Serves until a signal ends it."""
    import uvicorn

    from ..serve.app import Server, is_local
    from ..serve.connections import protocol
    from ..serve.requests import Requests

    local = is_local(arguments.host)
    server = Server(
        Requests(
            model,
            arguments.alias or [model.config.name],
            limits,
            mode=arguments.mode,
            speculation=arguments.speculation,
            chat_template=template,
            chat_template_kwargs=template_variables(arguments),
        ),
        api_key=api_key,
        origins=arguments.cors,
        local_only=local and api_key is None,
    )
    if not local and api_key is None:
        print(
            f"sparsefire: warning: anyone who can reach {arguments.host} can use this server; "
            "set SPARSEFIRE_API_KEY",
            file=sys.stderr,
        )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    port = listening.getsockname()[1]
    print(
        f"serving {shown(server.requests.names[0])} at http://{host}:{port}/v1 (Ctrl-C to stop)",
        flush=True,
    )
    config = uvicorn.Config(
        server.app,
        http=protocol(limits.head_seconds),
        log_level="info" if arguments.log_requests else "warning",
        access_log=arguments.log_requests,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=arguments.grace + 5,  # for clients that do not read their answer
    )

    class Graceful(uvicorn.Server):
        """Ends running answers in order after the grace period, or at a second Ctrl-C."""

        ending: asyncio.AbstractEventLoop | None = None

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.ending = asyncio.get_running_loop()
            self.ending.call_later(arguments.grace, server.queue.stop)
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.ending is not None:
                self.ending.call_soon_threadsafe(server.queue.stop)
            elif not self.should_exit:
                super().handle_exit(sig, frame)

    Graceful(config).run(sockets=[listening])


def _limits(arguments: argparse.Namespace) -> Any:
    from ..serve.fields import Limits

    for name, least in (
        ("max_body", 1),
        ("max_prompt_tokens", 1),
        ("max_tokens", 1),
        ("max_queue", 0),
        ("grace", 0),
    ):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ArgumentError(f"--{name.replace('_', '-')} must be {least} or more, not {value}")
    if not 0 < arguments.max_seconds < float("inf"):
        raise ArgumentError(f"--max-seconds must be above 0, not {arguments.max_seconds}")
    return Limits(
        body_bytes=arguments.max_body,
        seconds=arguments.max_seconds,
        queue=arguments.max_queue,
        max_tokens=arguments.max_tokens,
        prompt_tokens=arguments.max_prompt_tokens,
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `ArgumentError`."""
    if not 0 <= port < 1 << 16:
        raise ArgumentError(f"--port must be from 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for clients that stop reading, in milliseconds
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        return listening
    except OSError as error:
        raise ArgumentError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with "
            "--host and --port"
        ) from None
