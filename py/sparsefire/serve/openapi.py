"""The server's operations, and the OpenAPI 3.1 document that describes them.

Request schemas are those of the tables that check requests (`fields`), and answer schemas those of
the dictionaries that the model makes (`lm.completion_types`).
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from ..lm.completion_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    Embeddings,
    Ranking,
)
from .errors import STATUSES
from .kinds import Kind


class AboutModel(TypedDict):
    """A model of the server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(TypedDict):
    """The models of the server."""

    object: Literal["list"]
    data: list[AboutModel]


class Health(TypedDict):
    """How many requests run, and how many wait."""

    status: Literal["ok"]
    running: int
    waiting: int


class ErrorDetails(TypedDict):
    """What is wrong, and with which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """The answer to a request that fails."""

    error: ErrorDetails


@dataclass(frozen=True)
class Operation:
    """What can be asked of a path. `answer` and `chunk`, of a stream, are TypedDicts; dict is any
    JSON object, and str plain text. `Bodies` has the body of a POST, or the parameter in a path,
    under the operation's `name`."""

    name: str
    path: str
    about: str
    answer: type
    chunk: type | None = None
    method: Literal["GET", "POST"] = "GET"
    has_key: bool = True

    @property
    def errors(self) -> list[int]:
        """The statuses of its errors, but for those of the key."""
        if self.method == "POST":
            return [status for status in STATUSES if status not in (401, 403)]
        return [404] if "{" in self.path else []


OPERATIONS = (
    Operation("completion", "/v1/completions", "Continue prompts", Completion, Completion, "POST"),
    Operation(
        "chat",
        "/v1/chat/completions",
        "Answer a conversation",
        ChatCompletion,
        ChatCompletionChunk,
        "POST",
    ),
    Operation("embeddings", "/v1/embeddings", "Embed texts", Embeddings, method="POST"),
    Operation("rerank", "/v1/rerank", "Sort documents by a query", Ranking, method="POST"),
    Operation("models", "/v1/models", "List the models", Models),
    Operation("model", "/v1/models/{name}", "Describe a model", AboutModel),
    Operation("health", "/health", "Say that the server runs", Health, has_key=False),
    Operation("metrics", "/metrics", "Counters, in Prometheus text format", str),
    Operation("document", "/openapi.json", "This document", dict),
)


def document(
    version: str, bodies: Mapping[str, Kind], *, has_key: bool, local_only: bool
) -> dict[str, Any]:
    """The OpenAPI document of a server with these request bodies and parameters in paths, by the
    operations' names.

    has_key: requests need an API key. local_only: they must be for a name of this machine.
    """
    schemas: dict[str, Any] = {}
    paths = {}
    for each in OPERATIONS:
        with_key = has_key and each.has_key
        statuses = [*each.errors, *[401] * with_key, *[403] * local_only]
        found = {**_operation(each, bodies, schemas), "responses": _answers(each, schemas)}
        for status in sorted(statuses):
            error = _json(_schema(Error, schemas))
            found["responses"][str(status)] = {"description": STATUSES[status], "content": error}
        if with_key:
            found["security"] = [{"key": []}]
        paths[each.path] = {each.method.lower(): found}
    components: dict[str, Any] = {"schemas": schemas}
    if has_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sparsefire", "version": version},
        "paths": paths,
        "components": components,
    }


def _operation(
    operation: Operation, bodies: Mapping[str, Kind], schemas: dict[str, Any]
) -> dict[str, Any]:
    """An operation without its answers."""
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.about}
    if "{name}" in operation.path:
        schema = bodies[operation.name].schema()
        found["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": schema}]
    if operation.method == "POST":
        name = f"{operation.name.capitalize()}Request"
        schemas[name] = bodies[operation.name].schema()
        found["requestBody"] = {"required": True, "content": _json(_reference(name))}
    return found


def _answers(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that succeeds, by its status."""
    content = {"text/plain": {"schema": _TYPES[str]}}
    if operation.answer is not str:
        content = _json(_schema(operation.answer, schemas))
    if operation.answer is Embeddings:  # with encoding_format base64
        vector = schemas["EmbeddingItem"]["properties"]
        vector["embedding"] = {"anyOf": [vector["embedding"], _TYPES[str]]}
    if operation.chunk is not None:
        # A schema of each event, as OpenAPI 3.2 has it.
        event = {"type": "object", "properties": {"data": _TYPES[str]}, "required": ["data"]}
        chunk = _schema(operation.chunk, schemas)["$ref"].rpartition("/")[2]
        about = f"With `stream`: events, each a {chunk} or an Error, and a last one, [DONE]."
        content["text/event-stream"] = {"schema": {**event, "description": about}}
    return {"200": {"description": "The answer.", "content": content}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
}


def _schema(wanted: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type of `completion_types`. Those of TypedDicts are added to `schemas`."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if is_typeddict(wanted):
        if wanted.__name__ not in schemas:
            schemas[wanted.__name__] = _object(wanted, schemas)
        return _reference(wanted.__name__)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, schemas) for each in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas)}
    return dict(_TYPES[wanted])


def _object(wanted: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    properties, required = {}, []
    for name, each in get_type_hints(wanted, include_extras=True).items():
        optional = get_origin(each) is NotRequired
        properties[name] = _schema(get_args(each)[0] if optional else each, schemas)
        if wanted.__total__ and not optional:
            required.append(name)
    about = " ".join((wanted.__doc__ or "").split())
    return {
        "type": "object",
        "description": about,
        "properties": properties,
        **({"required": required} if required else {}),
    }
