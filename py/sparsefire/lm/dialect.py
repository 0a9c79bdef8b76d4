"""What a chat template takes, and conversations in the form that it takes.

Templates disagree about a conversation's form: whether a content is a text or a list of parts, the
arguments of a tool call an object or JSON, an absent content a missing key or null, and which roles
there are. A template does not say, and one that gets another form fails, or drops what was said
without a word. So each is tried on short conversations with words that its output must show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Message = dict[str, Any]
Tools = Sequence[Mapping[str, Any]] | None

_T = TypeVar("_T")

REASONING = ("reasoning_content", "reasoning", "thinking")  # keys of what a model thought

_BETWEEN_PARTS = "\n"
_BETWEEN_MESSAGES = "\n\n"
_ABSENT = object()
_NO_CONTENTS = (_ABSENT, None, "")  # the order in which another one is tried
_NOTHING = ("None", "null")  # a content that is shown, but was not given

# Words of the trials. None is part of another or of a template.
_SAID, _SAID_TOO, _ASKED, _ANSWERED, _THOUGHT = "uvzqa", "uvzqb", "uvzqc", "uvzqd", "uvzqe"
_NAME, _KEY, _VALUE = "uvzqf", "uvzqg", "uvzqh"
_ID = "uvzq00000"  # as long as Mistral's templates want it
_ASKING: Message = {"role": "user", "content": _ASKED}
_ANSWER: Message = {"role": "assistant", "content": _ANSWERED}
_RESULT: Message = {
    "role": "tool",
    "name": _NAME,
    "tool_call_id": _ID,
    "content": _ANSWERED,
}

_TOOL = {
    "type": "function",
    "function": {
        "name": "uvzqi",
        "description": "uvzqj",
        "parameters": {
            "type": "object",
            "properties": {"uvzqk": {"type": "string", "description": "uvzql"}},
            "required": ["uvzqk"],
        },
    },
}


class Dialect:
    """What one template takes, with tools or without, where it may be another program.

    render: renders a conversation with tools, if any; None if the template refuses it.
    known: what earlier dialects of the template have found out; added to.
    """

    def __init__(
        self,
        render: Callable[[Sequence[Message], Tools], str | None],
        known: dict[object, Any],
        tools: Tools,
    ) -> None:
        self._render = render
        self._known = known
        self._tools = tools

    def tools(self) -> Tools:
        """The tools; without any an empty list, where a template does not take None."""
        return self._tools or self._once("tools", self._find_no_tools)

    def _find_no_tools(self) -> Tools:
        asking = ([_ASKING], [_as_part(_ASKING)])
        refused = all(self._render(each, None) is None for each in asking)
        return [] if refused and any(self._render(each, []) for each in asking) else None

    def _attempt(self, messages: Sequence[Message]) -> str | None:
        return self._render(messages, [_TOOL] if self._tools else self.tools())

    def translated(self, messages: Sequence[Message]) -> list[Message]:
        """A conversation in the template's form. Contents are texts, or lists of parts."""
        return [self._formed(each) for each in self._with_taken_roles(messages)]

    # -- What is found out, each once --------------------------------------------------------------

    def _once(self, name: object, find: Callable[[], _T]) -> _T:
        key = name, bool(self._tools)
        if key not in self._known:
            self._known[key] = find()
        found: _T = self._known[key]
        return found

    def _contents(self, role: str) -> frozenset[str]:
        """How the template takes a role's content: as a "text", one "part", or several "parts"."""
        return self._once(("contents", role), lambda: self._find_contents(role))

    def _find_contents(self, role: str) -> frozenset[str]:
        one, other = ({"type": "text", "text": each} for each in (_SAID, _SAID_TOO))
        taken = set()
        for name, content in (("text", _SAID), ("part", [one]), ("parts", [other, one])):
            text = self._attempt(self._trial(role, content))
            if text is None or _SAID not in text or _printed_parts(text):
                continue
            if name != "parts" or _SAID_TOO in text:
                taken.add(name)
        return frozenset(taken)

    def _trial(self, role: str, content: object) -> list[Message]:
        """A short conversation with a message of a role."""
        said = {"role": role, "content": content}
        if role == "user":
            return [said]
        asking = self._typed(_ASKING)
        if role == "tool":
            return [asking, self._call(), {**_RESULT, **said}]
        return [said, asking] if role in ("system", "developer") else [asking, said, asking]

    def _takes_system(self) -> bool:
        return bool(self._contents("system"))

    def _takes_developer(self) -> bool:
        """True if the role means something to the template: one that prints any role's name prints
        another name as well."""

        def find() -> bool:
            texts = [
                self._attempt([{"role": role, "content": _SAID}, self._typed(_ASKING)])
                for role in ("developer", _NAME)
            ]
            shows = texts[0] is not None and _SAID in texts[0]
            return shows and (texts[1] is None or texts[0] != texts[1].replace(_NAME, "developer"))

        return self._once("developer", find)

    def _takes_later_systems(self) -> bool:
        """True if system messages may stand anywhere, and be several."""

        def find() -> bool:
            systems = [
                self._typed({"role": "system", "content": each})
                for each in (_SAID, _SAID_TOO, _THOUGHT)
            ]
            asking, answer = self._typed(_ASKING), self._typed(_ANSWER)
            text = self._attempt([*systems[:2], asking, answer, systems[2], asking])
            return text is not None and all(
                each in text for each in (_SAID, _SAID_TOO, _THOUGHT, _ASKED)
            )

        return self._once("later systems", find)

    def _calls(self) -> dict[tuple[type, object], bool]:
        """The types of arguments and the absent contents with which the template shows a tool call
        (True), or at least shows nothing wrong (False)."""
        return self._once("calls", self._find_calls)

    def _find_calls(self) -> dict[tuple[type, object], bool]:
        with_results = self._find_calls_before([_RESULT])
        return with_results or self._find_calls_before([])  # where it has no role for results

    def _find_calls_before(self, after: Sequence[Message]) -> dict[tuple[type, object], bool]:
        asking = self._typed(_ASKING)
        plain = self._attempt([asking]) or ""
        found = {}
        for arguments in ({_KEY: _VALUE}, json.dumps({_KEY: _VALUE})):
            for content in _NO_CONTENTS:
                text = self._attempt([asking, _call(arguments, content), *after])
                if text is None or any(text.count(no) > plain.count(no) for no in _NOTHING):
                    continue
                shown = _KEY in text and _VALUE in text
                wrong = f"{{'{_KEY}'" in text or f'\\"{_KEY}' in text
                found[type(arguments), content] = shown and not wrong
        return found

    def _call(self) -> Message:
        """A tool call that the template takes."""
        return self._formed_call(_call({_KEY: _VALUE}, _ABSENT))

    def _reasoning(self) -> tuple[str, ...]:
        """The keys of which the template shows what a model thought."""

        def find() -> tuple[str, ...]:
            asking, answer, call = self._typed(_ASKING), self._typed(_ANSWER), self._call()
            found = []
            for key in REASONING:
                texts = (
                    self._attempt([asking, {**answer, key: _THOUGHT}]),
                    self._attempt([asking, {**call, key: _THOUGHT}, _RESULT]),
                )
                if any(text is not None and _THOUGHT in text for text in texts):
                    found.append(key)
            return tuple(found)

        return self._once("reasoning", find)

    # -- Conversations -----------------------------------------------------------------------------

    def _with_taken_roles(self, messages: Sequence[Message]) -> list[Message]:
        """Developers' messages as the system's, and those in the next user's, where the template
        does not take them."""
        if any(each["role"] == "developer" for each in messages) and not self._takes_developer():
            messages = [
                {**each, "role": "system"} if each["role"] == "developer" else each
                for each in messages
            ]
        places = [place for place, each in enumerate(messages) if each["role"] == "system"]
        if not places:
            return list(messages)
        if not self._takes_system():
            return _folded(messages)
        if places == [0] or self._takes_later_systems():
            return list(messages)
        start = next((n for n, each in enumerate(messages) if each["role"] != "system"), None)
        leading = messages[:start]
        later = [] if start is None else _folded(messages[start:])
        return [_merged(leading, leading[0]), *later] if leading else later

    def _formed(self, message: Message) -> Message:
        message = self._typed(message)
        if message["role"] != "assistant":
            return message
        if isinstance(message.get("tool_calls"), list) and message["tool_calls"]:
            message = self._formed_call(message)
        given = [key for key in REASONING if isinstance(message.get(key), str)]
        if given and (shown := self._reasoning()) and not {*given} & {*shown}:
            message = {shown[0] if key == given[0] else key: message[key] for key in message}
        return message

    def _typed(self, message: Message) -> Message:
        """The message with its content as a text or as parts, whichever the template takes."""
        content = message.get("content")
        if content is None or (not content and message.get("tool_calls")):
            return message
        taken = self._contents(message["role"])
        if isinstance(content, list):
            if "parts" in taken:
                return message
            content = joined(content)
        if "text" not in taken and taken & {"part", "parts"}:
            return _as_part({**message, "content": content})
        return {**message, "content": content}

    def _formed_call(self, message: Message) -> Message:
        """A message with tool calls, with their arguments and its absent content as the template
        takes them."""
        texts = any(isinstance(each, str) for each in map(_arguments, message["tool_calls"]))
        wishes = (str, dict) if texts else (dict, str)
        given = message.get("content")
        contents = [_ABSENT if given is None else "", *_NO_CONTENTS]
        calls = self._calls()
        pairs = [(kind, each) for each in contents for kind in wishes if (kind, each) in calls]
        kind, content = max(pairs, key=calls.__getitem__, default=(wishes[0], ""))
        formed = {**message, "content": given or content}
        formed["tool_calls"] = [_with_arguments(each, kind) for each in message["tool_calls"]]
        if formed["content"] is _ABSENT:
            del formed["content"]
        return formed


def _as_part(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def joined(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of a list of parts, a line each."""
    return _BETWEEN_PARTS.join(each["text"] for each in parts)


def _folded(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system's in the next user's, or the last."""
    folded: list[Message] = []
    pending: list[Message] = []
    for message in messages:
        if message["role"] == "system":
            pending.append(message)
        elif message["role"] == "user":
            folded.append(_merged([*pending, message], message))
            pending = []
        else:
            folded.append(message)
    if pending:
        users = [place for place, each in enumerate(folded) if each["role"] == "user"]
        if users:
            user = folded[users[-1]]
            folded[users[-1]] = _merged([user, *pending], user)
        else:
            folded.append(_merged(pending, {"role": "user"}))
    return folded


def _merged(messages: Sequence[Message], into: Message) -> Message:
    """A message with the contents of all and the other keys of one."""
    if len(messages) == 1:
        return {**into, "content": messages[0].get("content")}
    contents = [each.get("content") or "" for each in messages]
    texts = [each if isinstance(each, str) else joined(each) for each in contents]
    return {**into, "content": _BETWEEN_MESSAGES.join(filter(None, texts))}


def _printed_parts(text: str) -> bool:
    """True if a text shows a part itself, and not only what it says."""
    return any(start + _SAID in text for start in ("'text': '", '"text": "', '"text":"'))


def _call(arguments: object, content: object) -> Message:
    message = {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "id": _ID,
                "type": "function",
                "function": {"name": _NAME, "arguments": arguments},
            }
        ],
    }
    if content is _ABSENT:
        del message["content"]
    return message


def _arguments(call: object) -> object:
    function = call.get("function") if isinstance(call, Mapping) else None
    return function.get("arguments") if isinstance(function, Mapping) else None


def _with_arguments(call: object, kind: type) -> object:
    """A tool call with its arguments as an object or as JSON, where they can be either."""
    arguments = _arguments(call)
    if isinstance(arguments, Mapping) and kind is str:
        new: object = json.dumps(arguments, ensure_ascii=False)
    elif isinstance(arguments, str) and kind is dict:
        new = _object(arguments)
    else:
        return call
    assert isinstance(call, Mapping)
    return {**call, "function": {**call["function"], "arguments": new}}


def _object(text: str) -> object:
    """The object of a JSON text; a text of something else itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
