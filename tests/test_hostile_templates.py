"""Chat templates as attackers write them: each ends soon, in little memory, with an answer or a
documented error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sparsefire.errors import ArgumentError, ModelFileError
from sparsefire.lm.chat import ChatTemplate

pytest.importorskip("jinja2")

_MOST_KIB = 64 << 10
_MOST_SECONDS = 2.0
_SOONER = 0.05  # seconds after which most templates of the test are stopped, instead of 1
LONG = "loops in loops"
BIG = "{% set b = 'a' * 1000000 %}"
LIST = "{% set l = range(50000) | list %}"


def _nested(start: str, step: str, times: int) -> str:
    return f"{{% set x = {start} %}}" + f"{{% set x = {step} %}}" * times


def hostile() -> Iterator[tuple[str, str]]:
    """Templates by name."""
    # Doubling, by every operation that can, and then every way to visit what it made.
    doublings = {
        "plus": ("'ab'", "x + x"), "tilde": ("'ab'", "x ~ x"),
        "percent": ("'ab'", "'%s%s' % (x, x)"),
        "times": ("'ab'", "x * 2"), "format": ("'ab'", "'{0}{0}'.format(x)"),
        "format_map": ("'ab'", "'{a}{a}'.format_map({'a': x})"),
        "format filter": ("'ab'", "'%s%s' | format(x, x)"),
        "percent map": ("'ab'", "'%(a)s%(a)s' % {'a': x}"),
        "join method": ("'ab'", "x.join(['', x, ''])"), "join filter": ("'ab'", "[x, x] | join"),
        "replace": ("'ab'", "x.replace('a', 'aa').replace('b', 'bb')"),
        "replace all": ("'ab'", "x.replace('', x)"),
        "replace filter": ("'ab'", "x | replace('a', 'aab')"),
        "translate": ("'ab'", "x.translate({97: 'aaaa', 98: x})"),
        "list plus": ("[1]", "x + x"), "list times": ("[1]", "x * 2"),
        "tuple plus": ("(1, 2)", "x + x"),
        "reference": ("[]", "[x, x]"), "tuple reference": ("()", "(x, x)"),
        "dict reference": ("{}", "{'a': x, 'b': x}"), "dict call": ("{}", "dict(a=x, b=x)"),
        "namespace": ("{}", "namespace(a=x, b=x)"), "namespace list": ("{}", "namespace(a=[x, x])"),
        "json of json": ("'\"'", "x | tojson"), "escape": ("'&'", "x | e"),
        "urlencode": ("'%'", "(x ~ '%') | urlencode"),
        "sum": ("[1]", "[x, x] | sum(start=[])"), "items": ("{}", "{1: x.items(), 2: x.items()}"),
        "power": ("3", "x ** x"), "square": ("3", "x * x"), "wide": ("'\U0001f600'", "x ~ x"),
        "markup": ("'<' | e", "x + '<<' + x"), "map": ("['ab']", "(x + x) | map('string') | list"),
        "indent": ("'a\n'", "(x ~ x) | indent(40)"), "set block": ("'ab'", "x"),
    }  # fmt: skip
    for name, (start, step) in doublings.items():
        yield f"doubled: {name}", _nested(start, step, 60) + "{{ x }}"
    yield "set blocks", "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40
    yield (
        "filter blocks",
        "{% filter replace('a', 'aaaaaaaa') %}" * 15 + "aaaa" + "{% endfilter %}" * 15,
    )
    for times in (16, 30):
        shared = _nested("[]", "[x, x]", times)
        other = (
            shared.replace(" x", " y")
            .replace("[x, x]", "[y, y]")
            .replace(", x", ", y")
            .replace("[x", "[y")
        )
        for each in (
            "x | tojson", "x | string", "x | tojson(indent=8)", "x == [x]", "x in [x]", "x ~ ''",
            "'%s' % (x,)",
            "[x, x] | sort", "[x, x] | unique | list", "x | join('a')", "{(x,): 1}",
            "x | sum(start=[])",
        ):  # fmt: skip
            yield f"{times} nested, {each}", shared + "{{ " + each + " }}"
        yield f"{times} nested, compared", shared + other + "{{ x == y }}"
    # One large value, from one operation.
    for each in (
        "'a' * 10 ** 9", "[0] * 10 ** 9", "(0,) * 10 ** 9", "10 ** 10 ** 9", "'%1000000000d' % 1",
        "'%*d' % (10 ** 9, 1)",
        "'%.1000000000f' % 1.5", "'{:1000000000}'.format(1)", "'{:{}}'.format(1, 10 ** 9)",
        "'a'.center(10 ** 9)",
        "'a'.ljust(10 ** 9)", "'a'.rjust(10 ** 9)", "'a'.zfill(10 ** 9)",
        "'\t'.expandtabs(10 ** 9)", "'a' | center(10 ** 9)",
        "'a\nb' | indent(10 ** 9)", "[1] | batch(10 ** 9, 0) | list",
        "[1] | slice(10 ** 9) | list", "range(10 ** 9) | list",
        "(5).to_bytes(10 ** 9, 'big')", "'a'.encode() * 10 ** 9", "[1] | tojson(indent=10 ** 9)",
        "1.5 | round(10 ** 9, 'ceil')",
        "{}.fromkeys(range(100000))", "'a'.maketrans('a', 'b')", "strftime_now('%1000000000d')",
        "strftime_now('%c' * 1000000)",
        "'9' * 4000000 | int", "'%9999d' * 5000 % range(5000)", "1 << 10", "range(10 ** 30)",
        "range(0, 10 ** 9, 1) | last",
    ):  # fmt: skip
        yield f"large: {each}", "{{ (" + each + ") | length }}"
    # A large text or list, many times over.
    for each in (
        "b.translate({97: b})", "b.join(b)", "b | join(b)", "b | replace('a', b)",
        "b.replace('', b)", "b | list", "b.split('a')",
        "b | tojson", "(b ~ '\U0001f600') | list", "b | urlencode", "b | indent(9999)",
        "b | wordwrap(1)", "b | urlize", "b | pprint",
        "b | title", "b.replace('a', '\n').splitlines()", "b.replace('a', '\t').expandtabs(999)",
        "'{0}' * 1000 % b",
        "('{0}' * 1000).format(b)", "('%s' * 1000) % ((b,) * 1000)", "[b] * 1000",
        "([b] * 1000) | string", "([b] * 1000) | join",
        "([b] * 1000) | tojson(separators=(b, b))", "[1, 2, 3] | tojson(separators=(b, b))",
        "{b: b} | tojson(indent=b)",
        "b | batch(1) | list", "b | sort | list", "b | unique | list", "b | map('upper') | list",
        "b | groupby(0)", "b | wordcount",
        "b | e", "b | xmlattr", "b | striptags", "'a'.join(b | list)", "b.rsplit('a')",
        "b.partition('a')", "b.swapcase()",
    ):  # fmt: skip
        yield f"text: {each}", BIG + "{{ (" + each + ") | length }}"
        keep = (
            "{% set n = namespace(k=[]) %}{% for i in range(1000) %}{% set n.k = n.k + ["
            + each
            + "] %}{% endfor %}"
        )
        yield f"kept: {each}", "{% set b = 'a' * 20000 %}" + keep
    for each in (
        "b[1:]", "b[:-1]", "b[::-1]", "b[i:]", "l[1:]", "l[::-1]", "l + [i]", "l | list",
        "l.copy()", "l | sort", "l | reverse | list",
        "range(100000) | list", "l | map('string') | list", "l | select | list",
        "l | batch(2) | list", "l | unique | list",
        "b ~ i", "b + 'a'", "b.upper()", "b.title()", "b | trim", "b | safe", "[b[1:], b[2:]]",
        "{i: b[1:]}", "(b[1:], b[2:])",
        "b | string ~ ''", "l | join", "l | tojson", "l | string", "dict(a=b[1:])",
        "namespace(a=b[1:])", "b | replace('a', 'b')",
        "l == (l | list)", "'b' in b", "49999 in l", "l.index(49999)", "b.count('aa')",
        "b.find('ab')", "l | max", "l | sum",
    ):  # fmt: skip
        keep = (
            "{% set n = namespace(k=[]) %}{% for i in range(100000) %}{% set n.k = [n.k, "
            + each
            + "] %}{% endfor %}"
        )
        yield f"chained: {each}", BIG + LIST + keep
        yield (
            f"repeated: {each}",
            BIG + LIST + "{% for i in range(100000) %}{% set k = " + each + " %}{% endfor %}",
        )
        yield (
            f"unrolled: {each}",
            BIG + LIST + "{% set i = 1 %}" + "{% set k = " + each + " %}" * 800,
        )
    # Characters that become wider or longer than they were.
    half = "{% set b = 'a' * 7000000 %}"
    for each in (
        "[b, '\U0001f600'] | join", "b ~ '\U0001f600'", "'%s%s' % (b, '\U0001f600')",
        "'{}{}'.format(b, '\U0001f600')", "b | replace('aaaaaaa', '\U0001f600')",
        "[b, '\U0001f600'] | string", "{b: '\U0001f600'} | tojson", "'' | e + b + '\U0001f600'",
        "b.translate({97: '\U0001f600'})", "'\U0001f600'.join([b, ''])",
    ):  # fmt: skip
        yield f"wider: {each}", half + "{{ (" + each + ") | length }}"
    yield "wider output", half + "{{ b }}\U0001f600{{ '\U0001f600' }}"
    yield "wider pieces", "{% for i in range(50) %}{{ 'a' * 90000 }}{% endfor %}{{ '\U0001f600' }}"
    for start in ("'\x01'", "'\U000e0001'", "'\U000e0001\U0001f600'", "'<'", "'<' | e"):
        for each in (
            "'{!r}'.format(b)", "'%r' % b", "'%(a)r' % {'a': b}", "'%a' % b", "[b] | tojson",
            "[b] | string", "[b] | tojson(ensure_ascii=True)", "('%s' | e) % b", "('' | e) + b",
            "('' | e).join([b])", "('{}' | e).format(b)", "('a' | e).replace('a', b)",
        ):  # fmt: skip
            yield f"longer: {start}, {each}", f"{{% set b = ({start}) * 1000000 %}}{{{{ {each} }}}}"
    yield "digits", "{{ ([2 ** 4000] * 60000) | string | length }}"
    yield "digits in json", "{{ ([2 ** 4000] * 60000) | tojson | length }}"
    # Control flow.
    loop = "{% for i in range(100000) %}"
    yield LONG, loop * 5 + "{% endfor %}" * 5
    yield "loops of output", loop * 3 + "aaaaaaaaaaaa" + "{% endfor %}" * 3
    yield "a recursive macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"
    yield (
        "a macro that doubles",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    )
    yield (
        "macros of text",
        "{% macro m(n) %}aaaa{% if n %}{{ m(n-1) ~ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    )
    yield (
        "a caller",
        "{% macro m(n) %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call m(1) %}" * 15
        + "a"
        + "{% endcall %}" * 15,
    )
    yield "a recursive loop", "{% for i in [[1]] recursive %}{{ loop([i, i]) }}{% endfor %}"
    yield "blocks", "{% block a %}a{{ self.a() }}{{ self.a() }}{% endblock %}"
    yield (
        "blocks of blocks",
        "".join(
            "{% block b"
            + str(i)
            + " %}aaaa"
            + ("{{ self.b" + str(i - 1) + "() }}" * 2 if i else "")
            + "{% endblock %}"
            for i in range(30)
        ),
    )
    yield "the length of a loop", BIG + "{% for i in b %}{{ loop.length }}{% endfor %}"
    yield (
        "the rest of a loop",
        BIG
        + loop
        + "{% for i in b %}{% if loop.last %}{% endif %}{% break %}{% endfor %}{% endfor %}",
    )
    yield "many arguments", LIST + "{% macro m() %}{{ m(*varargs) }}{% endmacro %}{{ m(*l) }}"
    yield "a cycle", "{% set n = namespace() %}{% set n.a = [n, n] %}{{ n }}"
    yield "a cycle in json", "{% set n = namespace() %}{% set n.a = [n, n] %}{{ n.a | tojson }}"
    yield (
        "autoescape",
        BIG + "{% autoescape true %}" + "{{ '\"' * 1000000 }}" * 4 + "{% endautoescape %}",
    )
    yield (
        "deep values",
        "{% set n = namespace(a=[]) %}" + loop + "{% set n.a = [n.a] %}{% endfor %}{{ n.a }}",
    )
    for turns in (1000, 30000):
        yield (
            f"an error after {turns} turns",
            LIST
            + (
                "{% for i in range("
                + str(turns)
                + ") %}{% set k = i in l %}{% endfor %}{{ raise_exception('a') }}"
            ),
        )
    yield "an error after much output", "{{ 'a' * 10000000 }}{{ raise_exception('a') }}"
    for form in ("is string", "is not string"):  # only in one of the forms that are tried
        yield (
            f"content {form}",
            f"{{% if messages[0].content {form} %}}{loop * 3}{'{% endfor %}' * 3}{{% endif %}}",
        )
    # The source itself.
    for name, part in {
        "outputs": "{{a}}", "sums": "{{1+1}}", "sets": "{%set a=1%}",
        "tests": "{%if a%}{%endif%}", "macros": "{%macro a()%}{%endmacro%}",
        "loops": "{%for a in b%}{%endfor%}", "filters": "{{a|e}}", "texts": "{{''}}a",
        "comments": "{##}", "dicts": "{{{1:[2]}}}",
    }.items():  # fmt: skip
        yield f"many {name}", part * (65000 // len(part))
        yield f"too many {name}", part * (3000000 // len(part))
    for opened, closed in (
        "()",
        "[]",
        "{}",
        ("not ", ""),
        ("-", ""),
        ("1+", ""),
        ("a.", "a"),
        ("1if ", ""),
        ("[1,", "]"),
        ("'a'~", ""),
    ):
        for times in (150, 5000):
            yield f"{times} deep {opened}", "{{ " + opened * times + "1" + closed * times + " }}"
    yield "nested ifs", "{% if 1 %}" * 3000 + "{% endif %}" * 3000
    yield "nested loops", "{% for i in [1] %}" * 100 + "{% endfor %}" * 100
    yield "a long chain", "{{ 'a'" + " | upper" * 7000 + " }}"
    yield "a long comparison", LIST + "{{ " + " and ".join(["l == l"] * 3000) + " }}"


_CHILD = """
import gc, json, re, sys, time
from sparsefire.errors import SparsefireError
from sparsefire.lm import metering
from sparsefire.lm.chat import ChatTemplate

allowed = metering._MOST_SECONDS

def peak():
    # not ru_maxrss, in which a new process inherits its parent's
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1])

ChatTemplate("{{ messages }}").render([{"role": "user", "content": "a"}])
first = peak()
for line in sys.stdin:
    name, source, sooner = json.loads(line)
    gc.collect()  # what an earlier template left in cycles is not this one's
    metering._MOST_SECONDS = sooner or allowed
    start, outcome = time.process_time(), "rendered"
    try:
        ChatTemplate(source).render([{"role": "user", "content": "a"}])
    except SparsefireError as error:
        outcome = type(error).__name__
    except BaseException as error:
        outcome = f"escaped: {error!r}"[:200]
    seconds = time.process_time() - start
    print(json.dumps([name, outcome, peak() - first, seconds]), flush=True)
"""


def _run(corpus: list[tuple[str, str]]) -> list[tuple[str, str, int, float]]:
    """Name, outcome, the process's peak since its start in KiB, and processor seconds of each."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input="".join(
            json.dumps((name, source, 0 if name == LONG else _SOONER)) + "\n"
            for name, source in corpus
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    results = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.stderr[-1500:], results[-1:])
    return results  # type: ignore[return-value]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in other units, or not known")
def test_hostile_templates_end_soon_in_little_memory() -> None:
    corpus = list(hostile())
    assert len({source for _, source in corpus}) == len(corpus) >= 100
    results = _run(corpus)
    assert len(results) == len(corpus)
    for name, outcome, peak, seconds in results:
        assert not outcome.startswith("escaped"), (name, outcome)
        assert peak < _MOST_KIB, (name, outcome, peak)
        assert seconds < _MOST_SECONDS, (name, outcome, seconds)


def test_all_renderings_for_a_request_share_one_budget() -> None:
    # It refuses every form in which the messages may be given, late.
    source = "{% set b = 'a' * 9000000 %}{{ raise_exception(messages) }}"
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(ModelFileError, match="too much time or space"):
        ChatTemplate(source).render(messages)


def test_ordinary_operations_still_work() -> None:
    said = "messages[0]['content']"
    for source, wanted in {
        "{{ messages[1:] | length }}{{ 'abc'[::-1] }}": "0cba",
        "{{ [1, 'a'] ~ 'b' }}{{ 'a,b'.split(',')[-1] }}": "[1, 'a']bb",
        "{% for a, b in {'x': 1} | dictsort %}{{ a }}{{ b }}{{ loop.last }}{% endfor %}": "x1True",
        "{{ messages | selectattr('role', 'eq', 'user') | map(attribute='content') | join }}": "a",
        "{% set n = namespace(a=1) %}{% for i in range(3) %}{% set n.a = n.a + i %}{% endfor %}"
        "{{ n.a }}": "4",
        "{{ {'a': [1, None]} | tojson(indent=1) }}": '{\n "a": [\n  1,\n  null\n ]\n}',
        "{{ 'a%sb' % 3 }}{{ 'x{}'.format(4) }}{{ 'a\nb' | indent(2) }}": "a3bx4a\n  b",
        "{% macro m(a, b='c') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}": "1c32",
        "{{ 5 // 2 }}{{ 5 % 3 }}{{ 2 ** 5 }}{{ 5 - 2 }}{{ 1 / 4 }}": "223230.25",
        f"{{{{ 1 < 2 <= 3 }}}}{{{{ 'a' in 'abc' }}}}{{{{ {said} }}}}": "TrueTruea",
        "{{ messages[0].items() | list | length }}{{ 20000 | string }}{{ (1, 2)[0] }}": "2200001",
    }.items():
        assert ChatTemplate(source).render([{"role": "user", "content": "a"}]) == wanted


def test_long_conversations_are_rendered() -> None:
    source = (
        "{% for m in messages %}{% if loop.first and not loop.last %}{% endif %}"
        "{{ '<|' + m.role + '|>\n' + (m.content | trim) + '<|end|>' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 100}] * 2000
    text = ChatTemplate(source).render(messages)
    assert len(text) == 2000 * len("<|user|>\n<|end|>" + "word " * 100) - 2000
    with pytest.raises(ArgumentError, match=r"messages: .* too much time or space"):
        ChatTemplate(source).render([{"role": "user", "content": "a" * 20_000_000}])
