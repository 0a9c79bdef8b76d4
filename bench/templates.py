"""Chat templates against transformers: is each conversation rendered alike, or why not?

    python -m bench.templates vendor/llama.cpp/models/templates

renders conversations with each template of a folder, here and with `apply_chat_template` of the
package transformers, which renders messages exactly as they are given. A rendering that differs is
explained when transformers fails, drops something that was said, or shows a value of Python or JSON
inside JSON, while ours is what transformers makes of the same conversation in one of the forms
that are listed here. The program fails when a difference is not explained.

llama.cpp's sources have such a folder; so has the source distribution of llama-cpp-python.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsefire import ChatTemplate
from sparsefire.errors import SparsefireError

from .lib.peer_files import MissingPeer, peer

Messages = list[dict[str, Any]]

_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_FINE, _SAME = "renders it", "the same"
_WRONG = ("'type': 'text'", '"type": "text"', "None", "{'city'", '\\"city')
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of today",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}},
            "required": ["city"],
        },
    },
}


def _user(text: Any = "Who is Ada?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def _system(text: str = "Be brief.", role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def _assistant(text: str = "A countess.", **keys: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": each} for each in texts]


def _calling(arguments: object, **keys: str | None) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {
        "role": "assistant",
        **keys,
        "tool_calls": [{"id": "call00001", "type": "function", "function": function}],
    }


_RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "Sunny."}
_NO_CONTENTS: dict[str, dict[str, str | None]] = {
    "content null": {"content": None},
    "no content": {},
    "content empty": {"content": ""},
}
_CALLS = {
    f"arguments as {kind}, {content}": _calling(arguments, **keys)
    for (kind, arguments), (content, keys) in itertools.product(
        {"JSON": '{"city": "Köln"}', "an object": {"city": "Köln"}}.items(),
        _NO_CONTENTS.items(),
    )
}


@dataclass
class Case:
    """A conversation; the words that a rendering must show; and other forms of it by name."""

    messages: Messages
    words: tuple[str, ...]
    forms: dict[str, Messages] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)


def _calls(*after: dict[str, Any], **variables: Any) -> Iterator[tuple[str, Case]]:
    forms = {name: [_user(), call, *after] for name, call in _CALLS.items()}
    for name, messages in forms.items():
        others = {other: each for other, each in forms.items() if other != name}
        yield name, Case(messages, ("Ada", "city", "Köln"), others, variables)


def _reasoned(key: str) -> Case:
    keys = ("reasoning_content", "reasoning", "thinking")
    forms = {
        f"the thought as {each}": [_user(), _assistant(**{each: "Thinking."})] for each in keys
    }
    return Case(forms.pop(f"the thought as {key}"), ("Ada", "countess", "Thinking."), forms)


CASES = {
    "user": Case([_user()], ("Ada",)),
    "no thinking": Case([_user()], ("Ada",), variables={"enable_thinking": False}),
    "turns": Case([_user(), _assistant(), _user("Born?")], ("Ada", "countess", "Born?")),
    "part": Case(
        [_user(_parts("Who is Ada?"))], ("Ada",), {"parts as a text": [_user("Who is Ada?")]}
    ),
    "parts": Case(
        [_user(_parts("Ada.", "Who?"))],
        ("Ada", "Who"),
        {
            "parts as a text": [_user("Ada.\nWho?")],
            "parts as one": [_user(_parts("Ada.\nWho?"))],
        },
    ),
    "text": Case([_user("Ada?")], ("Ada",), {"the text as a part": [_user(_parts("Ada?"))]}),
    "system": Case(
        [_system(), _user()],
        ("brief", "Ada"),
        {"the system in the user's turn": [_user("Be brief.\n\nWho is Ada?")]},
    ),
    "system, turns": Case(
        [_system(), _user(), _assistant(), _user("Born?")],
        ("brief", "Ada", "countess", "Born?"),
        {
            "the system in the user's turn": [
                _user("Be brief.\n\nWho is Ada?"),
                _assistant(),
                _user("Born?"),
            ]
        },
    ),
    "systems": Case(
        [
            _system(),
            _system("Be kind."),
            _user(),
            _assistant(),
            _system("In French."),
            _user("Born?"),
        ],
        ("brief", "kind", "Ada", "countess", "French", "Born?"),
        {
            "the first systems as one, later ones in the user's turn": [
                _system("Be brief.\n\nBe kind."),
                _user(),
                _assistant(),
                _user("In French.\n\nBorn?"),
            ],
            "the system in the user's turn": [
                _user("Be brief.\n\nBe kind.\n\nWho is Ada?"),
                _assistant(),
                _user("In French.\n\nBorn?"),
            ],
        },
    ),
    "developer": Case(
        [_system(role="developer"), _user()],
        ("brief", "Ada"),
        {
            "the developer as the system": [_system(), _user()],
            "the system in the user's turn": [_user("Be brief.\n\nWho is Ada?")],
        },
    ),
    "tools": Case([_user()], ("Ada", "weather", "city"), variables={"tools": [_TOOL]}),
    **{f"call, {name}": case for name, case in _calls()},
    **{f"result, {name}": case for name, case in _calls(_RESULT, tools=[_TOOL])},
    **{each: _reasoned(each) for each in ("reasoning_content", "reasoning", "thinking")},
}


@dataclass
class Row:
    """Two renderings."""

    template: str
    case: str
    theirs: str  # what is wrong with it
    ours: str
    explained: bool


def _reference() -> Any:
    transformers = peer("transformers")
    from tokenizers import Tokenizer, models

    words = {token: number for number, token in enumerate(("<unk>", *_TOKENS.values()))}
    model = models.WordLevel(words, unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **_TOKENS)


class Comparison:
    """A template here and there."""

    def __init__(self, path: Path, reference: Any) -> None:
        self._name, self._source = path.stem, path.read_text(encoding="utf-8")
        self._reference = reference
        self._compile = peer("transformers.utils.chat_template_utils")._compile_jinja_template
        self._template = ChatTemplate(self._source, special_tokens=_TOKENS)

    def _form(self, messages: Messages, variables: dict[str, Any]) -> str | None:
        """A form as their Jinja2 renders it: `apply_chat_template` drops keys that are null."""
        given = {"tools": None, "documents": None, **_TOKENS, **variables}
        try:
            compiled = self._compile(self._source)
            return str(compiled.render(messages=messages, add_generation_prompt=True, **given))
        except Exception:
            return None

    def _theirs(self, messages: Messages, variables: dict[str, Any]) -> tuple[str | None, str]:
        """The text or None, and the error."""
        try:
            return self._reference.apply_chat_template(
                json.loads(json.dumps(messages)),
                chat_template=self._source,
                add_generation_prompt=True,
                tokenize=False,
                **variables,
            ), ""
        except Exception as error:
            return None, f"fails: {error}"

    def row(self, name: str, case: Case) -> Row:
        """Both renderings."""
        theirs, refusal = self._theirs(case.messages, case.variables)
        wrong = refusal if theirs is None else self._wrong(theirs, case)
        try:
            ours = self._template.render(case.messages, **case.variables)
        except SparsefireError as error:
            return Row(self._name, name, wrong or _FINE, f"fails: {error}", theirs is None)
        if self._wrong(ours, case):
            better = [form for form in case.forms if self._is_right(form, case)]
            if better:
                ours = f"{self._wrong(ours, case)}, but not with {better[0]}"
                return Row(self._name, name, wrong or _FINE, ours, False)
        if ours == theirs:
            return Row(self._name, name, wrong or _FINE, _SAME, True)
        for form, messages in {"null kept as it is": case.messages, **case.forms}.items():
            if ours == self._form(messages, case.variables):
                return Row(self._name, name, wrong or _FINE, form, bool(wrong))
            if ours == self._form(messages, {"tools": [], **case.variables}):
                form = "no tools as an empty list"
                return Row(self._name, name, wrong or _FINE, form, bool(wrong))
        return Row(self._name, name, wrong or _FINE, f"another text: {ours!r}", False)

    def _is_right(self, form: str, case: Case) -> bool:
        text = self._form(case.forms[form], case.variables)
        return text is not None and not self._wrong(text, case)

    def _wrong(self, text: str, case: Case) -> str:
        """What a rendering drops, or shows that nobody said."""
        said = text.replace("\\u00f6", "ö")  # the same in JSON
        dropped = [word for word in case.words if word not in said]
        if dropped:
            return f"drops {', '.join(map(repr, dropped))}"
        role = case.messages[0]["role"]
        if role == "developer" and self._prints_any(text, role, case):
            return "shows the role, as it would any name"
        plain = self._theirs([_user()], case.variables)[0] or ""
        shown = [each for each in _WRONG if text.count(each) > plain.count(each)]
        return f"shows {', '.join(map(repr, shown))}" if shown else ""

    def _prints_any(self, text: str, role: str, case: Case) -> bool:
        stranger = [{**case.messages[0], "role": "stranger"}, *case.messages[1:]]
        other = self._theirs(stranger, case.variables)[0]
        return other is not None and other.replace("stranger", role) == text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.templates", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a folder of .jinja files")
    parser.add_argument("--rows", action="store_true", help="list each difference, not their kinds")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.jinja"))
    if not paths:
        parser.error(f"{arguments.folder}: no .jinja files")
    try:
        reference = _reference()
    except MissingPeer as error:
        sys.exit(str(error))
    rows: list[Row] = []
    for path in paths:
        comparison = Comparison(path, reference)
        rows += itertools.starmap(comparison.row, CASES.items())
    _report(rows, len(paths), arguments.rows)
    sys.exit(not all(each.explained for each in rows))


def _report(rows: list[Row], templates: int, each_row: bool) -> None:
    equal = sum(each.ours == _SAME for each in rows)
    explained = sum(each.explained for each in rows) - equal
    print(f"{templates} templates, {len(CASES)} conversations, {len(rows)} renderings: {equal}")
    print(f"equal, {explained} explained, {len(rows) - equal - explained} not.\n")
    print("| transformers | here | renderings | templates |\n|---|---|---|---|")
    kinds: dict[tuple[str, str, bool], list[str]] = {}
    for each in rows:
        kind = _kind(each.theirs), _kind(each.ours), each.explained
        kinds.setdefault(kind, []).append(each.template)
    for (theirs, ours, known), names in sorted(kinds.items(), key=lambda each: -len(each[1])):
        mark = "" if known else "**not explained** "
        print(f"| {theirs} | {mark}{ours} | {len(names)} | {len(set(names))} |")
    for each in rows:
        if (each_row and each.ours != _SAME) or not each.explained:
            print(f"\n{each.template}, {each.case}")
            print(f"  transformers: {each.theirs}\n  here: {each.ours}")


def _kind(outcome: str) -> str:
    return outcome.split(":")[0]


if __name__ == "__main__":
    main()
