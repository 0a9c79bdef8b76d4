"""Options of public functions: each is of the wanted type, or None for its default.

A check takes a value and the option's name, and returns the value in the type that the function
computes with. What is not of the wanted type is an `ArgumentError` that names the option.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from .errors import ArgumentError

Check = Callable[[Any, str], Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

HEADS = ("dense", "screened", "proven")  # how logits are computed, see `Model.load`
INPUTS = ("auto", "dense")  # whether inputs are left out, see `Model.load`
KV_FORMATS = ("f32", "f16", "q8_0")  # of the keys and values that sessions keep
DEFAULT_KV_FORMAT = "f16"

_SHOWN = 60  # characters of a value in a message


def checked(**checks: Check) -> Callable[[_Function], _Function]:
    """A function whose named arguments are checked before it runs. None stands for the default of
    an argument that has one."""

    def decorate(function: _Function) -> _Function:
        parameters = inspect.signature(function).parameters
        places = {name: place for place, name in enumerate(parameters)}

        def value_of(name: str, value: Any) -> Any:
            default = parameters[name].default
            if value is not None:
                return checks[name](value, name)
            return checks[name](None, name) if default is inspect.Parameter.empty else default

        @functools.wraps(function)
        def guarded(*given: Any, **named: Any) -> Any:
            places_given = list(given)
            for name in checks:
                if name in named:
                    named[name] = value_of(name, named[name])
                elif places[name] < len(given):
                    places_given[places[name]] = value_of(name, given[places[name]])
            return function(*places_given, **named)

        return cast(_Function, guarded)

    return decorate


def check_fields(config: Any, **checks: Check) -> None:
    """The same for the fields of a dataclass, frozen or not: call it in `__post_init__`."""
    for each in fields(config):
        if each.name in checks:
            value = getattr(config, each.name)
            if value is not None:
                value = checks[each.name](value, each.name)
            elif each.default_factory is not MISSING:
                value = each.default_factory()
            else:
                value = each.default
            object.__setattr__(config, each.name, value)


def refuse(value: Any, name: str, wanted: str) -> NoReturn:
    """Raises the `ArgumentError` of a value that is not what is wanted."""
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"a {type(value).__name__}"
    raise ArgumentError(f"{name} must be {wanted}, got {shown}")


def whole(value: Any, name: str) -> int:
    """A whole number, of any sign."""
    return count(value, name, None)


def count(value: Any, name: str, least: int | None = 0) -> int:
    """A whole number of at least ``least``; a bool or a float is none."""
    wanted = "a whole number" if least is None else f"{least} or more, a whole number"
    if isinstance(value, (bool, np.bool_)):
        refuse(value, name, wanted)
    try:
        number = operator.index(value)
    except TypeError:
        refuse(value, name, wanted)
    if least is not None and number < least:
        refuse(value, name, wanted)
    return number


def positive(value: Any, name: str) -> int:
    """A whole number of at least 1."""
    return count(value, name, 1)


def number(value: Any, name: str) -> float:
    """A real number of Python or numpy, NaN and infinity among them."""
    found: Any = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(found, (bool, np.bool_)) or not isinstance(found, numbers.Real):
        refuse(value, name, "a number")
    return float(found)


def share(value: Any, name: str) -> float:
    """A number from 0 to 1."""
    found = number(value, name)
    if not 0 <= found <= 1:
        refuse(value, name, "between 0 and 1")
    return found


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(value, name, "True or False")
    return bool(value)


def text(value: Any, name: str) -> str:
    """A text."""
    if not isinstance(value, str):
        refuse(value, name, "a text")
    return value


def path(value: Any, name: str) -> Path:
    """A path: a text, or an object that stands for one."""
    if not isinstance(value, (str, os.PathLike)):
        refuse(value, name, "a path")
    return Path(value)


def function(value: Any, name: str) -> Any:
    """What can be called."""
    if not callable(value):
        refuse(value, name, "a function")
    return value


def one_of(*choices: str) -> Check:
    """One of these texts."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in choices:
            refuse(value, name, f"one of {', '.join(map(repr, choices))}")
        return value

    return check


def optional(check: Check) -> Check:
    """The same, or None: for an argument without a default that may be None."""
    return lambda value, name: None if value is None else check(value, name)


def several(check: Check) -> Check:
    """A list or tuple of values that pass another check, as a tuple."""

    def check_all(value: Any, name: str) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            refuse(value, name, "a list")
        return tuple(check(each, name) for each in value)

    return check_all


def instance(*kinds: type) -> Check:
    """An object of one of these classes."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, kinds):
            refuse(value, name, f"of type {' or '.join(kind.__name__ for kind in kinds)}")
        return value

    return check
