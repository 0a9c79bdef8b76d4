"""Chat templates: against texts written by hand from the documented formats, against Jinja2 as
the field sets it up, and templates that misbehave."""

from __future__ import annotations

import builtins
import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

import tiny_model
from conftest import ROOT
from sparsefire.chat import CHATML, ChatTemplate
from sparsefire.errors import ArgumentError, BackendError, ModelFileError, UnsupportedError
from sparsefire.model import Model

USER = {"role": "user", "content": "Hi"}
TALK = [
    {"role": "system", "content": "Be <brief> & kind."},
    USER,
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "  Who are you? "},
]
TOOL = {"type": "function", "function": {"name": "now", "description": "Zeit in ‹Köln›"}}

# ChatML, with a system message of its own where the conversation has none.
SYSTEM_CHATML = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
    {%- if message.role == 'system' %}
        {{- 'Today Date: ' ~ date_string ~ '\\n\\n' }}
    {%- endif %}
    {{- message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}
{%- endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = message.content + '\\n\\n' %}{% continue %}
    {%- elif message.role == 'user' %}{{- '[INST] ' + ns.system + message.content + '[/INST]' }}
        {%- set ns.system = '' %}
    {%- else %}{% generation %}{{- ' ' + message.content + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""

GOLDEN = {
    "chatml": (
        CHATML,
        TALK,
        (
            "<|im_start|>system\nBe <brief> & kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n  Who are you? <|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
    ),
    "qwen and smollm": (
        SYSTEM_CHATML,
        [USER],
        (
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
    ),
    "llama 3": (
        LLAMA_3,
        TALK,
        (
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 24 Nov 2026\n\n"
            "Be <brief> & kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
    ),
    "gemma": (
        GEMMA,
        TALK[1:],
        (
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
            "<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n"
        ),
    ),
    "mistral": (
        MISTRAL,
        TALK,
        "<s>[INST] Be <brief> & kind.\n\nHi[/INST] Hello!</s>[INST]   Who are you? [/INST]",
    ),
}

METADATA: dict[str, Any] = {
    "tokenizer.chat_template": CHATML,
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}


def template(source: str, **keys: Any) -> ChatTemplate:
    return ChatTemplate.from_metadata({**METADATA, "tokenizer.chat_template": source, **keys})


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    source, messages, wanted = GOLDEN[name]
    assert template(source).render(messages, date_string="24 Nov 2026") == wanted


def test_without_generation_prompt() -> None:
    assert template(CHATML).render([USER], False) == "<|im_start|>user\nHi<|im_end|>\n"


def reference(source: str, **variables: Any) -> str:
    """The same by Jinja2 alone, in the set-up that the field uses."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(
        value, **{"ensure_ascii": False, **options}
    )
    return sandbox.from_string(source).render(**variables)


EXPRESSIONS = [
    "{{ messages | tojson }}",
    "{{ tools | tojson(indent=2) }}{{ tools[0]['function'].name | upper }}",
    "{{ messages[0].content ~ 3 ~ none ~ missing ~ [1, 'a'] ~ 1.5 }}",
    "{{ 'a' + 'b' * 3 }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ 7 % 4 }}{{ '%05.1f|%s' % (2.25, 'x') }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages | length }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | first }}",
    "{{ messages[-1].content.strip().split(' ') | last }}{{ 'a-b'.replace('-', '+') }}",
    (
        "{% macro show(m, deep) %}[{{ m.role }}{% if deep %}{{ show(m, false) }}{% endif %}]"
        "{% endmacro %}{% for m in messages %}{{ show(m, true) }}{% endfor %}"
    ),
    "{% set text %}x{{ messages[0].role }}\n{% endset %}{{ text | indent(4, true) }}",
    "{% for k, v in messages[0] | items %}{{ k }}={{ v }};{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% endfor %}",
    "{% for i in range(10) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{{ '{:>5}|{}'.format('x', 'y') }}{{ '%s-%s' | format('a', 2) }}{{ 'ab' | center(6) }}|",
    "{{ {'a': 1} | dictsort }}{{ messages[0] is mapping }}{{ 'x' is string }}",
    "{% macro wrap() %}<{{ caller('in') }}>{% endmacro %}{% call(x) wrap() %}{{ x }}!{% endcall %}",
    "{{- 'a' -}}\n  {#- comment -#}  \n{{ '<&>' }}{{ '<&>' | e }}\n\n",
    "{% if tools is not none and tools %}{{ tools | length }}{% endif %}{{ undefined_thing }}",
]


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_against_jinja(source: str) -> None:
    variables = {"messages": TALK, "tools": [TOOL], "add_generation_prompt": True}
    assert template(source).render(TALK, tools=[TOOL]) == reference(source, **variables)


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), min_size=1))
def test_any_content(messages: list[dict[str, str]]) -> None:
    source = "{% for m in messages %}{{ m.role ~ m.content + m | tojson }}{% endfor %}"
    assert ChatTemplate(source).render(messages) == reference(source, messages=messages)


def test_strftime_now() -> None:
    before = datetime.now().year
    text = template("{{ strftime_now('%Y') }}").render([USER])
    assert before <= int(text) <= datetime.now().year


def test_special_tokens() -> None:
    source = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}"
    text = template(source, **{"tokenizer.ggml.padding_token_id": 2}).render([USER])
    assert text == "<s>|</s>||a"
    assert ChatTemplate("{{ bos_token }}|").render([USER]) == "|"
    with pytest.raises(ModelFileError, match="bos_token_id' is 3, outside the 3 tokens"):
        template(source, **{"tokenizer.ggml.bos_token_id": 3})


def test_named_templates() -> None:
    several = template(
        "plain",
        **{
            "tokenizer.chat_templates": ["tool_use", "rag"],
            "tokenizer.chat_template.tool_use": "tools {{ tools | length }}",
            "tokenizer.chat_template.rag": "{{ documents[0] }}",
        },
    )
    assert list(several.sources) == ["default", "tool_use", "rag"]
    assert several.render([USER]) == "plain"
    assert several.render([USER], tools=[TOOL]) == "tools 1"
    assert several.render([USER], tools=[TOOL], template="default") == "plain"
    assert several.render([USER], template="rag", documents=["page"]) == "page"
    with pytest.raises(ArgumentError, match="no chat template 'x'; it has: default, tool_use, rag"):
        several.render([USER], template="x")
    only = {"tokenizer.chat_templates": ["rag"], "tokenizer.chat_template.rag": "r"}
    assert ChatTemplate.from_metadata(only).render([USER]) == "r"


def test_files_without_template() -> None:
    with pytest.raises(UnsupportedError, match=r"x.gguf: the file has no chat template.*'chatml'"):
        ChatTemplate.from_metadata({}, "x.gguf")
    chosen = ChatTemplate.from_metadata({}, template="chatml")
    assert chosen.render([USER]).startswith("<|im_start|>user")
    own = ChatTemplate.from_metadata(METADATA, template="{{ eos_token }}!")
    assert own.render([USER]) == "</s>!"
    with pytest.raises(ModelFileError, match=r"'tokenizer.chat_template' is not a text"):
        template(5)  # type: ignore[arg-type]


# -- messages ----------------------------------------------------------------------------------


def test_parts_of_content_are_joined() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert template("{{ messages[0].content }}").render([{"role": "user", "content": parts}]) == (
        "Hi"
    )


def test_tool_calls_need_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [TOOL]}
    source = "{{ messages[0].content is none }}{{ messages[0].tool_calls[0].function.name }}"
    assert template(source).render([call]) == "Truenow"


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ([], ArgumentError, "empty"),
        ("Hi", ArgumentError, "expected a list of"),
        ({"role": "user"}, ArgumentError, "expected a list of"),
        (["Hi"], ArgumentError, r"messages\[0\]: expected a dict with a 'role'"),
        ([USER, {"content": "x"}], ArgumentError, r"messages\[1\]: expected a dict"),
        ([{"role": 5, "content": "x"}], ArgumentError, "'role'"),
        ([{"role": "user"}], ArgumentError, "'content' is missing"),
        ([{"role": "user", "content": 5}], ArgumentError, "must be a text, not int"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            UnsupportedError,
            r"messages\[0\].content\[0\]: content of the type 'image_url'; only text",
        ),
        ([{"role": "user", "content": ["x"]}], ArgumentError, r"content\[0\]: expected"),
    ],
)
def test_bad_messages(messages: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        template(CHATML).render(messages)


def test_the_template_refuses() -> None:
    with pytest.raises(ArgumentError, match="refuses these messages: Roles must alternate"):
        template(GEMMA).render([USER, USER])
    with pytest.raises(ArgumentError, match=r"cannot render these messages: .*no element 3"):
        template("{{ messages[3].content }}").render([USER])


# -- bad templates -----------------------------------------------------------------------------

RUNAWAY = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a long range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(90) }}",
    "repeated text": "{{ 'a' * 10 ** 10 }}",
    "repeated text, the other way": "{% set n = 10 ** 10 %}{{ n * 'a' }}",
    "repeated list": "{{ [0] * 10 ** 10 }}",
    "huge number": "{{ 10 ** 1000000 }}",
    "huge number by products": "{% set ns = namespace(x=9) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubled by +": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubled by ~": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubled by set": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "doubled by join": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "nested lists": "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested dicts as JSON": "{% set ns = namespace(x={}) %}{% for i in range(60) %}"
    "{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
    "plain text in loops": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "padding": "{{ 'a' | center(10 ** 10) }}",
    "padding by map": "{{ ['a'] | map('center', 10 ** 10) | join }}",
    "padding by a method": "{{ 'a'.ljust(10 ** 10) }}",
    "indenting": "{{ ('\n' * 10000) | indent(9999) }}",
    "replacing": "{{ ('a' * 10000).replace('a', 'b' * 10000) }}",
    "replacing by a filter": "{{ ('a' * 10000) | replace('a', 'b' * 10000) }}",
    "joining": "{{ range(10000) | join('a' * 10000) }}",
    "a wide format": "{{ '%999999999d' % 3 }}",
    "a wide format by a filter": "{{ '%*d' | format(999999999, 3) }}",
    "a wide format by a method": "{{ '{:999999999}'.format(3) }}",
    "a wide format of a value": "{{ '{:{}}'.format(3, 999999999) }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", RUNAWAY)
def test_runaway_templates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefire.chat_sandbox._MOST_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises((ModelFileError, ArgumentError)) as caught:
        template(RUNAWAY[name]).render([USER])
    assert "too much time or space" in str(caught.value) or name == "a long range"
    assert time.monotonic() - started < 30  # not for ever


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ('' | attr('__class__')).mro() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_what_a_template_may_not(source: str) -> None:
    try:
        text = template(source).render([USER])
    except (ModelFileError, ArgumentError):
        return
    assert text == ""  # an attribute that is not there


def test_nothing_is_read_from_files() -> None:
    with pytest.raises((ModelFileError, ArgumentError)):
        template("{% include '/etc/hostname' %}").render([USER])


def test_wrong_syntax_names_the_line() -> None:
    with pytest.raises(ModelFileError, match="the model: the chat template has an error in line 2"):
        template("a\n{% for %}").render([USER])
    with pytest.raises(ModelFileError, match="at most"):
        template("x" * (1 << 20) + "y").render([USER])


def test_meters_start_anew_with_each_rendering() -> None:
    """What one rendering has used is not missing from the next."""
    long = ChatTemplate("{% for i in range(1000) %}{{ messages[0].content }}{% endfor %}")
    for _ in range(5):
        assert len(long.render([{"role": "user", "content": "x" * 10_000}])) == 10_000_000


def test_without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "chat_sandbox":
            raise ImportError("No module named 'jinja2'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=re.escape("pip install 'sparsefire[chat]'")):
        template(CHATML).render([USER])


# -- models ------------------------------------------------------------------------------------


def test_models(tmp_path: Path) -> None:
    keys = {"tokenizer.chat_template": "{{ bos_token }}" + CHATML}
    with Model.load(tiny_model.write(tmp_path / "a.gguf", keys=keys)) as model:
        text = model.apply_chat_template([USER])
        assert text == "<|end|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert model.tokenize(text, add_bos=False)[0] == model.tokenizer.bos
        assert model.apply_chat_template([USER], False, chat_template="{{ x }}", x=7) == "7"
    with Model.load(tiny_model.write(tmp_path / "b.gguf")) as model:
        with pytest.raises(UnsupportedError, match=r"b\.gguf: the file has no chat template"):
            model.apply_chat_template([USER])
        assert model.apply_chat_template([USER], chat_template="chatml").startswith("<|im_start|>")


def test_jinja_is_still_needed_by_nobody_else() -> None:
    """The module that imports Jinja2 is reached through `chat` only."""
    folder = ROOT / "py" / "sparsefire"
    users = [
        path.name
        for path in folder.glob("*.py")
        if re.search(r"^\s*(from|import) (jinja2|\.chat_sandbox)", path.read_text("utf-8"), re.M)
    ]
    assert sorted(users) == ["chat.py", "chat_sandbox.py"]
