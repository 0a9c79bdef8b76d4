"""Workers as functions of columns, for data frames of Spark and Daft."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._options import positive
from ..errors import BackendError
from .tables import table_of
from .workers import Worker


def spark_udf(worker: Worker, columns: Sequence[str] = (), *, batch_size: int = 256) -> Any:
    """A `pyspark.ml.functions.predict_batch_udf` that makes a struct of the worker's results and
    its error: `frame.select("*", udf("prompt").alias("r")).select("*", "r.*")`.

    columns: the names, as the worker knows them, of the columns that it is called with, in their
      order; by default those that it needs. A conversation is a text, its JSON.
    batch_size: rows of a call. Where a row has failed, its vector is of NaN, or empty if all rows
      of its batch have. `BackendError` without pyspark.
    """
    try:
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql import types
    except ImportError as error:
        raise BackendError(f"Spark needs pyspark, pandas and pyarrow: {error}") from error
    kinds: dict[str, Any] = {
        "text": types.StringType(),
        "whole": types.LongType(),
        "number": types.DoubleType(),
        "vector": types.ArrayType(types.FloatType()),
        "json": types.StringType(),
    }
    names = tuple(columns) or worker.inputs
    fields = [types.StructField(name, kinds[kind]) for name, kind in worker.outputs.items()]
    return predict_batch_udf(
        lambda: _predictor(worker, names),
        return_type=types.StructType(fields),
        batch_size=positive(batch_size, "batch_size"),
    )


def _predictor(worker: Worker, names: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """What Spark calls with an array (rows,) for each column; it looks how many it takes."""

    def predict(*arrays: Any) -> dict[str, Any]:
        found = worker(dict(zip(names, arrays, strict=True)))
        return {name: _vectors(found[name], kind) for name, kind in worker.outputs.items()}

    kind = inspect.Parameter.POSITIONAL_ONLY
    parameters = [inspect.Parameter(f"column{place}", kind) for place in range(len(names))]
    predict.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return predict


def _vectors(values: Any, kind: str) -> Any:
    """A column, where one of vectors has two dimensions, also if every row has failed."""
    return (
        np.empty((len(values), 0), np.float32) if kind == "vector" and values.ndim < 2 else values
    )


def daft_udf(worker: Worker, columns: Sequence[str] = (), *, batch_size: int = 256) -> Any:
    """A `daft.func.batch` that makes columns of the worker's results and its error:
    `frame.select(daft.col("*"), udf(daft.col("prompt")))`. Arguments as `spark_udf`; a
    conversation may be a list, too."""
    try:
        import daft
    except ImportError as error:
        raise BackendError("Daft is not installed: pip install daft") from error
    of = daft.DataType
    kinds = {
        "text": of.string(),
        "whole": of.int64(),
        "number": of.float64(),
        "vector": of.list(of.float32()),
        "json": of.string(),
    }
    names = tuple(columns) or worker.inputs
    types = {name: kinds[kind] for name, kind in worker.outputs.items()}

    def answer(*series: Any) -> list[dict[str, Any]]:
        given = {name: each.to_pylist() for name, each in zip(names, series, strict=True)}
        made = worker.columns_of(table_of(given))[0]
        typed = {name: column.typed() for name, column in made.items()}
        return [
            {name: values[place] for name, values in typed.items()}
            for place in range(len(series[0]))
        ]

    wrap = daft.func.batch(
        return_dtype=of.struct(types), unnest=True, batch_size=positive(batch_size, "batch_size")
    )
    return wrap(answer)
