"""Kinds of JSON values: each checks a value of a request, and describes itself as JSON Schema.

A check returns the value as the model takes it, or raises the `ApiError` that names the field.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..lm.sampling import Range
from .errors import ApiError

_SHOWN = 64  # characters of a client's value in a message


def wrong(name: str, wanted: str) -> NoReturn:
    """Raises the error for a field that is not `wanted`."""
    raise ApiError(400, f"{name} must be {wanted}", param=name.partition("[")[0])


def _shown(value: object) -> str:
    """A value in a message: as JSON, on one line, shortened."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Kind(ABC):
    """One kind of value."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """Completes "NAME must be …"."""

    @abstractmethod
    def takes(self, value: object) -> bool:
        """Whether the value has the JSON type of this kind."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the values that `check` accepts."""

    def check(self, value: Any, name: str) -> Any:
        """The value as the model takes it; `name` is the field's in errors."""
        if not self.takes(value):
            wrong(name, self.wanted)
        return value


@dataclass(frozen=True)
class Text(Kind):
    """A string of at least so many characters, 0 or 1."""

    least: int = 0

    @property
    def wanted(self) -> str:
        return "a string that is not empty" if self.least else "a string"

    def takes(self, value: object) -> bool:
        return isinstance(value, str)

    def check(self, value: Any, name: str) -> str:
        super().check(value, name)
        if len(value) < self.least:
            wrong(name, self.wanted)
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.least} if self.least else {"type": "string"}


class Flag(Kind):
    """true or false."""

    @property
    def wanted(self) -> str:
        return "true or false"

    def takes(self, value: object) -> bool:
        return isinstance(value, bool)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Anything(Kind):
    """Any value."""

    @property
    def wanted(self) -> str:
        return "a value"

    def takes(self, value: object) -> bool:
        return True

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class OneOf(Kind):
    """One of several strings."""

    texts: Sequence[str]

    @property
    def wanted(self) -> str:
        return " or ".join(repr(each) for each in self.texts)

    def takes(self, value: object) -> bool:
        return value in self.texts

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.texts)}


@dataclass(frozen=True)
class Only(Kind):
    """A field that is not supported, with the values that change nothing."""

    values: Sequence[Any]

    @property
    def wanted(self) -> str:
        return " or ".join(map(_shown, self.values))

    def takes(self, value: object) -> bool:
        # In Python true equals 1.
        return any(
            value == each and isinstance(value, bool) == isinstance(each, bool)
            for each in self.values
        )

    def check(self, value: Any, name: str) -> Any:
        if not self.takes(value):
            raise ApiError(
                400,
                f"{name} is not supported; leave it out (it may be {self.wanted})",
                param=name.partition("[")[0],
                code="unsupported_value",
            )
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number within bounds."""

    least: int
    most: int | None = None

    @property
    def wanted(self) -> str:
        reach = f"of {self.least} or more"
        return (
            f"a whole number {reach if self.most is None else f'from {self.least} to {self.most}'}"
        )

    def takes(self, value: object) -> bool:
        # In JSON Schema 3.0 is whole too.
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool)

    def check(self, value: Any, name: str) -> int:
        super().check(value, name)
        if value < self.least or (self.most is not None and value > self.most):
            wrong(name, f"{self.wanted}, not {_shown(value)}")
        return int(value)

    def schema(self) -> dict[str, Any]:
        bounds = {} if self.most is None else {"maximum": self.most}
        return {"type": "integer", "minimum": self.least, **bounds}


@dataclass(frozen=True)
class Number(Kind):
    """A number in a range."""

    range: Range = field(default_factory=Range)

    @property
    def wanted(self) -> str:
        return "a number"

    def takes(self, value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def check(self, value: Any, name: str) -> float:
        super().check(value, name)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not self.range.holds(number):
            wrong(name, f"{self.range.wanted}, not {_shown(value)}")
        return number

    def schema(self) -> dict[str, Any]:
        bounds = {
            "minimum": self.range.least,
            "exclusiveMinimum": self.range.above,
            "maximum": self.range.most,
            "exclusiveMaximum": self.range.below,
        }
        return {"type": "number", **{k: v for k, v in bounds.items() if v is not None}}


@dataclass(frozen=True)
class Items(Kind):
    """A list of values of one kind."""

    kind: Kind
    least: int = 0
    most: int | None = None

    @property
    def wanted(self) -> str:
        most = "" if self.most is None else f" of at most {self.most}"
        return f"a list{most}, and not empty" if self.least else f"a list{most}"

    def takes(self, value: object) -> bool:
        return isinstance(value, list)

    def check(self, value: Any, name: str) -> list[Any]:
        super().check(value, name)
        if len(value) < self.least or (self.most is not None and len(value) > self.most):
            wrong(name, self.wanted)
        return [self.kind.check(each, f"{name}[{place}]") for place, each in enumerate(value)]

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "array", "items": self.kind.schema()}
        if self.least:
            found["minItems"] = self.least
        if self.most is not None:
            found["maxItems"] = self.most
        return found


@dataclass(frozen=True)
class Table(Kind):
    """An object whose keys match a pattern, with values of one kind."""

    pattern: str
    kind: Kind
    what: str

    @property
    def wanted(self) -> str:
        return self.what

    def takes(self, value: object) -> bool:
        return isinstance(value, dict)

    def check(self, value: Any, name: str) -> dict[str, Any]:
        super().check(value, name)
        for key, each in value.items():
            if not re.fullmatch(self.pattern, key) or not self.kind.takes(each):
                wrong(name, self.wanted)
        return {key: self.kind.check(each, f"{name}[{key!r}]") for key, each in value.items()}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.pattern})$"},
            "additionalProperties": self.kind.schema(),
        }


@dataclass(frozen=True)
class Either(Kind):
    """A value of one of several kinds, told apart by their JSON types."""

    kinds: Sequence[Kind]

    @property
    def wanted(self) -> str:
        return ", or ".join(each.wanted for each in self.kinds)

    def takes(self, value: object) -> bool:
        return any(each.takes(value) for each in self.kinds)

    def check(self, value: Any, name: str) -> Any:
        for each in self.kinds:
            if each.takes(value):
                return each.check(value, name)
        wrong(name, self.wanted)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [each.schema() for each in self.kinds]}


@dataclass(frozen=True)
class Record(Kind):
    """An object with known fields: kinds, with what is said of them. null counts as absent. Other
    fields are refused, since ignoring one could change the answer, unless `open`."""

    fields: Mapping[str, tuple[Kind, str]]
    required: Sequence[str] = ()
    open: bool = False

    @property
    def wanted(self) -> str:
        return "an object"

    def takes(self, value: object) -> bool:
        return isinstance(value, dict)

    def check(self, value: Any, name: str) -> dict[str, Any]:
        """The fields that are given; `name` is "" for the body."""
        super().check(value, name or "the body")
        prefix = f"{name}." if name else ""
        given = {key: each for key, each in value.items() if each is not None}
        for key in self.required:
            if key not in given:
                wrong(prefix + key, f"given: {self.fields[key][0].wanted}")
        for key in given:
            if key not in self.fields and not self.open:
                self._refuse(prefix, key)
        checked = {
            key: kind.check(given[key], prefix + key)
            for key, (kind, _) in self.fields.items()
            if key in given
        }
        return {**given, **checked}

    def _refuse(self, prefix: str, key: str) -> NoReturn:
        near = difflib.get_close_matches(key[:_SHOWN], self.fields, 1, 0.8)
        hint = f"; is {prefix + near[0]!r} meant?" if near else ""
        raise ApiError(
            400,
            f"unknown field {_shown(prefix + key)}: it is not supported here{hint}",
            param=(prefix + key)[:_SHOWN].partition("[")[0],
            code="unknown_parameter",
        )

    def schema(self) -> dict[str, Any]:
        properties = {}
        for key, (kind, about) in self.fields.items():
            found = kind.schema()
            if key not in self.required:
                found = _or_null(found)
            properties[key] = {**found, "description": about} if about else found
        return {
            "type": "object",
            "properties": properties,
            **({"required": list(self.required)} if self.required else {}),
            "additionalProperties": True if self.open else {"type": "null"},
        }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schema
