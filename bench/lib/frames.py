"""Rows as data frames of Daft and Spark, where these are installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from sparsefire.batch import Worker
from sparsefire.batch.udfs import daft_udf, spark_udf

Rows = list[dict[str, Any]]
Frame = Callable[[Worker, Sequence[dict[str, Any]], int], Rows]

_PLACE = "place"  # a column: engines may change the order


def frames() -> dict[str, Frame]:
    """What maps rows with a worker in so many processes, by the name of what does it. Daft has a
    thread of its own process for it."""
    found: dict[str, Frame] = {}
    if find_spec("daft") is not None:
        found["Daft"] = _daft
    if find_spec("pyspark") is not None and shutil.which("java"):
        found["Spark"] = _spark
    return found


def _placed(rows: Sequence[dict[str, Any]]) -> Rows:
    return [{**row, _PLACE: place} for place, row in enumerate(rows)]


def _in_place(rows: Rows) -> Rows:
    rows.sort(key=lambda row: row[_PLACE])
    return [{name: value for name, value in row.items() if name != _PLACE} for row in rows]


def _daft(worker: Worker, rows: Sequence[dict[str, Any]], workers: int) -> Rows:
    import daft

    columns = [daft.col(name) for name in worker.inputs]
    frame = daft.from_pylist(_placed(rows)).select(daft.col("*"), daft_udf(worker)(*columns))
    return _in_place(frame.to_pylist())


def _spark(worker: Worker, rows: Sequence[dict[str, Any]], workers: int) -> Rows:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master(f"local[{workers}]")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    try:
        session.sparkContext.setLogLevel("ERROR")
        names = [*rows[0], _PLACE]
        frame = session.createDataFrame(
            [[row[each] for each in names] for row in _placed(rows)], names
        )
        result = spark_udf(worker)(*worker.inputs).alias("result")
        found = frame.select("*", result).select(*names, "result.*").collect()
        return _in_place([row.asDict() for row in found])
    finally:
        session.stop()
