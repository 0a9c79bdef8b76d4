"""Rows of files: JSON lines and Parquet, read in parts and written as parts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import ArgumentError, BackendError
from .store import opened_file
from .tables import Column, arrow_types

Format = Literal["jsonl", "parquet"]
Row = Mapping[str, Any]


class Unreadable(dict[str, Any]):
    """What stands for a line that is no row: {"error": why}."""


class Part(NamedTuple):
    """Rows of a file, and the schema that they have there, if it is one of Parquet."""

    rows: Sequence[Row]
    schema: Any = None


def arrow() -> Any:
    """The pyarrow package. `BackendError` without it."""
    try:
        import pyarrow
    except ImportError as error:
        raise BackendError("Parquet needs pyarrow: pip install 'sparsefire[batch]'") from error
    return pyarrow


def format_of(path: str) -> Format:
    """What a file's name says that it is. `ArgumentError` for other names."""
    name = path.lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    raise ArgumentError(f"{path}: expected a name that ends with .jsonl, .jsonl.gz or .parquet")


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a file, one after the other, an `Unreadable` for each line that is no JSON
    object. `ArgumentError` for a file that is not what its name says, or is cut short."""
    if format_of(path) == "jsonl":
        with _opened_lines(path) as lines:
            yield from (_row_of(line) for line in lines if line.strip())
    else:
        with _opened_parquet(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()


@contextmanager
def _opened_lines(path: str) -> Iterator[Any]:
    with opened_file(path) as file:
        if not path.lower().endswith(".gz"):
            yield file
            return
        try:
            with gzip.open(file) as lines:
                yield lines
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArgumentError(f"{path}: {error}") from error


@contextmanager
def _opened_parquet(path: str) -> Iterator[Any]:
    pa = arrow()
    import pyarrow.parquet as pq

    with opened_file(path) as file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ArgumentError(f"{path}: {error}") from error


def _row_of(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(error=f"ArgumentError: the line is no JSON: {error}")
    if not isinstance(row, dict):
        return Unreadable(error="ArgumentError: the line is no JSON object")
    return row


def count_rows(path: str) -> int:
    """How many rows a file has. Errors as `read_rows`."""
    if format_of(path) == "jsonl":
        with _opened_lines(path) as lines:
            return sum(1 for line in lines if line.strip())
    with _opened_parquet(path) as file:
        return int(file.metadata.num_rows)


def parts_of(paths: Sequence[str], size: int) -> Iterator[Part]:
    """The rows of all files in parts of `size`, the last of each file shorter. Errors as
    `read_rows`."""
    for path in paths:
        schema = None
        if format_of(path) == "parquet":
            with _opened_parquet(path) as file:
                schema = file.schema_arrow
        rows = read_rows(path)
        while part := list(islice(rows, size)):
            yield Part(part, schema)


def checksum(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a value of JSON's types."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """What JSON lacks."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def encoded(part: Part, columns: Mapping[str, Column], format: Format) -> bytes:
    """A file of these rows, with columns of results added."""
    if format == "parquet":
        return _parquet(part, columns)
    lines = []
    for place, row in enumerate(part.rows):
        whole = _finite({**row, **{name: each.values[place] for name, each in columns.items()}})
        try:
            line = json.dumps(whole, ensure_ascii=False, default=_plain).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON's escapes can express
            line = json.dumps(whole, default=_plain).encode()
        lines.append(line + b"\n")
    return b"".join(lines)


def _finite(value: Any) -> Any:
    """A value without what JSON has no numbers for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _parquet(part: Part, columns: Mapping[str, Column]) -> bytes:
    pa = arrow()
    import pyarrow.parquet as pq

    known = {} if part.schema is None else {each.name: each for each in part.schema}
    names = dict.fromkeys([*known, *(name for row in part.rows for name in row)])
    types = arrow_types()
    fields, arrays = [], []
    for name in names:
        if name not in columns and (name not in known or any(name in row for row in part.rows)):
            array = _array([row.get(name) for row in part.rows], known.get(name))
            arrays.append(array)
            fields.append(known.get(name) or pa.field(name, array.type))
    for name, each in columns.items():
        arrays.append(pa.array(each.typed(), types[each.kind]))
        fields.append(pa.field(name, types[each.kind]))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), sink)
    return sink.getvalue()


def _array(values: list[Any], field: Any) -> Any:
    """A column of Arrow of a field's type, or of the type that its values have; of JSON, where
    they have several."""
    pa = arrow()
    if field is not None:
        return pa.array(values, field.type)
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return _array([_encodable(each) for each in values], None)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if v is None else json.dumps(v, default=_plain) for v in values])


def _encodable(value: Any) -> Any:
    """A value of JSON with "?" for halves of surrogate pairs."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
