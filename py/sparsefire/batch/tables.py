"""The kinds of batches that engines hand over, and columns in and out of each."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .._options import refuse
from ..errors import ArgumentError

Kind = Literal["text", "whole", "number", "vector", "json"]


@dataclass(frozen=True)
class Column:
    """A column of results: a value for each row, None where there is none. What is of the kind
    "json" is a text where columns have types."""

    kind: Kind
    values: list[Any]

    def typed(self) -> list[Any]:
        """The values for a column with a type."""
        if self.kind != "json":
            return self.values
        return [None if each is None else json.dumps(each) for each in self.values]


class Table(ABC):
    """A batch of rows."""

    size: int

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a column of that name, in some rows at least."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """The values of a column as Python's; `KeyError` objects in rows that lack it."""

    @abstractmethod
    def with_columns(self, columns: Mapping[str, Column]) -> Any:
        """A batch of the same kind with further columns, or others in place of those."""


def table_of(batch: Any) -> Table:
    """The batch as a table. Errors: `ArgumentError` (of no kind known here, columns that are not
    equally long)."""
    if isinstance(batch, Mapping):
        return _Columns(batch)
    arrow, pandas = sys.modules.get("pyarrow"), sys.modules.get("pandas")
    if arrow is not None and isinstance(batch, (arrow.RecordBatch, arrow.Table)):
        return _Arrow(batch)
    if pandas is not None and isinstance(batch, pandas.DataFrame):
        return _Frame(batch)
    if isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
        return _Rows(batch)
    raise ArgumentError(
        "a batch must be a dictionary of columns, a list of rows (dictionaries), a "
        f"pyarrow.RecordBatch or Table, or a pandas.DataFrame, not a {type(batch).__name__}"
    )


def _no_column(name: str, names: Sequence[str]) -> ArgumentError:
    return ArgumentError(f"the batch has no column {name!r}; it has: {', '.join(names) or 'none'}")


class _Rows(Table):
    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows, self.size = rows, len(rows)

    def has(self, name: str) -> bool:
        return any(name in row for row in self._rows)

    def column(self, name: str) -> list[Any]:
        absent = KeyError(f"the row has no column {name!r}")
        return [row.get(name, absent) for row in self._rows]

    def with_columns(self, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
        found = {name: each.values for name, each in columns.items()}
        return [
            {**row, **{name: values[place] for name, values in found.items()}}
            for place, row in enumerate(self._rows)
        ]


class _Columns(Table):
    """Lists or numpy arrays by name; results are arrays where all columns are."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns
        for name, values in columns.items():
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                refuse(values, f"the column {name!r}", "a list or an array")
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            raise ArgumentError(f"the columns of a batch are not equally long: {sizes}")
        self.size = next(iter(sizes.values()), 0)
        self._arrays = all(isinstance(each, np.ndarray) for each in columns.values())

    def has(self, name: str) -> bool:
        return name in self._columns

    def column(self, name: str) -> list[Any]:
        if name not in self._columns:
            raise _no_column(name, list(self._columns))
        values = self._columns[name]
        return values.tolist() if isinstance(values, np.ndarray) else list(values)

    def with_columns(self, columns: Mapping[str, Column]) -> dict[str, Any]:
        made = {
            name: _array(each) if self._arrays and columns else each.values
            for name, each in columns.items()
        }
        return {**self._columns, **made}


def _array(column: Column) -> np.ndarray[Any, Any]:
    """Vectors as float32 (rows, d), with NaN where there is none; numbers as floats if one is
    missing; texts as objects."""
    values = column.values
    if column.kind == "vector" and (sizes := {len(v) for v in values if v is not None}):
        if len(sizes) == 1:
            absent = np.full(sizes.pop(), np.nan, np.float32)
            return np.array([absent if v is None else v for v in values], np.float32)
    elif column.kind in ("whole", "number"):
        if column.kind == "whole" and None not in values:
            return np.array(values, np.int64)
        return np.array([np.nan if v is None else v for v in values], np.float64)
    objects = np.empty(len(values), object)
    objects[:] = column.typed()
    return objects


class _Arrow(Table):
    def __init__(self, batch: Any) -> None:
        self._batch, self.size = batch, batch.num_rows

    def has(self, name: str) -> bool:
        return name in self._batch.schema.names

    def column(self, name: str) -> list[Any]:
        if not self.has(name):
            raise _no_column(name, self._batch.schema.names)
        values: list[Any] = self._batch.column(name).to_pylist()
        return values

    def with_columns(self, columns: Mapping[str, Column]) -> Any:
        import pyarrow as pa

        types = arrow_types()
        names = [name for name in self._batch.schema.names if name not in columns]
        arrays = [self._batch.column(name) for name in names]
        fields = [self._batch.schema.field(name) for name in names]
        for name, each in columns.items():
            arrays.append(pa.array(each.typed(), types[each.kind]))
            fields.append(pa.field(name, types[each.kind]))
        schema = pa.schema(fields, metadata=self._batch.schema.metadata)
        return type(self._batch).from_arrays(arrays, schema=schema)


def arrow_types() -> dict[str, Any]:
    """The type of each kind of column in Arrow, whatever values it has."""
    import pyarrow as pa

    vector = pa.list_(pa.float32())
    return {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "vector": vector,
        "json": pa.string(),
    }


_FRAME_TYPES = {
    "text": object,
    "whole": "Int64",
    "number": "float64",
    "vector": object,
    "json": object,
}


class _Frame(Table):
    def __init__(self, frame: Any) -> None:
        self._frame, self.size = frame, len(frame)

    def has(self, name: str) -> bool:
        return name in self._frame.columns

    def column(self, name: str) -> list[Any]:
        if not self.has(name):
            raise _no_column(name, [str(each) for each in self._frame.columns])
        found = self._frame[name]
        if found.ndim != 1:
            raise ArgumentError(f"the batch has several columns {name!r}")
        empty = found.isna()  # also NA and NaT, which nothing is equal to
        return [None if absent else value for value, absent in zip(found, empty, strict=True)]

    def with_columns(self, columns: Mapping[str, Column]) -> Any:
        import pandas as pd

        made = {
            name: pd.Series(
                [None if v is None and each.kind != "number" else v for v in each.typed()],
                index=self._frame.index,
                dtype=_FRAME_TYPES[each.kind],
            )
            for name, each in columns.items()
        }
        return self._frame.assign(**made)
