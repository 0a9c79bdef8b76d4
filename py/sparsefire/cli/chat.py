"""`sparsefire chat`: a conversation on the terminal."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from .._shown import shown
from ..errors import ArgumentError, ContextFullError, UnsupportedError
from .common import (
    add_mode_options,
    add_model_options,
    add_sampling_options,
    add_speculation_option,
    add_template_variables,
    cache_parts,
    load_model,
    sampling_options,
    template_variables,
)
from .serve import read_template

_HELP = """\
/reset         forget the conversation
/system TEXT   start over with this system prompt; without TEXT, with none
/stats         speed and share of neurons computed of the last answer
/quit          exit (or Ctrl-D)
A line that ends with \\ continues on the next one. Ctrl-C stops an answer."""


def add_chat_parser(commands: Any) -> None:
    """Adds `chat` to the subcommands."""
    parser = commands.add_parser(
        "chat",
        help="chat with a model",
        description="Chats with a model. Commands while it runs:\n\n" + _HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_chat)
    add = parser.add_argument
    add("--system", metavar="TEXT", help="system prompt")
    add("--template", metavar="NAME", help="'chatml' or a Jinja2 file, instead of the model's own")
    add_template_variables(add)
    add("-n", "--max-tokens", type=int, metavar="N", help="tokens per answer; default: no limit")
    add("--context", type=int, metavar="N", help="maximum number of tokens in the conversation")
    add_model_options(parser)
    add_mode_options(parser)
    add_sampling_options(parser)
    add_speculation_option(parser)


class Chat:
    """A conversation. Earlier turns stay in the model's key/value cache, so that a turn costs only
    its new tokens."""

    def __init__(self, model: Any, arguments: argparse.Namespace, template: str | None) -> None:
        self._model = model
        self._template = template
        self._variables = template_variables(arguments)
        self._max_tokens = arguments.max_tokens
        own = {name: getattr(arguments, name) for name in ("mode", "speculation")}
        self._options = {**own, **sampling_options(arguments)}
        self.messages: list[dict[str, str]] = []
        self.begin(arguments.system)

    def begin(self, system: str | None) -> None:
        """Forgets the conversation."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def _prompt(self, messages: list[dict[str, str]]) -> str:
        text: str = self._model.apply_chat_template(
            messages, chat_template=self._template, **self._variables
        )
        return text

    def check(self) -> None:
        """Raises an error that says what to do if the model has no chat template."""
        message = [*self.messages, {"role": "user", "content": ""}]
        try:
            self._prompt(message)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{error}: sparsefire chat --template chatml. For a model that was not trained to "
                "chat, use sparsefire generate"
            ) from None

    def answer(self, text: str, cancel: Any) -> Iterator[str]:
        """Yields the answer piece by piece. A cancelled answer becomes part of the conversation
        as far as it got; after an error nothing does."""
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            ids = self._model.tokenize(self._prompt(self.messages))
            for piece in self._model.generate(
                ids, self._max_tokens, cancel=cancel, **self._options
            ):
                said.append(piece)
                yield piece
        except ContextFullError:
            raise ContextFullError(
                f"the conversation no longer fits in {self._model.context} tokens; /reset starts "
                "over, and --context may allow more"
            ) from None
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
            else:
                self.messages.pop()


def _chat(arguments: argparse.Namespace) -> int:
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        raise ArgumentError(f"max_tokens must be 1 or more, not {arguments.max_tokens}")
    template = read_template(arguments.template)
    with load_model(arguments, arguments.context) as model:
        chat = Chat(model, arguments, template)
        chat.check()
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  input() then has history and editing
            print(f"{model.config.name}; /help lists the commands")
        while True:
            line = _read_message()
            if line is None or not _obey(chat, model, line):
                return 0


def _read_message() -> str | None:
    """The user's message, None at the end of the input."""
    prompt = "> "
    lines: list[str] = []
    try:
        while True:
            line = input(prompt if sys.stdin.isatty() else "")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])
            prompt = ". "
    except EOFError:
        return "\n".join(lines) if lines else None
    except KeyboardInterrupt:
        print()
        return ""  # drops the line, as shells do


def _obey(chat: Chat, model: Any, line: str) -> bool:
    """Runs a command or answers a message; false to exit."""
    command, _, rest = line.strip().partition(" ")
    if command in ("/quit", "/exit"):
        return False
    if command == "/reset":
        system = [each["content"] for each in chat.messages if each["role"] == "system"]
        chat.begin(system[0] if system else None)
    elif command == "/system":
        chat.begin(rest.strip() or None)
    elif command == "/stats":
        stats = model.stats
        parts = [
            f"{stats.prompt_tokens} prompt tokens",
            f"{stats.n_tokens} new tokens at {stats.tokens_per_s:.0f} tokens/s {stats.mode}",
            stats.neurons(),
            *cache_parts(model),
            stats.where(),
        ]
        print(f"[{'; '.join(parts)}]")
    elif command.startswith("/") and "\n" not in line:
        print(_HELP if command == "/help" else f"unknown command {command}\n{_HELP}")
    elif command:
        _answer(chat, model, line)
    return True


def _answer(chat: Chat, model: Any, text: str) -> None:
    """Prints the answer; Ctrl-C stops it."""
    from ..lm.generation import Cancel

    cancel = Cancel()
    previous = signal.signal(signal.SIGINT, lambda *_: cancel.cancel())
    try:
        for piece in chat.answer(text, cancel):
            print(piece, end="", flush=True)
        print("" if model.stats.finish_reason != "cancelled" else " …", flush=True)
        if model.stats.finish_reason == "context":
            print("[the context is full; /reset starts over]")
    except ContextFullError as error:
        print(f"[{shown(str(error))}]")
    finally:
        signal.signal(signal.SIGINT, previous)
