"""The sandbox for chat templates. Imported only when one is rendered, since it needs Jinja2.

Jinja2's own sandbox protects the interpreter's internals, but does not stop infinite loops or
unbounded texts. So loops, macros, outputs and operations that build long values from short ones
are metered here.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import ArgumentError, ModelFileError, SparsefireError

_MOST_SOURCE = 1 << 20  # characters
_MOST_WORK = 1 << 25  # characters of output plus iterations of loops
_MOST_TEXT = 1 << 23  # characters of one value
_MOST_SECONDS = 5.0
_MOST_WIDTH = 10_000  # characters of padding
_MOST_BITS = 4096  # bits of an integer


class _RunawayError(Exception):
    """The template exceeds the limits on work or size."""


class _RefusedError(Exception):
    """The template itself refuses the messages."""


class _Meter:
    """The work that one rendering may still do."""

    def __init__(self) -> None:
        self._left = _MOST_WORK
        self._end = time.monotonic() + _MOST_SECONDS

    def spend(self, work: int) -> None:
        """Subtracts `work`; raises when none is left or the time is up."""
        self._left -= work
        if self._left < 0 or time.monotonic() > self._end:
            raise _RunawayError


_meter: ContextVar[_Meter] = ContextVar("chat template meter")


def _weigh(*values: Any) -> int:
    """Approximate length of values as text. A list that holds another twice counts it twice, as
    printing it would."""
    weight, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, (str, bytes)):
            weight += len(value)
        elif isinstance(value, dict):
            weight += 16 * len(value)
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            weight += 16 * len(value)
            waiting += value
        if weight > _MOST_TEXT:
            raise _RunawayError
    return weight


def _refuse(message: object) -> NoReturn:
    """The `raise_exception` of templates."""
    raise _RefusedError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja2's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _metered(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A filter or string method with a limit on the size of its result."""

    @functools.wraps(function)  # keeps Jinja2's marks on filters that take the context
    def call(*values: Any, **named: Any) -> Any:
        given = [*values, *named.values()]
        weight = _weigh(*given)
        if name not in ("range", "round", "default", "d"):
            weight *= _growth(given, name)
        if weight > _MOST_TEXT:
            raise _RunawayError
        _meter.get(_Meter()).spend(1)
        return function(*values, **named)

    return call


def _growth(given: list[Any], name: str) -> int:
    """The factor by which a function may enlarge its arguments."""
    texts = [value for value in given if isinstance(value, str)]
    if name in ("format", "format_map") and any(map(_has_wide_field, texts)):
        raise _RunawayError
    for value in given:
        if isinstance(value, int) and abs(value) > _MOST_WIDTH:
            raise _RunawayError
    if name in ("replace", "join") and len(texts) > 1:
        counted = [len(value) for value in given if isinstance(value, (str, list, tuple))]
        return 1 + min(counted[0], max(counted[1:]))
    widths = [value for value in given if isinstance(value, int) and value > 0]
    return 1 + (max(widths, default=0) if name in ("indent", "expandtabs") else 0)


def _has_wide_field(text: str) -> bool:
    """True for a format with a width of more than four digits, or of another value."""
    return re.search(r"\d{5}|\*|\{[^}]*\{", text) is not None


class _Generation(Extension):
    """The tag `generation` marks the assistant's text for training; it is ignored here."""

    tags = {"generation"}  # noqa: RUF012 (as in the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self.put_out,
        )
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
        self.filters["tojson"] = _to_json
        self.filters = {name: _metered(each, name) for name, each in self.filters.items()}

    # Compiled templates call these, in addition to what Jinja2 makes them call.

    def put_out(self, value: Any) -> Any:
        """Meters a value that is output."""
        _meter.get(_Meter()).spend(1 + _weigh(value))
        return value

    def turn(self, work: int) -> None:
        """Meters an iteration of a loop, or a call of a macro, by its literal text."""
        _meter.get(_Meter()).spend(work)

    def joined(self, *values: Any) -> str:
        """The operator ~."""
        _meter.get(_Meter()).spend(_weigh(*values))
        return "".join(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Meters the operators that can build large values from small ones."""
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # String methods are metered like filters; Jinja2 wraps `format`.
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            _metered(lambda *_, **__: None, method.__name__)(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree, with a call of `turn` in every loop and macro, and `joined` for ~."""
        tree = super()._parse(source, name, filename)
        blocks: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
            *tree.find_all(nodes.For),
            *tree.find_all(nodes.Macro),
        ]
        blocks += tree.find_all(nodes.CallBlock)
        for block in blocks:
            work = 1 + sum(len(each.data) for each in block.find_all(nodes.TemplateData))
            call = _call("turn", [nodes.Const(work)], block.lineno)
            block.body.insert(0, nodes.ExprStmt(call, lineno=block.lineno))
        _replace_concatenations(tree, self)
        return tree


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """The call of a method of the environment."""
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


def _replace_concatenations(node: nodes.Node, environment: _Sandbox) -> None:
    for name, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for place, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            _replace_concatenations(child, environment)
            if isinstance(child, nodes.Concat):
                call = _call("joined", child.nodes, child.lineno)
                call.set_environment(environment)
                if isinstance(value, list):
                    value[place] = call
                else:
                    setattr(node, name, call)


def _check_operator(operator: str, left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "%" and isinstance(left, str):
        if _has_wide_field(left):
            raise _RunawayError
    elif operator == "**":
        if not whole or abs(right) * left.bit_length() > _MOST_BITS:
            raise _RunawayError
    elif operator == "*" and whole:
        if left.bit_length() + right.bit_length() > _MOST_BITS:
            raise _RunawayError
    elif operator == "*":
        times = next((value for value in (left, right) if isinstance(value, int)), 1)
        if max(1, times) * _weigh(left, right) > _MOST_TEXT:
            raise _RunawayError
    else:
        _weigh(left, right)
    _meter.get(_Meter()).spend(1)


class CompiledTemplate:
    """A compiled template. `name` is its name in error messages.

    Errors: `ModelFileError` (a syntax error, or too long).
    """

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        if len(source) > _MOST_SOURCE:
            raise ModelFileError(
                f"{name}: a chat template of {len(source)} characters; at most {_MOST_SOURCE} are "
                "supported"
            )
        token = _meter.set(_Meter())  # constant expressions are evaluated at compile time
        try:
            self._template = _Sandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFileError(
                f"{name}: the chat template has an error in line {error.lineno}: {error.message}"
            ) from None
        except Exception as error:  # RecursionError among them, for a tree that is too deep
            raise self._translated(error) from None
        finally:
            _meter.reset(token)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The rendered text. Errors: `ArgumentError`, `ModelFileError`."""
        token = _meter.set(_Meter())
        try:
            return self._template.render(variables)
        except Exception as error:
            raise self._translated(error) from None
        finally:
            _meter.reset(token)

    def _translated(self, error: Exception) -> SparsefireError:
        if isinstance(error, _RefusedError):
            return ArgumentError(f"the chat template refuses these messages: {error}")
        if isinstance(error, (_RunawayError, RecursionError, MemoryError, OverflowError)):
            return ModelFileError(
                f"{self._name}: the chat template takes too much time or space; it is stopped"
            )
        if isinstance(error, jinja2.exceptions.SecurityError):
            return ModelFileError(
                f"{self._name}: the chat template does what a template may not: {error}"
            )
        return ArgumentError(
            f"{self._name}: the chat template cannot render these messages: {error}"
        )
