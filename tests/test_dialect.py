"""Conversations in the form that each template takes. `bench/templates.py` compares the templates
of known models with the package transformers; the templates here have their traits, in little."""

from __future__ import annotations

from typing import Any

import pytest

from sparsefire.errors import ArgumentError
from sparsefire.lm.chat import ChatTemplate

pytest.importorskip("jinja2")

ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
# As of Gemma 2: two roles, in turn.
TURNS = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('not in turn') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
# As of Mistral's: a system message first, and others unseen.
FIRST = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "[{{ s }}]{% for m in rest %}{% if m.role in ('user', 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
KNOWS_DEVELOPER = (
    "{% for m in messages %}{% if m.role == 'developer' %}D:{{ m.content }};"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def rendered(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    return ChatTemplate(source).render(messages, False, **variables)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (ANY, "<system>be<system>kind<user>a<assistant>b<system>now<user>c"),
        (FIRST, "[be\n\nkind]<user>a<assistant>b<user>now\n\nc"),
        (TURNS, "<user>be\n\nkind\n\na<assistant>b<user>now\n\nc"),
        (NO_SYSTEM, "<user>be\n\nkind\n\na<assistant>b<user>now\n\nc"),
    ],
)
def test_system_messages(source: str, wanted: str) -> None:
    messages = said(
        ("system", "be"),
        ("system", "kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("system", "now"),
        ("user", "c"),
    )
    assert rendered(source, messages) == wanted
    as_parts = said(("system", [{"type": "text", "text": "be"}]), ("user", "a"))
    assert "be" in rendered(source, as_parts)
    assert "type" not in rendered(source, as_parts)


def test_system_messages_without_a_user_after_them() -> None:
    assert rendered(TURNS, said(("system", "be"))) == "<user>be"
    assert rendered(TURNS, said(("user", "a"), ("system", "be"))) == "<user>a\n\nbe"
    assert rendered(TURNS, said(("system", ""), ("user", "a"))) == "<user>a"
    assert rendered(FIRST, said(("system", "be"), ("user", "a"))) == "[be]<user>a"
    with pytest.raises(ArgumentError, match="not in turn"):
        rendered(TURNS, said(("user", "a"), ("user", "b")))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (KNOWS_DEVELOPER, "D:be;<user>a"),
        (ANY, "<system>be<user>a"),
        (FIRST, "[be]<user>a"),
        (TURNS, "<user>be\n\na"),
        (NO_SYSTEM, "<user>be\n\na"),
    ],
)
def test_developers_are_the_system_where_templates_do_not_know_them(
    source: str, wanted: str
) -> None:
    assert rendered(source, said(("developer", "be"), ("user", "a"))) == wanted


def test_contents_are_texts_or_parts_by_role() -> None:
    text, parts = said(("system", "x"), ("user", "y")), []
    for message in text:
        parts.append({**message, "content": [{"type": "text", "text": message["content"]}]})
    each = "{% for p in m.content %}{{ p.text }}/{% endfor %}"
    both = "{% if m.content is string %}{{ m.content }}{% else %}" + each + "{% endif %}"
    loop = "{% for m in messages %}{%s%}{% endfor %}"
    for source, of_text, of_parts in (
        (loop.replace("{%s%}", "{{ m.content }}"), "xy", "xy"),
        (loop.replace("{%s%}", "{{ m.content | tojson }}"), '"x""y"', '"x""y"'),
        (loop.replace("{%s%}", each), "x/y/", "x/y/"),
        (loop.replace("{%s%}", both), "xy", "x/y/"),
        (
            loop.replace(
                "{%s%}",
                "{% if m.role == 'system' %}{{ m.content }}{% else %}" + each + "{% endif %}",
            ),
            "xy/",
            "xy/",
        ),
    ):
        assert rendered(source, text) == of_text
        assert rendered(source, parts) == of_parts
    two = said(("user", [{"type": "text", "text": each} for each in "xy"]))
    assert rendered("{{ messages[0].content }}", two) == "x\ny"
    assert rendered("{{ messages[0].content[0].text }}", two) == "x\ny"
    assert rendered("{% for m in messages %}" + each + "{% endfor %}", two) == "x/y/"
    assert rendered("{{ 'constant' }}", two) == "constant"


CALL = "m.tool_calls[0].function.arguments"
OPEN = (
    "{% for m in messages %}{% if m.tool_calls %}{%s%}"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
CALLS = {
    # How a template writes the arguments, what that makes, and what it does with the content.
    "object": ("{{ " + CALL + " | tojson }}", '{"a": "ö"}'),
    "items": ("{% for k, v in " + CALL + " | items %}{{ k }}={{ v }}{% endfor %}", "a=ö"),
    "text": ("{{ '' + " + CALL + " }}", '{"a": "ö"}'),
    "either": (
        "{{ " + CALL + " if " + CALL + " is string else " + CALL + " | tojson }}",
        '{"a": "ö"}',
    ),
}
CONTENTS = {
    "none": "",
    "printed": "{{ m.content }}",
    "joined": "{{ '' + m.content }}",
    "trimmed": "{{ m.content | trim }}",
    "null": "{% if m.content is not none %}{{ raise_exception('no call') }}{% endif %}",
    "undefined": "{% if m.content is defined %}{{ raise_exception('a content') }}{% endif %}",
    "a part": "{% if m.content %}{{ m.content[0].text }}{% endif %}",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("arguments", CALLS)
def test_calls_with_absent_contents(arguments: str, content: str) -> None:
    call, wanted = CALLS[arguments]
    source = OPEN.replace("{%s%}", CONTENTS[content] + call)
    for given in ('{"a": "ö"}', {"a": "ö"}):
        function = {"name": "f", "arguments": given}
        calls = [{"id": "123456789", "type": "function", "function": function}]
        for keys in ({}, {"content": None}, {"content": ""}, {"content": []}):
            asked = {"role": "assistant", **keys, "tool_calls": calls}
            messages = [*said(("user", "w")), asked, *said(("tool", "r"))]
            assert rendered(source, messages) == f"<user>w{wanted}<tool>r"
            assert asked == {"role": "assistant", **keys, "tool_calls": calls}, "it was changed"


def test_arguments_that_are_no_objects_stay() -> None:
    source = OPEN.replace("{%s%}", "{{ " + CALL + " | tojson }}")
    for given, wanted in (("no JSON", '"no JSON"'), ("[1]", '"[1]"'), (None, "null")):
        calls = [{"type": "function", "function": {"name": "f", "arguments": given}}]
        messages = [*said(("user", "w")), {"role": "assistant", "tool_calls": calls}]
        assert rendered(source, messages) == f"<user>w{wanted}"
    for calls in ([1], [{}], [{"function": 1}]):
        messages = [*said(("user", "w")), {"role": "assistant", "tool_calls": calls}]
        assert rendered("{{ messages | length }}", messages) == "2"


def test_a_template_without_tools_drops_calls_but_shows_no_none() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for content in ({}, {"content": None}, {"content": ""}):
        messages = [*said(("user", "a")), {"role": "assistant", **content, "tool_calls": calls}]
        assert rendered(ANY, messages) == "<user>a<assistant>"
        joined = "{% for m in messages %}{{ '' + m['content'] + ';' }}{% endfor %}"
        assert rendered(joined, messages) == "a;;"


def test_templates_that_go_through_the_tools_without_a_test() -> None:
    source = "{% for t in tools %}{{ t.function.name }}{% endfor %}|{{ messages[0].content }}"
    assert rendered(source, said(("user", "a"))) == "|a"
    tool = {"type": "function", "function": {"name": "f"}}
    assert rendered(source, said(("user", "a")), tools=[tool]) == "f|a"
    assert rendered("{{ tools is none }}", said(("user", "a"))) == "True"


def test_thoughts_under_the_key_that_templates_show() -> None:
    show = "{% for m in messages %}{{ m.KEY }}{{ m.content }}{% endfor %}"
    for key in ("reasoning_content", "reasoning", "thinking"):
        messages = [*said(("user", "a")), {"role": "assistant", "content": "b", key: "t"}]
        for other in ("reasoning_content", "reasoning", "thinking"):
            assert rendered(show.replace("KEY", other), messages) == "atb"
        assert rendered(ANY, messages) == "<user>a<assistant>b"
