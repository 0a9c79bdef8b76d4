"""Chat templates: they format a conversation as the text that a model was trained to continue.

A model file carries its own template, in Jinja2, under `tokenizer.chat_template`. Templates are
programs that came with a file, so they run in a sandbox that limits work and size (`sandbox`,
which needs the extra "chat").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._options import checked, flag, instance, text
from ..errors import ArgumentError, BackendError, ModelFileError, UnsupportedError
from .dialect import Dialect, Tools

if TYPE_CHECKING:
    from .sandbox import CompiledTemplate

_KEY = "tokenizer.chat_template"
_NAMES_KEY = "tokenizer.chat_templates"

# Names that no further variable of a template may have: arguments of `ChatTemplate.render` and
# `Model.apply_chat_template`.
TAKEN_NAMES = ("self", "messages", "tools", "add_generation_prompt", "template", "chat_template")

# The format of many models; used only on request, by name.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelt so in the GGUF specification
    "pad_token": "padding_token_id",
}


def variables(value: Any, name: str) -> dict[str, Any]:
    """Further variables of a template, by name: a check of the option `name`."""
    found = dict(instance(Mapping)(value, name))
    for each in found:
        if not isinstance(each, str) or each in TAKEN_NAMES:
            raise ArgumentError(f"{name}: no variable can have the name {each!r}")
    return found


class ChatTemplate:
    """The template of a model, or several by name. Several threads may use it at once.

    sources: Jinja2 sources by name. "default" is rendered, or "tool_use", where there is one, when
      tools are given.
    special_tokens: texts that templates know as `bos_token`, `eos_token` and so on.
    name: the file's name in error messages.

    Errors: `ModelFileError` (no template, or one that is too long). The source is compiled on first
    use.
    """

    @checked(sources=instance(str, Mapping), special_tokens=instance(Mapping), name=text)
    def __init__(
        self,
        sources: str | Mapping[str, str],
        *,
        special_tokens: Mapping[str, str] | None = None,
        name: str = "the chat template",
    ) -> None:
        self.sources = {"default": sources} if isinstance(sources, str) else dict(sources)
        if not self.sources:
            raise ModelFileError(f"{name}: no chat template")
        self.special_tokens = {"bos_token": "", "eos_token": "", **(special_tokens or {})}
        self._name = name

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], name: str = "the model", *, template: str | None = None
    ) -> ChatTemplate:
        """The templates of a GGUF file's metadata; `name` is the file's name in
        error messages.

        template: Jinja2 source to use instead of the file's, or "chatml" for the format of that
          name. The special tokens are still the file's.

        Errors: `UnsupportedError` (the file has no template), `ModelFileError` (a key of the
        wrong type).
        """
        if template is not None:
            sources = {"default": CHATML if template == "chatml" else template}
        else:
            sources = _stored(metadata, name)
        return cls(sources, special_tokens=_special_tokens(metadata, name), name=name)

    @checked(add_generation_prompt=flag, template=text)
    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation.

        messages: each with a "role" and a "content": a text, None (with "tool_calls"), or a list
          of {"type": "text", "text": …} parts. Other keys are passed on. The template gets roles,
          contents, tool calls and reasoning in the form that it takes.
        add_generation_prompt: appends the start of the assistant's next message.
        tools: JSON schemas of functions, for templates that describe them to the model.
        template: name of the template, where the file has several.
        variables: further variables of the template, for example `enable_thinking`.

        The text may begin with the BOS token, of which `Tokenizer.encode` adds no second one.

        Errors: `ArgumentError` (the messages do not have that form, or the template refuses them,
        with its own message, or takes too much time or space for them), `ModelFileError` (the
        template is wrong, or takes too much for any messages), `UnsupportedError` (content that is
        not text), `BackendError` (Jinja2 is not installed).
        """
        if template is None:
            template = "tool_use" if tools and "tool_use" in self.sources else "default"
        checked = _checked_messages(messages)
        compiled = self._prepare(template)
        dialect = self._dialect(compiled, tools)
        given = {
            "messages": dialect.translated(checked),
            "tools": dialect.tools(),
            "add_generation_prompt": add_generation_prompt,
        }
        return compiled.render({"documents": None, **self.special_tokens, **given, **variables})

    def _prepare(self, name: str) -> CompiledTemplate:
        if name not in self.sources:
            raise ArgumentError(f"no chat template {name!r}; there are: {', '.join(self.sources)}")
        title = self._name if name == "default" else f"{self._name}, {name!r}"
        try:
            return _compiled(self.sources[name], title)
        except ImportError as error:
            raise BackendError(
                "chat templates need Jinja2: pip install 'sparsefire[chat]'"
            ) from error

    def _dialect(self, template: CompiledTemplate, tools: Tools) -> Dialect:
        from .metering import Meter

        meter = Meter()
        constant = {"documents": None, "add_generation_prompt": False, **self.special_tokens}

        def render(messages: Sequence[Mapping[str, Any]], tools: Tools) -> str | None:
            return template.attempt({"messages": messages, "tools": tools, **constant}, meter)

        return Dialect(render, template.known, tools)

    def __repr__(self) -> str:
        return f"ChatTemplate({', '.join(self.sources)})"


@functools.lru_cache(maxsize=8)  # a template that a call brings along is compiled once
def _compiled(source: str, name: str) -> CompiledTemplate:
    from .sandbox import CompiledTemplate

    return CompiledTemplate(source, name)


def _stored(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    """The sources in the file, by name; without a "default", the first becomes it."""
    names = metadata.get(_NAMES_KEY, [])
    keys = {"default": _KEY}
    if isinstance(names, list):
        keys |= {each: f"{_KEY}.{each}" for each in names}
    sources = {}
    for each, key in keys.items():
        source = metadata.get(key)
        if source is None:
            continue
        if not isinstance(source, str):
            raise ModelFileError(f"{name}: key {key!r} is not a text")
        sources[each] = source
    if not sources:
        raise UnsupportedError(
            f"{name}: the file has no chat template; give one, or name 'chatml' if the model was "
            "trained on that format"
        )
    sources.setdefault("default", next(iter(sources.values())))
    return sources


def _special_tokens(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    special: dict[str, str] = {}
    for variable, key in _SPECIAL.items():
        token = metadata.get(f"tokenizer.ggml.{key}")
        if token is None or not isinstance(tokens, list):
            continue
        if not isinstance(token, int) or not 0 <= token < len(tokens):
            raise ModelFileError(
                f"{name}: key 'tokenizer.ggml.{key}' is {token!r}, outside the {len(tokens)} tokens"
            )
        special[variable] = tokens[token]
    return special


def _checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentError(
            "messages: expected a list of {'role': …, 'content': …}, got "
            f"{type(messages).__name__}"
        )
    if not messages:
        raise ArgumentError("messages: the list is empty")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ArgumentError(f"messages[{index}]: expected a dict with a 'role'")
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
            for place, part in enumerate(content):
                _check_part(part, f"messages[{index}].content[{place}]")
            content = list(content)
        elif content is None and not message.get("tool_calls"):
            raise ArgumentError(f"messages[{index}]: 'content' is missing")
        elif content is not None and not isinstance(content, str):
            raise ArgumentError(
                f"messages[{index}]: 'content' must be a text, not {type(content).__name__}"
            )
        checked.append({**message, "content": content} if "content" in message else {**message})
    return checked


def _check_part(part: object, where: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
        return
    if isinstance(kind, str) and kind != "text":
        raise UnsupportedError(f"{where}: content of the type {kind!r}; only text is supported")
    raise ArgumentError(f"{where}: expected {{'type': 'text', 'text': …}}")
