"""Workers as functions of columns, on Daft, and as Spark calls them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batch_workers import FEW, GREEDY, run_guide
from conftest import missing
from sparsefire.batch import Embedder, Generator, Scorer, Worker, close_models
from sparsefire.batch.udfs import daft_udf, spark_udf
from sparsefire.errors import ArgumentError

try:
    import daft
except ImportError as error:
    missing(f"{error}; pip install daft")

ROWS = [*FEW[:10], {"id": 999, "prompt": None}]


@pytest.fixture(scope="module", autouse=True)
def _models() -> Iterator[None]:
    yield
    close_models()


def test_daft() -> None:
    rows = daft.from_pylist(ROWS)
    for worker in (Generator(**GREEDY), Embedder(columns={"text": "prompt"}, threads=1)):
        udf = daft_udf(worker, batch_size=4)
        found = rows.select(daft.col("*"), udf(daft.col("prompt"))).sort("id").to_pylist()
        for row, expected in zip(found, worker(ROWS), strict=True):
            assert set(row) == set(expected)
            for name, value in expected.items():
                np.testing.assert_array_equal(row[name], value)
    pairs = [{"context": "The people", "continuation": f" of {place}"} for place in range(3)]
    scores = Scorer(threads=1)
    udf = daft_udf(scores, ["context", "continuation"])
    columns = daft.col("context"), daft.col("continuation")
    assert daft.from_pylist(pairs).select(daft.col("*"), udf(*columns)).to_pylist() == scores(pairs)
    with pytest.raises(ArgumentError, match="batch_size"):
        daft_udf(scores, batch_size=0)


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    run_guide(scope, "daft")
    assert len(scope["found"]) == 10


class Spark:
    """What `spark_udf` uses of pyspark, which needs Java: types, and `predict_batch_udf`, which is
    given what makes the function of arrays, and looks at how many arguments that takes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.given: dict[str, Any] = {}
        scalars = ["StringType", "LongType", "DoubleType", "FloatType"]
        names = [*scalars, "ArrayType", "StructField", "StructType"]
        types = {each: lambda *given, each=each: (each, *given) for each in names}
        for name, holds in {
            "pyspark": {},
            "pyspark.ml": {},
            "pyspark.ml.functions": {"predict_batch_udf": self.predict_batch_udf},
            "pyspark.sql": {"types": SimpleNamespace(**types)},
        }.items():
            module = ModuleType(name)
            vars(module).update(holds)
            patch.setitem(sys.modules, name, module)

    def predict_batch_udf(self, make: Any, **given: Any) -> Any:
        self.given = given
        return make()


def test_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    spark = Spark(monkeypatch)
    worker: Worker = Embedder(columns={"text": "prompt"}, threads=1)
    predict = spark_udf(worker, batch_size=7)
    assert spark.given["batch_size"] == 7
    assert [field[1] for field in spark.given["return_type"][1]] == list(worker.outputs)
    assert len(inspect.signature(predict).parameters) == 1
    found = predict(np.array([row["prompt"] for row in ROWS], object))
    expected = worker(ROWS)
    np.testing.assert_array_equal(found["embedding"][:10], [r["embedding"] for r in expected[:10]])
    assert np.isnan(found["embedding"][10]).all()
    assert found["error"].tolist() == [row["error"] for row in expected]
    assert predict(np.array([None, None]))["embedding"].shape == (2, 0)
    scores = spark_udf(Scorer(threads=1), ("context", "continuation"))
    assert len(inspect.signature(scores).parameters) == 2
    found = scores(np.array(["The people"], object), np.array([" of"], object))
    pair = {"context": "The people", "continuation": " of"}
    assert found["logprob"].tolist() == [Scorer(threads=1)([pair])[0]["logprob"]]
