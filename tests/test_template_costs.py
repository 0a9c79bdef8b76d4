"""Operations of chat templates need at most what they pay: their memory, as Python counts it, is
within the bytes that the meter takes for them; and none of them lasts long by itself."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import Any

import pytest

markupsafe = pytest.importorskip("markupsafe")

from sparsefire.lm import metering  # noqa: E402  they need the package that is looked for above
from sparsefire.lm.sandbox import CompiledTemplate  # noqa: E402

N = 400  # characters or items of each value
_ROOM = 40_000  # bytes of a rendering without any operation, and of lists of items while measured

_WIDE = "\U0001f600b" * 20
VALUES: dict[str, Any] = {
    "ASCII": "a" * N,
    "words": "ab " * (N // 3),
    "lines": "a\n" * (N // 2),
    "different": "".join(map(chr, range(0x4E00, 0x4E00 + N))),
    "one wide": "a" * (N - 1) + "\U0001f600",
    "control": "\x01" * N,
    "three as a capital": "\u0390" * N,
    "HTML": markupsafe.Markup("&lt;") * (N // 4),
    "numbers": list(range(N)),
    "long numbers": [2**4000] * 40,
    "texts": [f"{number}x" for number in range(N)],
    "lists": [[number] for number in range(N)],
    "dicts": [{"a": number} for number in range(N)],
    "dict": {str(number): number for number in range(N)},
    "range": range(N),
}

ARGUMENTS = {
    "attr": ["('a')"],
    "batch": ["(3) | list", "(1, 'a') | list", "(900, 0) | list"],
    "center": ["(9999)"],
    "abs": ["| map('abs') | list"],
    "count": ["('a')"],
    "endswith": ["('a')"],
    "expandtabs": ["(100)"],
    "find": ["('a')"],
    "filesizeformat": ["| map('filesizeformat') | list"],
    "format": ["(x)"],
    "format_map": ["({'a': x})"],
    "groupby": ["('a')", "(0)"],
    "indent": ["(40)", "(y)"],
    "index": ["('a')"],
    "join": ["('ab')", "(x)", "(['', x, ''])"],
    "ljust": ["(9999)"],
    "map": ["('string') | list", "(attribute='a') | list", "('upper') | list"],
    "partition": ["('a')"],
    "rejectattr": ["('a') | list"],
    "removeprefix": ["('a')"],
    "removesuffix": ["('a')"],
    "replace": ["('a', 'bb')", "('', 'cc')", "('\\n', x)"],
    "rfind": ["('a')"],
    "rindex": ["('a')"],
    "round": ["| map('round', 3) | list"],
    "rjust": ["(9999, '\U0001f600')"],
    "rpartition": ["('a')"],
    "rsplit": ["('a')"],
    "selectattr": ["('a') | list"],
    "slice": ["(3) | list", "(100, 0) | list"],
    "sort": ["", "(true)", "(attribute='a')"],
    "split": ["()", "('a')"],
    "startswith": ["('a')"],
    "sum": [""],
    "translate": ["({97: 'bbbb'})", "({97: y})"],
    "truncate": ["", "(500, true, y)"],
    "unique": ["(true) | list", "(attribute='a') | list"],
    "zfill": ["(9999)"],
}  # fmt: skip

OF_FILTERS: dict[str, list[str]] = {"count": [""], "format": []}  # others than of methods

OPERATIONS = [
    "x ~ x", "x ~ y", "x + x", "x * 3", "x[1:]", "x[::-1]", "[x, x] | string", "'%s%s' % (x, x)",
    "'%r' % x", "'%(a)a' % {'a': x}", "'%5000s' % x", "'{}{}'.format(x, x)", "'{!r}'.format(x)",
    "x | tojson", "x | tojson(indent=4)", "x | tojson(separators=('ab', 'cd'))", "(x, x)",
    "{'a': x}", "dict(a=x)", "x == [x]", "x in [x]", "x is in [x]", "x.items() | list",
    "x.keys() | list", "x.copy()", "('<' | e) + x", "('<' | e) ~ x", "('<' | e).join([x, x])",
    "('<%s' | e) % x", "('<a' | e).replace('a', x)", "x | e | e", "x | list | tojson",
    "x | reverse | join", "'%s%s' | format(x, x)", "[x, x] | sum(start=[])",
    "x | map('list') | list", "x | map('center', 99) | list",
]  # fmt: skip


def operations() -> list[str]:
    """Each filter and each method of texts at least once, and everything else that makes values."""
    filters = [
        f"x {arguments}" if arguments.startswith("|") else f"x | {name}{arguments}"
        for name in sorted(metering.FILTERS)
        for arguments in {**ARGUMENTS, **OF_FILTERS}.get(name, [""])
    ]
    methods = [
        f"x.{name}{arguments}"
        for name in metering._TEXT_METHODS
        for arguments in ARGUMENTS.get(name, ["()"])
        if arguments.startswith("(")
    ]
    return [*filters, *methods, *OPERATIONS]


def _paid_and_taken(template: CompiledTemplate, value: object) -> tuple[int, int]:
    """Bytes that the meter took, and that Python took at most; (0, 0) if the operation failed."""
    meter = metering.Meter()
    meter._left = left = 1 << 50
    meter._end += 60
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        template._run({"x": value, "y": _WIDE}, meter)
    except metering.RunawayError:
        return 0, 0
    except Exception:  # an operation that values of this type do not have
        return 0, 0
    return left - meter._left, tracemalloc.get_traced_memory()[1] - before


def test_operations_take_at_most_what_they_pay() -> None:
    used = set()
    tracemalloc.start()
    try:
        for operation in operations():
            template = CompiledTemplate(f"{{% set v = {operation} %}}", "a")
            for name, value in VALUES.items():
                paid, taken = _paid_and_taken(template, value)
                assert taken <= paid + _ROOM, (operation, name, paid, taken)
                if paid:
                    used.add(operation)
    finally:
        tracemalloc.stop()
    never = {operation for operation in operations() if operation not in used}
    assert not never


@pytest.mark.parametrize(
    "operation",
    [
        "b.rfind(c)", "b.rindex(c)", "b.rsplit(c)", "b.rpartition(c)", "b.find(c)", "b.count(c)",
        "b.split(c)", "b.replace(c, '')", "b.partition(c)", "c in b", "b.strip(e)", "b | trim(e)",
        "b.lstrip(e)", "b.rstrip(e)", "('%(' * 200000) % 1", "('%(' * 200000) | format(1)",
        "('{' * 200000).format(1)", "[b ~ ''] * 30000 == [b ~ 'a'] * 30000",
        "(b ~ 'd') in [b ~ 'e'] * 30000", "(b ~ 'd') is in [b ~ 'e'] * 30000",
        "([b ~ 'd'] * 30000) is eq([b ~ 'e'] * 30000)", "([b ~ 'd'] * 30000).index(b ~ 'e')",
    ],
)  # fmt: skip
def test_single_operations_end_soon(operation: str) -> None:
    """What no clock can end between two operations, where the worst case takes the product of the
    lengths."""
    big = "{% set b = 'a' * 2000000 %}{% set c = 'ab' ~ 'a' * 500000 %}"
    big += "{% set e = 'b' * 2000000 ~ 'a' %}"
    template = CompiledTemplate(f"{big}{{% set v = {operation} %}}", "a")
    start = time.process_time()
    with contextlib.suppress(metering.RunawayError, ValueError):
        template._run({}, metering.Meter())
    assert time.process_time() - start < 2
