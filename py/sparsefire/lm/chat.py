"""Chat templates: they format a conversation as the text that a model was trained to continue.

A model file carries its own template, in Jinja2, under `tokenizer.chat_template`. Templates are
programs that came with a file, so they run in a sandbox that limits work and size (`sandbox`,
which needs the extra "chat").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, BackendError, ModelFileError, UnsupportedError

if TYPE_CHECKING:
    from .sandbox import CompiledTemplate

_KEY = "tokenizer.chat_template"
_NAMES_KEY = "tokenizer.chat_templates"

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


class ChatTemplate:
    """The template of a model, or several by name. Several threads may use it at once.

    sources: Jinja2 sources by name. "default" is rendered, or "tool_use", where there is one, when
      tools are given.
    special_tokens: texts that templates know as `bos_token`, `eos_token` and so on.
    name: the file's name in error messages.

    Errors: `ModelFileError` (no template, or one that is too long). The source is compiled on first
    use.
    """

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
        self._compiled: dict[str, CompiledTemplate] = {}

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
          of {"type": "text", "text": …} parts, which are joined. Other keys are passed on.
        add_generation_prompt: appends the start of the assistant's next message.
        tools: JSON schemas of functions, for templates that describe them to the model.
        template: name of the template, where the file has several.
        variables: further variables of the template, for example `enable_thinking`.

        The text may begin with the BOS token, of which `Tokenizer.encode` adds no second one.

        Errors: `ArgumentError` (the messages do not have that form, or the template refuses them,
        with its own message), `ModelFileError` (the template is wrong, or takes too much time or
        space), `UnsupportedError` (content that is not text), `BackendError` (Jinja2 is not
        installed).
        """
        if template is None:
            template = "tool_use" if tools and "tool_use" in self.sources else "default"
        given = {
            **self.special_tokens,
            "messages": _checked_messages(messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": tools or None,
            "documents": None,
            **variables,
        }
        compiled = self._compile(template)
        meter = compiled.meter()
        first: ArgumentError | None = None
        passable: str | None = None
        for form in _forms(given["messages"]):
            try:
                text = compiled.render({**given, "messages": form}, meter)
            except ArgumentError as error:
                first = first or error
                continue
            if _shows_last(text, given["messages"]):
                return text
            passable = text if passable is None else passable
        if passable is not None:
            return passable
        assert first is not None
        raise first

    def _compile(self, name: str) -> CompiledTemplate:
        if name not in self._compiled:
            if name not in self.sources:
                raise ArgumentError(
                    f"{self._name} has no chat template {name!r}; it has: {', '.join(self.sources)}"
                )
            try:
                from .sandbox import CompiledTemplate
            except ImportError as error:
                raise BackendError(
                    "chat templates need Jinja2: pip install 'sparsefire[chat]'"
                ) from error
            self._compiled[name] = CompiledTemplate(
                self.sources[name], self._name if name == "default" else f"{self._name}, {name!r}"
            )
        return self._compiled[name]

    def __repr__(self) -> str:
        return f"ChatTemplate({', '.join(self.sources)})"


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
            content = "".join(
                _part_text(part, f"messages[{index}].content[{place}]")
                for place, part in enumerate(content)
            )
        elif content is None and not message.get("tool_calls"):
            raise ArgumentError(f"messages[{index}]: 'content' is missing")
        elif content is not None and not isinstance(content, str):
            raise ArgumentError(
                f"messages[{index}]: 'content' must be a text, not {type(content).__name__}"
            )
        checked.append({**message, "content": content} if "content" in message else {**message})
    return checked


def _shows_last(text: str, messages: list[dict[str, Any]]) -> bool:
    """True if a rendered text holds what the user's last message says."""
    said = [
        each["content"]
        for each in messages
        if each["role"] == "user" and isinstance(each.get("content"), str)
    ]
    return not said or said[-1].strip() in text


def _as_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with each text as a list of one part."""
    return [
        {**each, "content": [{"type": "text", "text": each["content"]}]}
        if isinstance(each.get("content"), str)
        else each
        for each in messages
    ]


def _forms(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The messages as templates may want them, in the order in which they are tried: arguments of
    tool calls as objects or as texts, then absent contents as empty texts,
    then contents as lists of parts. A form fits that shows what the user said last."""
    forms = [_with_decoded_arguments(messages), messages]
    forms += [[{"content": "", **each} for each in form] for form in forms]
    forms.append(_as_parts(messages))
    return [form for place, form in enumerate(forms) if form not in forms[:place]]


def _with_decoded_arguments(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the arguments of tool calls as objects, where they are JSON texts of
    objects, as OpenAI's interface has them."""
    return [
        {**each, "tool_calls": [_decoded_call(call) for call in each["tool_calls"]]}
        if isinstance(each.get("tool_calls"), list)
        else each
        for each in messages
    ]


def _decoded_call(call: Any) -> Any:
    if not isinstance(call, Mapping) or not isinstance(function := call.get("function"), Mapping):
        return call
    text = function.get("arguments")
    if not isinstance(text, str):
        return call
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _part_text(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str) and kind != "text":
        raise UnsupportedError(f"{where}: content of the type {kind!r}; only text is supported")
    raise ArgumentError(f"{where}: expected {{'type': 'text', 'text': …}}")
