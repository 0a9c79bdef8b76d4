"""Ownership of a handle of the core."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, Protocol, SupportsIndex, TypeVar, cast

from ..errors import ArgumentError
from .core import Core


class _Guarded(Protocol):
    """An object with a lock."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Reentrant."""


_Self = TypeVar("_Self", bound=_Guarded)
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def locked(
    method: Callable[Concatenate[_Self, _Given], _Result],
) -> Callable[Concatenate[_Self, _Given], _Result]:
    """A method that holds the `lock` of its object while it runs, so that calls from several
    threads wait for each other."""

    @functools.wraps(method)
    def guarded(self: _Self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[_Self, _Given], _Result], guarded)


class _Closed:
    """In the place of a handle that was closed: a call with it raises `ArgumentError`. (A property
    that looked for that would make every access to an attribute slower.)"""

    def __init__(self, name: str) -> None:
        self._name = name

    def __index__(self) -> int:
        raise ArgumentError(f"this {self._name} was closed")


class CoreObject:
    """Owns a handle of the core and closes it once: on `close`, or when the object is collected. A
    subclass keeps references to everything that its handle borrows."""

    core: Core
    handle: SupportsIndex

    def __init__(self, core: Core, handle: int, close_function: str) -> None:
        self.core = core
        self.handle = handle
        self._finalizer = core.own(self, close_function, handle)

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__}: what is in the core's memory cannot be pickled")

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._finalizer.alive

    def close(self) -> None:
        """Closes the handle. The object cannot be used afterwards; closing twice is allowed."""
        self._finalizer()
        self.handle = _Closed(type(self).__name__)
