"""Batches and jobs on Ray and Dask, started on this machine: the results are those of one process,
also when a process is killed meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_workers import KilledOnce
from conftest import ROOT, missing
from sparsefire.batch import Embedder, Generator, close_models, read_parts, run_job
from sparsefire.batch.processor import ERROR, ProcessorConfig, build_processor

try:
    import dask.bag
    import pandas as pd
    import ray
    from distributed import Client, LocalCluster
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[ray,dask]' pandas")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the engines

GREEDY: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "threads": 1}
ROWS = [{"id": place, "prompt": f"In the year {1800 + place}, the"} for place in range(300)]
FEW = ROWS[:40]


@pytest.fixture(scope="module")
def texts() -> Iterator[list[str]]:
    yield [row["generated_text"] for row in Generator(**GREEDY)(FEW)]
    close_models()


@pytest.fixture(scope="module")
def vectors() -> np.ndarray[Any, Any]:
    worker = Embedder(columns={"text": "prompt"}, threads=1)
    return np.array([row["embedding"] for row in worker(ROWS)])


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    # Workers find the modules of the tests.
    path = {"env_vars": {"PYTHONPATH": str(ROOT / "tests")}}
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=2, object_store_memory=1 << 27, runtime_env=path, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def check_job_with_a_killed_process(engine: str, folder: Path, texts: list[str]) -> None:
    rows = [*FEW[:15], {"id": 999, "prompt": "poison"}, *FEW[15:]]
    source, output = write_rows(folder / "rows.jsonl", rows), str(folder / "out")
    worker = KilledOnce(str(folder), **GREEDY)
    report = run_job(worker, source, output, engine=engine, part_rows=10, workers=2)
    assert (folder / "killed").exists()
    assert (report.rows, report.failed, report.parts) == (41, 0, 5)
    found = list(read_parts(output))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["generated_text"] for row in found if row["id"] != 999] == texts
    assert run_job(worker, source, output, engine=engine, part_rows=10).skipped_rows == 41


def run_guide(language: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/guide/batch.md for an engine, after those before them."""
    monkeypatch.chdir(folder)
    text = (ROOT / "docs" / "guide" / "batch.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    for kind, block in re.findall(r"```python( \w+)?\n(.*?)```", text, re.DOTALL):
        if kind.strip() in ("", language):
            exec(block, scope)


# -- Ray -------------------------------------------------------------------------------------------


def test_ray_data(ray_cluster: None, texts: list[str], vectors: np.ndarray[Any, Any]) -> None:
    dataset = ray.data.from_items(ROWS).map_batches(
        Embedder,
        fn_constructor_kwargs={"columns": {"text": "prompt"}, "threads": 1},
        batch_format="numpy",
        batch_size=64,
        concurrency=1,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    np.testing.assert_array_equal([row["embedding"] for row in found], vectors)
    dataset = ray.data.from_items([*FEW, {"id": 999, "prompt": None}]).map_batches(
        Generator,
        fn_constructor_kwargs=GREEDY,
        batch_format="pyarrow",
        batch_size=16,
        concurrency=1,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    assert [row["generated_text"] for row in found] == [*texts, None]
    assert "empty" in found[-1]["error"]


def test_processors_of_ray_data(ray_cluster: None, texts: list[str]) -> None:
    config = ProcessorConfig(
        apply_chat_template=False, should_continue_on_error=True, batch_size=16, worker_kwargs={}
    )
    process = build_processor(
        config,
        lambda row: {
            "prompt": row["question"],
            "sampling_params": {"max_tokens": 4, "temperature": 0},
        },
        lambda row: {"key": row["key"], "answer": row["generated_text"], "wrong": row[ERROR]},
    )
    rows = [{"key": row["id"], "question": row["prompt"]} for row in FEW]
    found = process(ray.data.from_items([*rows, {"key": 999, "question": "a " * 5000}])).take_all()
    found.sort(key=lambda row: row["key"])
    assert [row["answer"] for row in found] == [*texts, None]
    assert [row["wrong"] is None for row in found] == [*[True] * 40, False]


def test_ray_jobs(ray_cluster: None, texts: list[str], tmp_path: Path) -> None:
    check_job_with_a_killed_process("ray", tmp_path, texts)


def test_the_guide_on_ray(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_guide("ray", tmp_path, monkeypatch)


# -- Dask ------------------------------------------------------------------------------------------


def test_dask_collections(
    dask_client: Client, texts: list[str], vectors: np.ndarray[Any, Any]
) -> None:
    worker = Embedder(columns={"text": "prompt"}, threads=1)
    bag = dask.bag.from_sequence(ROWS, npartitions=4)
    found = bag.map_partitions(lambda rows: worker(list(rows))).compute()
    np.testing.assert_array_equal([row["embedding"] for row in found], vectors)
    generate = Generator(**GREEDY)
    frames = dask_client.map(generate, [pd.DataFrame(FEW[:20]), pd.DataFrame(FEW[20:])])
    framed = pd.concat(dask_client.gather(frames))
    assert framed["generated_text"].tolist() == texts


def test_dask_jobs(dask_client: Client, texts: list[str], tmp_path: Path) -> None:
    dask_client.run(_add_path, str(ROOT / "tests"))
    check_job_with_a_killed_process("dask", tmp_path, texts)


def _add_path(path: str) -> None:
    import sys

    sys.path.append(path)


def test_the_guide_on_dask(
    dask_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_guide("dask", tmp_path, monkeypatch)
