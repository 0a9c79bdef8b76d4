"""What operations of chat templates may cost, found before they run.

A rendering has a budget of bytes and a time. Each operation that makes a value first takes an upper
bound of the value's bytes from the budget, and nothing is ever given back, so the values alive at
any moment fit the budget whatever a template does. A container counts as its whole tree, with what
it holds twice counted twice, as printing, comparing and hashing would visit it.
"""

from __future__ import annotations

import re
import time
from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterator,
    KeysView,
    Sequence,
    ValuesView,
)
from contextvars import ContextVar
from typing import Any, NamedTuple

from jinja2.utils import Namespace

_MOST_BYTES = 1 << 25  # of the values that one rendering makes
_MOST_SECONDS = 1.0
_MOST_NODES = 1 << 16  # values in one container, with those inside
_MOST_WIDTH = 10_000  # characters of padding, digits, items of a batch
_MOST_BITS = 4096  # bits of an integer
_MOST_RANGE = 100_000
_REPR = 12  # characters of JSON or Python's notation for one character, with those on the way
_ESCAPE = 6  # characters of HTML for one character, as in &quot;
_REFERENCE = 16  # bytes of one item of a list that grew
_NODE = 64  # bytes of a small value, or characters of its text
_WIDEST = 4  # bytes of a character
_MOST_STRIPPED = 100  # characters that may be stripped off, each compared with all
_CASED = 6 * _WIDEST  # bytes of a character in another case, which may be three, with a copy
_ITEM = 96  # bytes of a character as a text of its own, in a list
_SORTED = 512  # bytes of such an item beside its key, in a list of lists

_NOTATION = {"%": "%[^%]*[ra]", "{": "!"}  # formats that may be in Python's notation


class RunawayError(Exception):
    """The template exceeds the limits on work or size."""


def _clock() -> float:
    """Seconds of this thread's work, so that a busy machine refuses nothing; where the system does
    not count them, seconds."""
    try:
        return time.thread_time()
    except (AttributeError, OSError):
        return time.monotonic()


class Meter:
    """The work that may still be done to answer one request, whatever number of renderings it
    takes. Not for several threads."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES
        self._end = _clock() + _MOST_SECONDS
        self._written = 0  # characters of output
        self._wide = 1  # bytes of each

    def spend(self, size: int) -> None:
        """Takes `size` bytes; raises when none is left or the time is up."""
        self._left -= size
        if self._left < 0 or _clock() > self._end:
            raise RunawayError

    def write(self, characters: int, width: int) -> None:
        """Takes a text that is output: once as a piece, and once in the whole, all of which is as
        wide as its widest character."""
        if width > self._wide:
            self.spend((width - self._wide) * self._written)
            self._wide = width
        self._written += characters
        self.spend(_NODE + characters * (width + self._wide))


meter: ContextVar[Meter] = ContextVar("chat template meter")


def spend(size: int) -> None:
    """Takes `size` bytes from the budget of the rendering that runs."""
    meter.get().spend(size)


def write(value: Any) -> None:
    """Takes what the output of a value costs."""
    if isinstance(value, str):
        meter.get().write(len(value), _width(value))
    else:
        tree = measure(value)
        meter.get().write(tree.printed, tree.growth)


class _Tree(NamedTuple):
    """The tree of a value, or of several."""

    characters: int  # of its texts and numbers
    nodes: int
    depth: int
    width: int  # bytes of the widest character
    escape: int  # characters that one may become: where a part is escaped, the others will be

    @property
    def growth(self) -> int:
        """Bytes of one of these characters in a text made of all."""
        return self.width * self.escape

    @property
    def size(self) -> int:
        """Bytes of the texts and numbers."""
        return self.characters * self.growth

    @property
    def printed(self) -> int:
        """Characters of the tree in Python's notation or JSON."""
        return self.characters * _REPR + self.nodes * _NODE


def measure(*values: Any) -> _Tree:
    """The tree of values. Errors: `RunawayError` (larger than a container may be)."""
    characters = nodes = depth = 0
    width = escape = 1
    level: list[Any] = list(values)
    while level:
        depth += 1
        nodes += len(level)
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                characters += len(value)
                width = max(width, _width(value))
                if hasattr(value, "__html__"):
                    escape = _ESCAPE
            elif isinstance(value, int):
                characters += 32 + value.bit_length() // 3
            elif (inside := _inside(value)) is not None:
                if nodes + len(below) + len(inside) > _MOST_NODES:
                    raise RunawayError
                below += inside
            else:
                characters += 4 * len(value) if isinstance(value, bytes) else 32
        if characters > _MOST_BYTES or nodes > _MOST_NODES:
            raise RunawayError
        level = below
    spend(nodes)  # the time to visit them
    return _Tree(characters, nodes, depth, width, escape)


def _inside(value: Any) -> Collection[Any] | None:
    """What a container holds; None for other values."""
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    if not isinstance(value, _CONTAINERS):
        return None
    if len(value) > _MOST_NODES:
        raise RunawayError
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, ItemsView):
        return [each for pair in value for each in pair]
    return value


_CONTAINERS = (dict, ItemsView, list, tuple, set, frozenset, KeysView, ValuesView)


def _width(text: str) -> int:
    """Bytes of a character of a text, at most."""
    return 1 if text.isascii() else _WIDEST


def shown(*values: Any) -> int:
    """Bytes of the texts of values in one, at most."""
    texts = [each for each in values if isinstance(each, str)]
    tree = measure(*(each for each in values if not isinstance(each, str)))
    width = max([tree.width, *map(_width, texts)])
    escape = _ESCAPE if any(hasattr(each, "__html__") for each in texts) else tree.escape
    return (sum(map(len, texts)) + tree.printed) * width * escape


def _whole(value: Any) -> bool:
    return isinstance(value, int)


def _padding(values: Sequence[Any]) -> int:
    """The largest integer among the arguments after the first."""
    widths = [abs(value) for value in values[1:] if _whole(value)]
    if max(widths, default=0) > _MOST_WIDTH:
        raise RunawayError
    return max(widths, default=0)


def _formatted(text: str, mark: str, values: Sequence[Any]) -> int:
    """Bytes of a format: each field may show all values, padded to the widest number in it."""
    if re.search(r"\d{5}|\*|\{[^{}]*\{", text if mark == "%" else text.replace("{{", "")):
        raise RunawayError  # a width of more than four digits, or of another value
    widest = max(map(int, re.findall(r"\d+", text)), default=0)
    notation = _REPR if re.search(_NOTATION[mark], text) else 1
    field = _WIDEST * widest + notation * shown(text, *values) + 400
    return _WIDEST * len(text) + text.count(mark) * field


# The bytes that the result of a filter or method takes, at most, from its arguments: `values[0]` is
# the value that is filtered.


def _none(values: Sequence[Any]) -> int:
    return 0


def _text(factor: int) -> Callable[[Sequence[Any]], int]:
    """A result of at most `factor` times the bytes of the arguments."""

    def cost(values: Sequence[Any]) -> int:
        return factor * shown(*values)

    return cost


def _cased(values: Sequence[Any]) -> int:
    value = values[0]
    return _CASED * (len(value) if isinstance(value, str) else measure(value).printed)


def _stripped(values: Sequence[Any]) -> int:
    if any(isinstance(each, str) and len(each) > _MOST_STRIPPED for each in values[1:]):
        raise RunawayError
    return 2 * shown(values[0])


def _backwards(cost: Callable[[Sequence[Any]], int]) -> Callable[[Sequence[Any]], int]:
    """A search from a text's end may compare each place with all that is looked for; forwards it
    skips what it has seen."""

    def searched(values: Sequence[Any]) -> int:
        found = max((len(each) for each in values[1:] if isinstance(each, str)), default=0)
        spend(len(values[0]) * found // 32)  # as long as it takes to make so many bytes
        return cost(values)

    return searched


def _padded(values: Sequence[Any]) -> int:
    return 2 * shown(*values) + _WIDEST * _padding(values)


def _indented(values: Sequence[Any]) -> int:
    text = values[0] if isinstance(values[0], str) else ""
    margin = max([_padding(values), *(len(each) for each in values[1:] if isinstance(each, str))])
    lines = 1 + sum(map(text.count, "\n\t\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
    return 4 * shown(*values) + lines * 3 * (_WIDEST * max(margin, 8) + _NODE)


def _parted(values: Sequence[Any]) -> int:
    return 2 * shown(values[0])


def _split(values: Sequence[Any]) -> int:
    text = values[0]
    if not isinstance(text, str):
        return shown(text)
    separator = values[1] if len(values) > 1 and isinstance(values[1], str) else None
    pieces = text.count(separator) + 1 if separator else len(text) // 2 + 1
    return 2 * shown(text) + pieces * (_NODE + 32)


def _lines(values: Sequence[Any]) -> int:
    return _indented([values[0]])


def _listed(values: Sequence[Any]) -> int:
    value = values[0] if values else ()
    if isinstance(value, str):
        return len(value) * (_REFERENCE if value.isascii() else _ITEM)
    if isinstance(value, (range, ItemsView)):  # whose items are made when they are listed
        return _ITEM * len(value)
    return _REFERENCE * len(value) if hasattr(value, "__len__") else 0


def _replaced(values: Sequence[Any]) -> int:
    if len(values) < 3:
        return 0
    growth = measure(*values).growth
    printed = shown(*(each for each in values if not isinstance(each, str)))
    spend(printed)
    text, old, new = (each if isinstance(each, str) else str(each) for each in values[:3])
    times = text.count(old) if old else len(text) + 1
    return growth * (len(text) + times * len(new))


def _joined(items: Any, between: Sequence[Any]) -> int:
    """Of `items | join(between)` and `between.join(items)`."""
    tree = measure(items, *between)
    pieces = len(items) if isinstance(items, Collection) else 0
    written = tree.characters
    if isinstance(items, Collection) and not all(isinstance(each, str) for each in items):
        written = 2 * tree.printed  # each becomes a text first
    gap = max(
        (len(each) if isinstance(each, str) else measure(each).printed for each in between),
        default=0,
    )
    return tree.growth * (written + (pieces + 1) * gap) + _listed([items])


def _translated(values: Sequence[Any]) -> int:
    text, table = values[0], values[1] if len(values) > 1 else {}
    if not isinstance(table, dict):
        raise RunawayError
    measure(table)
    longest = max((len(each) for each in table.values() if isinstance(each, str)), default=1)
    return _WIDEST * len(text) * max(1, longest)


def _summed(values: Sequence[Any]) -> int:
    tree = measure(*values)
    rows = len(values[0]) if hasattr(values[0], "__len__") else 1
    plain = all(isinstance(each, (int, float)) for each in values[1:])
    return tree.nodes * _REFERENCE * (1 if plain else rows) + tree.size


def _sorted(values: Sequence[Any]) -> int:
    tree = measure(*values)
    items = len(values[0]) if isinstance(values[0], (str, range)) else 0
    return 4 * tree.size + 128 * tree.nodes + _SORTED * items


def _batched(values: Sequence[Any]) -> int:
    return _sorted(values) + _REFERENCE * _padding(values) * 8


def _jsoned(value: Any, indent: Any, separators: Sequence[str]) -> int:
    tree = measure(value, *separators)
    margin = indent if _whole(indent) else len(indent or "")
    if not 0 <= margin <= 64:
        raise RunawayError
    between = sum(map(len, separators)) + margin * tree.depth
    return tree.growth * (tree.printed + tree.nodes * between) + tree.nodes * 4 * _NODE


def _rounded(values: Sequence[Any]) -> int:
    if _padding(values) > 100 or (_whole(values[0]) and values[0].bit_length() > _MOST_BITS):
        raise RunawayError
    return _NODE


def _number(values: Sequence[Any]) -> int:
    digits = len(values[0]) if isinstance(values[0], str) else 0
    if digits > _MOST_WIDTH:
        raise RunawayError
    return _NODE + _CASED * digits  # read as floating-point numbers, too


def _percent(values: Sequence[Any]) -> int:
    text = values[0] if isinstance(values[0], str) else ""
    return _formatted(text, "%", values[1:]) + shown(values[0])


def _braces(values: Sequence[Any]) -> int:
    return _formatted(values[0], "{", values[1:])


_FILTERS: dict[str, Callable[[Sequence[Any]], int]] = {
    **dict.fromkeys(("default", "d", "first", "last", "length", "count", "attr"), _none),
    "items": lambda values: _ITEM * len(values[0]) if isinstance(values[0], dict) else 0,
    **dict.fromkeys(("map", "select", "reject", "selectattr", "rejectattr"), _listed),
    **dict.fromkeys(("string", "safe"), _text(1)),
    "trim": _stripped,
    "truncate": _text(2),
    **dict.fromkeys(("upper", "lower", "capitalize"), _cased),
    **dict.fromkeys(("e", "escape", "forceescape"), _text(6)),
    **dict.fromkeys(("title", "wordcount"), _text(72)),
    "urlencode": _text(36),
    "center": _padded,
    "indent": _indented,
    "list": _listed,
    "reverse": lambda values: (
        _listed(values) + 4 * (len(values[0]) if isinstance(values[0], str) else 0)
    ),
    "replace": _replaced,
    "join": lambda values: _joined(values[0], values[1:]),
    "sum": _summed,
    **dict.fromkeys(("sort", "unique", "groupby", "min", "max", "dictsort"), _sorted),
    **dict.fromkeys(("batch", "slice"), _batched),
    "round": _rounded,
    **dict.fromkeys(("abs", "int", "float", "filesizeformat"), _number),
    "format": _percent,
}

_TEXT_METHODS: dict[str, Callable[[Sequence[Any]], int]] = {
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _stripped),
    **dict.fromkeys(("removeprefix", "removesuffix", "partition"), _parted),
    "rpartition": _backwards(_parted),
    **dict.fromkeys(("rfind", "rindex"), _backwards(_none)),
    **dict.fromkeys(
        ("startswith", "endswith", "find", "index", "count", "isalnum",
         "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric",
         "isprintable", "isspace", "istitle", "isupper"),
        _none,
    ),
    **dict.fromkeys(("upper", "lower", "capitalize", "casefold", "title", "swapcase"), _cased),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": _indented,
    "split": _split,
    "rsplit": _backwards(_split),
    "splitlines": _lines,
    "replace": _replaced,
    "join": lambda values: _joined(values[1] if len(values) > 1 else "", values[:1]),
    "translate": _translated,
    "format": _braces,
    "format_map": _braces,
}  # fmt: skip

_METHODS: dict[type, dict[str, Callable[[Sequence[Any]], int]]] = {
    str: _TEXT_METHODS,
    dict: {**dict.fromkeys(("get", "items", "keys", "values"), _none), "copy": _sorted},
    list: {**dict.fromkeys(("index", "count"), _sorted), "copy": _listed},
    tuple: dict.fromkeys(("index", "count"), _sorted),
    int: {"bit_length": _none},
    float: {"is_integer": _none},
}
_CLOSED = (*_METHODS, bytes, bytearray, set, frozenset, complex, range, type, KeysView, ValuesView,
           ItemsView)  # fmt: skip

_SCOPES = ("_loop_vars", "_block_vars")  # which Jinja2 adds to every call

FILTERS = frozenset(_FILTERS)


def filtered(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A filter that takes what its result costs. Iterators are read into lists, so that they can
    be measured, and come out as iterators again."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    def call(*values: Any, **named: Any) -> Any:
        values = (*values[:skipped], *(_read(each) for each in values[skipped:]))
        spend(1 + _FILTERS[name]([*values[skipped:], *named.values()]))
        result = function(*values, **named)
        return iter(_read(result)) if isinstance(result, Iterator) else result

    call.__dict__.update(getattr(function, "__dict__", {}))
    call.__name__ = name
    return call


def _read(value: Any) -> Any:
    """A list of an iterator's items; another value itself."""
    if not isinstance(value, Iterator):
        return value
    items = []
    for each in value:
        spend(_NODE)
        items.append(each)
    return items


def json_cost(value: Any, indent: object, separators: object) -> None:
    """Takes what the JSON of a value costs."""
    if separators is not None and not (
        isinstance(separators, (list, tuple)) and all(isinstance(s, str) for s in separators)
    ):
        raise TypeError("separators must be two texts")
    spend(_jsoned(value, indent, separators or ()))


def called(function: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Takes what a call costs; refuses methods of built-in types that are not listed."""
    named = {name: each for name, each in named.items() if name not in _SCOPES}
    spend(_NODE + 128 * (len(values) + len(named)))  # copied several times on the way
    method = getattr(function, "__wrapped__", function)  # Jinja2 wraps `format`
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", "")
    if name == "changed":  # of a loop: compares them with the last ones
        measure(*values)
    if name == "maketrans" or isinstance(owner, _CLOSED):
        kind = next((each for each in _METHODS if isinstance(owner, each)), None)
        cost = _METHODS[kind].get(name) if kind is not None else None
        if cost is None:
            raise RunawayError
        spend(cost([owner, *map(_read_once, values), *named.values()]))


def _read_once(value: Any) -> Any:
    if isinstance(value, Iterator):
        raise RunawayError  # measuring it would use it up
    return value


def operated(operator: str, left: Any, right: Any) -> None:
    """Takes what an operator's result costs."""
    whole = _whole(left) and _whole(right)
    if whole or (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        bits = [each.bit_length() for each in (left, right) if _whole(each)]
        if operator == "**" and (not whole or abs(right) * left.bit_length() > _MOST_BITS):
            raise RunawayError
        if sum(bits) > _MOST_BITS:
            raise RunawayError
        spend(1)
    elif operator == "%":
        spend(_percent([left, right]))
    elif operator == "*":
        times, values = (left, right) if _whole(left) else (right, left)
        tree = measure(values)
        if not isinstance(values, str) and tree.nodes * max(1, times) > _MOST_NODES:
            raise RunawayError
        spend(max(1, times) * (tree.size if isinstance(values, str) else _REFERENCE * tree.nodes))
    elif isinstance(left, str) and isinstance(right, str):
        spend(shown(left, right))
    else:
        tree = measure(left, right)
        spend(_REFERENCE * tree.nodes if operator == "+" else 96 * tree.nodes + tree.size)


def sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """`value[start:stop:step]`."""
    part = slice(start, stop, step)
    if isinstance(value, (str, list, tuple, bytes)):
        length = len(range(*part.indices(len(value))))
        wide = _REFERENCE
        if isinstance(value, (str, bytes)):
            wide = 1 if isinstance(value, bytes) or value.isascii() else 4
        spend(_NODE + wide * length)
    return value[part]


def iterated(values: Any) -> Any:
    """What a loop iterates over; loops may list it."""
    if isinstance(values, (str, range)):
        spend(_listed([values]) if isinstance(values, str) else _NODE)
    return values


def contained(value: Any, own: int) -> Any:
    """A list, tuple or dict that was just made of `own` items."""
    measure(value)
    spend(_NODE + own * _REFERENCE * (8 if isinstance(value, dict) else 1))
    return value


def make_range(*bounds: int) -> range:
    """The `range` of templates."""
    made = range(*bounds)
    if any(each.bit_length() > 64 for each in bounds) or len(made) > _MOST_RANGE:
        raise RunawayError
    return made
