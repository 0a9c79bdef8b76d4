"""Batches and jobs on Ray, started on this machine: the results are those of one process, also when
a process is killed or a node is lost meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_workers import (
    FEW,
    GREEDY,
    ROWS,
    check_job_with_a_killed_process,
    run_guide,
    write_lines,
)
from conftest import ROOT, missing
from sparsefire.batch import Embedder, Generator, close_models, read_parts, run_job
from sparsefire.batch.processor import ERROR, ProcessorConfig, build_processor
from sparsefire.errors import ModelFileError

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError as error:
    missing(f"{error}; pip install 'sparsefire[ray]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray

# Workers find the modules of the tests.
PATH = {"env_vars": {"PYTHONPATH": str(ROOT / "tests")}}


@pytest.fixture(scope="module")
def texts() -> Iterator[list[str]]:
    yield [row["generated_text"] for row in Generator(**GREEDY)(FEW)]
    close_models()


@pytest.fixture(scope="module")
def started() -> Iterator[None]:
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=2, object_store_memory=1 << 27, runtime_env=PATH, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def test_data(started: None, texts: list[str]) -> None:
    columns = {"text": "prompt"}
    dataset = ray.data.from_items(ROWS).map_batches(
        Embedder,
        fn_constructor_kwargs={"columns": columns, "threads": 1},
        batch_format="numpy",
        batch_size=64,
        concurrency=1,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    expected = [row["embedding"] for row in Embedder(columns=columns, threads=1)(ROWS)]
    np.testing.assert_array_equal([row["embedding"] for row in found], expected)
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


def test_processors(started: None, texts: list[str]) -> None:
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


def test_jobs(started: None, tmp_path: Path) -> None:
    check_job_with_a_killed_process("ray", tmp_path)
    source, worker = str(tmp_path / "rows.jsonl"), Generator("nowhere.gguf", **GREEDY)
    with pytest.raises(ModelFileError, match="nowhere"):
        run_job(worker, source, str(tmp_path / "none"), engine="ray")


def test_the_guide(started: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    run_guide(scope, "ray")
    assert len(scope["texts"]) == 10


def test_a_node_is_lost(tmp_path: Path, texts: list[str]) -> None:
    """Of two, in the middle of a job, whose parts the other one computes again."""
    ray.shutdown()
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 1 << 27}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    lost = cluster.add_node(**options)
    try:
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=PATH)
        source, output = write_lines(tmp_path / "rows.jsonl", FEW), tmp_path / "out"

        def lose() -> None:
            while not any(output.glob("part-*")):
                time.sleep(0.02)
            cluster.remove_node(lost, allow_graceful=False)

        thread = threading.Thread(target=lose)
        thread.start()
        report = run_job(
            Generator(**GREEDY), str(source), str(output), engine="ray", part_rows=2, workers=2
        )
        thread.join()
        assert (report.rows, report.failed) == (40, 0)
        assert [row["generated_text"] for row in read_parts(str(output))] == texts
    finally:
        ray.shutdown()
        cluster.shutdown()
