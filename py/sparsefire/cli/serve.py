"""The subcommand `sparsefire serve`."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from types import FrameType
from typing import Any

from ..errors import ArgumentError, BackendError
from .common import add_mode_options, add_model_options, load_model, read_text


def add_serve_parser(commands: Any) -> None:
    """Adds `serve` to the subcommands."""
    parser = commands.add_parser(
        "serve",
        help="answer HTTP requests, as OpenAI's interface does",
        description="Serves one model with OpenAI's HTTP interface: completions, chat, embeddings. "
        "Requests take turns. Stop it with Ctrl-C. Needs the extra 'serve'.",
    )
    parser.set_defaults(run=_serve)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default %(default)s, this machine")
    add("--port", type=int, default=8080, metavar="N", help="0: any free one; default %(default)s")
    add(
        "--api-key",
        metavar="KEY",
        help="what clients must send; better given as SPARSEFIRE_API_KEY, where no other user of "
        "the machine sees it",
    )
    add("--cors", action="append", default=[], metavar="ORIGIN", help="a web page that may ask")
    add("--alias", action="append", default=[], metavar="NAME", help="what to call the model")
    add("--context", type=int, metavar="N", help="tokens of prompt and text together, at most")
    add("--chat-template", metavar="NAME", help="'chatml' or a file, instead of the model's own")
    add("--log-requests", action="store_true", help="print a line for each request")
    add_model_options(parser)
    add_mode_options(parser)
    add = parser.add_argument_group("what a request may take").add_argument
    add("--max-body", type=int, default=2 << 20, metavar="BYTES", help="default %(default)s")
    add("--max-prompt-tokens", type=int, metavar="N", help="default: what the context holds")
    add("--max-tokens", type=int, metavar="N", help="of new text; default: what the context holds")
    add("--max-queue", type=int, default=16, metavar="N", help="waiting; default %(default)s")
    add(
        "--max-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="waiting included; default %(default)g",
    )
    add("--grace", type=int, default=10, metavar="S", help="to finish when stopped; default 10")


def read_template(name: str | None) -> str | None:
    """The chat template that an option names: a name, or the text of a file."""
    return name if name is None or name == "chatml" else read_text(name)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from ..serve.app import Server, is_local
    except ImportError as error:
        raise BackendError(
            f"sparsefire serve needs the package {error.name}: pip install 'sparsefire[serve]'"
        ) from None
    from ..serve.requests import Requests

    api_key = arguments.api_key or os.environ.get("SPARSEFIRE_API_KEY") or None
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ArgumentError("the API key must be printable ASCII, without line ends")
    limits = _limits(arguments)
    template = read_template(arguments.chat_template)
    # Before the model, so that a port in use is told at once.
    listening = _listen(arguments.host, arguments.port)
    model = load_model(arguments, arguments.context)
    local = is_local(arguments.host)
    server = Server(
        Requests(
            model,
            arguments.alias or [model.config.name],
            limits,
            mode=arguments.mode,
            chat_template=template,
        ),
        api_key=api_key,
        origins=arguments.cors,
        local_only=local and api_key is None,
    )
    if not local and api_key is None:
        print(
            f"sparsefire: warning: everyone who reaches {arguments.host} can use this server; "
            "set SPARSEFIRE_API_KEY",
            file=sys.stderr,
        )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    port = listening.getsockname()[1]
    print(
        f"serving {server.requests.names[0]} at http://{host}:{port}/v1 (Ctrl-C stops)", flush=True
    )
    config = uvicorn.Config(
        server.app,
        log_level="info" if arguments.log_requests else "warning",
        access_log=arguments.log_requests,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=arguments.grace + 5,  # for clients that do not read their answer
    )

    class Graceful(uvicorn.Server):
        """Ends answers properly when the time to finish is over, or at a second Ctrl-C."""

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

    with listening, model:
        Graceful(config).run(sockets=[listening])
    return 0


def _limits(arguments: argparse.Namespace) -> Any:
    from ..serve.requests import Limits

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
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ArgumentError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with "
            "--host and --port"
        ) from None
