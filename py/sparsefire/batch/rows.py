"""Rows of files: JSON lines and Parquet, read in parts and written as parts."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError, BackendError
from .store import opened_file
from .tables import Column, arrow_types

Format = Literal["jsonl", "parquet"]
Row = Mapping[str, Any]


def arrow() -> Any:
    """The pyarrow package. `BackendError` without it."""
    try:
        import pyarrow
    except ImportError as error:
        raise BackendError("Parquet needs pyarrow: pip install 'sparsefire[batch]'") from error
    return pyarrow


def format_of(path: str) -> Format:
    """What a file's name says that it is. `ArgumentError` for other names."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise ArgumentError(f"{path}: expected a name that ends with .jsonl or .parquet")


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a file, one after the other. A line that is no JSON object is a row with an
    "error" alone."""
    if format_of(path) == "jsonl":
        with opened_file(path) as file:
            yield from (_row_of(line) for line in file if line.strip())
        return
    arrow()
    import pyarrow.parquet as pq

    with opened_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _row_of(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return {"error": f"ArgumentError: the line is no JSON: {error}"}
    if not isinstance(row, dict):
        return {"error": "ArgumentError: the line is no JSON object"}
    return row


def count_rows(path: str) -> int:
    """How many rows a file has."""
    with opened_file(path) as file:
        if format_of(path) == "jsonl":
            return sum(1 for line in file if line.strip())
        arrow()
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(file).metadata.num_rows)


def parts_of(paths: Sequence[str], size: int) -> Iterator[list[Row]]:
    """The rows of all files in lists of `size`, the last of each file shorter."""
    for path in paths:
        rows = read_rows(path)
        while part := list(islice(rows, size)):
            yield part


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
    return str(value)


def encoded(rows: Sequence[Row], columns: Mapping[str, Column], format: Format) -> bytes:
    """A file of these rows, with columns of results added."""
    if format == "parquet":
        return _parquet(rows, columns)
    lines = []
    for place, row in enumerate(rows):
        whole = {**row, **{name: each.values[place] for name, each in columns.items()}}
        lines.append(f"{json.dumps(_finite(whole), ensure_ascii=False, default=_plain)}\n")
    return "".join(lines).encode("utf-8", "surrogatepass")


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what JSON has no numbers for."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _parquet(rows: Sequence[Row], columns: Mapping[str, Column]) -> bytes:
    pa = arrow()
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row if name not in columns)
    types = arrow_types()
    fields, arrays = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError):  # of several types
            array = pa.array([None if v is None else json.dumps(v, default=_plain) for v in values])
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    for name, each in columns.items():
        arrays.append(pa.array(each.typed(), types[each.kind]))
        fields.append(pa.field(name, types[each.kind]))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), sink)
    return sink.getvalue()
