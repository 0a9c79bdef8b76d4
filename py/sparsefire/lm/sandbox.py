"""The sandbox for chat templates. Imported only when one is rendered, since it needs Jinja2.

Jinja2's own sandbox protects the interpreter's internals, but does not stop infinite loops or
unbounded texts. So loops, macros, outputs and operations that build long values from short ones
are metered here.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import ArgumentError, ModelFileError, SparsefireError
from . import metering
from .metering import Meter, RunawayError

_MOST_SOURCE = 1 << 16  # characters
_MOST_TOKENS = 1 << 14
_MOST_NESTED = 20  # blocks inside each other, as in Python
_TOO_MUCH = (RunawayError, RecursionError, MemoryError, OverflowError)
_NODE = 64  # bytes that one step of a template takes


class _RefusedError(Exception):
    """The template itself refuses the messages."""


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
    metering.json_cost(value, indent, separators)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _date(form: str) -> str:
    """The `strftime_now` of templates."""
    metering.spend(1024 * len(form))
    return datetime.now().strftime(form)


class _Generation(Extension):
    """The tag `generation` marks the assistant's text for training; it is ignored here."""

    tags = {"generation"}  # noqa: RUF012 (as in the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=_put_out,
            optimized=False,  # nothing is evaluated before it is metered
        )
        self.globals = {
            "range": metering.make_range,
            "dict": lambda *values, **named: metering.contained(dict(*values, **named), 1),
            "namespace": self.globals["namespace"],
            "raise_exception": _refuse,
            "strftime_now": _date,
        }
        filters = {
            name: metering.filtered(each, name)
            for name, each in self.filters.items()
            if name in metering.FILTERS
        }
        self.filters = {**filters, "tojson": _to_json}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _timed(each, name in _COMPARING) for name, each in tests.items()}

    # Compiled templates call these, in addition to what Jinja2 makes them call.

    def turn(self, work: int) -> None:
        """Meters an iteration of a loop, or a call of a macro, by its literal text."""
        metering.spend(work)

    def compared(self, value: Any) -> Any:
        """Meters one side of a comparison, which may visit its whole tree."""
        metering.measure(value)
        return value

    def joined(self, *values: Any) -> str:
        """The operator ~."""
        metering.spend(metering.shown(*values))
        return "".join(map(str, values))

    sliced = staticmethod(metering.sliced)
    iterated = staticmethod(metering.iterated)
    contained = staticmethod(metering.contained)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item; a key that is a tuple is measured, since it is hashed."""
        if not isinstance(argument, (str, int)):
            metering.measure(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Meters the operators."""
        metering.operated(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        metering.called(__obj, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree, in which every place where values can grow calls a method above."""
        if sum(1 for _ in itertools.islice(self.lex(source), _MOST_TOKENS + 1)) > _MOST_TOKENS:
            raise RunawayError
        tree = super()._parse(source, name, filename)
        if tree.find(nodes.EvalContextModifier):  # the tag `autoescape`
            raise RunawayError
        if _nesting(tree) > _MOST_NESTED:
            raise RunawayError
        _meter_tree(tree, self)
        return tree


_COMPARED = ("eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge")
_COMPARING = frozenset((*_COMPARED, "in", "==", "!=", "<", "<=", ">", ">="))
_BLOCKS = (
    nodes.For,
    nodes.Macro,
    nodes.CallBlock,
    nodes.FilterBlock,
    nodes.AssignBlock,
    nodes.With,
)


def _nesting(node: nodes.Node) -> int:
    """How many blocks with names of their own are inside each other."""
    inside = max(map(_nesting, node.iter_child_nodes()), default=0)
    return inside + isinstance(node, _BLOCKS)


@jinja2.pass_context  # so that it is not called when a template is compiled
def _put_out(context: Context, value: Any) -> Any:
    """Meters a value that is output."""
    metering.write(value)
    return value


def _timed(test: Callable[..., Any], compares: bool) -> Callable[..., Any]:
    """A test that looks at the time; of values that it compares at their trees."""

    @functools.wraps(test)  # keeps Jinja2's marks
    def call(*values: Any, **named: Any) -> Any:
        metering.spend(1)
        if compares:
            metering.measure(*values, *named.values())
        return test(*values, **named)

    return call


def _meter_tree(node: nodes.Node, environment: _Sandbox) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_metered_node(each, environment) for each in value]
        else:
            setattr(node, name, _metered_node(value, environment))
    if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
        text = sum(len(each.data) + _NODE for each in node.find_all(nodes.TemplateData))
        call = _call(environment, "turn", [nodes.Const(_NODE + 4 * text)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
    if isinstance(node, nodes.For):
        node.iter = _call(environment, "iterated", [node.iter], node.lineno)
    if isinstance(node, nodes.Compare):
        node.expr = _call(environment, "compared", [node.expr], node.lineno)
        for operand in node.ops:
            operand.expr = _call(environment, "compared", [operand.expr], node.lineno)


def _metered_node(node: Any, environment: _Sandbox) -> Any:
    """The node, or a call of the method that evaluates it with its cost."""
    if not isinstance(node, nodes.Node):
        return node
    _meter_tree(node, environment)
    line = node.lineno
    if isinstance(node, nodes.Concat):
        return _call(environment, "joined", node.nodes, line)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        part = node.arg
        bounds = [each or nodes.Const(None) for each in (part.start, part.stop, part.step)]
        return _call(environment, "sliced", [node.node, *bounds], line)
    if isinstance(node, (nodes.List, nodes.Dict)) or (
        isinstance(node, nodes.Tuple) and node.ctx == "load"
    ):
        count = nodes.Const(len(node.items))
        return _call(environment, "contained", [node, count], line)
    return node


def _call(environment: _Sandbox, method: str, arguments: list[Any], line: int) -> nodes.Call:
    """The call of a method of the environment, not metered itself."""
    function = nodes.EnvironmentAttribute(method, lineno=line)
    call = nodes.Call(function, arguments, [], None, None, lineno=line)
    call.set_environment(environment)
    return call


class CompiledTemplate:
    """A compiled template. `name` is its name in error messages.

    Errors: `ModelFileError` (a syntax error, or too long).
    """

    def __init__(self, source: str, name: str) -> None:
        self.known: dict[object, Any] = {}  # see `dialect`
        self._name = name
        if len(source) > _MOST_SOURCE:
            raise ModelFileError(
                f"{name}: a chat template of {len(source)} characters; at most {_MOST_SOURCE} are "
                "supported"
            )
        token = metering.meter.set(Meter())  # for what Jinja2 evaluates when it compiles
        try:
            self._template = _Sandbox().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFileError(
                f"{name}: the chat template has an error in line {error.lineno}: {error.message}"
            ) from None
        except Exception as error:  # RecursionError among them, for a tree that is too deep
            raise self._translated(error) from None
        finally:
            metering.meter.reset(token)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The rendered text, of a template that has rendered something short.

        Errors: `ArgumentError` (among them too much work), `ModelFileError`.
        """
        try:
            return self._run(variables, Meter())
        except _TOO_MUCH:
            raise ArgumentError(
                "messages: the chat template takes too much time or space for them"
            ) from None
        except Exception as error:
            raise self._translated(error) from None

    def attempt(self, variables: Mapping[str, Any], meter: Meter) -> str | None:
        """The rendered text, or None if there is none; its work is taken from `meter`, which
        several attempts may share.

        Errors: `ModelFileError` (too much work).
        """
        try:
            return self._run(variables, meter)
        except _TOO_MUCH as error:
            raise self._translated(error) from None
        except Exception:
            return None

    def _run(self, variables: Mapping[str, Any], meter: Meter) -> str:
        token = metering.meter.set(meter)
        try:
            return self._template.render(variables)
        finally:
            metering.meter.reset(token)

    def _translated(self, error: Exception) -> SparsefireError:
        if isinstance(error, _RefusedError):
            return ArgumentError(f"the chat template refuses these messages: {error}")
        if isinstance(error, _TOO_MUCH):
            return ModelFileError(
                f"{self._name}: the chat template takes too much time or space; it is stopped"
            )
        if isinstance(error, jinja2.exceptions.SecurityError):
            return ModelFileError(
                f"{self._name}: the chat template does what a template may not: {error}"
            )
        return ArgumentError(f"the chat template cannot render these messages: {error}")
